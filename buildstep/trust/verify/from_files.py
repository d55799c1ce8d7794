"""Evidence from files: an artifact, read and hashed, and what lies beside it (`trust.sidecars`).

Nothing is unpacked. Of an OCI archive or directory every blob that its image needs is hashed too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from buildstep.errors import ImageError, UsageError
from buildstep.formats.oci import one_reading
from buildstep.formats.oci.layout import Layout, open_layout
from buildstep.formats.oci.spec import (
    INDEXES,
    OCI_CONFIG,
    Descriptor,
    descriptor,
    document,
    media_type,
    parse_index,
)
from buildstep.system.digest import sha256_file
from buildstep.trust import sidecars
from buildstep.trust.verify.evidence import Evidence, RawEnvelope, RawSignature, SignatureKind

_LARGEST_SIGNATURE: Final = 1 << 20
_LARGEST_STATEMENTS: Final = 256 << 20
_DEPTH: Final = 4
_CONFIGS: Final = (OCI_CONFIG, "application/vnd.docker.container.image.v1+json")
_KINDS: Final[Mapping[str, SignatureKind]] = {
    sidecars.SSHSIG: "sshsig",
    sidecars.MINISIGN: "minisign",
    sidecars.BUNDLE: "bundle",
}


def from_files(path: Path, tag: str = "") -> Evidence:
    """Return what there is about an artifact: a file, or an OCI directory. tag: of the image that is meant,
    where an OCI archive has several.

    Raises UsageError where it cannot be read.
    """
    try:
        content = sidecars.signed_file(path)
        if path.is_dir() and content == path:
            raise UsageError(f"{path} is a directory, and no OCI layout")
        sidecars.demand_regular(content, content.stat())
        found = _Image()
        digests = {"sha256": sha256_file(content)}
        if content != path or _is_tar(path):
            found = _image_in(path, tag)
        return Evidence(
            name=path.name,
            names=_names(path, tag),
            digests={**digests, **({"oci": found.digest} if found.digest else {})},
            envelopes=tuple(_envelopes(path)),
            signatures=tuple(_signatures(path)),
            path=content,
            stem=sidecars.stem_of(path),
            damage=found.damage,
            created=found.created,
        )
    except OSError as error:
        raise UsageError(f"cannot read {error.filename or path}: {error.strerror}") from error


def artifacts_of(path: Path) -> list[Path]:
    """Return the artifacts that a path means: itself; those of a build, given its record or manifest; those
    in a directory of outputs. Raises UsageError where there is none."""
    if not path.exists():
        raise UsageError(
            f"there is no {path}",
            hint="an image file, its build record, a directory of outputs, or docker://...",
        )
    if path.is_dir() and sidecars.signed_file(path) == path:
        found = sorted(it for it in path.iterdir() if sidecars.is_artifact(it))
    elif path.name.endswith(sidecars.RECORD):
        return _recorded(path)
    elif path.name.endswith(sidecars.MANIFEST):
        stem = sidecars.stem_of(path)
        beside = sorted(path.parent.iterdir())
        found = [it for it in beside if sidecars.is_artifact(it) and sidecars.stem_of(it) == stem]
    else:
        return [path]
    if not found:
        raise UsageError(f"{path} has no image file beside or in it", hint="name the file itself")
    return found


def _recorded(record: Path) -> list[Path]:
    """Return the artifacts that a build record tells of, beside it. Raises UsageError for those that are not
    there, SpecError for a faulty record."""
    from buildstep.report.parse import load

    found = [record.parent / os.path.basename(row.path) for row in load(record).artifacts]
    if missing := [path.name for path in found if not path.exists()]:
        raise UsageError(f"{record} tells of {', '.join(missing)}, and that is not beside it")
    if not found:
        raise UsageError(f"{record} tells of no image", hint="name the file itself")
    return found


def _names(path: Path, tag: str) -> tuple[str, ...]:
    """Return what a policy may know a file by. tag: by which whoever asks named the image
    in it. What an archive itself calls its image is nobody's word: it chooses no rule and no exception."""
    return tuple(
        dict.fromkeys((path.name, sidecars.stem_of(path).name, os.fspath(path), *([tag] if tag else [])))
    )


# -- what lies beside it


