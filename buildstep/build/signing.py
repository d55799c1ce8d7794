"""Signatures of a build: the keys are opened before the work, and sign what came out of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from buildstep.build import elsewhere, proved
from buildstep.build.context import BuildContext
from buildstep.build.steps.interface import Route
from buildstep.errors import UsageError
from buildstep.trust import dsse, sidecars
from buildstep.trust.keys import signers
from buildstep.trust.keys.interface import Signer
from buildstep.trust.signatures.content import content_of
from buildstep.trust.signatures.lines import LARGEST, merged
from buildstep.trust.signatures.of_file import others_of, signatures_of
from buildstep.trust.statements import STATEMENTS
from buildstep.trust.statements.statement import PAYLOAD_TYPE, Statement, Subject
from buildstep.trust.statements.subjects import images_of


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
    images = images_of(artifacts, subjects)
    return Statement(images, STATEMENTS["signature"].predicate_types[0], {}) if images else None


def lines(statements: Sequence[Statement], keys: Sequence[Signer], earlier: Path) -> bytes:
    """Return the envelopes of statements, one a line, each with a signature of every key. What others have
    signed of the same statements stays. earlier: the file that these lines take the place of."""
    made = b"".join(dsse.seal(PAYLOAD_TYPE, row.to_json(), keys) + b"\n" for row in statements)
    return merged(made, _read(earlier)) if keys else made


def of_files(
    context: BuildContext, artifacts: Sequence[Mapping[str, Any]], keys: Sequence[Signer]
) -> Iterator[tuple[Path, bytes]]:
    """Yield the files with signatures of the bytes of each artifact. Each artifact is read once. What others
    have signed of the same bytes stays, after the signatures of these keys."""
    for number, artifact in enumerate(artifacts if keys else ()):
        stands = Path(artifact["path"])  # an image that stands may be wanted elsewhere, with its signatures
        final = elsewhere.moved(stands, sidecars.stem_of(stands), context.stem)
        place = context.outputs.place(final)
        place = sidecars.signed_file(place if place.exists() else stands)
        with content_of(place, sha256=artifact["sha256"]) as content:
            made = signatures_of(content, final.name, keys)
            place = sidecars.signature_file(final, sidecars.SSHSIG, first=number == 0)
            made.files[sidecars.SSHSIG] += others_of(content, keys, _read(place))
        for text in made.left_out:
            context.bus.note(f"{final.name}: {text}")
        for kind, data in made.files.items():
            yield sidecars.signature_file(final, kind, first=number == 0), data


Signed = Callable[[], Sequence[tuple[Path, bytes]]]
"""Waits for the files with signatures."""


@contextlib.contextmanager
def beside(
    context: BuildContext, artifacts: Sequence[Mapping[str, Any]], keys: Sequence[Signer]
) -> Iterator[Signed]:
    """Sign artifacts while the block finds out what is in them: their bytes take as long."""
    if not keys:
        yield tuple
        return
    with ThreadPoolExecutor(1, thread_name_prefix="sign") as pool:
        yield pool.submit(lambda: list(of_files(context, artifacts, keys))).result


def _read(path: Path) -> bytes:
    """Return what a file of an earlier build holds; nothing where there is none, or it cannot be read."""
    with contextlib.suppress(OSError, UsageError):
        return sidecars.read(path, LARGEST) or b""
    return b""
