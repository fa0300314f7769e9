#!/usr/bin/env bash
# Complain, change nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=.venv/bin
failed=0
$bin/ruff check -q . || failed=1
$bin/ruff format -q --check . || { echo "lint: ruff format would change files: make format" >&2; failed=1; }
$bin/mypy || failed=1
find csrc tests -regex '.*\.\(cpp\|h\|inc\)' -print0 | xargs -0 -r $bin/clang-format --dry-run -Werror ||
  failed=1
exit $failed
