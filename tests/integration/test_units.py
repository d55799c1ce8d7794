"""`build.units`: the links are those of the real systemctl, and builds make them on every way into the image."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import SpecError
from buildstep.rootfs import units
from buildstep.rootfs.laid_over import LaidOver
from buildstep.spec.accounts import Units
from buildstep.system.root import Root
from tests.integration.conftest import demand
from tests.integration.support import Lab, step, write_base

FILES = {
    "lib:plain.service": "[Unit]\nDescription=x\n[Install]\nWantedBy=multi-user.target\n",
    "lib:two.service": "[Install]\nWantedBy=multi-user.target \\\n  graphical.target\nRequiredBy=net.target\n",
    "lib:named.service": "[Install]\nAlias=other.service third.service\nWantedBy=multi-user.target\n",
    "lib:also.service": "[Install]\nAlso=plain.service sock.socket\nWantedBy=a.target\n",
    "lib:sock.socket": "[Install]\nWantedBy=sockets.target\n",
    "lib:onlyalso.service": "[Install]\nAlso=sock.socket\n",
    "lib:t@.service": "[Install]\nDefaultInstance=one\nWantedBy=multi-user.target\n",
    "lib:inst@.service": "[Install]\nWantedBy=x-%i.target getty.target\nAlias=al@%i.service\n",
    "lib:bare@.service": "[Install]\nWantedBy=getty.target\n",
    "lib:odd@.service": "[Install]\nAlias=odd-%i.service\n",
    "lib:words.service": "[Install]\nWantedBy=words\n",
    "lib:deep@.service": "[Install]\nWantedBy=deep@.target deep@x.target\n",
    "lib:spec@.service": "[Install]\nWantedBy=%p-%i.target %N.target %j.target\n",
    "lib:reset.service": "[Install]\nWantedBy=a.target\nWantedBy=\nWantedBy=b.target\n# WantedBy=c.target\n",
    "lib:static.service": "[Service]\nExecStart=/bin/true\n",
    "lib:dropped.service": "[Service]\nExecStart=/bin/true\n",
    "etc:dropped.service.d/x.conf": "[Install]\nWantedBy=multi-user.target\n",
    "etc:own.service": "[Install]\nWantedBy=multi-user.target\n",
    "etc:plain2.service": "[Install]\nWantedBy=etc.target\n",
    "lib:plain2.service": "[Install]\nWantedBy=lib.target\n",
    "usrlocal:loc.timer": "[Install]\nWantedBy=timers.target\n",
    "lib:release.service": "[Install]\nWantedBy=on-%o-%w.target\n",
    "lib:tt@.target": "[Install]\nWantedBy=multi-user.target\n",
    "lib:multi-user.target": "[Unit]\nDescription=x\n",
}
FOLDERS = {
    "lib": "usr/lib/systemd/system",
    "etc": "etc/systemd/system",
    "usrlocal": "usr/local/lib/systemd/system",
}
LINKS = {
    "etc:masked.service": "/dev/null",
    "lib:aliased.service": "plain.service",
    "etc:linked.service": "/srv/linked.service",
    "etc:multi-user.target.wants/two.service": "/lib/systemd/system/two.service",
    "etc:old.service": "/lib/systemd/system/named.service",
    "etc:gone.target.wants/gone.service": "/lib/systemd/system/gone.service",
    "etc:x.target.wants/inst@5.service": "/lib/systemd/system/inst@.service",
}


def write(top: Path) -> Path:
    """A merged /usr with a systemd of bookworm, as far as links depend on it."""
    for folder in (*FOLDERS.values(), "usr/bin", "usr/lib/x86-gnu/systemd", "var/lib/dpkg", "srv"):
        (top / folder).mkdir(parents=True, exist_ok=True)
    (top / "lib").symlink_to("usr/lib")
    (top / "usr/lib/x86-gnu/systemd/libsystemd-shared-252.so").touch()
    (top / "var/lib/dpkg/status").touch()
    (top / "etc/os-release").write_text('ID=debian\nVERSION_ID="12"\n')
    (top / "srv/linked.service").write_text("[Install]\nWantedBy=multi-user.target\n")
    for name, text in FILES.items():
        path = top / FOLDERS[name.partition(":")[0]] / name.partition(":")[2]
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    for name, target in LINKS.items():
        path = top / FOLDERS[name.partition(":")[0]] / name.partition(":")[2]
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(target)
    return top


def below_etc(top: Path) -> dict[str, str]:
    """Every path of /etc/systemd, with where links lead."""
    found = {}
    for path in (top / "etc/systemd").rglob("*"):
        found[os.path.relpath(path, top)] = os.readlink(path) if path.is_symlink() else ""
    return found


def systemctl(top: Path, verb: str, *names: str) -> int:
    done = subprocess.run(
        ["systemctl", f"--root={top}", verb, *names], capture_output=True, check=False, text=True
    )
    return done.returncode


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demand("systemctl")
    return write(tmp_path_factory.mktemp("units") / "image")


GOOD = [
    *(("enable", name) for name in (
        "plain.service", "two.service", "named.service", "also.service", "onlyalso.service", "t@.service",
        "t@7.service", "inst@a-b.service", "spec@z-y.service", "reset.service", "dropped.service", "own.service",
        "aliased.service", "deep@.service", "deep@1.service", "plain2.service", "loc.timer", "linked.service", "release.service", "inst@5.service", "tt@x.target",
    )),
    *(("disable", name) for name in (
        "two.service", "named.service", "also.service", "gone.service", "inst@5.service", "inst@.service",
        "aliased.service", "old.service", "deep@1.service", "masked.service", "static.service", "plain.service",
    )),
    *(("mask", name) for name in ("plain.service", "nowhere.service", "masked.service", "t@.service")),
]  # fmt: skip
BAD = [
    ("enable", "nowhere.service"), ("enable", "masked.service"), ("enable", "old.service"),
    ("enable", "odd@1.service"), ("enable", "words.service"),
    ("enable", "bare@.service"), ("mask", "own.service"), ("mask", "old.service"),
]  # fmt: skip


def ours(top: Path, verb: str, *names: str) -> units.Changes:
    return units.apply(Units(**{verb: names}), LaidOver(Root(top), {}))


@pytest.mark.parametrize(("verb", "name"), GOOD)
def test_it_is_what_systemctl_does(image: Path, tmp_path: Path, verb: str, name: str) -> None:
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    for top in (theirs, mine):
        shutil.copytree(image, top, symlinks=True)
    assert systemctl(theirs, verb, name) == 0
    if verb == "enable":
        systemctl(theirs, verb, name)  # a second time changes nothing
    ours(mine, verb, name)
    assert below_etc(mine) == below_etc(theirs)
    ours(mine, verb, name)
    assert below_etc(mine) == below_etc(theirs)


@pytest.mark.parametrize(("verb", "name"), BAD)
def test_what_systemctl_refuses_is_a_fault(image: Path, tmp_path: Path, verb: str, name: str) -> None:
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    for top in (theirs, mine):
        shutil.copytree(image, top, symlinks=True)
    assert systemctl(theirs, verb, name) != 0
    before = below_etc(mine)
    with pytest.raises(SpecError) as caught:
        ours(mine, verb, name)
    assert [fault.where for fault in caught.value.faults] == [f"$.build.units.{verb}[0]"]
    assert below_etc(mine) == before


# -- in builds -----------------------------------------------------------------------------------------------

TAR = ("-f", "tar", "-c", "none")
EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}
BUILD = {
    "units": {"enable": ["app.service"], "disable": ["cron.service"], "mask": ["getty@.service"]},
    "modes": {"*.service": "0644"},
}


@pytest.fixture(scope="module")
def systemd_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demand("root", "namespaces", "busybox", "rsync")

    def units_of_the_base(tar: tarfile.TarFile) -> None:
        folder = tmp_path_factory.mktemp("base-units")
        write(folder)
        tar.add(folder / "usr/lib/systemd", "usr/lib/systemd")
        wants = tarfile.TarInfo("etc/systemd/system/multi-user.target.wants/cron.service")
        wants.type, wants.linkname = tarfile.SYMTYPE, "/lib/systemd/system/cron.service"
        for name in ("etc/systemd", "etc/systemd/system", "etc/systemd/system/multi-user.target.wants"):
            parent = tarfile.TarInfo(name)
            parent.type, parent.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(parent)
        tar.addfile(wants)

    return write_base(tmp_path_factory.mktemp("base") / "base.tar", units_of_the_base)


@pytest.fixture(params=["overlay", "dir"])
def lab(request: pytest.FixtureRequest, tmp_path: Path, systemd_base: Path) -> Lab:
    made = Lab(top=tmp_path, base=systemd_base, scheme=request.param)
    (made.proto / "lib/systemd/system").mkdir(parents=True)
    (made.proto / "lib/systemd/system/app.service").write_text("[Install]\nWantedBy=multi-user.target\n")
    return made


def states(built: dict[str, Any]) -> dict[str, str]:
    return {row["name"]: row["state"] for row in built["steps"] if row["state"] != "skip"}


def links(built: dict[str, Any]) -> dict[str, str]:
    with tarfile.open(built["files"][0]["path"]) as tar:
        members = {member.name.removeprefix("./"): member for member in tar}
    return {
        name.removeprefix("etc/systemd/system/"): member.linkname
        for name, member in members.items()
        if name.startswith("etc/systemd/system/") and member.issym()
    }


def test_units_of_the_proto_directory_read_in_place_or_copied(lab: Lab) -> None:
    lab.manifest(build=BUILD)
    built = lab.built(*TAR, env=EPOCH)
    assert "read in place" in step(built, "sync")["reason"]
    assert links(built) == {
        "multi-user.target.wants/app.service": "/usr/lib/systemd/system/app.service",
        "getty@.service": "/dev/null",
    }
    assert step(built, "units")["reason"] == "2 links made, 1 removed"
    lab.manifest(build=BUILD | {"exclude": ["*[[:digit:]]"]})  # which only rsync knows: it is copied
    copied = lab.built(*TAR, env=EPOCH)
    assert "copied" in step(copied, "sync")["reason"]
    assert copied["tree_digest"] == built["tree_digest"]
    assert lab.leftovers() == []


def test_a_link_of_the_proto_directory_is_disabled(lab: Lab) -> None:
    wants = lab.proto / "etc/systemd/system/x.target.wants"
    wants.mkdir(parents=True)
    (wants / "cron.service").symlink_to("/lib/systemd/system/cron.service")
    lab.manifest(build=BUILD)
    built = lab.built(*TAR, env=EPOCH)
    assert "x.target.wants/cron.service" not in links(built)
    assert step(built, "units")["reason"] == "2 links made, 2 removed"


def test_all_that_cannot_be_done_is_told(lab: Lab) -> None:
    lab.manifest(build={"units": {"enable": ["nowhere.service", "static.service", "app.service"]}})
    told = lab.refused(2, *TAR).stderr
    assert "units: 2 faults" in told
    assert "nowhere.service is not in the image" in told
    assert "static.service has no [Install] section" in told


def test_a_changed_unit_is_no_content_update(lab: Lab) -> None:
    if lab.scheme != "overlay":
        pytest.skip("the route does not depend on the pool")
    users = [{"name": "app", "uid": 990, "create_home": True}]
    lab.manifest(build=BUILD | {"users": users, "owner": {"srv": "app:app", "*": "root:root"}})
    big = lab.proto / "srv/big"
    big.mkdir(parents=True)
    for number in range(80):
        (big / f"{number}").write_bytes(f"{number}\n".encode().ljust(1 << 20, b"x"))
    first = lab.built()
    assert set(states(lab.built()).values()) == {"reuse"}
    assert first["files"]
    (big / "3").write_text("other")
    updated = lab.built()
    assert step(updated, "clone")["state"] == "reuse", "only content changed"
    assert lab.built("--no-cache")["tree_digest"] == updated["tree_digest"]
    (lab.proto / "lib/systemd/system/app.service").write_text("[Install]\nWantedBy=graphical.target\n")
    built = lab.built()
    assert step(built, "units")["state"] == "run"
    found = lab.built(*TAR)
    assert links(found)["graphical.target.wants/app.service"] == "/usr/lib/systemd/system/app.service"
    assert "multi-user.target.wants/app.service" not in links(found)
