#!/bin/sh
# The floor: what a careful shell script does. No manifest, no digests, nothing checked, nothing undone.
#   script.sh STATE PROTO OUT
set -eu

state=$1 proto=$2 out=$3
mkdir -p "$state/root"
rsync --archive --hard-links --acls --xattrs --sparse --delete "$proto/" "$state/root/"
tar --create --sparse --sort=name --numeric-owner --owner=0 --group=0 --directory "$state/root" . |
    zstd --quiet --force -T0 -1 -o "$out"
