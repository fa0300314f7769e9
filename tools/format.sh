#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "$0")/.."

.venv/bin/ruff check -q --fix .
.venv/bin/ruff format -q .
find csrc tests -regex '.*\.\(cpp\|h\|inc\)' -print0 | xargs -0 -r .venv/bin/clang-format -i
