"""One asset unpacked beside its place: every member checked, the archive hashed, the mark written last.

Nothing is under its final name here. A staged directory that has its mark is complete, as the mark is the
last thing that is written to it; what a killed pull has left with one need not be fetched again.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from buildstep.assets import archive_check
from buildstep.assets.archive_check import LIMITS, check_entries
from buildstep.assets.interface import Asset, Details, Incoming
from buildstep.assets.mark import MARK, Mark, read_mark
from buildstep.assets.policy import Policy, Staged
from buildstep.errors import ImageError, StoreError
from buildstep.formats.unpack import unpack
from buildstep.system import space
from buildstep.system.digest import HashingReader
from buildstep.system.files import write_all
from buildstep.system.text import plural, shown_path
from buildstep.tree.entry import FileList, tree_digest

_PRIVILEGED = stat.S_ISUID | stat.S_ISGID
_CAPABILITY = b"security.capability"
_SHOWN = 5
_LARGE = 32 << 20


def stage(incoming: Incoming, asset: Asset, target: Path, place: Path, policy: Policy) -> Staged:
    """Unpack an asset into the new directory `target`, and return it with its mark.

    place: where it will be. Raises StoreError for bytes that are not what was pushed, ImageError for an
    archive that is refused, SigningError, OSError; `target` is then to be removed.
    """
    name, details = asset.name, incoming.details
    holds = archive_check.Policy(limits=policy.limits or LIMITS, links_out=policy.links_out)
    key = policy.verify(name, details) if policy.verify is not None else ""
    reader = HashingReader(cast(IO[bytes], incoming), "sha256")
    target.mkdir(mode=0o700)
    try:
        stream = cast(IO[bytes], reader)
        # A thread that expands ahead is for a large asset alone; else several are unpacked at once.
        ahead = details.size >= _LARGE
        entries = unpack(stream, target, privileged=policy.owners, limits=holds.limits, ahead=ahead)
    except ImageError as error:
        if space.cause_of(error) is None:
            # Bytes that were damaged are no bad archive: their digest tells which of the two it is.
            _digest(reader, asset, details)
        raise
    sha256 = _digest(reader, asset, details)
    check_entries(entries, holds)
    _check_place(asset, entries, place, replace=policy.replace)
    if policy.owners:
        _drop_privileges(target, entries)
    mark = Mark(
        file=name.file,
        sha256=sha256,
        size=details.size,
        etag=asset.etag,
        modified=asset.modified,
        store=policy.store,
        entries=len(entries),
        tree=tree_digest(entries),
        installed=time.time(),
        key=key,
    )
    _write_mark(target, mark, entries[b""].mtime)
    return Staged(asset, os.fspath(target), mark)


def _digest(reader: HashingReader, asset: Asset, details: Details) -> str:
    """Return the digest of the whole archive. Raises StoreError if it is not what was pushed."""
    found = reader.finish()
    what = asset.name.file
    if asset.size != details.size:
        raise StoreError(f"{what} was replaced by another one just now", hint="pull again", retryable=True)
    if found.size != details.size:
        raise StoreError(f"{what} came with {found.size} of {details.size} bytes", retryable=True)
    if details.sha256 and found.sha256 != details.sha256:
        raise StoreError(
            f"{what} is damaged: its sha256 is {found.sha256}, and {details.sha256} was pushed",
            hint="`buildstep assets verify` looks at all of them; push it again with --replace",
        )
    return found.sha256


def _check_place(asset: Asset, entries: FileList, place: Path, *, replace: bool) -> None:
    """Raise StoreError where an asset must not be put: it has a file with our name, or others' files go."""
    what = asset.name.file
    if os.fsencode(MARK) in entries:
        raise ImageError(f"{what} has a member {MARK}, which is the name of our own mark")
    if replace or not os.path.lexists(place) or read_mark(place) is not None:
        return
    known = {*entries, os.fsencode(MARK)}
    lost = [path for path in _paths(place) if path not in known]
    if lost:
        raise StoreError(
            f"{place} is there without a mark, and has {plural(len(lost), 'path')} that {what} does not have",
            detail="\n".join(f"  {shown_path(path)}" for path in lost[:_SHOWN]),
            hint="move them elsewhere, or give --replace-unmarked if they may go",
        )


def _paths(top: Path) -> Iterator[bytes]:
    """Yield the paths of all that is below a directory, in no order."""
    todo = [b""]
    while todo:
        folder = todo.pop()
        with os.scandir(os.path.join(os.fsencode(top), folder)) as entries:
            for entry in entries:
                path = os.path.join(folder, entry.name)
                yield path
                if entry.is_dir(follow_symlinks=False):
                    todo.append(path)


def _drop_privileges(target: Path, entries: FileList) -> None:
    """Take setuid, setgid and capabilities from files, as daybook does: an asset runs as its service's user,
    and who may push one is not root on the hosts."""
    for path, entry in entries.items():
        if entry.kind != "f":
            continue
        full = os.path.join(os.fsencode(target), path)
        if entry.mode & _PRIVILEGED:
            os.chmod(full, entry.mode & ~_PRIVILEGED)
        if any(name == _CAPABILITY for name, _ in entry.xattrs):
            os.removexattr(full, _CAPABILITY)


def _write_mark(target: Path, mark: Mark, time_ns: int) -> None:
    """Write the mark into a staged directory, whose time stays that of the asset."""
    fd = os.open(target / MARK, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        write_all(fd, mark.dumps())
    finally:
        os.close(fd)
    os.utime(target, ns=(time_ns, time_ns))
