# One verb a line; the logic is in tools/. PYTHON= names the interpreter, TORCH= a requirement or a wheel.
.PHONY: help setup demo test test-slow soak test-torch-old cuda-sim sanitize lint format wheels bench clean
export PYTHON TORCH

help: ## list these verbs
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 18
setup: ## make .venv, with torch, the extras and the built core
	@tools/setup.sh
demo: setup ## convert a model, load it, compare, and say how long it took (DEMO_ARGS=)
	@.venv/bin/python tools/demo.py $(DEMO_ARGS)
test: setup ## lint, C++ tests, then the house rules and the Python tests
	@tools/test.sh
test-slow: setup ## the tests that take minutes
	@.venv/bin/python -m pytest -m slow
soak: setup ## ten minutes of clients that load out of a store's pool of a third of their bytes (SOAK_ARGS=)
	@.venv/bin/python tests/soak/store.py $(SOAK_ARGS)
test-torch-old: ## the loading tests with the oldest torch that is supported, in a venv of its own
	@tools/test_torch_old.sh
cuda-sim: setup ## build the simulated CUDA driver and print its path last, for SLLM_CUDA_DRIVER
	@tools/cuda_sim.sh
sanitize: setup ## the C++ tests under address, undefined-behaviour and thread sanitizers
	@tools/sanitize.sh
lint: setup ## ruff, mypy and clang-format, changing nothing
	@tools/lint.sh
format: setup ## let ruff and clang-format change what they would complain of
	@tools/format.sh
wheels: setup ## a wheel for each Python found, each installed and tried, into wheelhouse/
	@.venv/bin/python tools/wheels.py
bench: ## loaders side by side, the ablation and the cost of verification, in a venv of their own; as root, two hours
	@tools/bench.sh
clean: ## remove what these verbs made
	@rm -rf .venv .venv-bench .venv-torch-old build wheelhouse .pytest_cache .hypothesis .mypy_cache .ruff_cache
