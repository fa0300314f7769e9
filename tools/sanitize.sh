#!/usr/bin/env bash
# Both sanitizers run even where the first one complains.
set -euo pipefail
cd "$(dirname "$0")/.."

export ASAN_OPTIONS=detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1
failed=0
tools/cpp_tests.sh address || failed=1
tools/cpp_tests.sh thread || failed=1
exit $failed
