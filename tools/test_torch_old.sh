#!/usr/bin/env bash
# The oldest torch that is supported, in an environment of its own. It was built against numpy 1.
set -euo pipefail
cd "$(dirname "$0")/.."

export TORCH="torch==2.4.1 numpy<2" EXTRAS=dev VENV=.venv-torch-old
tools/setup.sh
.venv-torch-old/bin/python -m pytest -m "not slow" tests/py/test_loading*.py
