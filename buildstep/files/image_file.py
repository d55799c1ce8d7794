"""Images of file systems of the tree of a list: EROFS and squashfs, made by their own tools, and mounted.

The same list gives the same bytes, from the same version of the tool: the time of the image is the latest of
the list (SOURCE_DATE_EPOCH, which both tools know), its UUID comes from the tree digest. EROFS keeps all that
a list says; squashfs has no ACLs, no hard links of symbolic links, and times in whole seconds.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from buildstep.errors import StoreError, ToolMissing, UsageError
from buildstep.files.checkout import checkout
from buildstep.files.checkout_options import Options, Report, refuse_losses
from buildstep.files.content import ContentStore
from buildstep.report.progress import Begin, unseen
from buildstep.system import process
from buildstep.system.files import atomic_write, copy_range
from buildstep.system.mount_table import mounts
from buildstep.tree.entry import FileList, tree_digest

_SPACE = uuid.UUID("6b0e5f0a-6d4c-5a0b-9f0e-3f1d0c0a8e52")
"""Makes UUIDs of file systems of tree digests (RFC 9562, version 5)."""

Argv = Callable[[Path, Path, str], list[str]]
"""Returns the command that makes an image, given the image, the tree and the UUID."""


def _erofs(image: Path, tree: Path, ident: str) -> list[str]:
    return ["mkfs.erofs", "--quiet", "-zlz4", "-U", ident, os.fspath(image), os.fspath(tree)]


def _squashfs(image: Path, tree: Path, _ident: str) -> list[str]:
    flags = ["-noappend", "-quiet", "-no-progress", "-comp", "zstd", "-exit-on-error"]
    return ["mksquashfs", os.fspath(tree), os.fspath(image), *flags]


KINDS: dict[str, Argv] = {"erofs": _erofs, "squashfs": _squashfs}
"""Kind of file system, as the kernel and the end of a file's name say it."""


def kind_of(dest: Path) -> str | None:
    """Return the kind of the image that a name asks for; None for a directory."""
    kind = dest.suffix.removeprefix(".")
    return kind if kind in KINDS and not dest.is_dir() else None


def make(
    store: ContentStore, entries: FileList, dest: Path, options: Options, begin: Begin = unseen
) -> Report:
    """Write the image of a list to a file, which has its name when it is complete; return what is in it.

    options: of these mtime, strict and dry_run. Raises UsageError for others, ToolMissing, CommandFailed, and
    as `checkout`.
    """
    kind = kind_of(dest)
    assert kind is not None, dest
    if options.update or options.swap or options.hardlink or options.check_content:
        raise UsageError(f"{dest} is an image, which is written as a whole", hint="leave these options out")
    with made(store, entries, kind, options, begin) as (image, report):
        if not options.dry_run:
            dest.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(dest, mode=0o644) as stream, image.open("rb") as source:
                copy_range(source.fileno(), stream.fileno(), os.fstat(source.fileno()).st_size)
    return report


@contextlib.contextmanager
def made(
    store: ContentStore, entries: FileList, kind: str, options: Options, begin: Begin = unseen
) -> Iterator[tuple[Path, Report]]:
    """Make an image in a temporary place, for the length of a block. Raises as `make`."""
    argv = KINDS[kind]
    process.which(argv(Path(), Path(), "")[0])
    with contextlib.ExitStack() as stack:
        spool = stack.enter_context(_spool(store))
        tree, image = spool / "tree", spool / f"image.{kind}"
        report = checkout(store, entries, tree, replace(options, strict=False), begin)
        if kind == "squashfs":
            report.left_out.update(_not_in_squashfs(entries))
        if options.strict:
            refuse_losses(report, os.fspath(image))
        if not options.dry_run:
            latest = max((entry.mtime for entry in entries.values()), default=0)
            epoch = max(0, (latest if options.mtime is None else options.mtime) // 10**9)
            ident = str(uuid.uuid5(_SPACE, tree_digest(entries)))
            env = process.base_env(os.environ, SOURCE_DATE_EPOCH=str(epoch))
            process.run(argv(image, tree, ident), env=env, what=f"making an image of {kind}")
        yield image, report


@contextlib.contextmanager
def _spool(store: ContentStore) -> Iterator[Path]:
    """Yield a directory on the store's own file system, whose blocks the tree can share, or another one."""
    if store.storage.root is not None and store.storage.writable:
        with store.storage.spool() as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory(prefix="buildstep-image-") as name:
        yield Path(name)


def _not_in_squashfs(entries: FileList) -> Iterator[str]:
    for entry in entries.values():
        if entry.kind == "l" and entry.first:
            yield "hard links of symbolic links"
        for name, _ in entry.xattrs:
            if name.startswith(b"system."):
                yield "system attributes"


# -- mounting ----------------------------------------------------------------------------------------------


def mount(
    store: ContentStore,
    entries: FileList,
    folder: Path,
    *,
    kind: str | None = None,
    trusted: bool = False,
    begin: Begin = unseen,
) -> tuple[str, Report]:
    """Mount the tree of a list, read-only, by a loop device; return its kind, and what is in it.

    kind: None for the one whose tool is there. trusted: setuid programs and devices work in it. The image
    has no name any more: its room is free again when it is unmounted. Raises as `make`, UsageError.
    """
    if os.geteuid() != 0:
        raise UsageError("mounting needs root", hint="`buildstep files get LIST DIR` needs nobody")
    if os.path.ismount(folder):
        raise UsageError(f"{folder} is a mount point already", hint=f"`buildstep files umount {folder}`")
    kind = kind or _usable()
    folder.mkdir(parents=True, exist_ok=True)
    flags = "loop,ro" if trusted else "loop,ro,nosuid,nodev"
    with made(store, entries, kind, Options(), begin) as (image, report):
        process.run(["mount", "-t", kind, "-o", flags, "--", os.fspath(image), os.fspath(folder)])
    return kind, report


def _usable() -> str:
    found = [kind for kind, argv in KINDS.items() if process.find(argv(Path(), Path(), "")[0])]
    if not found:
        raise ToolMissing(
            "neither mkfs.erofs nor mksquashfs is installed", hint="install it: apt-get install erofs-utils"
        )
    return found[0]


def unmount(folder: Path) -> None:
    """Unmount what `mount` has mounted. Raises StoreError for anything else, CommandFailed if it is busy."""
    point = os.path.realpath(folder)
    found = [it for it in mounts() if it.point == point]
    if not found or found[-1].kind not in KINDS:
        raise StoreError(f"no list is mounted at {folder}", hint="`findmnt` shows what is mounted")
    process.run(["umount", "--", point])
