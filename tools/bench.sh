#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "$0")/.."

# Scripts, not the modules that they share.
for script in $(grep -l __main__ benchmarks/*.py); do
  echo "== $script"
  .venv/bin/python "$script"
done
