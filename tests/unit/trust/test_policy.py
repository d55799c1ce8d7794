"""Who may sign what: the policy's file, and every fault in it at once."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from buildstep.errors import SpecError, UsageError
from buildstep.trust.keys.interface import Signer
from buildstep.trust.policy import PROOFS, Policy, allows, load, matches, of_keys, proofs
from tests.unit.trust.verify import signed


@pytest.fixture
def key() -> Signer:
    return signed.key()


def at(day: str) -> float:
    return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()


def read(folder: Path, text: str) -> Policy:
    path = folder / "policy.toml"
    path.write_text(text)
    return load(path)


def faults(folder: Path, text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        read(folder, text)
    return [str(fault) for fault in caught.value.faults]


def test_a_whole_policy(tmp_path: Path, key: Signer) -> None:
    (tmp_path / "ci.pub").write_bytes(signed.key("ecdsa").public.pem)
    found = read(
        tmp_path,
        f"""
        format = 1
        [[key]]
        name = "release"
        public = "{key.public.openssh}"
        from = 2026-01-01
        until = 2027-06-30
        may = ["signature"]
        builders = ["https://ci/*"]
        [[key]]
        name = "ci"
        file = "ci.pub"
        [[rule]]
        match = ["docker://registry/*", "hello-*"]
        keys = ["release", "ci"]
        require = ["signature", "tests"]
        threshold = 2
        builders = ["*", "!https://laptop/*"]
        max_age = "90d"
        [[rule]]
        match = ["mmdebstrap:*"]
        keys = []
        require = ["archive"]
        [[except]]
        match = ["old-*"]
        digest = "sha256:{"a" * 64}"
        reason = "TICKET-1"
        until = 2026-12-31
        """,
    )
    release, ci = found.keys
    assert (release.name, release.public.fingerprint, release.may) == (
        "release",
        key.fingerprint,
        ("signature",),
    )
    assert (release.since, release.until) == (at("2026-01-01"), at("2027-07-01"))
    assert (ci.may, ci.builders, ci.public.algorithm) == (PROOFS, None, "ecdsa-p256")
    first, second = found.rules
    assert first.require == ("signature", "tests", "provenance")  # a builder is named by provenance alone
    assert (first.threshold, first.max_age) == (2, 90 * 86400)
    assert (second.keys, second.require) == ((), ("archive",))
    assert found.rule_for(["hello-1.0.0.oci.tar"]) is first
    assert found.rule_for(["mmdebstrap:bookworm"]) is second
    assert found.rule_for(["docker://registry.evil/x"]) is None
    (waiver,) = found.exceptions
    assert (waiver.digest, waiver.reason, waiver.until) == ("a" * 64, "TICKET-1", at("2027-01-01"))


def test_every_fault_is_told_at_once(tmp_path: Path, key: Signer) -> None:
    found = faults(
        tmp_path,
        f"""
        format = 2
        extra = 1
        [[key]]
        public = "{key.public.openssh}"
        may = ["everything"]
        until = "2027-06-30"
        [[key]]
        name = "a"
        public = "ssh-ed25519 AAAA"
        [[key]]
        name = "a"
        file = "missing.pub"
        from = 2027-01-01
        until = 2026-01-01
        [[key]]
        name = "both"
        [[rule]]
        match = "hello-*"
        keys = ["nobody"]
        require = []
        threshold = 7
        builders = ["!x"]
        max_age = "90"
        [[except]]
        match = ["old-*"]
        digest = "abc"
        """,
    )
    assert [text.partition(":")[0] for text in found] == [
        "$.format", "$.extra", "$.key[0].name", "$.key[0].may", "$.key[0].until", "$.key[1].public",
        "$.key[2].until", "$.key[2].file", "$.key[3]", "$.key", "$.rule[0].keys", "$.rule[0].require",
        "$.rule[0].builders", "$.rule[0].threshold", "$.rule[0].match", "$.rule[0].max_age",
        "$.except[0].reason", "$.except[0].digest", "$.except[0].until",
    ]  # fmt: skip


def test_what_is_no_policy(tmp_path: Path) -> None:
    assert "not TOML" in faults(tmp_path, "format = ")[0]
    assert any("$.rule: is missing" in text for text in faults(tmp_path, "format = 1"))
    assert any("write [[rule]]" in text for text in faults(tmp_path, 'format = 1\nrule = "x"'))
    with pytest.raises(UsageError, match="cannot read the policy"):
        load(tmp_path / "missing.toml")


def test_a_rule_without_a_key_that_could_prove_it(tmp_path: Path) -> None:
    assert "no key can prove what is required" in faults(tmp_path, 'format = 1\n[[rule]]\nmatch = ["*"]')[0]


@pytest.mark.parametrize(
    ("patterns", "name", "allowed"),
    [
        (["https://ci/*"], "https://ci/a", True),
        (["https://ci/*"], "https://cid/a", False),
        (["*", "!*laptop*"], "https://laptop/a", False),
        (["*", "!*laptop*"], "https://ci/a", True),
        (["*"], "", True),
    ],
)
def test_patterns_of_builders(patterns: list[str], name: str, allowed: bool) -> None:
    assert allows(patterns, name) is allowed


def test_a_list_of_what_is_required() -> None:
    assert proofs(["tests,signature", "tests sbom"]) == (["tests", "signature", "sbom"], [])
    assert proofs(["test"]) == (["test"], ["test"])


def test_keys_alone_are_a_policy(key: Signer) -> None:
    found = of_keys([("k.pub", key.public)]).requiring(["tests"])
    rule = found.rule_for(["whatever"])
    assert rule is not None
    assert rule.require == ("signature", "tests")
    assert found.with_threshold(1).rules[0].threshold == 1
    with pytest.raises(UsageError, match="2 keys cannot have signed it"):
        found.with_threshold(2)


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("hello-?", "hello-1", False), ("hello-[12]", "hello-1", False), ("hello-[12]", "hello-[12]", True),
        ("docker://[::1]:5000/*", "docker://[::1]:5000/x", True), ("hello-*", "hello-\n", True),
        ("hello", "hello\n", False),
    ],
)  # fmt: skip
def test_a_star_is_the_only_sign_in_patterns(pattern: str, name: str, fits: bool) -> None:
    assert matches([pattern], [name]) is fits
