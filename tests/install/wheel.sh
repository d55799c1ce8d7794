#!/usr/bin/env bash
# Install the built wheel, without extras, into an empty virtual environment, and use it away from the checkout: the help, the doctor, a build.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-$top/.venv/bin/python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONPATH

# From a copy, since setuptools writes into the directory it builds in.
mkdir "$work/source"
git -C "$top" ls-files -z --cached --others --exclude-standard buildstep pyproject.toml README.md LICENSE |
    (cd "$top" && xargs -0 cp --parents --no-dereference -t "$work/source")
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" wheel --quiet --no-deps --wheel-dir "$work" "$work/source"
"$work/venv/bin/pip" install --quiet "$work"/buildstep-*.whl

cd "$work"
mkdir -p proto/etc
echo 'from a wheel' >proto/etc/motd
spec='{"name": "wheel", "version": "1", "build": {"image": "scratch", "formats": ["tar", "oci"], "compression": "gzip"}}'
pool=dir:$work/pool
"$work/venv/bin/buildstep" --help >help
for name in push pull map; do "$work/venv/bin/daybook-$name" -h 2>>help; done
grep -q '^  build ' help
"$work/venv/bin/buildstep" doctor -m "$spec" --pool "$pool" proto
"$work/venv/bin/buildstep" build -m "$spec" --pool "$pool" -o out proto
tar -xOf out/wheel-1.tar* --wildcards '*etc/motd' | grep -q 'from a wheel'
"$work/venv/bin/buildstep" report --format html out >report.html
echo "tests/install/wheel.sh: the installed wheel works"
