"""Give outputs that stand in one place to another: equal inputs, another output directory.

Each file shares the blocks of the one that stands where the file system can do that, else it is a copy. It
is never a hard link: who edits such a file in place would edit both, and making it read-only, which does not
keep root from it, would change the one that was there before.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from buildstep.build import proved
from buildstep.build.context import BuildContext
from buildstep.build.deliver import earlier_files
from buildstep.cache import outputs
from buildstep.emit.oci_dir import check_place
from buildstep.errors import EmitError
from buildstep.events import ArtifactWritten
from buildstep.report.event_log import SUFFIX
from buildstep.report.record import RECORD_SUFFIX
from buildstep.system.files import fsync_dir
from buildstep.system.output_set import temporary_name
from buildstep.system.share import share
from buildstep.system.text import size_text


def wanted(context: BuildContext) -> bool:
    """Whether the outputs that stand are not where they are wanted."""
    facts = context.plan.outputs
    return facts is not None and facts["place"] != os.fspath(context.stem)


def bring(context: BuildContext, facts: Mapping[str, Any]) -> bool:
    """Write the files of an earlier build beside where they are wanted; `told` has what it reported of them.

    facts: see `outputs.find`. Returns False, and nothing is written, where they cannot be read, as when
    another build took them away meanwhile. Raises EmitError.
    """
    stem, old = context.stem, Path(facts["place"])
    record, manifest = Path(facts["record"]), Path(facts["manifest"])
    extra = [old.with_name(old.name + suffix) for suffix in (".pkgaudit", SUFFIX)]
    extra += beside(context, facts)
    copied = 0
    try:
        for path in (*(Path(file["path"]) for file in facts["files"]), *extra):
            if path.exists() or path not in extra:
                copied += _copy(context, path, moved(path, old, stem))
        _write_record(context, record, old)
        copied += _copy(context, manifest, moved(manifest, old, stem))
    except _Unreadable:
        context.outputs.discard()
        return False
    # What was read is what stood there, unless it is something else now.
    still = outputs.find(context.backend.state, str(facts["key"]), old)
    if still is None or still["place"] != facts["place"]:
        context.outputs.discard()
        return False
    how = f"{size_text(copied)} copied" if copied else "sharing their blocks"
    context.bus.note(f"the outputs are those in {old.parent}, {how}")
    return True


def beside(context: BuildContext, facts: Mapping[str, Any]) -> list[Path]:
    """Return the files in the other place that prove the image as it is asked for now."""
    return [] if proved.problem(context.spec, facts) else [Path(name) for name in _proofs(facts)]


def _proofs(facts: Mapping[str, Any]) -> Iterable[str]:
    found: Mapping[str, Any] = facts.get("trust", {}).get("files", {})
    return found


class _Unreadable(OSError):
    """What stands in the other place cannot be read."""


_OF_THE_SOURCE = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)
"""Where one of these is of the target after all, the build that is done then tells of it."""


def told(context: BuildContext, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an earlier build reported, with the paths that its files have here."""
    old = Path(facts["place"])
    files = [
        {**file, "path": os.fspath(moved(Path(file["path"]), old, context.stem))} for file in facts["files"]
    ]
    paths = {name: os.fspath(moved(Path(facts[name]), old, context.stem)) for name in ("record", "manifest")}
    return {**facts, **paths, "files": files, "place": os.fspath(context.stem)}


def deliver(context: BuildContext, facts: Mapping[str, Any]) -> None:
    """Give the files their names, the manifest last. facts: see `told`. Raises EmitError."""
    for path in earlier_files(Path(facts["record"])):
        context.outputs.retire(path)
    context.outputs.commit()
    for file in facts["files"]:
        context.bus.emit(
            ArtifactWritten(
                path=file["path"], format=file["format"], size=file["size"], sha256=file["sha256"]
            )
        )


def moved(path: Path, old: Path, new: Path) -> Path:
    """Return the name that a file of one place has in another."""
    return new.with_name(new.name + path.name.removeprefix(old.name))


def _copy(context: BuildContext, source: Path, target: Path) -> int:
    """Give a file, or an image that is a directory, a second place; returns how many bytes were copied."""
    temporary = temporary_name(target)
    context.outputs.add(temporary, target)
    try:
        if not source.is_dir():
            return _share(source, temporary)
        check_place(target)
        copied = 0
        for folder, _, names in os.walk(source):
            inner = temporary / os.path.relpath(folder, source)
            inner.mkdir()
            # Layers are files that nobody writes to: they may have a second name, as in the pool.
            copied += sum(_share(Path(folder, name), inner / name, link=True) for name in names)
            fsync_dir(inner)
    except OSError as error:
        if error.errno in _OF_THE_SOURCE:
            raise _Unreadable from error
        raise EmitError(f"cannot copy {source} to {target}: {error.strerror}") from error
    return copied


def _share(source: Path, target: Path, *, link: bool = False) -> int:
    """Give a file a second place, for good; returns how many bytes were copied. link: see `share`."""
    how = share(source, target, link=link)
    if how == "link":
        return 0
    fd = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        mode = stat.S_IMODE(source.stat().st_mode)
        os.fchmod(fd, mode)
        os.fsync(fd)
        return os.fstat(fd).st_size if how == "copy" else 0
    finally:
        os.close(fd)


def _write_record(context: BuildContext, source: Path, old: Path) -> None:
    """Write the record of the build that made the files, with the places of this one."""
    spec = context.spec
    try:
        value = json.loads(source.read_bytes())
    except OSError as error:
        raise _Unreadable from error
    for file in value["artifacts"]:
        file["path"] = os.fspath(moved(Path(file["path"]), old, context.stem))
    value["inputs"]["spec"] |= {"output_dir": os.fspath(spec.output_dir), "proto": os.fspath(spec.proto)}
    value["inputs"]["proto"]["path"] = os.fspath(spec.proto)
    target = context.stem.with_name(context.stem.name + RECORD_SUFFIX)
    context.outputs.write(target, json.dumps(value, indent=2).encode() + b"\n")