def _envelopes(path: Path) -> Iterator[RawEnvelope]:
    for place in sidecars.signature_files(path, sidecars.STATEMENTS):
        if (data := sidecars.read(place, _LARGEST_STATEMENTS)) is None:
            continue
        for number, line in enumerate(data.splitlines(), start=1):
            if line.strip():
                yield RawEnvelope(line, f"{place.name} line {number}")


def _signatures(path: Path) -> Iterator[RawSignature]:
    for kind, name in _KINDS.items():
        for number, place in enumerate(sidecars.signature_files(path, kind)):
            if (data := sidecars.read(place, _LARGEST_SIGNATURE)) is not None:
                form = _form(data) if name == "sshsig" else name
                shared = number > 0 and _has_siblings(path, kind)
                yield RawSignature(form, data, place.name, shared=shared)
                break


def _form(data: bytes) -> SignatureKind:
    """Return what a .sig is, which several tools write: ssh-keygen, cosign, and OpenBSD's signify."""
    if data.lstrip().startswith(b"untrusted comment:"):
        return "minisign"
    return "raw" if re.fullmatch(rb"[A-Za-z0-9+/=\s]+", data) else "sshsig"


def _has_siblings(path: Path, kind: str) -> bool:
    """Tell whether another artifact of the same build lies beside one, without a signature under its own
    name: the one that the build's name has may be of that."""
    stem = sidecars.stem_of(path).name
    beside = [path.parent / name for name in os.listdir(path.parent) if name.startswith(stem)]
    return any(
        it.name != path.name
        and sidecars.is_artifact(it)
        and sidecars.stem_of(it).name == stem
        and not sidecars.signature_file(it, kind, first=False).exists()
        for it in beside
    )


# -- the image in an OCI layout


@dataclass(slots=True)
class _Image:
    """The image of a layout. digest: of its manifest or index, in hex; damage: see `Evidence`; both empty for
    what is no layout."""

    digest: str = ""
    damage: str = ""
    created: float | None = None
    seen: set[str] = field(default_factory=set)
    images: set[one_reading.Blobs] = field(default_factory=set)


def _is_tar(path: Path) -> bool:
    """Tell whether a file is to be an OCI layout in a plain tar archive, by its name or by its content."""
    if path.name.endswith((".oci.tar", ".oci")):
        return True
    try:
        open_layout(path, path.name)
    except ImageError:
        return False
    return True


def _image_in(path: Path, tag: str) -> _Image:
    found = _Image()
    try:
        layout = open_layout(path, path.name)
        tags = layout.tags()
        entry = layout.find(tag) if tag or len(tags) == 1 else None
        for each in tags.values() if entry is None else [entry]:
            _check(layout, each, found, _DEPTH)
        one_reading.check(layout, path, found.images)
    except ImageError as error:
        found.damage = error.message
        return found
    if entry is not None:
        found.digest = entry.hex
    return found


def _check(layout: Layout, entry: Descriptor, found: _Image, depth: int) -> None:
    """Hash everything that an image or index is made of. Raises ImageError for what is another by now."""
    if entry.digest in found.seen:
        return
    if not depth:
        raise ImageError(f"{layout.label}: its indexes are nested too deeply")
    found.seen.add(entry.digest)
    data = layout.read(entry)
    if media_type(data, entry.media_type) in INDEXES:
        for below in parse_index(data, f"{layout.label} {entry.digest[:19]}"):
            _check(layout, below, found, depth - 1)
        return
    value = document(data, f"{layout.label} {entry.digest[:19]}")
    rows = value.get("layers")
    if not isinstance(rows, list):
        raise ImageError(f"{layout.label}: {entry.digest} has no layers")
    config = descriptor(value.get("config"), f"{layout.label}: the configuration")
    about = layout.read(config)
    if config.media_type in _CONFIGS:
        made = _time(document(about, f"{layout.label}: the configuration"))
        found.created = max(filter(None, (found.created, made)), default=None)
    layers = [descriptor(row, f"{layout.label}: a layer") for row in rows]
    found.images.add((config.hex, *(layer.hex for layer in layers)))
    for layer in layers:
        if layer.digest not in found.seen:
            found.seen.add(layer.digest)
            with layout.open(layer) as stream:
                stream.verify()


def _time(config: Mapping[str, Any]) -> float | None:
    """Return when an image says that it was made (image-spec config.md, created)."""
    try:
        return datetime.fromisoformat(str(config.get("created"))).timestamp()
    except (ValueError, OverflowError):
        return None
