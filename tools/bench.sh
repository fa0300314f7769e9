#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "$0")/.."

for script in benchmarks/*.py; do
  echo "== $script"
  .venv/bin/python "$script"
done
