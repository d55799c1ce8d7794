"""The same inputs give the same bytes, whoever builds: root, users, and root of a container that may not mount."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import demand
from tests.integration.ordinary_user import (
    NO_MOUNTS,
    NO_NAMESPACES,
    UID,
    UserLab,
    devices,
    usable_python,
    users,
)
from tests.integration.repository import Repository, make_place
from tests.integration.support import EPOCH, Lab, host_state, step, write_base

__all__ = ["users"]  # fixtures


@dataclass(frozen=True, kw_only=True)
class Builder:
    """Somebody who builds. through: what starts the build; pool: the scheme of a pool to name, empty for the one that the rule finds; found:
    how the rule's is named; umask: of the shell that starts the build."""

    name: str
    through: tuple[str, ...] = ()
    uid: int = 0
    gid: int = 0
    pool: str = ""
    found: str = ""
    umask: int = 0o022


def people(users: tuple[pwd.struct_passwd, ...]) -> dict[str, Builder]:
    ann, bob = users
    found = [
        Builder(name="root", pool="overlay"),
        Builder(name="ann", uid=ann.pw_uid, gid=ann.pw_gid, found="overlay-subids", umask=0o077),
        Builder(name="bob", uid=bob.pw_uid, gid=bob.pw_gid, pool="dir"),
        Builder(name="plain", uid=UID, gid=UID, found="dir", umask=0o077),
        Builder(name="box", through=NO_MOUNTS, found="overlay-subids"),
        Builder(name="closed box", through=(*NO_NAMESPACES, *NO_MOUNTS), found="dir"),
    ]
    return {builder.name: builder for builder in found}


@dataclass(kw_only=True)
class Scene:
    """One proto directory, one m.json, and a home for each builder."""

    top: Path
    proto: Path

    def lab(self, builder: Builder, base: Path) -> Lab:
        home = self.top / f"home-{builder.name}"
        if not home.exists():
            home.mkdir(mode=0o700)
            os.chown(home, builder.uid, builder.gid)
        environ = {"SOURCE_DATE_EPOCH": str(EPOCH), "HOME": os.fspath(home), "XDG_DATA_HOME": ""}
        common: dict[str, Any] = {"top": home, "base": base, "environ": environ}
        if not builder.uid:
            return Lab(**common)
        python, path = usable_python()
        environ["PYTHONPATH"] = path
        lab = UserLab(**common, python=python, uid=builder.uid, gid=builder.gid)
        lab.give()
        return lab

    def build(self, builder: Builder, base: Path, manifest: dict[str, Any], **environ: str) -> dict[str, Any]:
        """What --json printed of one build, with the members of the tar image beside it."""
        lab = self.lab(builder, base)
        out, pool = lab.top / "out", ("--pool", f"{builder.pool}:{lab.top}/pool") if builder.pool else ()
        argv = [
            *builder.through, lab.python, "-P", "-m", "buildstep", "build", "-m", json.dumps(manifest), "-o", os.fspath(out),
            *pool, "-f", "tar", "-f", "oci", "-c", "none", "--json", os.fspath(self.proto),
        ]  # fmt: skip
        more = {"umask": builder.umask}
        done = lab.run(argv, env={"HOME": lab.environ["HOME"], **environ}, **more)
        assert done.status == 0, f"{builder.name}: {done.stderr}"
        if builder.found:
            assert os.listdir(lab.top / ".local/share/buildstep") == [builder.found]
        result = done.json
        result["members"] = members(
            next(Path(row["path"]) for row in result["files"] if row["format"] == "tar")
        )
        for kind in ("build", "state/journal", "state/work"):
            for left in lab.top.glob(f"**/pool/{kind}/*"):
                pytest.fail(f"{builder.name} left {left}")
        shutil.rmtree(out)
        return result


def members(path: Path) -> dict[str, tuple[object, ...]]:
    """All that a tar image says of each path, but the content."""
    with tarfile.open(path) as archive:
        return {
            item.name: (
                item.type, oct(item.mode), item.uid, item.gid, item.size, item.linkname, item.mtime,
                item.devmajor, item.devminor, tuple(sorted(item.pax_headers.items())),
            )
            for item in archive
        }  # fmt: skip


