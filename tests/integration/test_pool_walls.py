"""Pools whose content would have others run it, or would stop every later build."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildstep.errors import EmitError
from buildstep.pool.btrfs import BtrfsBackend
from buildstep.pool.interface import Kind
from buildstep.system.remove import remove_tree
from tests.integration.conftest import demand
from tests.integration.pools import IMAGE, command, location
from tests.integration.support import Lab, matches, none_left, wait_for, write_base
from tests.unit.trees import deep

NOBODY = 65534


PKG_ADD = r"""#!/bin/sh
[ "$1" = -U ] && shift
deep() {
    path=d; for n in 1 2 3 4 5 6; do path=$path/$path; done
    mkdir -p "$1"; cd "$1"
    n=0; while [ $n -lt 30 ]; do mkdir -p $path; cd $path; n=$((n + 1)); done
    cd /
}
for name in "$@"; do
    case $name in
        deep*) deep /opt/deep ;;
        tmpdeep*) deep /tmp/deep ;;
        hang*) touch /opt/local/hanging; sleep 600 ;;
        odd*)
            long=x; for n in 1 2 3 4 5 6 7; do long=$long$long; done
            mkdir -p "/opt/odd/new
line" "/opt/odd/$(printf '\\377\\376')" "/opt/odd/$long${long#x}" /opt/odd/closed/below
            ln -s self /opt/odd/self; ln -s ../odd /opt/odd/round; echo > /opt/odd/closed/file; chmod 0 /opt/odd/closed
            dd if=/dev/zero of=/opt/odd/sparse bs=1 count=1 seek=1073741824 2>/dev/null
            n=0; while [ $n -lt 300 ]; do ln /opt/odd/sparse /opt/odd/link$n; n=$((n + 1)); done ;;
    esac
    echo "$name" >> /opt/local/pkg/installed
done
"""


def hostile(tar: tarfile.TarFile) -> None:
    """A package manager whose packages make what breaks tools."""
    member = tarfile.TarInfo("opt/local/sbin/pkg_add")
    member.mode, member.size = 0o755, len(PKG_ADD)
    tar.addfile(member, io.BytesIO(PKG_ADD.encode()))
    for name in ("chmod", "printf"):
        member = tarfile.TarInfo(f"usr/bin/{name}")
        member.type, member.linkname = tarfile.SYMTYPE, "busybox"
        tar.addfile(member)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demand("root", "namespaces", "overlay", "busybox", "rsync")
    return write_base(tmp_path_factory.mktemp("base") / "base.tar", hostile)


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that everybody may enter, as a CI host's disk is."""
    top = Path(tempfile.mkdtemp(prefix="buildstep-walls-", dir="/var/tmp"))
    top.chmod(0o755)
    yield top
    shutil.rmtree(top)


def tried_by_nobody(*paths: Path) -> list[str]:
    """Those of these paths that a user without any rights may read."""
    argv = ["/bin/sh", "-c", 'for path; do test -r "$path" && echo "$path"; done; true', "sh"]
    argv += map(os.fspath, paths)
    done = subprocess.run(
        argv, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", check=True, capture_output=True, text=True
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("scheme", ["overlay", "dir"])
def test_no_other_user_reaches_what_a_build_or_its_base_holds(
    reachable: Path, base: Path, scheme: str
) -> None:
    lab = Lab(top=reachable, base=base, scheme=scheme)
    argv = lab.argv("--packages", "hang", "--installer", "pkgsrc")
    with subprocess.Popen(argv, env=lab.env(), cwd=lab.top, stderr=subprocess.PIPE, umask=0) as build:
        try:
            wait_for(lambda: matches(lab.pool, "build/*/*/opt/local/hanging"), build)
            inside = [
                *lab.pool.glob("image/*/tree/usr/bin/setuid"),
                *lab.pool.glob("build/*/*/opt/local/hanging"),
            ]
            assert len(inside) > 1
            state = [lab.pool / "state", *lab.pool.glob("state/*/*")]
            manifest = lab.top / "m.json"
            assert tried_by_nobody(manifest, *inside, *state) == [os.fspath(manifest)]
            folders = [
                path
                for pattern in ("pool", "pool/*", "pool/*/*")
                for path in lab.top.glob(pattern)
                if path.is_dir()
            ]
            assert [path for path in folders if path.stat().st_mode & 0o077] == []
        finally:
            build.send_signal(signal.SIGTERM)


def test_an_older_pool_is_closed_by_the_next_build(reachable: Path, base: Path) -> None:
    lab = Lab(top=reachable, base=base)
    lab.built()
    for path in (lab.pool, lab.pool / "image", *lab.pool.glob("image/*")):
        path.chmod(0o755)
    done = lab.build()
    assert done.status == 0, done.stderr
    assert "was made private: others may enter it (mode 0755)" in done.stderr
    assert tried_by_nobody(lab.pool, lab.pool / "image") == []
    assert "made private" not in lab.build().stderr


# -- no content stops a pool ---------------------------------------------------------------------------------


@pytest.fixture(params=["overlay", "dir", "btrfs"])
def lab(request: pytest.FixtureRequest, base: Path, tmp_path: Path) -> Iterator[Lab]:
    with location(request.param, tmp_path) as place:
        made = Lab(top=Path(place).parent, base=base, scheme=request.param)
        yield made
        remove_tree(made.pool)  # pytest fails at what these tests make


def packages(*names: str) -> tuple[str, ...]:
    return ("--installer", "pkgsrc", "--packages", ",".join(names))


def killed(lab: Lab, *names: str) -> Path:
    """Kill a build while its last package hangs; returns the tree that it left."""
    pattern = "build/*/upper" if lab.scheme == "overlay" else "build/*/tree"
    argv = lab.argv(*packages(*names, "hang"))
    with subprocess.Popen(argv, env=lab.env(), cwd=lab.top, stderr=subprocess.PIPE) as build:
        try:
            wait_for(lambda: matches(lab.pool, f"{pattern}/opt/local/hanging"), build)
        finally:
            build.kill()
    assert none_left(os.fspath(lab.top)) == []
    (tree,) = lab.pool.glob(pattern)
    return tree


def test_a_directory_deeper_than_any_path_ends_its_build_and_no_other(lab: Lab) -> None:
    done = lab.refused(14, *packages("deep"))
    assert "an image can have 3500: opt/deep/d/d/" in done.stderr
    lab.built(*packages("tmpdeep"))  # cleaners remove that one
    assert lab.leftovers() == []


def test_what_a_killed_build_left_is_removed_however_deep(lab: Lab) -> None:
    killed(lab, "deep", "odd")
    done = lab.build()
    assert done.status == 0, done.stderr
    assert "removed" in done.stderr
    assert lab.leftovers() == []


def test_odd_names_links_and_holes_are_built_and_removed(lab: Lab) -> None:
    result = lab.built(*packages("odd"), "-f", "tar", "-c", "zstd", "--sparse")
    assert result["files"]
    assert lab.leftovers() == []


def test_a_deep_proto_directory_is_a_usage_error(lab: Lab) -> None:
    deep(lab.proto / "srv/deep", 3000)
    try:
        assert "the proto directory has a path of" in lab.refused(2).stderr
    finally:
        remove_tree(lab.proto / "srv/deep")


def test_a_base_with_a_deep_directory_is_refused(tmp_path: Path) -> None:
    def add(tar: tarfile.TarFile) -> None:
        tar.addfile(tarfile.TarInfo("d/" * 3000 + "file"), io.BytesIO())

    lab = Lab(top=tmp_path, base=write_base(tmp_path / "deep.tar", add), scheme="dir")
    assert "a path of 6004 bytes, and an image can have 3500" in lab.refused(11).stderr


@pytest.mark.parametrize("scheme", ["dir", "overlay"])
def test_what_cannot_be_removed_is_named_and_builds_go_on(base: Path, tmp_path: Path, scheme: str) -> None:
    demand("chattr")
    lab = Lab(top=tmp_path, base=base, scheme=scheme)
    tree = killed(lab)
    fixed = tree / "opt/local/hanging"
    subprocess.run(["chattr", "+i", fixed], check=True)
    try:
        done = lab.build()
        assert done.status == 0, done.stderr
        assert "opt/local/hanging: Operation not permitted" in done.stderr
        assert "lsattr" in done.stderr
        left = [path for path in tree.parent.rglob("*") if not path.is_dir()]
        assert left == [fixed]
        assert lab.command("heal", "--pool", lab.uri).status == 10
    finally:
        subprocess.run(["chattr", "-i", fixed], check=True)
    lab.heal()
    assert lab.leftovers() == []


def test_a_subvolume_in_a_tree_is_removed_whatever_its_name(base: Path, tmp_path: Path) -> None:
    with location("btrfs", tmp_path) as place:
        lab = Lab(top=Path(place).parent, base=base, scheme="btrfs")
        tree = killed(lab)
        inner = tree / "opt/new\nline"
        command("btrfs", "subvolume", "create", os.fspath(inner))
        (inner / "file").touch()
        command("btrfs", "subvolume", "create", os.fspath(inner / "further"))
        command("btrfs", "subvolume", "snapshot", "-r", os.fspath(inner), os.fspath(inner / "fixed"))
        assert lab.build().status == 0
        assert lab.leftovers() == []


def test_a_subvolume_in_the_finished_tree_is_refused(tmp_path: Path) -> None:
    with location("btrfs", tmp_path) as place:
        backend = BtrfsBackend(place)
        backend.snapshot(backend.create("one"), Kind.IMAGE, IMAGE)
        dataset = backend.clone(Kind.IMAGE, IMAGE, "two")
        command("btrfs", "subvolume", "create", os.fspath(dataset.path / "inner"))
        with pytest.raises(EmitError, match="inner is a file system or subvolume of its own"):
            dataset.scan({}, owner=None)
        backend.destroy(Kind.BUILD, "two")
        assert backend.idents(Kind.BUILD) == []
