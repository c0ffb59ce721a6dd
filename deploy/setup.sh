#!/bin/sh
# Makes the virtual environment from the committed lock file, or finds it up to date and does nothing.
#   VENV=.venv  BURNISH_EXTRA=cpu|gpu  PYTHON=path/to/python3   sh deploy/setup.sh
# An environment keeps the extra it was made for; a new one is made for cpu unless BURNISH_EXTRA says otherwise.
# Needs Python 3.11 to 3.13. Never needs root.
set -eu

cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
stamp=$venv/burnish-setup
made_for=$([ -f "$stamp" ] && head -n 1 "$stamp" || true)
extra=${BURNISH_EXTRA:-${made_for:-cpu}}
lock=deploy/lock/$extra.txt

say() { printf '%s\n' "burnish: $*" >&2; }
fail() { say "$@"; exit 1; }

[ -f "$lock" ] || fail "BURNISH_EXTRA=$extra is not known: use cpu or gpu"
# The two extras both provide the module vllm, so one environment never holds both; and a server may be running in it.
[ "${made_for:-$extra}" = "$extra" ] || fail "$venv was made for BURNISH_EXTRA=$made_for, not $extra." \
    "To change that, stop Burnish, remove the environment with \`make clean\`, and run this again"

fingerprint=$(printf '%s\n' "$extra"; cat "$lock" pyproject.toml | sha256sum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$fingerprint" ] && "$venv/bin/python" -c '' 2>/dev/null; then
    exit 0
fi

fits() { "$1" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

find_python() {
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if fits "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11, 3.12 or 3.13 found: install python3 and python3-venv, or name one with PYTHON=/path/to/python3"
}

make_venv() {
    python=$(find_python)
    say "making $venv with $("$python" --version)"
    if ! "$python" -m venv --clear "$venv" >/dev/null 2>&1; then
        # Debian ships ensurepip in a package of its own; pip outside of the environment can fill it too.
        "$python" -m venv --clear --without-pip "$venv" || fail "could not make $venv: install python3-venv"
        "$python" -m pip --python "$venv/bin/python" install pip ||
            fail "no pip for $venv: install the package python3-venv (apt-get install python3-venv), then run this again"
    fi
}

if ! { fits "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1; }; then
    make_venv
fi
# Without a fingerprint it counts as unfinished; whoever finishes it does so for the same extra.
printf '%s\n' "$extra" > "$stamp"

pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

if [ "$extra" = cpu ]; then
    # PyPI's own torch is the CUDA build, several GB: the CPU build is installed first, in a step of its own.
    torch=$(sed -n 's/^\(torch==[^ ;]*+cpu\).*/\1/p' "$lock" | head -n 1)
    say "installing $torch"
    pip install --quiet --no-deps "$torch" 2>/dev/null ||
        pip install --no-deps --index-url https://download.pytorch.org/whl/cpu "$torch" ||
        fail "could not install $torch, neither from pip's configured sources nor from PyTorch's CPU index"
fi

say "installing what $lock names (about two minutes the first time)"
pip install --quiet --no-deps -r "$lock"
pip install --quiet --no-deps --no-build-isolation --editable .

printf '%s\n' "$fingerprint" > "$stamp"
say "$venv is ready"
