#!/usr/bin/env bash
# Everything `make test` promises. All three parts run even where one fails; pytest's summary comes last.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=""
tools/lint.sh || failed+=" lint"
tools/cpp_tests.sh || failed+=" c++"
.venv/bin/python -m pytest -m "not slow" "$@" || failed+=" python"
if [ -n "$failed" ]; then
  echo "failed:$failed" >&2
  exit 1
fi
