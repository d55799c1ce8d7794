"""What goes beside an image, on every route; and that no byte of the image depends on it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from buildstep import cli
from buildstep.build.deliver import BuildResult
from buildstep.build.image_source import ImageSource
from buildstep.build.steps.interface import Route
from buildstep.errors import EmitError, SigningError
from buildstep.events import Counted
from buildstep.tree.entry import Entry
from tests.unit.build.workshop import Workshop, make_workshop

STATUS = """\
Package: hello-data
Status: install ok installed
Architecture: all
Version: 1:2.0-1
Maintainer: Somebody <a@example.test>
Source: hello (2.0)

"""
pytestmark = pytest.mark.commands("cp", "find", "rsync")

KEY = """\
-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIKAWQ2xbbmU4yZaEcDOYGRCGMRZ2KBkSXQ5YNS6ezbHD
-----END PRIVATE KEY-----
"""
BOTH = {"hello-1.0.0.spdx.json", "hello-1.0.0.cdx.json", "hello-1.0.0.intoto.jsonl"}
IMAGE = {
    "hello-1.0.0.oci.tar",
    "hello-1.0.0.imgmanifest",
    "hello-1.0.0.buildrecord.json",
    "hello-1.0.0.events.jsonl",
}


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    made = make_workshop(tmp_path, monkeypatch)
    files = {
        "var/lib/dpkg/status": STATUS,
        "var/lib/dpkg/info/hello-data.list": "/.\n/usr\n/usr/hello\n",
        "usr/hello": "data",
        "etc/os-release": "ID=debian\nVERSION_ID=12\n",
    }
    with tarfile.open(tmp_path / "base.tar", "w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o644
            archive.addfile(member, BytesIO(text.encode()))
    return made


def build(workshop: Workshop, trust: object = True, **more: Any) -> BuildResult:
    asked: dict[str, Any] = {"trust": trust} if trust else {}
    return workshop.build(image=f"tar:{workshop.top}/base.tar", **asked, **more)


def there(workshop: Workshop) -> set[str]:
    return set(os.listdir(workshop.out))


def statements(workshop: Workshop) -> dict[str, dict[str, Any]]:
    lines = (workshop.out / "hello-1.0.0.intoto.jsonl").read_bytes().splitlines()
    found = [json.loads(base64.b64decode(json.loads(line)["payload"])) for line in lines]
    return {row["predicateType"]: row for row in found}


def image(workshop: Workshop) -> bytes:
    return (workshop.out / "hello-1.0.0.oci.tar").read_bytes()


def counted(workshop: Workshop, name: str) -> int:
    return sum(event.amount for event in workshop.events if isinstance(event, Counted) and event.name == name)


def test_no_byte_of_an_image_depends_on_it(workshop: Workshop) -> None:
    build(workshop, None, cache=False)
    plain = image(workshop)
    for trust in (True, {"sbom": ["spdx3"]}, {"provenance": "max"}):
        build(workshop, trust, cache=False)
        assert image(workshop) == plain


def test_each_statement_is_about_the_same_artifacts(workshop: Workshop) -> None:
    result = build(workshop, {"sbom": True, "provenance": "min"}, formats=["oci", "tar"])
    assert there(workshop) == IMAGE | BOTH | {"hello-1.0.0.tar.zst"}
    found = statements(workshop)
    assert set(found) == {
        "https://spdx.dev/Document",
        "https://cyclonedx.org/bom",
        "https://slsa.dev/provenance/v1",
        "https://in-toto.io/attestation/test-result/v0.1",
    }
    subjects = found["https://slsa.dev/provenance/v1"]["subject"]
    assert all(row["subject"] == subjects for row in found.values())
    digests = {row["name"]: row["digest"] for row in subjects}
    oci, tar = result.files
    assert digests["hello-1.0.0.oci.tar"] == {"sha256": oci["sha256"], "sha1": oci["sha1"]}
    assert digests["hello:1.0.0"] == {"sha256": oci["extra"]["digest"].removeprefix("sha256:")}
    assert digests["hello-1.0.0.tar.zst"] == {"sha256": tar["sha256"]}
    assert digests["tree"] == {"buildstepTree": result.tree_digest}
    assert [path.name for path in result.sidecars] == [
        row["name"] for row in workshop.record()["trust"]["files"]
    ]


def test_the_bill_says_which_step_brought_what(workshop: Workshop) -> None:
    build(workshop, {"sbom": ["cyclonedx"]})
    bill = json.loads((workshop.out / "hello-1.0.0.cdx.json").read_bytes())
    named = {row["name"]: row for row in bill["components"]}
    assert named["hello-data"]["purl"].startswith(
        "pkg:deb/debian/hello-data@1:2.0-1?arch=all&distro=debian-12"
    )
    own = next(row for name, row in named.items() if name.endswith("srv/page"))
    told = {row["name"]: row["value"] for row in own["properties"]}
    assert (told["buildstep:step"], told["buildstep:layer"]) == ("sync", "1")


def test_an_image_that_stands_is_proved_without_being_made_again(workshop: Workshop) -> None:
    """The settings changed, a file is gone, or was changed: they alone are made again, of what is kept."""
    build(workshop)
    before = image(workshop), (workshop.out / "hello-1.0.0.oci.tar").stat().st_ino
    first = {name: (workshop.out / name).read_bytes() for name in BOTH}

    build(workshop)
    assert workshop.steps()["trust"] == ("reuse", "spdx, cyclonedx, provenance (min)")

    (workshop.out / "hello-1.0.0.cdx.json").unlink()
    assert workshop.plan(image=f"tar:{workshop.top}/base.tar", trust=True).route is Route.UP_TO_DATE
    build(workshop)
    state, reason = workshop.steps()["trust"]
    assert state == "run"
    assert "hello-1.0.0.cdx.json is gone" in reason
    assert counted(workshop, "trust_files_read") == 0
    assert {name: (workshop.out / name).read_bytes() for name in BOTH} == first

    (workshop.out / "hello-1.0.0.spdx.json").write_text("{}")
    build(workshop)
    assert "hello-1.0.0.spdx.json was changed" in workshop.steps()["trust"][1]
    assert {name: (workshop.out / name).read_bytes() for name in BOTH} == first

    build(workshop, {"provenance": "max"})
    assert there(workshop) == IMAGE | {"hello-1.0.0.intoto.jsonl"}
    assert [row["name"] for row in workshop.record()["trust"]["files"]] == ["hello-1.0.0.intoto.jsonl"]
    build(workshop, {"provenance": "max"})
    assert {state for state, _ in workshop.steps().values()} <= {"reuse", "skip"}
    assert before == (image(workshop), (workshop.out / "hello-1.0.0.oci.tar").stat().st_ino)

    build(workshop, None)
    assert there(workshop) == IMAGE
    assert workshop.record()["trust"] == {}
    build(workshop, None)
    assert {state for state, _ in workshop.steps().values()} <= {"reuse", "skip"}


def test_an_image_that_was_made_without_is_read(workshop: Workshop) -> None:
    build(workshop, None)
    before = (workshop.out / "hello-1.0.0.oci.tar").stat()
    build(workshop)
    assert "hello-1.0.0.oci.tar is read for what is in it" in workshop.notes()
    after = (workshop.out / "hello-1.0.0.oci.tar").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    read = (workshop.out / "hello-1.0.0.spdx.json").read_bytes()
    build(workshop, cache=False)
    assert (workshop.out / "hello-1.0.0.spdx.json").read_bytes() == read


def test_outputs_that_are_wanted_elsewhere_take_their_proofs_along(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(workshop)
    first = {name: (workshop.out / name).read_bytes() for name in BOTH}
    monkeypatch.setattr(Workshop, "out", property(lambda self: self.top / "other"))
    build(workshop)
    assert there(workshop) == IMAGE | BOTH
    assert {name: (workshop.out / name).read_bytes() for name in BOTH} == first
    assert workshop.steps()["trust"][0] == "reuse"
    build(workshop)
    assert workshop.steps()["trust"][0] == "reuse"

    monkeypatch.setattr(Workshop, "out", property(lambda self: self.top / "third"))
    build(workshop, {"provenance": "min"})
    assert there(workshop) == IMAGE | {"hello-1.0.0.intoto.jsonl"}
    assert len(workshop.record()["trust"]["files"]) == 1
    assert os.listdir(workshop.top / "other")

    monkeypatch.setattr(Workshop, "out", property(lambda self: self.top / "fourth"))
    build(workshop, None)
    assert there(workshop) == IMAGE
    assert workshop.record()["trust"] == {}


def test_a_later_build_that_asks_for_none_takes_them_away(workshop: Workshop) -> None:
    build(workshop)
    (workshop.proto / "srv/page").write_text("another")
    build(workshop, None)
    assert there(workshop) == IMAGE


def test_what_was_read_of_the_last_image_is_not_read_again(workshop: Workshop) -> None:
    build(workshop)
    assert counted(workshop, "trust_files_read") > 0
    (workshop.proto / "srv/page").write_text("another")
    build(workshop)
    # The one that changed: of what kind it is.
    assert counted(workshop, "trust_files_read") <= 1


READ = ("files_read", "bytes_read", "bytes_hashed", "layers_made")


def read(workshop: Workshop) -> dict[str, int]:
    return {name: counted(workshop, name) for name in READ}


@pytest.fixture
def hashed_again(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The files that were read for nothing but a hash that the bill wants of them."""
    found: list[bytes] = []
    real = ImageSource._digest

    def digest(self: ImageSource, entry: Entry, name: str) -> str:
        found.append(entry.path)
        return real(self, entry, name)

    monkeypatch.setattr(ImageSource, "_digest", digest)
    return found


