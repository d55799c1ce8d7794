"""The output formats, and the one pass that writes all that were asked for."""

from __future__ import annotations

import contextlib
import itertools
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from buildstep import __version__
from buildstep.emit import read_pass
from buildstep.emit.interface import (
    ArchiveStyle,
    Artifact,
    Blob,
    EmitJob,
    Emitter,
    Joining,
    Recording,
    Sink,
    StoreTarget,
)
from buildstep.errors import EmitError, Fault, SpecError
from buildstep.events import Bus
from buildstep.formats import codecs
from buildstep.spec.load import BuildSpec
from buildstep.system.output_set import Outputs, temporary_name
from buildstep.system.registry import Registry, importing
from buildstep.system.text import plural
from buildstep.tree.entry import Entry
from buildstep.tree.hashing import spread_digests

EMITTERS: Registry[type[Emitter]] = Registry(
    "emitters",
    "format",
    {
        "oci": importing("buildstep.emit.oci:OciEmitter"),
        "oci-dir": importing("buildstep.emit.oci_dir:OciDirEmitter"),
        "tar": importing("buildstep.emit.tar:TarEmitter"),
        "zfs": importing("buildstep.emit.zfs:ZfsEmitter"),
        "btrfs": importing("buildstep.emit.btrfs:BtrfsEmitter"),
        "files": importing("buildstep.emit.files:FilesEmitter"),
    },
)


def resolve(formats: Sequence[str], compression: str | None, bus: Bus | None = None) -> dict[str, Emitter]:
    """Return the emitters of these formats, by name.

    Raises SpecError with every error, and ToolMissing where a codec's library is not there.
    """
    note = partial((bus or Bus()).note, level="warning")
    chosen: dict[str, Emitter] = {}
    faults = []
    for index, name in enumerate(formats):
        kind = EMITTERS.find(name, note)
        if kind is None:
            faults.append(
                Fault(where=f"format[{index}]", message=f"no format {name!r}", hint=EMITTERS.hint(name))
            )
        elif compression is not None and compression not in kind.compressions:
            message = f"{name} cannot be compressed with {compression!r}"
            hint = "one of " + ", ".join(kind.compressions)
            faults.append(Fault(where="compression", message=message, hint=hint))
        else:
            chosen[name] = kind()
    if faults:
        raise SpecError("output formats", faults)
    for emitter in chosen.values():
        if wanted := compression or (emitter.compressions[0] if emitter.compressions else ""):
            codecs.codec(wanted)
    return chosen


def emit(job: EmitJob, formats: Sequence[str], outputs: Outputs) -> list[Artifact]:
    """Write the image in every format during one read pass; the files appear by `outputs.commit()`.

    Fills in the SHA-256 of the files read, in `job.tree` and `job.changes`. Only the top layer is read
    when no format needs the whole tree. Raises EmitError, SpecError for an unknown format or
    compression, ToolMissing; nothing that this call wrote is left then.
    """
    chosen = resolve(formats, job.compression, job.bus)
    finals = {
        name: job.stem.with_name(job.stem.name + emitter.extension(job.compression))
        for name, emitter in chosen.items()
    }
    if has_layers(chosen) or "tar" in chosen:
        _tell_odd_names(job)
    job = replace(job, main=_main(chosen), more=_Made(job.more))
    try:
        job.stem.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            sinks = [
                stack.enter_context(emitter.open(job, temporary_name(finals[name])))
                for name, emitter in chosen.items()
            ]
            plan = _plan(job, sinks)
            with read_pass.job(job.bus, "write the image", (entry for entry, _ in plan)):
                sparse, sha1 = job.style.sparse, job.sha1
                _fill(job, read_pass.read_pass(job.root, plan, job.bus, sparse=sparse, sha1=sha1))
            artifacts = [sink.finish() for sink in sinks]
            for sink in sinks:
                if isinstance(sink, Joining):
                    sink.join(outputs)
    except OSError as error:
        raise EmitError(f"cannot write {job.stem.name}: {error.strerror}") from error
    for artifact in artifacts:
        outputs.add(artifact.path, finals[artifact.format])
    return [replace(artifact, path=finals[artifact.format]) for artifact in artifacts]


def check_target(formats: Iterable[str], target: StoreTarget | None, bus: Bus) -> list[str]:
    """Return where formats that record the image elsewhere will have it, a sentence each. Changes nothing.

    Raises StoreError, UsageError or ToolMissing where one cannot.
    """
    return [emitter.check(target, bus) for emitter in _recording(formats).values()]


