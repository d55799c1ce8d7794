"""Sign what a build has written, or any file: signatures of each artifact, and of the statements beside it.

What is there stays: a second key adds its signatures to those of the first, and a key that has signed already
adds nothing. An artifact that is not what its build record says is not signed. Each file appears complete in
place of the old one, the record last, so that what a killed run has not done is done by the next one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from buildstep.errors import ImageError, SigningError, UsageError, WrongSubjectError
from buildstep.formats.oci.layout import open_layout
from buildstep.formats.oci.spec import REF_NAME
from buildstep.pool.stale import output_lock, sweep_outputs
from buildstep.report.parse import load
from buildstep.report.record import BuildRecord, verify
from buildstep.system.files import atomic_write, stamp
from buildstep.system.locks import lock
from buildstep.trust import sidecars
from buildstep.trust.keys.interface import Signer
from buildstep.trust.recorded import renewed
from buildstep.trust.sidecars import SIGNATURES, STATEMENTS, sidecar, signature_file, signed_file, stem_of
from buildstep.trust.signatures import lines
from buildstep.trust.signatures.content import content_of
from buildstep.trust.signatures.interface import LARGEST
from buildstep.trust.signatures.of_file import signatures_of
from buildstep.trust.statements.statement import Subject
from buildstep.trust.statements.subjects import images_of, subjects_of


@dataclass(slots=True)
class Report:
    """What was signed. stem: of the build, or the file; artifacts: that are signed; written: the files that
    are other than before; statements: their types; left_out: what could not be signed, and why."""

    stem: Path
    artifacts: list[Path] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.stem.name,
            "artifacts": [str(path) for path in self.artifacts],
            "written": [str(path) for path in self.written],
            "statements": self.statements,
            "left_out": self.left_out,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Target:
    """What is to be signed together. artifacts: with the place where their signatures are, the first one of a
    build at its stem."""

    stem: Path
    artifacts: tuple[tuple[Path, bool], ...]
    record: BuildRecord | None = None


Changed = Callable[[BuildRecord, Path, list[int]], None]
"""Is told of each file of a build that was changed, with the stamp it had before; the build is locked."""


def _nobody(_record: BuildRecord, _path: Path, _before: list[int]) -> None:
    pass


def sign(path: Path, signers: Sequence[Signer], changed: Changed = _nobody) -> list[Report]:
    """Sign an image file or any other, a build (its record or manifest), or all builds of a directory. The
    record of a build then has the digests of what is beside its image now.

    Raises UsageError, SigningError; then nothing of the build that it is about was written.
    """
    return [_signed(target, signers, changed) for target in _targets(path)]


# -- what there is to sign


def _targets(path: Path) -> Iterator[_Target]:
    if path.is_dir() and signed_file(path) == path:
        records = sorted(path.glob(f"*{sidecars.RECORD}"))
        if not records:
            raise UsageError(f"{path} holds no build record", hint="name the file that is to be signed")
        yield from map(_of_record, records)
    elif path.name.endswith(sidecars.MANIFEST):
        yield _of_record(sidecars.stem_of(path).with_name(stem_of(path).name + sidecars.RECORD))
    elif path.name.endswith(sidecars.RECORD):
        yield _of_record(path)
    else:
        yield _of_artifact(path)


def _of_record(path: Path) -> _Target:
    record = load(path)
    found = [path.with_name(artifact.name) for artifact in record.artifacts]
    if not found:
        raise UsageError(f"{path} names no image file", hint="is it of a build that failed?")
    if missing := [file.name for file in found if not file.exists()]:
        raise UsageError(f"{path} names {', '.join(missing)}, which is not beside it")
    artifacts = tuple((file, number == 0) for number, file in enumerate(found))
    return _Target(stem=stem_of(path), artifacts=artifacts, record=record)


def _of_artifact(path: Path) -> _Target:
    """Return one artifact, with its record where there is one. Raises UsageError, SigningError."""
    if not path.exists():
        raise UsageError(
            f"there is no {path}", hint="an image file, its build record, or a directory of outputs"
        )
    if any(path.name.endswith(ending) for ending in sidecars.SIDECARS.values()):
        raise UsageError(f"{path} is a file beside an image, and is signed with it", hint="name the image")
    stem = stem_of(path)
    place = stem.with_name(stem.name + sidecars.RECORD)
    if not place.is_file():
        return _Target(stem=stem, artifacts=((path, True),))
    record = load(place)
    names = [artifact.name for artifact in record.artifacts]
    if path.name not in names:
        raise SigningError(
            f"{place.name} does not name {path.name}",
            detail=f"it names {', '.join(names) or 'no file'}",
            hint="is it of another build? Take it away from there to sign it by itself",
        )
    return _Target(stem=stem, artifacts=((path, path.name == names[0]),), record=record)


# -- signing


def _signed(target: _Target, signers: Sequence[Signer], changed: Changed) -> Report:
    report = Report(target.stem, [path for path, _ in target.artifacts])
    guard = output_lock(target.stem)
    try:
        with lock(guard):
            try:
                sweep_outputs(target.stem)
                subjects = _subjects(target)
                files = _signatures(target, subjects.all, signers, report)
                files |= _statements(target, subjects, signers, report)
                _written(target.record, files, signers, report, changed)
            finally:
                guard.unlink(missing_ok=True)
    except OSError as error:
        raise SigningError(f"cannot sign {target.stem}: {error.filename or ''}: {error.strerror}") from error
    return report


class _Subjects(NamedTuple):
    """What is signed. images: those that registries know."""

    all: tuple[Subject, ...]
    images: tuple[Subject, ...]


def _subjects(target: _Target) -> _Subjects:
    """Return what is signed, each looked at again. Raises SigningError where it is not what its record
    says."""
    record = target.record
    if record is None:
        ((path, _),) = target.artifacts
        return _of_file(path)
    names = {path.name for path, _ in target.artifacts}
    for artifact in record.artifacts:
        if artifact.name not in names:
            continue
        verdict = verify(record, artifact)
        if not verdict.good:
            raise WrongSubjectError(
                f"{artifact.name} is not what {record.path.name} says, and is not signed",
                detail=verdict.text,
                hint="build again, or take it from where it was published",
            )
    artifacts = [asdict(artifact) for artifact in record.artifacts]
    subjects = subjects_of(artifacts, record.tree_digest)
    return _Subjects(subjects, images_of(artifacts, subjects))


def _of_file(path: Path) -> _Subjects:
    with content_of(signed_file(path)) as content:
        file = Subject(path.name, {"sha256": content.sha256.hex()})
    images = {}
    with contextlib.suppress(ImageError):
        for entry in open_layout(path, path.name).tags().values():
            images[entry.hex] = Subject(entry.annotations.get(REF_NAME, ""), {"sha256": entry.hex})
    return _Subjects((file, *images.values()), tuple(images.values()))


def _signatures(
    target: _Target, subjects: Sequence[Subject], signers: Sequence[Signer], report: Report
) -> dict[Path, bytes]:
    found: dict[Path, bytes] = {}
    known = {subject.digests.get("sha256") for subject in subjects}
    for path, first in target.artifacts:
        places = {kind: signature_file(path, kind, first=first) for kind in SIGNATURES}
        earlier = {
            kind: data for kind, place in places.items() if (data := _read(place, LARGEST)) is not None
        }
        with content_of(signed_file(path)) as content:
            if content.sha256.hex() not in known:
                raise SigningError(f"{path} changes while it is signed", retryable=True)
            made = signatures_of(content, path.name, signers, earlier)
        found |= {places[kind]: data for kind, data in made.files.items()}
        report.left_out += [f"{path.name}: {text}" for text in made.left_out]
    return found


def _statements(
    target: _Target, subjects: _Subjects, signers: Sequence[Signer], report: Report
) -> dict[Path, bytes]:
    place = sidecar(target.stem, STATEMENTS)
    text = _read(place, lines.LARGEST)
    made = lines.signed(text or b"", subjects.all, subjects.images, signers, place.name)
    report.statements += made.statements
    report.left_out += made.left_out
    return {place: made.data} if made.data or text is not None else {}


def _read(path: Path, limit: int) -> bytes | None:
    """Return what a file holds, None where there is none. Raises SigningError, OSError."""
    try:
        return sidecars.read(path, limit)
    except UsageError as error:
        raise SigningError(error.message, hint=error.hint) from error


def _written(
    record: BuildRecord | None,
    files: Mapping[Path, bytes],
    signers: Sequence[Signer],
    report: Report,
    changed: Changed,
) -> None:
    """Write what is other than before, and then the record, where it has to tell it. Raises OSError."""
    found = dict(files)
    if record is not None and (new := renewed(record.path.read_bytes(), files, signers)) is not None:
        found[record.path] = new
    for path, data in found.items():
        before = stamp(path) if path.exists() else []
        if _write(path, data, report) and before and record is not None:
            changed(record, path, before)


def _write(path: Path, data: bytes, report: Report) -> bool:
    """Write a file that is other than before; tell whether it was. Raises OSError."""
    if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return False
    with atomic_write(path, mode=0o644) as stream:
        stream.write(data)
    report.written.append(path)
    return True
