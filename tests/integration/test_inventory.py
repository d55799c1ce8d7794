"""Inventories of real trees, compared with what the package managers themselves say."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from buildstep.system import process
from buildstep.trust.inventory.gather import inventory_of
from buildstep.trust.inventory.model import Inventory
from tests.integration.conftest import debian_root, demand
from tests.unit.inventorydata import OnDisk


@pytest.fixture(scope="module")
def root() -> Path:
    demand("root", "mmdebstrap", "mirror")
    return debian_root()


@pytest.fixture(scope="module")
def found(root: Path) -> Inventory:
    return inventory_of(OnDisk(root), name="debian")


def ask(root: Path, *argv: str) -> list[str]:
    return process.query(["chroot", os.fspath(root), *argv]).stdout.splitlines()


def test_packages_and_sources_are_those_of_dpkg_query(root: Path, found: Inventory) -> None:
    form = "${Package}\t${Version}\t${Architecture}\t${source:Package}\t${source:Version}\t${Maintainer}\n"
    rows = sorted(ask(root, "dpkg-query", "--show", f"--showformat={form}"))
    components = [row for row in found.components if row.kind == "deb"]
    assert rows == sorted(
        f"{it.name}\t{it.version}\t{it.arch}\t{it.source}\t{it.source_version}\t{it.supplier}"
        for it in components
    )
    assert all(it.purl.startswith("pkg:deb/debian/") and "distro=debian-12" in it.purl for it in components)


def test_files_are_those_of_dpkg_listed_where_they_are(root: Path, found: Inventory) -> None:
    top = os.fsencode(root)
    for package in ("bash", "libc6", "coreutils", "base-files", "login"):
        (component,) = [row for row in found.components if row.name == package]
        there = set()
        for line in ask(root, "dpkg", "--listfiles", package):
            path = top + os.fsencode(line)
            if line.startswith("/") and os.path.lexists(path) and not os.path.isdir(path):
                folder, name = os.path.split(path)
                there.add(os.path.join(os.path.realpath(folder), name)[len(top) + 1 :])
        mine = {path for path in component.files if not os.path.isdir(os.path.join(top, path))}
        assert mine == there, package


def test_every_package_has_a_licence_and_what_it_needs(found: Inventory) -> None:
    without = [row.name for row in found.components if not row.license.expression]
    assert without == []
    refs = {row.ref for row in found.components}
    assert all(refs.issuperset(row.depends) for row in found.components)
    (bash,) = [row for row in found.components if row.name == "bash"]
    assert {ref.partition("@")[0] for ref in bash.depends} >= {
        "pkg:deb/debian/libc6",
        "pkg:deb/debian/base-files",
        "pkg:deb/debian/debianutils",
    }


def test_each_file_is_owned_or_listed(root: Path, found: Inventory) -> None:
    owned = {path for row in found.components for path in row.files}
    listed = {row.path for row in found.files}
    files = {path for path, entry in OnDisk(root).entries.items() if entry.kind == "f"}
    rest = files - owned - listed
    assert all(path.startswith(b"var/lib/dpkg/info/") for path in rest)
    assert found.unknown == ()


def test_it_takes_a_moment(root: Path) -> None:
    """Processor time, as the machine may be busy; 60 packages are half of the sample's."""
    source = OnDisk(root)
    begin = time.process_time()
    inventory_of(source, name="debian")
    assert time.process_time() - begin < 0.6


def test_packages_of_rpm_are_those_that_rpm_lists(tmp_path: Path) -> None:
    demand("rpm", "rpmbuild")
    spec = tmp_path / "thing.spec"
    spec.write_text(
        "Name: thing\nVersion: 1.2\nRelease: 3\nEpoch: 4\nSummary: a thing\nLicense: GPLv2+ and MIT\nVendor: us\n"
        "BuildArch: noarch\nProvides: /bin/thing\n%description\nx\n%install\nmkdir -p %{buildroot}/usr/share/thing\n"
        "echo x > %{buildroot}/usr/share/thing/made\n%files\n/usr/share/thing\n"
    )
    process.query(["rpmbuild", "-bb", "--quiet", "--define", f"_topdir {tmp_path / 'work'}", os.fspath(spec)])
    (made,) = (tmp_path / "work/RPMS/noarch").iterdir()
    image = tmp_path / "image"
    (image / "var/lib/rpm").mkdir(parents=True)
    (image / "etc").mkdir()
    (image / "etc/os-release").write_text("ID=fedora\nVERSION_ID=39\n")
    subprocess.run(
        ["rpm", "--root", image, "--dbpath", "/var/lib/rpm", "--nodeps", "--noscripts", "-i", made],
        check=True,
    )
    if not (image / "var/lib/rpm/rpmdb.sqlite").exists():
        pytest.skip("this rpm has its database in another form")
    (thing,) = inventory_of(OnDisk(image), name="x").components
    assert thing.purl == (
        "pkg:rpm/fedora/thing@1.2-3?arch=noarch&distro=fedora-39&epoch=4&upstream=thing-1.2-3.src.rpm"
    )
    assert thing.license.expression == "GPL-2.0-or-later AND MIT"
    assert thing.files == (b"usr/share/thing/made",)
    assert thing.supplier == "us"


def test_packages_of_python_are_those_that_pip_lists(tmp_path: Path) -> None:
    process.query(["/usr/bin/env", "python3", "-m", "venv", os.fspath(tmp_path / "image/opt/venv")])
    pip = tmp_path / "image/opt/venv/bin/python"
    listed = json.loads(process.query([os.fspath(pip), "-m", "pip", "list", "--format=json"]).stdout)
    found = inventory_of(OnDisk(tmp_path / "image"), name="x")
    assert [(row.name, row.version) for row in found.components if row.kind == "pypi"] == sorted(
        (row["name"], row["version"]) for row in listed
    )
    (own,) = [row for row in found.components if row.name == "pip"]
    assert own.license.expression == "MIT"
    assert b"opt/venv/bin/pip" in own.files


def test_the_same_tree_gives_the_same_inventory(root: Path, found: Inventory) -> None:
    assert inventory_of(OnDisk(root), name="debian") == found
