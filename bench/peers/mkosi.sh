#!/bin/sh
# The peer for a Debian with packages: mkosi, its package and incremental caches kept, a tar archive with
# zstd as output (its default, xz, would take a minute more).
#   mkosi.sh STATE SUITE PACKAGES PROTO OUT
set -eu

state=$1 suite=$2 packages=$3 proto=$4 out=$5
mkdir -p "$state/cache" "$state/work"
cd "$state"
rm -f "$out" "$out.manifest"
mkosi --distribution debian --release "$suite" --format tar --package "$packages" --extra-tree "$proto" \
    --compress-output zstd --incremental --nspawn-keep-unit --cache "$state/cache" \
    --workspace-dir "$state/work" --output "$out" build
# mkosi 14 makes its cache anew while there is none for a build script, even where no script is asked for.
[ -e "$out.cache-pre-dev" ] || mkdir "$out.cache-pre-dev"
