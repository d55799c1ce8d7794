"""in-toto statements, and their kinds."""

from __future__ import annotations

import json

import pytest

from buildstep.errors import SigningError
from buildstep.trust.statements import REQUIREMENTS, STATEMENTS, kind_of
from buildstep.trust.statements.statement import OLD_TYPE, TREE, TYPE, Statement, Subject, parse

A, B = "a" * 64, "b" * 64
GOOD = Statement((Subject("x.oci.tar", {"sha256": A}),), "https://slsa.dev/provenance/v1", {"b": 1, "a": "é"})


def test_a_statement_is_the_same_bytes_whatever_the_order_of_its_members() -> None:
    data = GOOD.to_json()
    other = Statement(GOOD.subjects, GOOD.predicate_type, {"a": "é", "b": 1})
    assert data == other.to_json()
    assert parse(data) == GOOD
    assert b" " not in data
    assert json.loads(data)["_type"] == TYPE


def test_the_older_type_is_read_too() -> None:
    data = GOOD.to_json().replace(TYPE.encode(), OLD_TYPE.encode())
    assert parse(data) == GOOD
    empty = b'{"_type":"%b","subject":[{"digest":{"sha256":"%b"}}],"predicateType":"t"}'
    assert parse(empty % (TYPE.encode(), A.encode())) == Statement((Subject("", {"sha256": A}),), "t", {})


def test_a_subject_is_matched_by_its_digests() -> None:
    made = Statement((Subject("a", {"sha256": A, "sha1": "c" * 40}), Subject("tree", {TREE: B})), "t", {})
    assert made.subject_of({"sha256": A}) == made.subjects[0]
    assert made.subject_of({TREE: B}) == made.subjects[1]
    assert made.subject_of({"sha256": B}) is None
    assert made.subject_of({"sha256": A, "sha1": "d" * 40}) is None
    assert made.subject_of({"sha512": A}) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        json.dumps({"_type": "other", "subject": [], "predicateType": "t"}).encode(),
        json.dumps({"_type": TYPE, "subject": [], "predicateType": "t"}).encode(),
        json.dumps({"_type": TYPE, "subject": [{"name": "a"}], "predicateType": "t"}).encode(),
        json.dumps({"_type": TYPE, "subject": [{"digest": {}}], "predicateType": "t"}).encode(),
        json.dumps({"_type": TYPE, "subject": [{"digest": {"sha256": "AB"}}], "predicateType": "t"}).encode(),
        json.dumps({"_type": TYPE, "subject": [{"digest": {"sha256": A}}], "predicateType": 3}).encode(),
        json.dumps({"_type": TYPE, "subject": [3], "predicateType": "t"}).encode(),
        json.dumps(
            {"_type": TYPE, "subject": [{"digest": {"sha256": A}}], "predicateType": "t", "predicate": []}
        ).encode(),
    ],
)
def test_what_is_no_statement_is_refused(data: bytes) -> None:
    with pytest.raises(SigningError, match="no in-toto statement"):
        parse(data)


def test_each_type_of_predicate_is_of_one_kind() -> None:
    types = [kind for row in STATEMENTS.values() for kind in row.predicate_types]
    assert len(types) == len(set(types))
    assert all(kind_of(kind) in STATEMENTS.values() for kind in types)
    assert kind_of("https://example.test/other") is None
    assert set(REQUIREMENTS) == {"tests", "signature", "sbom", "provenance", "vulnerabilities"}
