#!/usr/bin/env bash
# Every benchmark, in an environment of its own that has the loaders to compare with; then the README's tables.
# bench.sh [NAME...] runs only these scripts. Dropping the page cache needs root.
set -euo pipefail
cd "$(dirname "$0")/.."

export VENV=.venv-bench EXTRAS=bench
tools/setup.sh
if [ $# = 0 ]; then set -- verification reading loading ablation store remote readme; fi
for name in "$@"; do
  echo "== $name"
  .venv-bench/bin/python "benchmarks/$name.py"
done
