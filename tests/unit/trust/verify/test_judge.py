"""One verdict for each cause, whatever else there is."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

import pytest

from buildstep.trust import dsse
from buildstep.trust.keys.interface import Signer
from buildstep.trust.policy import Policy, Rule, TrustedKey, Waiver, of_keys
from buildstep.trust.signatures import bundle, minisign
from buildstep.trust.signatures.content import Content
from buildstep.trust.verify.evidence import Evidence
from buildstep.trust.verify.from_files import from_files
from buildstep.trust.verify.judge import judge
from buildstep.trust.verify.report import Report
from tests.unit.trust.verify import signed
from tests.unit.trust.verify.signed import NOW

DAY = 86400.0


@pytest.fixture
def ours() -> Signer:
    return signed.key()


def by_keys(*signers: Signer, require: tuple[str, ...] = ()) -> Policy:
    return of_keys([("release", it.public) for it in signers], require)


def policy(*keys: TrustedKey, waivers: tuple[Waiver, ...] = (), **rule: Any) -> Policy:
    given = {"match": ("hello-*",), "keys": tuple(key.name for key in keys), **rule}
    return Policy(where="policy.toml", keys=keys, rules=(Rule(**given),), exceptions=waivers)


def verdict(path: Path, by: Policy, now: float = NOW) -> Report:
    return judge(from_files(path), by, now)


# -- 0


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_file_that_a_trusted_key_has_signed_is_verified(tmp_path: Path, kind: str) -> None:
    path, key = signed.plain(tmp_path), signed.key(kind)
    signed.sign(path, key)
    found = verdict(path, by_keys(key))
    assert (found.code, found.verdict) == (0, "verified")
    assert {row.where for row in found.rows if row.key} == {
        "hello-1.0.0.sig", "hello-1.0.0.sigstore.json", *(["hello-1.0.0.minisig"] if kind == "ed25519" else []),
    }  # fmt: skip
    assert found.signers == (f"release ({key.fingerprint})",)
    assert next(iter(found.lines())) == f"{path.name}: verified, signed by release ({key.fingerprint})"


@pytest.mark.parametrize("left", ["sig", "minisig", "sigstore.json"])
def test_one_kind_of_signature_is_enough(tmp_path: Path, ours: Signer, left: str) -> None:
    path = signed.plain(tmp_path)
    signed.sign(path, ours)
    for end in {"sig", "minisig", "sigstore.json"} - {left}:
        (tmp_path / f"hello-1.0.0.{end}").unlink()
    assert verdict(path, by_keys(ours)).code == 0


def test_one_of_several_keys_is_enough_and_others_may_have_signed_besides(
    tmp_path: Path, ours: Signer
) -> None:
    path, stranger = signed.plain(tmp_path), signed.key()
    signed.sign(path, ours, stranger)
    assert verdict(path, by_keys(signed.key(), ours)).code == 0


def test_an_image_is_known_by_its_manifest_in_whatever_it_is_packed(tmp_path: Path, ours: Signer) -> None:
    path = signed.oci(tmp_path)
    line = signed.envelope(signed.statement({"hello": signed.manifest_of(path)}), ours)
    signed.state_lines(tmp_path / "hello-1.0.0", [line])
    found = verdict(path, by_keys(ours))
    assert found.code == 0
    assert found.digests["oci"] == signed.manifest_of(path)


def test_an_oci_directory_is_signed_by_its_index(tmp_path: Path, ours: Signer) -> None:
    path = signed.oci(tmp_path)
    signed.sign(path, ours, signed=path / "index.json")
    assert verdict(path, by_keys(ours)).code == 0


# -- 30


def test_what_nobody_has_signed(tmp_path: Path, ours: Signer) -> None:
    found = verdict(signed.plain(tmp_path), by_keys(ours))
    assert (found.code, found.verdict, found.reasons) == (30, "unsigned", ("there is no signature of it",))
    assert (error := found.error()) is not None
    assert error.code == 30


def test_statements_that_nobody_has_signed_prove_nothing(tmp_path: Path, ours: Signer) -> None:
    path = signed.plain(tmp_path)
    lines = [signed.envelope(signed.provenance({path.name: signed.sha256(path)}, "b"))]
    signed.state_lines(tmp_path / "hello-1.0.0", lines)
    found = verdict(path, by_keys(ours, require=("provenance",)))
    assert found.code == 30
    assert "nobody has signed it" in found.reasons[0]


# -- 31


def test_another_key(tmp_path: Path, ours: Signer) -> None:
    path, stranger = signed.plain(tmp_path), signed.key()
    signed.sign(path, stranger)
    found = verdict(path, by_keys(ours))
    assert found.code == 31
    assert stranger.fingerprint in "\n".join(found.lines())


def test_a_file_that_was_altered(tmp_path: Path, ours: Signer) -> None:
    path = signed.plain(tmp_path)
    signed.sign(path, ours)
    signed.state_lines(
        tmp_path / "hello-1.0.0", [signed.envelope(signed.statement({path.name: signed.sha256(path)}), ours)]
    )
    path.write_bytes(b"an Image")
    found = verdict(path, by_keys(ours))
    assert found.code == 31
    assert "altered" in found.reasons[0]


@pytest.mark.parametrize("which", ["layer", "config", "manifest"])
def test_a_blob_that_was_altered(tmp_path: Path, ours: Signer, which: str) -> None:
    path = signed.oci(tmp_path)
    digest = signed.manifest_of(path)
    signed.state_lines(tmp_path / "hello-1.0.0", [signed.envelope(signed.statement({"hello": digest}), ours)])
    blobs = path / "blobs/sha256"
    document = json.loads((blobs / digest).read_text())
    name = {
        "layer": document["layers"][0],
        "config": document["config"],
        "manifest": {"digest": f"sha256:{digest}"},
    }
    blob = blobs / name[which]["digest"].removeprefix("sha256:")
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x00")
    found = verdict(path, by_keys(ours))
    assert found.code == 31
    assert "damaged" in found.reasons[0]


def test_a_signature_that_names_a_trusted_key_is_never_passed_over(tmp_path: Path, ours: Signer) -> None:
    """Another of the same key is good: somebody altered this one all the same."""
    path = signed.plain(tmp_path)
    digests = {path.name: signed.sha256(path)}
    signed.sign(path, ours)
    line = json.loads(signed.envelope(signed.provenance(digests, "https://good"), ours))
    line["payload"] = base64.b64encode(signed.provenance(digests, "https://evil")).decode()
    signed.state_lines(tmp_path / "hello-1.0.0", [json.dumps(line).encode()])
    found = verdict(path, by_keys(ours))
    assert found.code == 31
    assert "hello-1.0.0.intoto.jsonl line 1" in found.reasons[0]


def test_the_signatures_of_another_file_tell_nothing_where_no_statement_does(
    tmp_path: Path, ours: Signer
) -> None:
    signed.sign(signed.plain(tmp_path, content=b"another"), ours)
    path = signed.plain(tmp_path)
    assert verdict(path, by_keys(ours)).code == 31


# -- 32


def test_what_was_signed_is_something_else(tmp_path: Path, ours: Signer) -> None:
    other = signed.plain(tmp_path, "other-2.0.0.tar.gz", b"another")
    path = signed.plain(tmp_path)
    signed.sign(path, ours, signed=other)
    signed.state_lines(
        tmp_path / "hello-1.0.0",
        [signed.envelope(signed.statement({other.name: signed.sha256(other)}), ours)],
    )
    found = verdict(path, by_keys(ours))
    assert found.code == 32
    assert "other-2.0.0.tar.gz" in found.reasons[0]


@pytest.mark.parametrize(("name", "code"), [("hello-1.0.0.tar.gz", 31), ("other-2.0.0.tar.gz", 32)])
def test_a_minisig_tells_the_name_of_what_was_signed(
    tmp_path: Path, ours: Signer, name: str, code: int
) -> None:
    path = signed.plain(tmp_path)
    signed.sign(path, ours)
    made = minisign.make(Content(b"other bytes"), ours, f"timestamp:1\tfile:{name}\thashed")
    (tmp_path / "hello-1.0.0.minisig").write_bytes(made)
    for end in ("sig", "sigstore.json"):
        (tmp_path / f"hello-1.0.0.{end}").unlink()
    assert verdict(path, by_keys(ours)).code == code
    signed.sign(path, ours, signed=signed.plain(tmp_path, "x", b"other bytes"))
    (tmp_path / "hello-1.0.0.minisig").write_bytes(made)
    assert verdict(path, by_keys(ours)).code == code


def test_another_image_in_place_of_the_one_that_was_signed(tmp_path: Path, ours: Signer) -> None:
    (tmp_path / "old").mkdir()
    old = signed.oci(tmp_path / "old")
    path = signed.oci(tmp_path, layer=b"something else")
    lines = [signed.envelope(signed.statement({"hello": signed.manifest_of(old)}), ours)]
    signed.state_lines(tmp_path / "hello-1.0.0", lines)
    assert verdict(path, by_keys(ours)).code == 32


def test_the_signature_of_the_first_artifact_is_none_of_the_second(tmp_path: Path, ours: Signer) -> None:
    first, second = signed.plain(tmp_path), signed.plain(tmp_path, "hello-1.0.0.zfs.gz", b"a stream")
    signed.sign(first, ours)
    assert verdict(first, by_keys(ours)).code == 0
    assert verdict(second, by_keys(ours)).code == 32


# -- 33


@pytest.mark.parametrize(
    ("times", "said"),
    [({"until": NOW - DAY}, "has expired"), ({"since": NOW + DAY}, "does not count before")],
)
def test_a_key_whose_time_is_over_or_has_not_come(
    tmp_path: Path, ours: Signer, times: dict[str, Any], said: str
) -> None:
    path = signed.plain(tmp_path)
    signed.sign(path, ours)
    found = verdict(path, policy(signed.trusted(ours, **times)))
    assert found.code == 33
    assert said in found.reasons[0]


@pytest.mark.parametrize(("age", "code"), [(10, 0), (5, 33)])
def test_an_image_that_is_too_old(tmp_path: Path, ours: Signer, age: int, code: int) -> None:
    path = signed.plain(tmp_path)
    subjects = {path.name: signed.sha256(path)}
    finished = "2027-01-08T08:00:00Z"  # seven days before
    signed.state_lines(
        tmp_path / "hello-1.0.0", [signed.envelope(signed.provenance(subjects, "b", finished), ours)]
    )
    by = policy(signed.trusted(ours), require=("provenance",), max_age=age * DAY)
    assert verdict(path, by).code == code


def test_an_image_tells_its_own_age_where_no_provenance_does(tmp_path: Path, ours: Signer) -> None:
    path = signed.oci(tmp_path)
    signed.state_lines(
        tmp_path / "hello-1.0.0", [signed.envelope(signed.statement({"": signed.manifest_of(path)}), ours)]
    )
    assert verdict(path, policy(signed.trusted(ours), max_age=100 * DAY)).code == 0
    assert verdict(path, policy(signed.trusted(ours), max_age=30 * DAY)).code == 33


# -- 34


def test_what_no_rule_is_about_is_denied(tmp_path: Path, ours: Signer) -> None:
    path = signed.plain(tmp_path)
    signed.sign(path, ours)
    found = verdict(path, policy(signed.trusted(ours), match=("other-*",)))
    assert found.code == 34
    assert "no rule of policy.toml is about it" in found.reasons[0]


def test_a_key_may_only_sign_what_it_is_for(tmp_path: Path, ours: Signer) -> None:
    path = signed.plain(tmp_path)
    signed.sign(path, ours)
    found = verdict(path, policy(signed.trusted(ours, may=("tests",))))
    assert (found.code, found.reasons[0].split(": ")[-1]) == (34, "the key release may not sign signature")


def test_a_key_that_the_rule_does_not_name(tmp_path: Path, ours: Signer) -> None:
    path, other = signed.plain(tmp_path), signed.key()
    signed.sign(path, ours)
    by = policy(signed.trusted(ours), signed.trusted(other, "other"), keys=("other",))
    assert verdict(path, by).code == 34


def test_a_statement_that_is_missing(tmp_path: Path, ours: Signer) -> None:
    path = signed.plain(tmp_path)
    signed.sign(path, ours)
    found = verdict(path, by_keys(ours, require=("signature", "tests")))
    assert (found.code, found.reasons) == (34, ("there is no statement of its tests",))


@pytest.mark.parametrize(("result", "code"), [("PASSED", 0), ("WARNED", 0), ("FAILED", 34), (None, 34)])
def test_tests_have_to_have_passed(tmp_path: Path, ours: Signer, result: str | None, code: int) -> None:
    path = signed.plain(tmp_path)
    made = signed.statement({path.name: signed.sha256(path)}, signed.TESTS, {"result": result})
    signed.state_lines(tmp_path / "hello-1.0.0", [signed.envelope(made, ours)])
    assert verdict(path, by_keys(ours, require=("tests",))).code == code


@pytest.mark.parametrize(
    ("rule", "of_key", "code"),
    [
        (("https://ci/*",), None, 0),
        (("https://other/*",), None, 34),
        (("*", "!https://ci/*"), None, 34),
        (None, ("https://ci/main",), 0),
        (None, ("https://ci/release",), 34),
    ],
)
def test_builders_and_who_vouches_for_them(
    tmp_path: Path, ours: Signer, rule: tuple[str, ...] | None, of_key: tuple[str, ...] | None, code: int
) -> None:
    path = signed.plain(tmp_path)
    made = signed.provenance({path.name: signed.sha256(path)}, "https://ci/main")
    signed.state_lines(tmp_path / "hello-1.0.0", [signed.envelope(made, ours)])
    by = policy(signed.trusted(ours, builders=of_key), require=("provenance",), builders=rule)
    assert verdict(path, by).code == code


def test_so_many_keys_must_have_signed(tmp_path: Path, ours: Signer) -> None:
    path, second = signed.plain(tmp_path), signed.key("ecdsa")
    signed.sign(path, ours)
    by = policy(signed.trusted(ours), signed.trusted(second, "second"), threshold=2)
    found = verdict(path, by)
    assert (found.code, found.reasons) == (34, ("signature: 1 of 2 keys that must have signed it",))
    signed.sign(path, ours, second)
    assert verdict(path, by).code == 0


def test_two_names_of_one_key_are_one_signer(tmp_path: Path, ours: Signer) -> None:
    path = signed.plain(tmp_path)
    signed.sign(path, ours)
    by = policy(signed.trusted(ours), signed.trusted(ours, "again"), threshold=2)
    assert verdict(path, by).code == 34


def test_an_archive_of_packages_vouches_for_a_root(ours: Signer) -> None:
    root = Evidence(name="mmdebstrap:bookworm", names=("mmdebstrap:bookworm",), source="Debian's keyring")
    by = policy(signed.trusted(ours), match=("mmdebstrap:*",), require=("archive",))
    assert judge(root, by, NOW).code == 0
    other = Evidence(name="tar:x", names=("mmdebstrap:x",))
    assert judge(other, by, NOW).code == 34


# -- exceptions


def waiver(**more: Any) -> Waiver:
    return Waiver(**{"match": ("hello-*",), "reason": "TICKET-1", "until": NOW + DAY, **more})


def test_an_exception_lets_something_through_and_is_told(tmp_path: Path, ours: Signer) -> None:
    found = verdict(signed.plain(tmp_path), policy(signed.trusted(ours), waivers=(waiver(),)))
    assert (found.code, found.verdict) == (0, "let through")
    assert "exception: TICKET-1" in "\n".join(found.lines())
    assert found.to_json()["exception"].startswith("TICKET-1")


def test_an_exception_whose_time_is_over(tmp_path: Path, ours: Signer) -> None:
    found = verdict(signed.plain(tmp_path), policy(signed.trusted(ours), waivers=(waiver(until=NOW - 1),)))
    assert found.code == 33
    assert "the exception for it (TICKET-1) has expired" in found.reasons[0]


def test_an_exception_of_one_digest_is_for_that_alone(tmp_path: Path, ours: Signer) -> None:
    path = signed.plain(tmp_path)
    right, wrong = waiver(digest=signed.sha256(path)), waiver(digest="0" * 64)
    assert verdict(path, policy(signed.trusted(ours), waivers=(right,))).code == 0
    assert verdict(path, policy(signed.trusted(ours), waivers=(wrong,))).code == 30


def test_no_exception_lets_through_what_was_altered(tmp_path: Path, ours: Signer) -> None:
    path = signed.plain(tmp_path)
    signed.sign(path, ours)
    path.write_bytes(b"an Image")
    assert verdict(path, policy(signed.trusted(ours), waivers=(waiver(),))).code == 31


def test_the_most_basic_cause_is_the_verdict(tmp_path: Path, ours: Signer) -> None:
    path = signed.plain(tmp_path)
    signed.sign(path, signed.key())
    by = policy(signed.trusted(ours, until=NOW - 1), require=("tests", "signature"))
    found = verdict(path, by)
    assert found.code == 30
    assert len(found.reasons) == 2


def test_the_report_is_one_object(tmp_path: Path, ours: Signer) -> None:
    path = signed.plain(tmp_path)
    signed.sign(path, ours)
    value = verdict(path, by_keys(ours)).to_json()
    assert json.loads(json.dumps(value)) == value
    assert (value["name"], value["verdict"], value["code"]) == (path.name, "verified", 0)
    assert value["checked"][0]["fingerprint"] == ours.fingerprint
    assert not math.isinf(value["code"])


# -- borders


def test_a_key_and_an_exception_end_with_their_last_day(tmp_path: Path, ours: Signer) -> None:
    path = signed.plain(tmp_path)
    waiver = Waiver(match=("*",), reason="later", until=NOW)
    assert verdict(path, policy(signed.trusted(ours), waivers=(waiver,)), NOW - 1).code == 0
    assert verdict(path, policy(signed.trusted(ours), waivers=(waiver,)), NOW).code == 33
    signed.sign(path, ours)
    until = policy(signed.trusted(ours, until=NOW))
    assert (verdict(path, until, NOW - 1).code, verdict(path, until, NOW).code) == (0, 33)


def test_an_archive_does_not_choose_its_rule_by_what_it_calls_its_image(tmp_path: Path, ours: Signer) -> None:
    lax = policy(signed.trusted(ours), waivers=(Waiver(match=("hello:*",), reason="x", until=NOW * 2),))
    layout = signed.oci(tmp_path, "other-1.oci", tag="hello:1.0.0")
    assert verdict(layout, lax).code == 34


def test_words_of_others_are_no_lines_of_the_report(tmp_path: Path, ours: Signer) -> None:
    path = signed.plain(tmp_path)
    evil = "\x1b]0;x\x07\nhello-1.0.0.tar.gz: verified"
    line = json.loads(signed.envelope(signed.statement({"x": "a" * 64}), signed.key()))
    line["signatures"][0]["keyid"] = f"SHA256:{evil}"
    signed.state_lines(tmp_path / "hello-1.0.0", [json.dumps(line).encode()])
    (tmp_path / "hello-1.0.0.sigstore.json").write_text(json.dumps({"mediaType": evil}))
    found = verdict(path, by_keys(ours))
    error = found.error()
    assert error is not None
    assert len(list(found.lines())) == 3
    assert all(text.isprintable() for text in (*found.lines(), error.message))


@pytest.mark.parametrize("form", ["raw", "bundle"])
def test_the_signature_of_a_statement_is_none_of_a_file(tmp_path: Path, ours: Signer, form: str) -> None:
    envelope = dsse.parse(signed.envelope(signed.statement({"x": "a" * 64}), ours))
    path = signed.plain(tmp_path, content=envelope.message)
    (row,) = envelope.signatures
    if form == "raw":
        (tmp_path / "hello-1.0.0.sig").write_bytes(base64.b64encode(row.sig))
    else:
        (tmp_path / "hello-1.0.0.sigstore.json").write_bytes(bundle.make(Content(envelope.message), ours))
    found = verdict(path, by_keys(ours))
    assert found.code == 31
    assert "another format" in found.reasons[0]
