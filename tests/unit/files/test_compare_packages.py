"""Packages of two trees, by the databases in them, and the owners of paths."""

from __future__ import annotations

import pytest

from buildstep.files.compare import Content, Listing
from buildstep.files.compare_packages import (
    PackageChange,
    Packages,
    owners,
    package_changes,
    packages_in,
)
from buildstep.rootfs.interface import Package
from buildstep.tree.entry import Entry


def files(contents: dict[str, str], links: dict[str, str] | None = None) -> tuple[Listing, Content]:
    entries = {path.encode(): Entry(path.encode(), "f", 0o644, 0, 0) for path in contents}
    for path, target in (links or {}).items():
        entries[path.encode()] = Entry(path.encode(), "l", 0o777, 0, 0, target=target.encode())
    return Listing.of(entries), lambda entry: contents[entry.path.decode()].encode()


def status(**versions: str) -> str:
    return "\n".join(
        f"Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n"
        for name, version in versions.items()
    )


def test_dpkg_is_read() -> None:
    listing, content = files({"var/lib/dpkg/status": status(b="2", a="1")})
    rows = tuple(
        Package(name=name, version=version, arch="amd64", source=name)
        for name, version in (("a", "1"), ("b", "2"))
    )
    assert packages_in(listing, content) == Packages(rows, "apt")
    assert packages_in(listing, None).rows is None
    assert packages_in(listing, lambda _entry: None).rows is None


def test_pkgsrc_is_read_off_the_names_alone() -> None:
    listing, _ = files({"opt/local/pkg/nginx-1.2nb3/+CONTENTS": "", "opt/local/pkg/py311-x-4/+CONTENTS": "",
                        "elsewhere/no-1/+CONTENTS": ""})  # fmt: skip
    rows = (Package(name="nginx", version="1.2nb3"), Package(name="py311-x", version="4"))
    assert packages_in(listing, None) == Packages(rows, "pkgsrc")


@pytest.mark.parametrize(
    ("path", "known"), [("lib/apk/db/installed", False), ("var/lib/rpm", False), ("etc/passwd", True)]
)
def test_of_a_database_that_is_not_read_nothing_is_known(path: str, known: bool) -> None:
    found = packages_in(*files({path: ""}))
    assert (found.rows == ()) is known
    assert (found.rows is None) is not known
    assert bool(found.why) is not known


def row(name: str, version: str) -> Package:
    return Package(name=name, version=version, arch="amd64")


def test_what_differs() -> None:
    old = Packages((row("down", "2"), row("gone", "1"), row("same", "1"), row("up", "1:1.9")), "apt")
    new = Packages((row("come", "1"), row("down", "1"), row("same", "1"), row("up", "1:1.10")), "apt")
    assert package_changes(old, new) == [
        PackageChange("come", "amd64", "added", "", "1"),
        PackageChange("down", "amd64", "downgraded", "2", "1"),
        PackageChange("gone", "amd64", "removed", "1", ""),
        PackageChange("up", "amd64", "upgraded", "1:1.9", "1:1.10"),
    ]
    plain = package_changes(Packages((row("x", "1"),)), Packages((row("x", "2"),)))
    assert plain == [PackageChange("x", "amd64", "changed", "1", "2")]
    assert package_changes(Packages(None), new) is None
    assert package_changes(old, Packages(None)) is None


def test_a_package_of_two_architectures_is_two() -> None:
    both = Packages(
        (Package(name="x", version="1", arch="amd64"), Package(name="x", version="1", arch="i386"))
    )
    one = Packages((Package(name="x", version="1", arch="amd64"),))
    assert package_changes(both, one) == [PackageChange("x", "i386", "removed", "1", "")]


def test_owners_by_dpkg() -> None:
    info = "var/lib/dpkg/info"
    listing, content = files(
        {
            f"{info}/coreutils.list": "/.\n/bin\n/bin/ls\n/usr/share/doc/coreutils\n",
            f"{info}/libc6:amd64.list": "/lib/libc.so\n",
            f"{info}/libc6:amd64.md5sums": "",
        },
        {"bin": "usr/bin", "lib": "/usr/lib"},
    )
    wanted = [b"usr/bin/ls", b"usr/lib/libc.so", b"usr/share/doc/coreutils", b"other", b"bin/ls",
              f"{info}/libc6:amd64.md5sums".encode()]  # fmt: skip
    assert owners(listing, content, set(wanted[:4] + wanted[5:])) == {
        b"usr/bin/ls": "coreutils",
        b"usr/lib/libc.so": "libc6",
        b"usr/share/doc/coreutils": "coreutils",
        f"{info}/libc6:amd64.md5sums".encode(): "libc6",
    }


def test_owners_by_pkgsrc() -> None:
    contents = "@name x-1\n@cwd /opt/local\nbin/x\n@comment MD5:00\n@ignore\n+BUILD_INFO\n@cwd /\netc/x\n"
    listing, content = files({"opt/local/pkg/x-y-1/+CONTENTS": contents})
    wanted = {b"opt/local/bin/x", b"etc/x", b"opt/local/+BUILD_INFO", b"bin/x"}
    assert owners(listing, content, wanted) == {b"opt/local/bin/x": "x-y", b"etc/x": "x-y"}
