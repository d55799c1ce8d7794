#!/usr/bin/env bash
# Make buildstep.pyz and use it with the system's Python in an empty environment: the help, the doctor, builds; two first starts
# at once, one that was killed, a home that cannot be written, a cache that is somebody else's.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=/usr/bin/python3
"$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || python=$top/.venv/bin/python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cd "$top"
.venv/bin/python -m scripts.make_zipapp --python "$python" "$work/buildstep.pyz"
cd "$work"
mkdir -p home proto/etc
echo 'from a zip file' >proto/etc/motd
spec='{"name": "zip", "version": "1", "build": {"image": "scratch", "formats": ["tar", "oci"]}}'
pyz() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME="${home:-$work/home}" TMPDIR="$work" CI=true "$python" "$work/buildstep.pyz" "$@" </dev/null; }

pyz --version >one & first=$!
pyz --version >two
wait "$first"
grep -q '^buildstep, version' one && cmp one two
pool=dir:$work/pool
copies=(home/.cache/buildstep/pyz/*[!k]) # and not the lock
[ "${#copies[@]}" = 1 ]

pyz --help | grep '^  build ' >/dev/null
pyz doctor -m "$spec" --pool "$pool" proto
pyz build -m "$spec" --pool "$pool" -o out proto
tar -xOf out/zip-1.tar* --wildcards '*etc/motd' | grep -q 'from a zip file'
pyz build -m "$spec" --pool "$pool" -o out proto 2>&1 | grep 'up to date' >/dev/null

# Left by a start that was killed: removed, and not taken for whole.
copy=${copies[0]}
mv "$copy" "$copy.part"
rm -r "$copy.part/lib/click"
pyz --version | cmp - one
[ ! -e "$copy.part" ]

# A home that is none: beside TMPDIR. A directory there that others can write is not used.
home=/dev/null pyz --version | cmp - one
[ -d "buildstep-$(id -u)/pyz/${copy##*/}" ]
chmod 777 "buildstep-$(id -u)"
if home=/dev/null pyz --version 2>told; then exit 1; fi
grep -q 'set XDG_CACHE_HOME' told
echo "tests/install/zipapp.sh: the file works with $("$python" --version)"
