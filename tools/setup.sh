#!/usr/bin/env bash
# Find a Python that is new enough and let tools/setup.py do the rest. VENV= names another folder than .venv.
set -euo pipefail
cd "$(dirname "$0")/.."

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    is_new_enough "$PYTHON" && echo "$PYTHON" && return
    echo "PYTHON=$PYTHON does not run or is older than 3.11" >&2
    return 1
  fi
  # A finished venv keeps the Python that it was made with.
  for candidate in ${FINISHED:+"$FINISHED"} python3.11 python3.12 python3.13 python3.14 python3; do
    if is_new_enough "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  echo "no Python of 3.11 or newer on the path; name one with PYTHON=, or: apt-get install python3 (Debian 12)" >&2
  return 1
}

venv=${VENV:-.venv}
FINISHED=""
if [ -e "$venv/.stamps/python" ]; then FINISHED=$venv/bin/python; fi
python=$(find_python)
exec "$python" tools/setup.py "$venv"
