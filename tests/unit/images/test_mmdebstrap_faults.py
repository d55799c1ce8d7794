"""What to do about an mmdebstrap that failed: its words are apt's, the remedy is on this host."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildstep.errors import CommandFailed, ImageError
from buildstep.images.sources import mmdebstrap
from buildstep.rootfs.installers import apt_faults

UNSIGNED = (
    "W: GPG error: {uri} {suite} InRelease: The following signatures couldn't be verified because the public key"
    " is not available: NO_PUBKEY 871920D1991BC93C\nE: The repository '{uri} {suite} InRelease' is not signed.\n"
    "E: apt-get update --error-on=any failed\n"
)


def explained(output: str, mirror: str = "", limit: str = "") -> ImageError:
    error = CommandFailed(["mmdebstrap"], 25, detail=output, what="mmdebstrap x", limit=limit)
    return mmdebstrap._explained(error, mirror)


@pytest.mark.parametrize(
    ("uri", "suite", "keyring", "hint"),
    [
        ("http://mirror.example/u", "noble", "ubuntu", "install the package ubuntu-keyring on this host"),
        ("http://mirror.example/u", "noble-updates", "ubuntu", "install the package ubuntu-keyring on this host"),
        ("http://archive.ubuntu.com/ubuntu", "later", "ubuntu", "install the package ubuntu-keyring on this host"),
        ("http://mirror.example/d", "trixie", "debian", "install a newer debian-archive-keyring on this host"),
        ("http://own.example", "ours", "", "put the key of those who run the repository into /etc/apt/trusted.gpg.d"),
    ],
)  # fmt: skip
def test_the_keyring_is_that_of_the_suites_vendor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, suite: str, keyring: str, hint: str
) -> None:
    (tmp_path / "ubuntu.csv").write_text("version,codename,series\n24.04 LTS,Noble Numbat,noble,2023-10-26\n")
    (tmp_path / "debian.csv").write_text("version,codename,series\n13,Trixie,trixie,2023-06-10\n")
    monkeypatch.setattr(mmdebstrap, "_DISTRO_INFO", tmp_path)
    (tmp_path / "debian.gpg").touch()  # this host has Debian's only
    known = {
        vendor: (str(tmp_path / f"{vendor}.gpg"), package)
        for vendor, (_, package) in apt_faults.ARCHIVE_KEYRINGS.items()
    }
    monkeypatch.setattr(mmdebstrap, "ARCHIVE_KEYRINGS", known)
    error = explained(UNSIGNED.format(uri=uri, suite=suite))
    assert (
        f"mmdebstrap x: {uri} {suite} is signed with the key 871920D1991BC93C, not found in " in error.message
    )
    assert f"{keyring and str(tmp_path / keyring)}" in error.message
    assert error.hint == hint
    assert not error.retryable


def test_only_a_mirror_out_of_reach_is_asked_for() -> None:
    line = "E: Failed to fetch http://me:pw@m.example/dists/x/InRelease  Could not resolve 'm.example'\n"
    error = explained(line, "http://me:pw@m.example/")
    assert "m.example cannot be reached (Could not resolve 'm.example')" in error.message
    assert "reachable from this CI host? BUILDSTEP_APT_MIRROR (now http://m.example/) names" in error.hint
    assert "pw" not in error.message + error.hint
    assert error.retryable
    missing = explained("E: Unable to locate package nonesuch\n")
    assert "mmdebstrap:SUITE?components=A,B" in missing.hint
    assert "reachable" not in missing.hint


@pytest.mark.parametrize("limit", ["", "total"])
def test_what_is_not_known_is_not_explained(limit: str) -> None:
    error = explained("E: Unable to locate package x\n" if limit else "E: something else\n", limit=limit)
    assert error.hint == ""
    assert error.message == "mmdebstrap x: mmdebstrap exited with status 25"
