"""Artifacts that are signed by keys made for a test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from buildstep.trust import dsse
from buildstep.trust.keys.file import private_signer
from buildstep.trust.keys.interface import Signer
from buildstep.trust.policy import TrustedKey
from buildstep.trust.signatures import bundle, minisign, sshsig
from buildstep.trust.signatures.content import content_of
from buildstep.trust.statements.statement import PAYLOAD_TYPE, Statement, Subject

PROVENANCE = "https://slsa.dev/provenance/v1"
TESTS = "https://in-toto.io/attestation/test-result/v0.1"
SIGNED = "https://sigstore.dev/cosign/sign/v1"
NOW = 1_800_000_000.0


def key(kind: str = "ed25519") -> Signer:
    """A new key."""
    makers: dict[str, Any] = {
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
    }
    made: Any = makers[kind]()
    return private_signer(made, "a test")


def trusted(signer: Signer, name: str = "release", **more: Any) -> TrustedKey:
    return TrustedKey(name=name, public=signer.public, **more)


def statement(
    subjects: Mapping[str, str], kind: str = SIGNED, predicate: Mapping[str, Any] | None = None
) -> bytes:
    """A statement. subjects: names to SHA-256 digests."""
    named = tuple(Subject(name, {"sha256": digest}) for name, digest in subjects.items())
    return Statement(named, kind, predicate or {}).to_json()


def envelope(content: bytes, *signers: Signer) -> bytes:
    return dsse.seal(PAYLOAD_TYPE, content, signers)


def provenance(subjects: Mapping[str, str], builder: str, finished: str = "") -> bytes:
    metadata = {"finishedOn": finished} if finished else {}
    details = {"builder": {"id": builder}, "metadata": metadata}
    return statement(subjects, PROVENANCE, {"buildDefinition": {}, "runDetails": details})


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def plain(folder: Path, name: str = "hello-1.0.0.tar.gz", content: bytes = b"an image") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def sign(artifact: Path, *signers: Signer, signed: Path | None = None) -> None:
    """Write an artifact's signatures beside it: of ssh-keygen, minisign and Sigstore.

    signed: the file whose bytes are signed, by default itself.
    """
    stem = artifact.with_name(
        artifact.name.removesuffix(".tar.gz").removesuffix(".oci.tar").removesuffix(".oci")
    )
    with content_of(signed or artifact) as content:
        stem.with_name(f"{stem.name}.sig").write_bytes(b"".join(sshsig.make(content, it) for it in signers))
        stem.with_name(f"{stem.name}.sigstore.json").write_bytes(bundle.make(content, signers[0]))
        if signers[0].algorithm == "ed25519":
            made = minisign.make(content, signers[0], f"timestamp:{NOW:.0f}")
            stem.with_name(f"{stem.name}.minisig").write_bytes(made)


def state_lines(stem: Path, envelopes: Sequence[bytes]) -> None:
    stem.with_name(f"{stem.name}.intoto.jsonl").write_bytes(b"".join(line + b"\n" for line in envelopes))


def oci(
    folder: Path, name: str = "hello-1.0.0.oci", *, layer: bytes = b"a layer", tag: str = "hello:1.0.0"
) -> Path:
    """An OCI layout in a directory."""
    path = folder / name
    (path / "blobs/sha256").mkdir(parents=True)

    def blob(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (path / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    config = {
        "created": "2026-11-01T00:00:00Z",
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers"},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [blob(layer, "application/vnd.oci.image.layer.v1.tar")],
    }
    entry = blob(json.dumps(manifest).encode(), manifest["mediaType"])  # type: ignore[arg-type]
    entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
    index = {"schemaVersion": 2, "manifests": [entry]}
    (path / "index.json").write_text(json.dumps(index))
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return path


def manifest_of(layout: Path) -> str:
    """The digest of the manifest that a layout names, in hex."""
    found: str = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    return found.removeprefix("sha256:")