def still_recorded(files: Iterable[Mapping[str, Any]], target: StoreTarget | None, bus: Bus) -> bool:
    """Tell whether all that an earlier build recorded elsewhere is still there. files: as its record has
    them. Raises StoreError."""
    recording = _recording(str(file["format"]) for file in files)
    return all(
        recording[file["format"]].recorded(target, file["extra"], bus)
        for file in files
        if file["format"] in recording
    )


def main_artifact(artifacts: Sequence[Artifact]) -> Artifact:
    """Return the file that is the image: the first that is one file, and no note of where it was recorded;
    without such a one a directory."""
    kinds = {artifact.format: EMITTERS.find(artifact.format) for artifact in artifacts}
    name = _main({name: kind() for name, kind in kinds.items() if kind is not None})
    return next(artifact for artifact in artifacts if artifact.format == name)


def _main(chosen: Mapping[str, Emitter]) -> str:
    """Return the format whose file the image's manifest describes."""
    images = [name for name, emitter in chosen.items() if not isinstance(emitter, Recording)]
    files = [name for name in images if not getattr(chosen[name], "directory", False)]
    return next(iter([*files, *images, *chosen]))


class _Made(Iterable[Blob]):
    """Layers that are made when they are asked for, for each format that asks; each is made once."""

    def __init__(self, coming: Iterable[Blob]) -> None:
        self._coming = iter(coming)
        self._made: list[Blob] = []

    def __iter__(self) -> Iterator[Blob]:
        for number in itertools.count():
            if number == len(self._made):
                try:
                    self._made.append(next(self._coming))
                except StopIteration:
                    return
            yield self._made[number]


def _recording(formats: Iterable[str]) -> dict[str, Recording]:
    found: dict[str, Recording] = {}
    for name in formats:
        kind = EMITTERS.find(name)
        if kind is not None and isinstance(emitter := kind(), Recording):
            found[name] = emitter
    return found


def _tell_odd_names(job: EmitJob) -> None:
    """Say so where no pax record can hold the name of an attribute as it is."""
    odd = sum(any(b"=" in name for name, _ in entry.xattrs) for entry in job.tree.values() if entry.xattrs)
    if odd:
        job.bus.note(
            f"{plural(odd, 'path')} with an extended attribute whose name holds `=`: GNU tar and bsdtar"
            " restore it, container runtimes write %3D in its place",
            level="warning",
        )


def _plan(job: EmitJob, sinks: Sequence[Sink]) -> list[tuple[Entry, Sequence[Sink]]]:
    """Return each entry to read, sorted by path, and the sinks that take it."""
    whole = [sink for sink in sinks if sink.scope == "tree"]
    layer = read_pass.with_parents(job.changes, job.tree)
    if not whole:
        return [(entry, sinks) for entry in layer]
    changed = {entry.path for entry in layer} if len(whole) < len(sinks) else set()
    return [(job.tree[path], sinks if path in changed else whole) for path in sorted(job.tree)]


def _fill(job: EmitJob, digests: dict[bytes, str]) -> None:
    for entry in job.changes.entries:
        if entry.kind == "f" and not entry.sha256:
            entry.sha256 = digests.get(entry.first or entry.path, "")
    for path, digest in digests.items():
        entry = job.tree[path]
        if not entry.sha256:
            entry.sha256 = digest
    spread_digests(job.tree)


def codec_of(spec: BuildSpec, name: str) -> str:
    """Return the codec that a format is compressed with."""
    emitter = EMITTERS.get(name)
    return spec.compression or (emitter.compressions[0] if emitter and emitter.compressions else "none")


def style_of(spec: BuildSpec) -> ArchiveStyle:
    """Return what the archives of a build tell of their entries."""
    return ArchiveStyle(epoch=spec.source_date_epoch, sparse=spec.sparse)


def tool_versions(spec: BuildSpec) -> dict[str, str]:
    """Return what makes the image, by name: ourselves, Python, the kernel, and the codec libraries."""
    found = {"buildstep": __version__, "python": platform.python_version(), "kernel": platform.release()}
    for name in sorted({codec_of(spec, wanted) for wanted in spec.formats}):
        found[f"codec {name}"] = codecs.codec(name).ident
    return found


def has_layers(formats: Iterable[str]) -> bool:
    """Tell whether one of these formats is made of compressed layers, which are kept and reused."""
    return any(getattr(EMITTERS.find(name), "layered", False) for name in formats)


def only_layers(formats: Iterable[str]) -> bool:
    """Tell whether all of these formats are made of such layers."""
    return all(getattr(EMITTERS.find(name), "layered", False) for name in formats)


def sends_dataset(formats: Iterable[str]) -> bool:
    """Tell whether one of these formats sends a dataset, and so needs the proto directory inside it."""
    return any(getattr(EMITTERS.find(name), "sends_dataset", False) for name in formats)
