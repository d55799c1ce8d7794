"""Signing what is there: every file beside it, again and by a second key, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from buildstep.errors import SigningError, UsageError, WrongSubjectError
from buildstep.trust import dsse
from buildstep.trust.keys.interface import Signer
from buildstep.trust.keys.public import PublicKey
from buildstep.trust.signatures import CHECKS, bundle, lines, sshsig
from buildstep.trust.signatures.content import Content
from buildstep.trust.signatures.of_file import others_of, signatures_of
from buildstep.trust.signing import sign
from buildstep.trust.statements.statement import PAYLOAD_TYPE, Statement, Subject
from tests.unit.trust.keys.pairs import new_signer

pytest.importorskip("cryptography")

DATA = b"image" * 1000
IMAGE = "1" * 64


@pytest.fixture(scope="module")
def key() -> Signer:
    return new_signer()


@pytest.fixture(scope="module")
def second() -> Signer:
    return new_signer("ecdsa-p256")


def small(key: Signer) -> Signer:
    """The key as an agent has it, which signs no large message."""
    return Signer(key.public, "the key of an agent", key._make, largest=200)


def signers(folder: Path, name: str, kind: str, *keys: PublicKey) -> tuple[PublicKey, ...]:
    return CHECKS[kind]((folder / name).read_bytes(), Content(DATA), keys).signers


def built(folder: Path, *names: str, data: bytes = DATA) -> Path:
    """Files of a build with their record, and unsigned statements."""
    rows = []
    for number, name in enumerate(names):
        (folder / name).write_bytes(data)
        extra = {"digest": f"sha256:{IMAGE}", "reference": "hello:1"} if "oci" in name else {}
        rows.append({"path": f"/elsewhere/{name}", "size": len(data), "sha256": hashlib.sha256(data).hexdigest(),
                     "sha1": hashlib.sha1(data).hexdigest() if number == 0 else "", "extra": extra})  # fmt: skip
    record = {
        "format": 1, "build_id": "b", "name": "hello", "version": "1", "ok": True, "started": "2026-01-01T00:00:00Z",
        "seconds": 1, "artifacts": rows, "tree_digest": "2" * 64,
    }  # fmt: skip
    (folder / "hello-1.buildrecord.json").write_text(json.dumps(record))
    statement = Statement(
        (Subject("tree", {"buildstepTree": "2" * 64}),), "https://spdx.dev/Document", {"a": 1}
    )
    line = dsse.seal(PAYLOAD_TYPE, statement.to_json(), [])
    (folder / "hello-1.intoto.jsonl").write_bytes(line + b"\n")
    return folder / "hello-1.buildrecord.json"


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_ino) for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["hello-1.sig", "hello-1.intoto.jsonl"])
def test_a_pipe_beside_it_is_not_waited_for(tmp_path: Path, key: Signer, name: str) -> None:
    record = built(tmp_path, "hello-1.oci.tar")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(SigningError, match=f"{name} is no regular file"):
        sign(record, [key])


def test_any_file(tmp_path: Path, key: Signer) -> None:
    (tmp_path / "notes.txt").write_bytes(DATA)
    (report,) = sign(tmp_path / "notes.txt", [key])
    assert [path.name for path in report.written] == [
        "notes.txt.sig",
        "notes.txt.sigstore.json",
        "notes.txt.minisig",
    ]
    for name, kind in ((".sig", "sshsig"), (".sigstore.json", "bundle"), (".minisig", "minisign")):
        assert signers(tmp_path, f"notes.txt{name}", kind, key.public) == (key.public,)


def test_all_files_and_statements_of_a_build(tmp_path: Path, key: Signer) -> None:
    built(tmp_path, "hello-1.oci.tar", "hello-1.zfs.gz")
    (report,) = sign(tmp_path, [key])
    ours = {path.name for path in report.written}
    ends = ("sig", "sigstore.json", "minisig")
    assert ours == {f"hello-1.{end}" for end in (*ends, "intoto.jsonl")} | {
        f"hello-1.zfs.gz.{end}" for end in ends
    }
    found = [dsse.parse(line) for line in (tmp_path / "hello-1.intoto.jsonl").read_bytes().splitlines()]
    assert all(one.signed_by(key.public.verify) for one in found)
    said = json.loads(found[-1].payload)
    assert said["predicateType"] == "https://sigstore.dev/cosign/sign/v1"
    assert said["subject"] == [{"name": "hello:1", "digest": {"sha256": IMAGE}}]
    assert report.statements == ["https://spdx.dev/Document", said["predicateType"]]
    assert {path.name for path in tmp_path.iterdir()} - ours == {
        "hello-1.oci.tar", "hello-1.zfs.gz", "hello-1.buildrecord.json"
    }  # fmt: skip


def test_again_it_changes_nothing_and_a_second_key_is_added(
    tmp_path: Path, key: Signer, second: Signer
) -> None:
    record = built(tmp_path, "hello-1.oci.tar")
    sign(record, [key])
    before = snapshot(tmp_path)
    (report,) = sign(record, [key])
    assert (report.written, snapshot(tmp_path)) == ([], before)
    (report,) = sign(tmp_path / "hello-1.oci.tar", [second])
    assert {path.name for path in report.written} == {"hello-1.sig", "hello-1.intoto.jsonl"}
    assert signers(tmp_path, "hello-1.sig", "sshsig", second.public, key.public) == (
        key.public,
        second.public,
    )
    assert signers(tmp_path, "hello-1.sigstore.json", "bundle", key.public) == (key.public,)
    for line in (tmp_path / "hello-1.intoto.jsonl").read_bytes().splitlines():
        assert all(dsse.parse(line).signed_by(one.public.verify) for one in (key, second))
    assert any("a bundle has one signature" in text for text in report.left_out)
    before = snapshot(tmp_path)
    sign(record, [second, key])
    assert snapshot(tmp_path) == before


def test_one_of_several_files_is_signed_under_its_own_name(tmp_path: Path, key: Signer) -> None:
    built(tmp_path, "hello-1.oci.tar", "hello-1.zfs.gz")
    (report,) = sign(tmp_path / "hello-1.zfs.gz", [key])
    assert "hello-1.zfs.gz.sig" in {path.name for path in report.written}
    assert not (tmp_path / "hello-1.sig").exists()


def test_signatures_of_bytes_that_are_gone_make_room(tmp_path: Path, key: Signer, second: Signer) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"old")
    sign(path, [second, key])
    path.write_bytes(DATA)
    sign(path, [key])
    assert signers(tmp_path, "blob.sig", "sshsig", key.public, second.public) == (key.public,)
    assert signers(tmp_path, "blob.sigstore.json", "bundle", key.public) == (key.public,)
    assert signers(tmp_path, "blob.minisig", "minisign", key.public) == (key.public,)


def test_a_minisig_of_another_key_stays(tmp_path: Path, key: Signer) -> None:
    path, other = tmp_path / "blob", new_signer()
    path.write_bytes(DATA)
    sign(path, [other])
    (report,) = sign(path, [key])
    assert signers(tmp_path, "blob.minisig", "minisign", key.public, other.public) == (other.public,)
    assert any("a .minisig has one signature, which is by another key" in text for text in report.left_out)


@pytest.mark.parametrize("change", ["bit", "longer", "gone"])
def test_an_archive_that_is_not_what_its_record_says(tmp_path: Path, key: Signer, change: str) -> None:
    record = built(tmp_path, "hello-1.oci.tar")
    path = tmp_path / "hello-1.oci.tar"
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(DATA[:-1] + b"X" if change == "bit" else DATA + b"X")
    before = snapshot(tmp_path)
    with pytest.raises(UsageError if change == "gone" else WrongSubjectError, match="hello-1"):
        sign(record, [key])
    assert snapshot(tmp_path) == before


def test_what_is_refused(tmp_path: Path, key: Signer) -> None:
    record = built(tmp_path, "hello-1.oci.tar")
    (tmp_path / "hello-1.tar").write_bytes(b"of another build")
    with pytest.raises(SigningError, match=r"does not name hello-1\.tar"):
        sign(tmp_path / "hello-1.tar", [key])
    with pytest.raises(UsageError, match="there is no"):
        sign(tmp_path / "nothing.tar", [key])
    with pytest.raises(UsageError, match="is a file beside an image"):
        sign(tmp_path / "hello-1.intoto.jsonl", [key])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no build record"):
        sign(tmp_path / "empty", [key])
    (tmp_path / "empty").rmdir()
    other = Statement((Subject("x", {"sha256": "9" * 64}),), "https://spdx.dev/Document", {})
    with (tmp_path / "hello-1.intoto.jsonl").open("ab") as stream:
        stream.write(dsse.seal(PAYLOAD_TYPE, other.to_json(), []) + b"\n")
    before = snapshot(tmp_path)
    with pytest.raises(WrongSubjectError, match=r"hello-1\.intoto\.jsonl line 2 is about something else"):
        sign(record, [key])
    assert snapshot(tmp_path) == before


def test_a_statement_that_was_altered_since_is_not_signed_anew(key: Signer) -> None:
    subject = Subject("x", {"sha256": "1" * 64})
    line = dsse.seal(PAYLOAD_TYPE, Statement((subject,), "https://a.example/b", {}).to_json(), [key])
    value = json.loads(line)
    other = Statement((subject,), "https://a.example/b", {"evil": 1}).to_json()
    value["payload"] = json.loads(dsse.seal(PAYLOAD_TYPE, other, []))["payload"]
    with pytest.raises(SigningError, match="line 1 was altered since"):
        lines.signed(json.dumps(value).encode(), [subject], [], [key], "x.intoto.jsonl")


def test_lines_of_others_stay_as_they_are(key: Signer) -> None:
    subject = Subject("x", {"sha256": "1" * 64})
    text = b'{"of": "others"}\n\nno json\n'
    made = lines.signed(text, [subject], [], [key], "x")
    assert (made.data, made.added) == (text, 0)
    assert lines.signed(b"", [subject], [], [key], "x").data == b""


def test_what_an_agent_cannot_sign_is_told(key: Signer) -> None:
    made = signatures_of(Content(DATA), "f", [small(key)])
    assert set(made.files) == {"sshsig", "minisign"}
    assert made.left_out == ["no bundle by the key of an agent: it signs no message of that size"]
    subject = Subject("x", {"sha256": "1" * 64})
    line = dsse.seal(
        PAYLOAD_TYPE, Statement((subject,), "https://a.example/b", {"a": "x" * 500}).to_json(), []
    )
    found = lines.signed(line, [subject], [], [small(key)], "x")
    assert (found.added, len(found.left_out)) == (0, 1)


@pytest.mark.parametrize(
    "data",
    [b"DSSEv1 1 x 1 y", b"SSHSIG\0\0", b' {"critical": {"image": {}}}'],
)
def test_a_file_that_would_mean_something_else_gets_no_bare_signature(data: bytes, key: Signer) -> None:
    made = signatures_of(Content(data), "f", [key])
    assert "bundle" not in made.files
    assert made.left_out[0].startswith("no bundle: the file")
    assert "bundle" in signatures_of(Content(b'{"config": {}}'), "f", [key]).files
    assert bundle.parse(signatures_of(Content(b""), "f", [key]).files["bundle"]).signature


def test_what_others_signed_of_the_same_stays_in_a_new_file(key: Signer, second: Signer) -> None:
    rows = [
        Statement((Subject("x", {"sha256": "1" * 64}),), f"https://a.example/{name}", {}) for name in "abc"
    ]
    old = b"".join(dsse.seal(PAYLOAD_TYPE, row.to_json(), [key, second]) + b"\n" for row in rows[:2])
    new = b"".join(dsse.seal(PAYLOAD_TYPE, row.to_json(), [key]) + b"\n" for row in rows[1:])
    made = lines.merged(new, b"no json\n" + old).splitlines()
    assert [len(dsse.parse(line).signatures) for line in made] == [2, 1]
    assert dsse.parse(made[0]).signed_by(second.public.verify)
    assert lines.merged(new, b"") == new
    both = signatures_of(Content(DATA), "f", [second, key]).files["sshsig"]
    assert sshsig.check(others_of(Content(DATA), [key], both), Content(DATA), []).claimed == (
        second.fingerprint,
    )
    assert others_of(Content(b"other"), [key], both) == others_of(Content(DATA), [key], b"") == b""


def test_the_record_has_the_digests_of_what_is_beside_it(tmp_path: Path, key: Signer, second: Signer) -> None:
    record = built(tmp_path, "hello-1.oci.tar")
    before = record.read_bytes()
    sign(record, [key])
    assert record.read_bytes() == before, "it names no such file"
    statements = tmp_path / "hello-1.intoto.jsonl"
    value = json.loads(before)
    value["trust"] = {
        "files": [{"name": statements.name, "size": 1, "sha256": "0" * 64}],
        "keys": [key.fingerprint],
    }
    value["published"] = [{"target": "dir:site"}]
    record.write_text(json.dumps(value))
    told: list[tuple[str, int]] = []
    sign(
        record,
        [second],
        lambda row, path, was: told.append((path.name, len(was))) if row.version == "1" else None,
    )
    trust = json.loads(record.read_bytes())["trust"]
    assert trust["keys"] == [key.fingerprint, second.fingerprint]
    assert {row["name"] for row in trust["files"]} == {
        f"hello-1.{it}" for it in ("intoto.jsonl", "sig", "sigstore.json", "minisig")
    }
    for row in trust["files"]:
        data = (tmp_path / row["name"]).read_bytes()
        assert (row["size"], row["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert json.loads(record.read_bytes()) == {**value, "trust": trust}
    assert [name for name, _ in told] == ["hello-1.sig", "hello-1.intoto.jsonl", record.name]
    # What a run has not done that was killed before the record was written, the next one does.
    stands = snapshot(tmp_path)
    record.write_text(json.dumps(value))
    (report,) = sign(record, [second])
    assert [path.name for path in report.written] == [record.name]
    assert {name: data for name, (data, _) in snapshot(tmp_path).items()} == {
        name: data for name, (data, _) in stands.items()
    }
    assert sign(record, [second])[0].written == []
