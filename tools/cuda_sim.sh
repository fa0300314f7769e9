#!/usr/bin/env bash
# Build the simulated CUDA driver and print its path, for SLLM_CUDA_DRIVER, as the last line.
set -euo pipefail
cd "$(dirname "$0")/.."

build=build/cuda-sim
export PATH="$PWD/.venv/bin:$PATH"
mkdir -p build
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSLLM_CUDA_SIM=ON >"$build.log" 2>&1 ||
  { cat "$build.log" >&2; exit 1; }
cmake --build "$build" >&2
echo "$PWD/$build/libcuda_sim.so"
