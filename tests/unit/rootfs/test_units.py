"""Units in a root, and in a proto directory that lies over it; the integration tests compare with systemctl."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildstep.errors import SpecError
from buildstep.rootfs import units
from buildstep.rootfs.laid_over import LaidOver
from buildstep.rootfs.unit_files import UnitFiles, is_name, may_be_alias
from buildstep.spec.accounts import Units
from buildstep.system.root import Root
from buildstep.tree.entry import Entry, FileList

WANTED = "[Install]\nWantedBy=multi-user.target\n"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    top = tmp_path / "image"
    for folder in ("usr/lib/systemd/system", "etc/systemd/system"):
        (top / folder).mkdir(parents=True)
    (top / "lib").symlink_to("usr/lib")
    (top / "usr/lib/systemd/system/base.service").write_text(WANTED)
    return Root(top)


def laid(tmp_path: Path, files: dict[str, str], links: dict[str, str] | None = None) -> FileList:
    """Entries of a proto directory that is read in place, with its directories."""
    found: FileList = {}
    for number, (name, text) in enumerate(files.items()):
        source = tmp_path / f"proto-{number}"
        source.write_text(text)
        path = os.fsencode(name)
        found[path] = Entry(path, "f", 0o644, 0, 0, size=len(text), source=os.fsencode(source))
    for name, target in (links or {}).items():
        path = os.fsencode(name)
        found[path] = Entry(path, "l", 0o777, 0, 0, target=os.fsencode(target))
    for path in list(found):
        while path := path.rpartition(b"/")[0]:
            found.setdefault(path, Entry(path, "d", 0o755, 0, 0))
    return found


def apply(root: Root, overlay: FileList, prefix: str = "", **asked: list[str]) -> units.Changes:
    wanted = Units(**{name: tuple(names) for name, names in asked.items()})
    return units.apply(wanted, LaidOver(root, overlay, prefix))


def test_units_of_both_are_enabled(root: Root, tmp_path: Path) -> None:
    overlay = laid(tmp_path, {"usr/lib/systemd/system/app.service": WANTED})
    done = apply(root, overlay, enable=["app.service", "base.service"])
    wants = root.path / "etc/systemd/system/multi-user.target.wants"
    assert {path.name: os.readlink(path) for path in wants.iterdir()} == {
        "app.service": "/usr/lib/systemd/system/app.service",
        "base.service": "/usr/lib/systemd/system/base.service",
    }
    assert done.absent == [("app.service", "multi-user.target"), ("base.service", "multi-user.target")]


def test_the_root_of_a_zone_is_a_folder_of_the_dataset(root: Root, tmp_path: Path) -> None:
    overlay = laid(tmp_path, {"root/usr/lib/systemd/system/app.service": WANTED})
    apply(root, overlay, "root", enable=["app.service"])
    assert (root.path / "etc/systemd/system/multi-user.target.wants/app.service").is_symlink()


def test_a_proto_directory_that_brings_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    files = {"usr/lib/systemd/system/app.service": WANTED, "usr/lib/systemd/libsystemd-shared-252.so": "x",
             "var/lib/dpkg/status": ""}  # fmt: skip
    overlay = laid(tmp_path, files, {"lib": "usr/lib"})
    done = apply(Root(tmp_path / "empty"), overlay, enable=["app.service"])
    assert list(done.made.values()) == ["/lib/systemd/system/app.service"], "as Debian's of that version"


def test_links_of_the_proto_directory_go_with_their_empty_directory(root: Root, tmp_path: Path) -> None:
    folder = "etc/systemd/system/x.target.wants"
    overlay = laid(tmp_path, {}, {f"{folder}/base.service": "/usr/lib/systemd/system/base.service"})
    assert apply(root, overlay, disable=["base.service"]).removed == [f"/{folder}/base.service"]
    assert os.fsencode(folder) not in overlay
    assert b"etc/systemd/system" in overlay, "it is the base's as well"


def test_a_mask_in_the_proto_directory_counts(root: Root, tmp_path: Path) -> None:
    overlay = laid(tmp_path, {}, {"etc/systemd/system/base.service": "/dev/null"})
    with pytest.raises(SpecError) as caught:
        apply(root, overlay, enable=["base.service"])
    assert "base.service is masked" in str(caught.value.faults[0])
    apply(root, overlay, mask=["base.service"])
    assert os.readlink(root.path / "etc/systemd/system/base.service") == "/dev/null"


def test_a_specifier_of_a_running_machine_is_a_fault(root: Root, tmp_path: Path) -> None:
    overlay = laid(tmp_path, {"usr/lib/systemd/system/host.service": "[Install]\nWantedBy=%H.target\n"})
    with pytest.raises(SpecError, match="units: 1 fault") as caught:
        apply(root, overlay, enable=["host.service"])
    assert "%H in its [Install] section, which only a running machine knows" in caught.value.detail


def test_units_that_go_round_in_a_circle_end(root: Root, tmp_path: Path) -> None:
    overlay = laid(
        tmp_path,
        {
            "usr/lib/systemd/system/a.service": f"{WANTED}Also=b.service\n",
            "usr/lib/systemd/system/b.service": f"{WANTED}Also=a.service\n",
        },
        {"etc/systemd/system/loop.service": "loop.service"},
    )
    assert len(apply(root, overlay, enable=["a.service"]).made) == 2
    assert len(apply(root, overlay, disable=["b.service"]).removed) == 2
    with pytest.raises(SpecError):
        apply(root, overlay, enable=["loop.service"])


def test_names_and_aliases() -> None:
    assert all(map(is_name, ("a.service", "a@.service", "a@b.timer", r"dev-\x2d.mount")))
    assert not any(map(is_name, ("a", "a.b", "a/b.service", "", "@x.service", "a.service\n")))
    assert may_be_alias("b.service", "a.service")
    assert may_be_alias("b@1.service", "a@1.service")
    assert not may_be_alias("b@2.service", "a@1.service")
    assert not may_be_alias("b.socket", "a.service")
    assert not may_be_alias("b.service", "a@.service")


def test_what_an_install_section_says(root: Root) -> None:
    (root.path / "etc/systemd/system/odd.service").write_text(
        "WantedBy=none.target\n[Unit]\nWantedBy=no.target\n[Install]\n; WantedBy=no.target\n"
        'WantedBy="a.target" \\\n# in between\n b.target\nwantedby=no.target\n WantedBy = c.target\n[Other]\nAlso=x\n'
    )
    unit = UnitFiles(LaidOver(root, {})).find("odd.service")
    assert (unit.wanted_by, unit.also) == (["a.target", "b.target", "c.target"], [])
