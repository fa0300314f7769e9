#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "$0")/.."

export ASAN_OPTIONS=detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1
tools/cpp_tests.sh address
tools/cpp_tests.sh thread
