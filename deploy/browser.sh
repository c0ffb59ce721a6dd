#!/bin/sh
# Sees to a Chromium for the browser tests: installs it where that is allowed, else says which package is missing.
set -eu

command -v chromium >/dev/null 2>&1 && exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root='sudo -n'
else
    as_root=no
fi

if [ "$as_root" != no ] && command -v apt-get >/dev/null 2>&1; then
    echo "burnish: installing chromium for the browser tests" >&2
    export DEBIAN_FRONTEND=noninteractive
    if $as_root apt-get -qq update >&2 && $as_root apt-get -qq install -y --no-install-recommends chromium >&2; then
        exit 0
    fi
fi
echo "burnish: no chromium: the browser tests cannot run. Install the package chromium (apt-get install chromium)" >&2
