"""Bases before policies: what is judged, what is said of it, and that nothing else is imported afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildstep.errors import DeniedError, ImageError, UnsignedError, WrongSubjectError
from buildstep.events import Bus
from buildstep.images import base_evidence, trusted_base, vouched
from buildstep.images.importing import Importer
from buildstep.images.interface import Identity
from buildstep.images.store import ImageStore
from buildstep.pool.directory import DirectoryBackend
from buildstep.pool.journal import open_journal
from buildstep.spec.config import Config
from buildstep.system.digest import sha256_file
from buildstep.trust.keys.interface import Signer
from buildstep.trust.verify.evidence import Evidence, RawEnvelope, RawSignature
from tests.unit.images.test_store import archive
from tests.unit.trust.verify import signed


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(DirectoryBackend(os.fspath(tmp_path / "pool")), bus=Bus(), environ={})


@pytest.fixture
def key() -> Signer:
    return signed.key()


def policy(folder: Path, key: Signer, rule: str = "match = ['*']", name: str = "policy.toml") -> str:
    path = folder / name
    path.write_text(
        f"format = 1\n[[key]]\nname = 'release'\npublic = '{key.public.openssh}'\n[[rule]]\n{rule}\n"
    )
    return os.fspath(path)


def base(folder: Path, *signers: Signer) -> str:
    ref = archive(folder / "base-1.tar.gz", name="base")
    if signers:
        path = folder / "base-1.tar.gz"
        signed.sign(path, *signers)
    return ref


def test_without_a_policy_nothing_is_asked(store: ImageStore) -> None:
    trusted_base.check("tar:/nowhere", store, None)
    assert (store.vouched, store.vouched.said) == ({}, "")


def test_a_file_is_judged_by_what_lies_beside_it(store: ImageStore, tmp_path: Path, key: Signer) -> None:
    rules = policy(tmp_path, key)
    with pytest.raises(UnsignedError, match="the base image tar:"):
        trusted_base.check(base(tmp_path), store, None, rules)
    assert store.vouched == {}
    ref = base(tmp_path, key)
    trusted_base.check(ref, store, None, rules)
    assert store.vouched.said == f"verified, signed by release ({key.fingerprint})"


def test_what_changed_after_it_was_judged_is_not_imported(
    store: ImageStore, tmp_path: Path, key: Signer
) -> None:
    ref = base(tmp_path, key)
    trusted_base.check(ref, store, None, policy(tmp_path, key))
    archive(tmp_path / "base-1.tar.gz", name="another")
    with (
        open_journal(store.backend.state, "test") as journal,
        pytest.raises(ImageError, match="changed since it was verified") as caught,
    ):
        Importer(store, journal).ensure(ref)
    assert caught.value.retryable


def test_every_policy_has_to_be_kept(tmp_path: Path, key: Signer) -> None:
    machine = policy(tmp_path, key, "match = ['docker://*']", "machine.toml")
    backend = DirectoryBackend(os.fspath(tmp_path / "pool"))
    store = ImageStore(backend, bus=Bus(), environ={}, config=Config(base_policies=(machine,)))
    with pytest.raises(DeniedError, match="no rule of"):
        trusted_base.check(base(tmp_path, key), store, None, policy(tmp_path, key))


def test_an_image_of_the_store_is_judged_by_where_it_is_from(
    store: ImageStore, tmp_path: Path, key: Signer
) -> None:
    ref = base(tmp_path)
    with open_journal(store.backend.state, "test") as journal:
        record, _ = Importer(store, journal).ensure(ref)
    rules = policy(tmp_path, key)
    with pytest.raises(UnsignedError):
        trusted_base.check(record.uuid, store, record, rules)
    signed.sign(tmp_path / "base-1.tar.gz", key)
    trusted_base.check(record.uuid, store, record, rules)
    # What is there by now is another file: nothing is known of the old one.
    archive(tmp_path / "base-1.tar.gz", name="another")
    signed.sign(tmp_path / "base-1.tar.gz", key)
    with pytest.raises(UnsignedError):
        trusted_base.check(record.uuid, store, record, rules)


def test_what_an_image_calls_itself_chooses_no_rule(store: ImageStore, tmp_path: Path, key: Signer) -> None:
    with open_journal(store.backend.state, "test") as journal:
        record, _ = Importer(store, journal).ensure(base(tmp_path, key))
    rules = policy(tmp_path, key, f"match = ['{record.name}@{record.version}']")
    with pytest.raises(DeniedError, match="no rule of"):
        trusted_base.check(record.uuid, store, record, rules)
    # Who asks for it by that name means it.
    trusted_base.check(f"{record.name}@{record.version}", store, record, rules)


def test_a_pinned_file(store: ImageStore, tmp_path: Path, key: Signer) -> None:
    ref = base(tmp_path)
    digest = sha256_file(tmp_path / "base-1.tar.gz")
    rule = "match = ['tar:*']\nkeys = []\nrequire = ['pinned']\ndigests = ['sha256:{}']"
    with pytest.raises(WrongSubjectError, match="it is none of the digests"):
        trusted_base.check(ref, store, None, policy(tmp_path, key, rule.format("0" * 64)))
    trusted_base.check(ref, store, None, policy(tmp_path, key, rule.format(digest)))
    assert store.vouched.said == "verified: it is pinned by the policy"


@pytest.mark.parametrize(
    ("mirror", "source"),
    [
        ("", base_evidence.KEYRING),
        ("http://127.0.0.1/debian", base_evidence.KEYRING),
        ("deb [trusted=yes] http://127.0.0.1/debian x main", ""),
        ("deb [allow-insecure=yes] http://127.0.0.1/debian x main", ""),
    ],
)
def test_a_suite_is_vouched_for_by_its_archive(tmp_path: Path, mirror: str, source: str) -> None:
    backend = DirectoryBackend(os.fspath(tmp_path / "pool"))
    store = ImageStore(backend, bus=Bus(), environ={"BUILDSTEP_APT_MIRROR": mirror})
    evidence, _ = base_evidence.evidence_of_base("mmdebstrap:bookworm", store, None)
    assert evidence.source == source


def test_evidence_is_kept_as_it_was_and_goes_with_its_image(store: ImageStore) -> None:
    identity = Identity(key=f"docker:sha256:{'a' * 64}:linux/amd64", label="docker://x/y:1")
    evidence = Evidence(
        name="docker://x/y:1",
        digests={"oci": "a" * 64},
        created=5.0,
        envelopes=(RawEnvelope(b"{}", "here"),),
        signatures=(RawSignature("simplesigning", b"AA==", "there", b"payload"),),
    )
    base_evidence.keep(store, identity, evidence)
    place = vouched.evidence_at(store.folder, identity.key)
    assert base_evidence.kept(place) == evidence
    vouched.forget(store.folder, [identity.key])
    assert place.exists()
    place.write_bytes(place.read_bytes().replace(b"here", b"else"))
    assert base_evidence.kept(place) is None
    vouched.forget(store.folder, [])
    assert not place.exists()