@pytest.mark.parametrize("formats", [["oci"], ["tar"], ["oci", "tar"]])
@pytest.mark.parametrize("processes", [1, 3])
def test_no_file_is_read_once_more_for_its_hashes(
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    hashed_again: list[bytes],
    formats: list[str],
    processes: int,
) -> None:
    """In a cold build, in one where nothing changed, and where a file did; in layers of worker processes."""
    monkeypatch.setattr("buildstep.emit.split_layer.LAYER_TARGET", 60_000)
    monkeypatch.setattr("buildstep.system.workers.count", lambda: processes)
    for number in range(60):
        (workshop.proto / f"srv/{number:03}").write_bytes(os.urandom(4096))
    with open(workshop.proto / "srv/large", "wb") as stream:
        stream.write(os.urandom(200_000))
        stream.seek(6 << 20)
        stream.write(b"end")
    build(workshop, None, cache=False, formats=formats)
    cold = read(workshop)
    build(workshop, cache=False, formats=formats)
    assert read(workshop) == cold
    assert not hashed_again

    bill = json.loads((workshop.out / "hello-1.0.0.spdx.json").read_bytes())
    named = {file["fileName"]: file["checksums"] for file in bill["files"]}
    for name in ("srv/large", "srv/017"):
        (sha1,) = (row["checksumValue"] for row in named[f"./{name}"] if row["algorithm"] == "SHA1")
        assert sha1 == hashlib.sha1((workshop.proto / name).read_bytes()).hexdigest()

    build(workshop, formats=formats)
    hashed_again.clear()  # of the layers that the first one has left
    build(workshop, formats=formats)
    assert read(workshop) == dict.fromkeys(READ, 0)
    assert counted(workshop, "trust_files_read") == 0

    (workshop.proto / "srv/017").write_bytes(os.urandom(4096))
    build(workshop, formats=formats)
    assert not hashed_again


