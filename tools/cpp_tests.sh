#!/usr/bin/env bash
# Build and run the C++ tests: cpp_tests.sh [address|thread]
set -euo pipefail
cd "$(dirname "$0")/.."

sanitizer=${1:-}
build=build/cpp${sanitizer:+-$sanitizer}
export PATH="$PWD/.venv/bin:$PATH"
# GoogleTest comes from Debian: nothing here is fetched while building.
if ! echo '#include <gtest/gtest.h>' | "${CXX:-c++}" -x c++ -fsyntax-only - 2>/dev/null; then tools/debian.sh libgtest-dev; fi
mkdir -p build
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSLLM_TESTS=ON -DSLLM_SANITIZE="$sanitizer" >"$build.log" 2>&1 ||
  { cat "$build.log" >&2; exit 1; }
cmake --build "$build"
"$build/tests/cpp/sllm_tests" --gtest_brief=1
