#!/bin/sh
# The peer: a Containerfile built with layers kept, pushed to an OCI archive. TOOL is buildah or podman.
#   buildah.sh base  TOOL STORE BASE.tar               make the base image, once
#   buildah.sh build TOOL STORE CONTEXT CONTAINERFILE OUT
set -eu

verb=$1 tool=$2 store=$3
shift 3
mkdir -p "$store/tmp"
export TMPDIR="$store/tmp"
set_tool() { command "$tool" --root "$store/root" --runroot "$store/run" --storage-driver overlay "$@"; }

case $verb in
    base)
        work=$(set_tool from scratch)
        set_tool add --quiet "$work" "$1" /
        set_tool commit --quiet "$work" localhost/bench-base
        set_tool rm "$work"
        ;;
    build)
        context=$1 file=$2 out=$3
        set -- build --layers --quiet --network host --isolation chroot --tag bench --file "$file" "$context"
        set_tool "$@"
        rm -f "$out"
        set_tool push --quiet bench "oci-archive:$out"
        ;;
esac
