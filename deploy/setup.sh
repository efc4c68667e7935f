#!/bin/sh
# Makes .venv with the locked requirements and this checkout in it. Run by `make setup`.
set -eu

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "error: Python 3.11 or newer is needed, and '$python' is not one." >&2
  echo "hint: make setup PYTHON=/path/to/python3.11" >&2
  exit 1
fi
if [ ! -x .venv/bin/python ]; then
  echo "setup: making .venv with $("$python" --version)"
  if ! "$python" -m venv .venv; then
    echo "error: '$python -m venv' failed." >&2
    echo "hint: on Debian and Ubuntu: apt install python3-venv" >&2
    exit 1
  fi
fi
if [ ! -x .venv/bin/uv ]; then
  echo "setup: installing uv"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --require-hashes -r requirements/uv.txt
fi
echo "setup: installing the locked requirements"
.venv/bin/uv pip install --quiet --require-hashes -r requirements/dev.txt
.venv/bin/uv pip install --quiet --no-deps --no-build-isolation --editable .
echo "setup: ready, the program is .venv/bin/mlsched"
