#!/usr/bin/env bash
# Install Debian packages where that is allowed, else say what to install.
set -euo pipefail

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "missing from this machine; as root: apt-get update && apt-get install $*" >&2
  exit 1
fi
echo "installing from Debian: $*" >&2
apt-get update -qq >&2
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