def compare(told: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Fail, naming the paths, if two builders do not agree; what they agree on."""
    first, *others = told
    for name in others:
        mine, theirs = told[first]["members"], told[name]["members"]
        differing = {
            path: (mine.get(path), theirs.get(path))
            for path in sorted({*mine, *theirs})
            if mine.get(path) != theirs.get(path)
        }
        assert differing == {}, f"{first} and {name}"
        digests = [[row["sha256"] for row in told[each]["files"]] for each in (first, name)]
        assert digests[0] == digests[1], f"{first} and {name}"
        assert told[first]["tree_digest"] == told[name]["tree_digest"]
    return told[first]


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    demand("root", "namespaces", "overlay", "rsync", "bwrap")
    top = Path(tempfile.mkdtemp(prefix="buildstep-test-"))
    top.chmod(0o755)
    proto = top / "proto"
    (proto / "opt/app").mkdir(parents=True)
    (proto / "opt/app/run").write_text("echo running\n")
    (proto / "opt/app/run").chmod(0o4755)
    (proto / "opt/app/also").hardlink_to(proto / "opt/app/run")
    (proto / "opt/app/link").symlink_to("run")
    yield Scene(top=top, proto=proto)
    shutil.rmtree(top)


@pytest.fixture(scope="module")
def everybody(users: tuple[pwd.struct_passwd, ...]) -> dict[str, Builder]:
    return people(users)


def at_once(
    scene: Scene, builders: list[Builder], base: Path, wanted: dict[str, Any], **environ: str
) -> dict[str, dict[str, Any]]:
    """Two at a time: each has a process, a home and a pool of its own."""
    with ThreadPoolExecutor(2) as workers:
        made = [
            (one.name, workers.submit(partial(scene.build, one, base, wanted, **environ))) for one in builders
        ]
        return {name: job.result() for name, job in made}


def manifest(image: str, **build: Any) -> dict[str, Any]:
    ours = {"image": image, "owner": "root:root", "checks": {"rules": {"setuid": "warn"}}}
    return {"name": "hello", "version": "1", "build": {**ours, **build}}


@pytest.mark.parametrize("kind", ["scratch", "no top", "devices"])
def test_without_packages(scene: Scene, everybody: dict[str, Builder], kind: str) -> None:
    """An empty base; an archive that says nothing of its top directory; one with what users cannot make."""
    base = scene.top / f"{kind}.tar"
    if kind == "no top":
        with tarfile.open(base, "w") as archive:
            archive.add(scene.proto / "opt/app/run", "srv/run", filter=as_of_root)
    elif kind == "devices":
        demand("busybox")
        write_base(base, devices)
    before = host_state(scene.top)
    image = "scratch" if kind == "scratch" else f"tar:{base}"
    told = at_once(scene, list(everybody.values()), base, manifest(image))
    compare(told)
    assert host_state(scene.top) == before


def as_of_root(item: tarfile.TarInfo) -> tarfile.TarInfo:
    item.uid = item.gid = 0
    item.uname = item.gname = ""
    return item


POSTINST = """\
#!/bin/sh
set -e
groupadd --system --gid 990 keeper
chgrp keeper /usr/share/made/tool
chmod 2755 /usr/share/made/tool
install -d -o nobody -g nogroup -m 1770 /var/lib/made
rm -r /usr/share/made/gone
rm -rf /etc/cron.daily && mkdir /etc/cron.daily
ln /usr/share/made/tool /var/lib/made/twin
chmod u-s /usr/bin/chsh
"""
"""What scripts do to a tree: owners, set-id bits, links, what is gone, a directory in place of another."""


def test_with_packages(scene: Scene, everybody: dict[str, Builder]) -> None:
    """A Debian, a package with a script: everything that the script did is in everybody's image."""
    demand("mmdebstrap", "mirror", "dpkg-deb")
    place = make_place(scene.top / "debian")
    repository = Repository(scene.top / "repository", int((scene.top / "debian/port").read_text()))
    repository.put(
        "made", "1", postinst=POSTINST, files={"usr/share/made/tool": "x", "usr/share/made/gone/file": "x"}
    )
    wanted = manifest(f"tar:{place.base}", packages=["made"], order="packages-first")
    able = [builder for builder in everybody.values() if builder.found != "dir"]
    with repository.served():
        told = at_once(scene, able, place.base, wanted, **place.environ)
    found = compare(told)["members"]
    assert found["usr/share/made/tool"][1:4] == (oct(0o2755), 0, 990)
    assert found["var/lib/made"][1:4] == (oct(0o1770), 65534, 65534)
    assert found["var/lib/made/twin"][5] == "usr/share/made/tool"
    assert found["usr/bin/chsh"][1] == oct(0o755)
    assert not [path for path in found if path.startswith(("usr/share/made/gone", "etc/cron.daily/"))]
    assert found["etc/shadow"][1:4] == (oct(0o640), 0, 42)


@pytest.mark.slow
def test_a_debian_that_is_made(scene: Scene, everybody: dict[str, Builder]) -> None:
    """The sample's base: its /dev is there whoever made it."""
    demand("mmdebstrap", "mirror")
    told = at_once(
        scene, [everybody[name] for name in ("root", "ann")], scene.top, manifest("mmdebstrap:bookworm")
    )
    found = compare(told)["members"]
    assert found["dev/null"][0] == tarfile.CHRTYPE
    assert len([path for path in found if path.startswith("dev/")]) == 14


def test_one_file_changed_costs_a_user_what_it_costs_root(
    scene: Scene, everybody: dict[str, Builder], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Counted: what is read, hashed and written, and that nothing of the base is copied."""
    base = scene.top / "many.tar"
    with tarfile.open(base, "w") as archive:
        for number in range(2000):
            item = tarfile.TarInfo(f"usr/lib/d{number % 40}/f{number}")
            item.mtime = EPOCH
            archive.addfile(item)
    wanted = manifest(f"tar:{base}")
    builders = [everybody[name] for name in ("root", "ann")]
    at_once(scene, builders, base, wanted)
    with changed(scene.proto / "opt/app/new"):
        told = at_once(scene, builders, base, wanted)
    compare(told)
    for name, result in told.items():
        assert step(result, "import")["state"] == "reuse", name
    costs = {name: [row.get("counts", {}) for row in result["steps"]] for name, result in told.items()}
    assert costs["root"] == costs["ann"]


@contextlib.contextmanager
def changed(path: Path) -> Iterator[None]:
    path.write_text("new\n")
    try:
        yield
    finally:
        path.unlink()
