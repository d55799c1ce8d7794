"""The cause of an apt that failed, and the hint for it: apt's own sentences, as versions of it print them."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from buildstep.errors import CommandFailed, InstallError
from buildstep.rootfs.installers.apt_faults import explain, image_advice
from buildstep.rootfs.installers.apt_sources import Sources
from buildstep.rootfs.installers.common import Cause, failures
from buildstep.rootfs.interface import StaleIndex
from buildstep.system.root import Root

LINES = """\
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main
deb [arch=amd64 signed-by=/etc/apt/keyrings/own.gpg] http://own.example/ ./
deb http://plain.example/debian stable main
"""
PARAGRAPHS = """\
# one
Types: deb
URIs: http://first.example/debian
 http://second.example/debian/
Suites: stable stable-updates
Components: main
Signed-By: /etc/apt/keyrings/two.gpg

Types: deb
URIs: http://inline.example
Suites: stable
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 xyz
"""
SOURCES = Sources(files={"/etc/apt/sources.list": LINES, "/etc/apt/sources.list.d/two.sources": PARAGRAPHS})


def cause(tmp_path: Path, output: str, *, network: bool = True) -> Cause:
    for name in ("usr/share/keyrings/debian-archive-keyring.gpg", "etc/apt/keyrings/two.gpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = explain(output, image_advice(Root(tmp_path), SOURCES, network=network))
    assert found is not None
    return found


def unsigned(uri: str, suite: str, why: str) -> str:
    where = f"{uri} {suite} InRelease"
    return (
        f"Err:1 {where}\n  {why}\nW: GPG error: {where}: {why}\nE: The repository '{where}' is not signed.\n"
    )


NO_PUBKEY = (
    "The following signatures couldn't be verified because the public key is not available: NO_PUBKEY "
)


def failed(url: str, reason: str) -> str:
    return (
        f"Err:1 {url.replace('/debian', '/debian trixie')}\n  {reason} [IP: 192.0.2.1 80]\n"
        f"E: Failed to fetch {url}  {reason} [IP: 192.0.2.1 80]\nE: Some index files failed to download.\n"
    )


DEB = "http://deb.debian.org/debian/pool/h/hello_1_all.deb"
RELEASE = "https://deb.debian.org/debian/dists/trixie/InRelease"

CASES = {
    "key": (
        unsigned("http://deb.debian.org/debian", "trixie", f"{NO_PUBKEY}6ED0E7B82643E131 {NO_PUBKEY}78DBA3BC47EF2265"),
        (r"http://deb.debian.org/debian trixie is signed with the keys 6ED0E7B82643E131, 78DBA3BC47EF2265,"
        r" not found in /usr/share/keyrings/debian-archive-keyring.gpg"),
        r"take a base image with a newer debian-archive-keyring",
    ),
    "key-no-keyring": (
        unsigned("http://own.example", "./", f"{NO_PUBKEY}0123456789ABCDEF"),
        r"signed with the key 0123456789ABCDEF, not found in /etc/apt/keyrings/own.gpg, which is not there",
        r"put it there in the base image",
    ),
    "key-anywhere": (
        unsigned("http://plain.example/debian", "stable", f"{NO_PUBKEY}0123456789ABCDEF"),
        r"not found in /etc/apt/trusted.gpg.d$",
        r"compare its fingerprint",
    ),
    "key-inline": (
        unsigned("http://inline.example", "stable", f"{NO_PUBKEY}0123456789ABCDEF"),
        r"not found in the Signed-By of /etc/apt/sources.list.d/two.sources$",
        r"compare its fingerprint",
    ),
    "key-sqv": (
        ("Warning: OpenPGP signature verification failed: http://second.example/debian stable-updates InRelease:"
        " Sub-process /usr/bin/sqv returned an error code (1), error message is: Missing key"
        " 05AB90340C0C5E797F44A8C8254CF3B5AEC0A8F0, which is needed to verify signature.\n"
        "Error: The repository 'http://second.example/debian stable-updates InRelease' is not signed.\n"),
        r"signed with the key 05AB90340C0C5E797F44A8C8254CF3B5AEC0A8F0, not found in /etc/apt/keyrings/two.gpg$",
        r"compare its fingerprint",
    ),
    "key-expired": (
        unsigned("http://deb.debian.org/debian", "trixie", "The following signatures were invalid: EXPKEYSIG 605C66F00D6C9793 Debian <a@b.c>"),
        r"the key 605C66F00D6C9793, which has expired",
        r"newer debian-archive-keyring",
    ),
    "altered": (
        unsigned("http://deb.debian.org/debian", "trixie", "The following signatures were invalid: BADSIG 605C66F00D6C9793 Debian <a@b.c>"),
        r"trixie does not fit its signature",
        r"a proxy or the mirror altered it",
    ),
    "no-signature": (
        "Ign:1 http://own.example ./ InRelease\nE: The repository 'http://own.example ./ Release' is not signed.\n",
        r"the repository http://own.example ./ is not signed",
        r"\[trusted=yes\]",
    ),
    "issuer": (
        failed(RELEASE, "Certificate verification failed: The certificate is NOT trusted. The certificate issuer"
               " is unknown.  Could not handshake: Error in the certificate verification."),
        (r"the certificate of deb.debian.org is not believed \(The certificate is NOT trusted. The certificate"
        r" issuer is unknown.\)"),
        r"^the base image needs the package ca-certificates",
    ),
    "openssl": (
        failed(RELEASE, "SSL connection failed: error:0A000086:SSL routines::certificate verify failed / Success"),
        r"the certificate of deb.debian.org is not believed",
        r"^the base image needs the package ca-certificates",
    ),
    "name": (
        failed(RELEASE, "Certificate verification failed: The certificate is NOT trusted. The name in the"
               " certificate does not match the expected.  Could not handshake: Error."),
        r"does not match the expected",
        r"write the server's name in the sources as its certificate has it",
    ),
    "certificate-expired": (
        failed(RELEASE, "Certificate verification failed: The certificate is NOT trusted. The certificate chain"
               " uses expired certificate.  Could not handshake: Error."),
        r"uses expired certificate",
        r"must be renewed, unless this host's clock is wrong: it says 20",
    ),
    "no-suite": (
        ("Ign:1 http://deb.debian.org/debian nosuite InRelease\nErr:2 http://deb.debian.org/debian nosuite Release\n"
        "  404  Not Found [IP: 192.0.2.1 80]\nReading package lists...\n"
        "E: The repository 'http://deb.debian.org/debian nosuite Release' does not have a Release file.\n"),
        r"^http://deb.debian.org/debian has no Release file of the suite nosuite \(404\)$",
        r"check the address and the suite",
    ),
    "host": (
        failed(RELEASE, "403  127.0.0.1:80 is the CI host itself (127.0.0.1): builds reach it only if"
               " network.allow in buildstep.toml names it"),
        r"127.0.0.1:80 is the CI host itself \(127.0.0.1\)$",
        r"BUILDSTEP_NETWORK_ALLOW=127.0.0.1:80",
    ),
    "down": (
        failed(RELEASE, "502  deb.debian.org:443 cannot be reached: [Errno 111] Connection refused"),
        r"^deb.debian.org cannot be reached \(\[Errno 111\] Connection refused\)$",
        r"is the package source reachable from this CI host\?",
    ),
    "proxy": (
        failed(
            RELEASE,
            "Invalid response from proxy: HTTP/1.1 502 deb.debian.org:443 cannot be reached: this host's proxy"
            " proxy:3128: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed  Content-Type: text/plain"
            "  Content-Length: 108  Connection: close    ",
        ),
        (
            r"^deb.debian.org cannot be reached \(this host's proxy proxy:3128: \[SSL: CERTIFICATE_VERIFY_FAILED\]"
            r" certificate verify failed\)$"
        ),
        r"^http_proxy, https_proxy or all_proxy of this host names that proxy$",
    ),
    "busy": (failed(DEB, "503  Service Unavailable"), r"503", r"build again later"),
    "password": (failed(DEB, "401  Unauthorized"), r"401  Unauthorized", r"wants a user and a password"),
    "portal": (
        failed(RELEASE, "Clearsigned file isn't valid, got 'NOSPLIT' (does the network require authentication?)"),
        r"is no Release file",
        r"a page to log in",
    ),
    "sources": (
        "E: Malformed line 1 in source list /etc/apt/sources.list (type)\nE: The list of sources could not be read.",
        r"^Malformed line 1 in source list /etc/apt/sources.list \(type\)$",
        r"mend the image's sources",
    ),
    "method": (
        "E: The method driver /usr/lib/apt/methods/htttp could not be found.\n",
        r"apt has no method htttp",
        r"URL of that scheme",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_hint_is_for_the_cause(tmp_path: Path, name: str) -> None:
    output, text, hint = CASES[name]
    found = cause(tmp_path, output)
    assert re.search(text, found.text), found.text
    assert re.search(hint, found.hint), found.hint
    assert ("reachable" in found.hint) is (name == "down")
    assert found.text.count(";") == 0
    assert not found.old_index


def test_a_release_file_that_is_too_old_or_too_new_is_dated(tmp_path: Path) -> None:
    line = (
        "E: Release file for http://own.example/InRelease is {} 1d 2h 3min 4s). Updates for this repository"
    )
    away = 86400 + 2 * 3600 + 3 * 60 + 4
    for words, when in (("expired (invalid since", -away), ("not valid yet (invalid for another", away)):
        found = cause(tmp_path, line.format(words))
        dates = {time.strftime("%Y-%m-%d %H:%M", time.gmtime(time.time() + when - ago)) for ago in (0, 5)}
        assert any(f"{date} UTC" in found.text for date in dates), found.text
        assert "this host's clock says 20" in found.hint
    assert "Check-Valid-Until: no" in cause(tmp_path, line.format("expired (invalid since")).hint


OLD = {
    "name": "E: Unable to locate package nope",
    "version": "E: Version '2' for 'x' was not found",
    "release": "E: Release 'sid' for 'x' was not found",
    "candidate": "E: Package 'x' has no installation candidate",
    "file": failed(DEB, "404  Not Found"),
    "hash": failed(DEB, "Hash Sum mismatch"),
    "size": failed(DEB, "File has unexpected size (4 != 3). Mirror sync in progress?"),
    "needs": "The following packages have unmet dependencies:\n x : Depends: y (>= 2) but 1 is to be installed\n",
}


@pytest.mark.parametrize("name", OLD)
def test_what_a_younger_index_could_mend_is_told_apart(tmp_path: Path, name: str) -> None:
    found = cause(tmp_path, OLD[name])
    assert found.old_index
    assert "reachable" not in found.hint
    with pytest.raises(StaleIndex), failures("resolving", ["x"], explain=lambda _output: found):
        raise CommandFailed(["apt-get"], 100)
    # One that was stopped has no cause of its own.
    with pytest.raises(InstallError) as caught, failures("resolving", ["x"], explain=lambda _output: found):
        raise CommandFailed(["apt-get"], -9, limit="total")
    assert not isinstance(caught.value, StaleIndex)


def test_several_causes_are_all_named_and_no_password_is(tmp_path: Path) -> None:
    output = failed("http://me:secret@own.example/x.deb", "404  Not Found") + CASES["down"][0]
    found = cause(tmp_path, output)
    assert "own.example/x.deb" in found.text
    assert "deb.debian.org cannot be reached" in found.text
    assert "secret" not in found.text + found.hint


def test_a_build_without_the_network_is_told_so(tmp_path: Path) -> None:
    found = cause(tmp_path, failed(RELEASE, "Temporary failure resolving 'deb.debian.org'"), network=False)
    assert (found.text, "--no-network" in found.hint) == ("the build has no network", True)


def test_nothing_is_guessed(tmp_path: Path) -> None:
    assert explain("E: Something else\n", image_advice(Root(tmp_path), SOURCES, network=True)) is None


def test_packages_on_hold_are_named(tmp_path: Path) -> None:
    """As apt 2.6 prints it for `apt-get --yes --simulate install base-files` where that is on hold."""
    output = (
        "Reading package lists...\nThe following held packages will be changed:\n  base-files\n"
        "The following packages will be upgraded:\n  base-files\n"
        "1 upgraded, 0 newly installed, 0 to remove and 0 not upgraded.\n"
        "E: Held packages were changed and -y was used without --allow-change-held-packages.\n"
    )
    found = cause(tmp_path, output)
    assert found.text == "on hold in the base image: base-files"
    assert found.hint.startswith("leave them out, or take a base image that does not hold them")
    assert not found.old_index, "another index changes nothing"