@pytest.mark.commands("cp", "find", "git", "rsync")
def test_no_process_is_started_to_prove_an_image(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even git: what its index says is enough, in a clean checkout and in a changed one."""
    for words in (("init", "-q"), ("add", "proto"), ("commit", "-q", "-m", "x")):
        user = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        subprocess.run(["git", *user, *words], cwd=workshop.top, check=True)
    started: list[list[str]] = []
    real = subprocess.Popen.__init__

    def start(self: Any, argv: Any, *words: Any, **more: Any) -> None:
        started.append(argv)
        real(self, argv, *words, **more)

    monkeypatch.setattr(subprocess.Popen, "__init__", start)
    build(workshop, None, cache=False)
    plain = len(started)
    for changed in (False, True):
        started.clear()
        build(workshop, {"sbom": True, "provenance": "min"}, cache=False)
        assert len(started) == plain, started
        definition = statements(workshop)["https://slsa.dev/provenance/v1"]["predicate"]["buildDefinition"]
        (proto,) = (row for row in definition["resolvedDependencies"] if row["name"] == "proto directory")
        assert proto["annotations"]["changed"] is changed
        (workshop.proto / "srv/page").write_text("something else")


def test_nothing_is_hashed_of_files_that_are_not_listed(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, hashed_again: list[bytes]
) -> None:
    monkeypatch.setattr("buildstep.trust.inventory.listing.MOST_FILES", 3)
    for number in range(5):
        (workshop.proto / f"srv/{number:03}").write_text(f"{number}")

    def sha1(_content: bytes) -> str:
        raise AssertionError("a file is hashed for the bill")

    build(workshop, None)
    monkeypatch.setattr("buildstep.emit.read_pass.sha1_of", sha1)
    (workshop.proto / "srv/000").write_text("other")
    build(workshop)
    bill = json.loads((workshop.out / "hello-1.0.0.spdx.json").read_bytes())
    assert not any("/srv/" in file["fileName"] for file in bill["files"])
    (group,) = (row for row in bill["packages"] if row["name"].startswith("files of sync"))
    assert (group["filesAnalyzed"], "packageVerificationCode" in group) == (False, False)
    assert not any(path.startswith(b"srv/") for path in hashed_again)


def test_hashes_that_were_not_asked_for_are_not_taken_for_kept(workshop: Workshop) -> None:
    build(workshop, {"sbom": ["cyclonedx"]})
    build(workshop, {"sbom": ["spdx"]})
    there = (workshop.out / "hello-1.0.0.spdx.json").read_bytes()
    build(workshop, {"sbom": ["spdx"]}, cache=False)
    assert (workshop.out / "hello-1.0.0.spdx.json").read_bytes() == there


def test_a_content_update_reads_only_what_is_new(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its proofs are those of a build from nothing."""
    monkeypatch.setattr("buildstep.emit.split_layer.LAYER_TARGET", 60_000)
    for number in range(60):
        (workshop.proto / f"srv/{number:03}").write_bytes(os.urandom(4096))
    trust = {"sbom": True, "provenance": "min"}
    build(workshop, trust)
    (workshop.proto / "srv/017").write_bytes(os.urandom(4096))
    build(workshop, trust)
    assert "only the content of 1 file changed" in "".join(reason for _, reason in workshop.steps().values())
    assert counted(workshop, "trust_files_read") <= 2
    updated = {name: (workshop.out / name).read_bytes() for name in BOTH}
    before = image(workshop)
    build(workshop, trust, cache=False)
    assert image(workshop) == before
    assert {name: (workshop.out / name).read_bytes() for name in BOTH} == updated


def test_a_content_update_needs_what_was_read_of_the_last_image(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("buildstep.emit.split_layer.LAYER_TARGET", 60_000)
    for number in range(60):
        (workshop.proto / f"srv/{number:03}").write_bytes(os.urandom(4096))
    build(workshop, None)
    (workshop.proto / "srv/017").write_bytes(os.urandom(4096))
    build(workshop)
    assert workshop.steps()["snapshot"][0] == "run"
    (workshop.proto / "srv/017").write_bytes(os.urandom(4096))
    build(workshop)
    assert workshop.steps()["snapshot"][0] == "reuse"


def test_a_key_signs_everything_and_is_opened_before_the_work(workshop: Workshop) -> None:
    pytest.importorskip("cryptography")
    key = workshop.top / "key.pem"
    key.write_text(KEY)
    build(workshop, {"key": os.fspath(key), "provenance": "min"}, formats=["oci", "tar"])
    signatures = {
        f"hello-1.0.0{middle}{end}"
        for middle in ("", ".tar.zst")
        for end in (".sig", ".sigstore.json", ".minisig")
    }
    assert there(workshop) == IMAGE | signatures | {"hello-1.0.0.intoto.jsonl", "hello-1.0.0.tar.zst"}
    found = statements(workshop)
    (subject,) = found["https://sigstore.dev/cosign/sign/v1"]["subject"]
    assert subject["name"] == "hello:1.0.0"
    lines = (workshop.out / "hello-1.0.0.intoto.jsonl").read_bytes().splitlines()
    assert all(len(json.loads(line)["signatures"]) == 1 for line in lines)
    (fingerprint,) = workshop.record()["trust"]["keys"]
    assert fingerprint.startswith("SHA256:")

    key.write_text("no key")
    build(workshop, None)
    with pytest.raises(SigningError):
        build(workshop, {"key": os.fspath(key)})
    assert "trust" not in workshop.steps()
    assert there(workshop) == IMAGE | {"hello-1.0.0.tar.zst"} - {"hello-1.0.0.tar.zst"}


@pytest.mark.parametrize("ending", [".sig", ".intoto.jsonl", ".minisig", ".spdx.json"])
def test_a_pipe_in_the_place_of_one_is_not_waited_for(workshop: Workshop, ending: str) -> None:
    pytest.importorskip("cryptography")
    key = workshop.top / "key.pem"
    key.write_text(KEY)
    trust = {"sbom": True, "key": os.fspath(key)}
    build(workshop, trust)
    place = workshop.out / f"hello-1.0.0{ending}"
    place.unlink()
    os.mkfifo(place)
    build(workshop, trust)
    assert place.is_file()


def test_what_others_have_signed_since_stays_with_the_image(workshop: Workshop) -> None:
    pytest.importorskip("cryptography")
    key = workshop.top / "key.pem"
    key.write_text(KEY)
    build(workshop)
    archive = workshop.out / "hello-1.0.0.oci.tar"
    status = cli.main(["sign", os.fspath(archive), "--key", os.fspath(key)])
    assert status == 0
    signed = (workshop.out / "hello-1.0.0.intoto.jsonl").read_bytes()
    assert "hello-1.0.0.sig" in there(workshop)
    build(workshop)
    assert workshop.steps()["trust"][0] == "reuse"
    assert (workshop.out / "hello-1.0.0.intoto.jsonl").read_bytes() == signed
    (workshop.out / "hello-1.0.0.intoto.jsonl").write_bytes(signed.splitlines(keepends=True)[0])
    build(workshop)
    assert "hello-1.0.0.intoto.jsonl was changed" in workshop.steps()["trust"][1]
    (workshop.proto / "srv/page").write_text("another image")
    build(workshop)
    assert there(workshop) == IMAGE | BOTH, "a signature of another image is none"


def test_a_directory_is_signed_by_its_index(workshop: Workshop) -> None:
    pytest.importorskip("cryptography")
    key = workshop.top / "key.pem"
    key.write_text(KEY)
    build(workshop, {"key": os.fspath(key)}, formats=["oci-dir"])
    assert "hello-1.0.0.sig" in there(workshop)
    bundle = json.loads((workshop.out / "hello-1.0.0.sigstore.json").read_bytes())
    digest = base64.b64decode(bundle["messageSignature"]["messageDigest"]["digest"]).hex()
    (artifact,) = workshop.record()["artifacts"]
    assert digest == artifact["sha256"]


def test_a_failure_leaves_what_was_there(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    build(workshop)
    before = {name: (workshop.out / name).read_bytes() for name in BOTH}

    def fails(*_args: object) -> None:
        raise EmitError("made to fail")

    monkeypatch.setattr("buildstep.build.test_result.statement", fails)
    for trust in ({"provenance": "max"}, {"sbom": ["spdx3"]}):
        with pytest.raises(EmitError):
            build(workshop, trust)
    assert {name: (workshop.out / name).read_bytes() for name in BOTH} == before
    assert there(workshop) == IMAGE | BOTH
