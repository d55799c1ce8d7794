"""Signatures of a build: the keys are opened before the work, and sign what came out of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from buildstep.build import proved
from buildstep.build.context import BuildContext
from buildstep.build.steps.interface import Route
from buildstep.trust import dsse, sidecars
from buildstep.trust.keys import signers
from buildstep.trust.keys.interface import Signer
from buildstep.trust.signatures import bundle, minisign, sshsig
from buildstep.trust.signatures.content import Content, content_of
from buildstep.trust.statements import STATEMENTS
from buildstep.trust.statements.statement import PAYLOAD_TYPE, Statement, Subject


def opened(context: BuildContext) -> tuple[Signer, ...]:
    """Return the keys that sign; none where what stands is signed already. A key that cannot be used is told
    before the work, and not after it. Raises SigningError, ToolMissing."""
    spec, facts = context.spec, context.plan.outputs
    if not spec.proof.keys:
        return ()
    if context.plan.route is Route.UP_TO_DATE and facts is not None and not proved.problem(spec, facts):
        return ()
    return signers(spec.proof.keys, context.environ, bus=context.bus)


def of_image(subjects: Sequence[Subject], artifacts: Sequence[Mapping[str, Any]]) -> Statement | None:
    """Return the statement that an OCI image is signed, no more; None where there is none. It is about the
    image alone, as registries know it."""
    digests = {str(it["extra"].get("digest", "")).removeprefix("sha256:") for it in artifacts} - {""}
    images = tuple(it for it in subjects if it.digests.get("sha256") in digests)
    return Statement(images, STATEMENTS["signature"].predicate_types[0], {}) if images else None


def lines(statements: Sequence[Statement], keys: Sequence[Signer]) -> bytes:
    """Return the envelopes of statements, one a line, each with a signature of every key."""
    return b"".join(dsse.seal(PAYLOAD_TYPE, row.to_json(), keys) + b"\n" for row in statements)


def of_files(
    context: BuildContext, artifacts: Sequence[Mapping[str, Any]], keys: Sequence[Signer]
) -> Iterator[tuple[Path, bytes]]:
    """Yield the files with signatures of the bytes of each artifact. Each artifact is read once."""
    for number, artifact in enumerate(artifacts if keys else ()):
        final = Path(artifact["path"])
        place = sidecars.signed_file(context.outputs.place(final))
        with content_of(place, sha256=artifact["sha256"]) as content:
            content.compute()
            yield from _of_file(context, final, content, keys, first=number == 0)


def _of_file(
    context: BuildContext, path: Path, content: Content, keys: Sequence[Signer], *, first: bool
) -> Iterator[tuple[Path, bytes]]:
    def place(kind: str) -> Path:
        return sidecars.signature_file(path, kind, first=first)

    yield place(sidecars.SSHSIG), b"".join(sshsig.make(content, key) for key in keys)
    whole = [key for key in keys if key.takes(len(content.data))]
    if whole:
        yield place(sidecars.BUNDLE), bundle.make(content, whole[0])
    else:
        context.bus.note(f"{path.name} is too large for the key of an agent: it gets no Sigstore bundle")
    if small := [key for key in keys if key.algorithm == "ed25519"]:
        yield place(sidecars.MINISIGN), minisign.make(content, small[0], f"file:{path.name}")
