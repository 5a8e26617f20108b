#!/bin/sh
# Make or update the virtual environment: install.sh VENV [WHAT [compile]]. Called by make.
# WHAT: base (simulation, figures, report), models (also what executes models), test (also the
# tests' tools). TORCH_INDEX names the package index for torch; by default machines without an
# NVIDIA GPU get the CPU build, from the configured indexes or from PyTorch's own. The engine is compiled by a first install, and
# with `compile` again whenever its sources have changed.
set -eu
venv=$1
what=${2:-base}
python=${PYTHON:-python3}
torch=$(sed -n 's/.*"torch>=.*<=\([0-9.]*\)".*/\1/p' pyproject.toml)
cpu_index=https://download.pytorch.org/whl/cpu

fail() {
    echo "Error: $1" >&2
    exit 2
}

sources=$(cat pyproject.toml tools/install.sh | cksum)
stamp="$venv/.installed-$what"
engine_is_compiled() {
    "$venv/bin/python" -c 'import sys; from engines import compiled; sys.exit(not compiled.is_fresh())'
}
if [ -x "$venv/bin/bench" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$what $sources" ]; then
    if [ -z "${3:-}" ] || ! command -v cc >/dev/null || engine_is_compiled 2>/dev/null; then
        exit 0
    fi
fi

command -v "$python" >/dev/null ||
    fail "'$python' is not on the PATH: install Python 3.11 or newer, or say PYTHON=..."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old: say PYTHON=python3.11 (or newer)"

if [ ! -x "$venv/bin/python" ]; then
    echo "making $venv with $("$python" --version)"
    "$python" -m venv "$venv" ||
        fail "$python cannot make virtual environments: on Debian or Ubuntu, apt install python3-venv"
fi
pip() {
    "$venv/bin/python" -m pip --quiet --disable-pip-version-check "$@"
}

install_torch() {
    if "$venv/bin/python" -c "import torch, sys; sys.exit(not torch.__version__.startswith('$torch'))" 2>/dev/null; then
        return
    fi
    echo "installing PyTorch (torch $torch), which runs models and times kernels: 1 GB, some minutes"
    if [ -n "${TORCH_INDEX:-}" ]; then
        pip install "torch==$torch" --index-url "$TORCH_INDEX"
    elif command -v nvidia-smi >/dev/null || [ "$(uname -s)" != Linux ]; then
        pip install "torch==$torch"
    else
        # Only builds without CUDA carry the label +cpu, so nothing else can be taken by mistake.
        pip install "torch==$torch+cpu" 2>/dev/null ||
            pip install "torch==$torch+cpu" --index-url "$cpu_index" ||
            fail "no CPU build of torch $torch was found: say TORCH_INDEX=URL of an index that has one"
    fi
}

case $what in
    base) extras='[docker]' ;;
    models) extras='[models,text,ray,docker]' ;;
    test) extras='[models,text,ray,test]' ;;
    *) fail "unknown installation '$what': base, models or test" ;;
esac
[ "$what" = base ] || install_torch
echo "installing packages ($what; a minute or two the first time)"
pip install --editable ".$extras"
if engine_is_compiled 2>/dev/null; then
    echo "installed; the engine is compiled"
else
    echo "the engine runs as plain Python, two to three times slower: to compile it, install a C" \
        "compiler and Python's headers (Debian and Ubuntu: gcc, python3-dev), then make install"
fi
case $what in  # what holds more also holds less
    base) holds=base ;;
    models) holds='models base' ;;
    test) holds='test models base' ;;
esac
for each in $holds; do
    echo "$each $sources" > "$venv/.installed-$each"
done
