#!/bin/sh
# The peer: a Containerfile built with layers kept, pushed to an OCI archive. TOOL is buildah or podman.
#   buildah.sh base  TOOL STORE BASE.tar               make the base image, once
#   buildah.sh build TOOL STORE CONTEXT CONTAINERFILE OUT
set -eu

verb=$1 tool=$2 store=$3
shift 3
mkdir -p "$store/tmp"
export TMPDIR="$store/tmp"
# We are in a mount namespace of our own: what they keep outside their store stays in here too.
for folder in /dev/shm /run/libpod /var/lib/containers; do
    [ ! -d "$folder" ] || mount -t tmpfs tmpfs "$folder"
done
run_tool() { command "$tool" --root "$store/root" --runroot "$store/run" --storage-driver overlay "$@"; }

case $verb in
    base)
        work=$(run_tool from scratch)
        run_tool add --quiet "$work" "$1" /
        run_tool commit --quiet "$work" localhost/bench-base
        run_tool rm "$work"
        ;;
    build)
        context=$1 file=$2 out=$3
        set -- build --layers --quiet --network host --isolation chroot --tag bench --file "$file" "$context"
        run_tool "$@"
        rm -f "$out"
        run_tool push --quiet bench "oci-archive:$out"
        ;;
esac
