# Sourced by demo.sh and test.sh: makes .venv with the development requirements, once, and sets $PYTHON to it.
find_python() {
    for name in "${PYTHON:-}" python3.13 python3.12 python3.11 python3.10 python3 python; do
        if [ -n "$name" ] && "$name" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "No Python 3.10-3.13 found: install one, or name it: PYTHON=/path/to/python $0" >&2
    return 1
}

wanted=$(cat requirements-dev.txt | cksum)
if [ "$(cat .venv/requirements.cksum 2>/dev/null)" != "$wanted" ]; then
    base=$(find_python)
    echo "Setting up .venv with $("$base" --version) (once; torch is a large download)..."
    "$base" -m venv .venv || { echo "python's venv module is missing: on Debian or Ubuntu, apt install python3-venv" >&2; exit 1; }
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
    echo "$wanted" > .venv/requirements.cksum
fi
PYTHON=.venv/bin/python
