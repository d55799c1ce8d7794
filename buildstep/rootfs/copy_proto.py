"""Copy a proto directory into an image's root with rsync, and never out of it, whatever links there are.

rsync never follows a link below the directory that it writes to. Where the base has a link to a directory and
the proto has a directory of that name (a merged /usr has several), the proto's files belong behind the link:
a run of its own copies them to where the link leads inside the root (a placement).
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
import shlex
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from buildstep.errors import CommandFailed
from buildstep.events import Bus
from buildstep.rootfs.modes import ModeRule, apply_modes
from buildstep.rootfs.owners import OwnerRule, apply_owners, hard_link_groups, own_owner
from buildstep.rootfs.placement import Placement, placement_of
from buildstep.system import host, process
from buildstep.system.root import Root

_LISTING = 1 << 30
"""Bytes that rsync's list of what it copied may have: ten million paths."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CopyOptions:
    """How a proto directory is copied.

    rule: who owns the copies; modes: which modes they get; exclude: rsync's patterns; privileged: whether
    owners can be set; timeout: seconds for one run of rsync; only: the paths to copy, each with the
    directories that it is in; None for all of them.
    """

    rule: OwnerRule
    modes: ModeRule = field(default_factory=ModeRule)
    exclude: Sequence[str] = ()
    privileged: bool
    timeout: float = 3600.0
    only: Sequence[str] | None = None


def source_of(placements: Sequence[Placement], paths: Iterable[bytes]) -> dict[bytes, bytes]:
    """Return the paths of the proto directory by the place in the root where they were copied to."""
    found = {}
    for path in paths:
        name = os.fsdecode(path)
        found[os.fsencode(placement_of(name, placements).place(name))] = path
    return found


def copy(proto: Path, root: Root, placements: Sequence[Placement], options: CopyOptions, bus: Bus) -> None:
    """Copy the proto directory into a root, in which nothing stands in its way (`conflicts`).

    placements: where its directories go there. Raises CommandFailed for any status of rsync but 0.
    """
    process.which("rsync")
    if options.only is None:
        report_changed_modes(proto, root, placements, options.modes, bus)
    top = root.path.stat()
    owners_differ = options.privileged and not options.rule.uniform
    modes = options.modes if options.privileged else ModeRule()  # else they are only recorded
    # rsync lists what it copied, as excluded files are not ours to link or to give an owner.
    listing = len(placements) > 1 or owners_differ or bool(modes)
    copied: dict[str, str] = {}
    for placement in placements:
        flags = _flags(placement, placements, options)
        if flags is None:
            continue
        if listing:
            flags += ["--itemize-changes", "--itemize-changes", "--out-format=%n"]
        target = root.host_path("/" + placement.target)
        assert target is not None
        with _chosen(placement, placements, options) as only:
            words = [*flags, *only, "--", f"{proto / placement.source}/", f"{target}/"]
            listed = _rsync(words, options.timeout, bus)
        if listing:
            copied |= _listed(listed, placement)
    # Where two paths were copied to one place, the later one is there.
    copied = {source: target for target, source in {to: path for path, to in copied.items()}.items()}
    if len(placements) > 1:
        _link_across(proto, root, copied)
    if owners_differ:
        apply_owners(proto, root, copied, options.rule)
    if modes:
        apply_modes(proto, root, copied, modes)
    # The proto's own directory is not part of it: a private work directory must not make / private.
    root.path.chmod(stat.S_IMODE(top.st_mode))
    if options.privileged:
        os.chown(root.path, top.st_uid, top.st_gid)
    os.utime(root.path, ns=(top.st_atime_ns, top.st_mtime_ns))


@contextlib.contextmanager
def _chosen(
    placement: Placement, placements: Sequence[Placement], options: CopyOptions
) -> Iterator[list[str]]:
    """Yield the flags that make rsync copy only some of a placement's paths: what is in a directory that is
    named is not meant with it."""
    if options.only is None:
        yield []
        return
    mine = [path for path in options.only if placement_of(path, placements) == placement]
    inner = [path.removeprefix(placement.source).lstrip("/") for path in mine]
    with tempfile.NamedTemporaryFile(prefix="buildstep-") as listing:
        listing.write(b"".join(os.fsencode(path) + b"\0" for path in inner if path))
        listing.flush()
        yield ["--no-recursive", "--dirs", "--from0", f"--files-from={listing.name}"]


def _rsync(arguments: Sequence[str], timeout: float, bus: Bus) -> str:
    """Run rsync, and return what it listed. What else it says goes to the log.

    Raises CommandFailed, with nothing but rsync's errors in it: the first names what went wrong.
    """
    try:
        done = process.run(
            ["rsync", *arguments],
            limits=process.Limits(timeout, answer=_LISTING),
            what="copying the proto directory",
        )
    except CommandFailed as error:
        error.detail = f"{error.errors}\ncommand: {shlex.join(error.argv)}" if error.errors else error.detail
        error.hint = next((hint for cause, hint in _CAUSES if cause.search(error.errors)), _NO_CAUSE)
        raise
    for text in done.stderr.splitlines():
        bus.output("rsync", text)
    return done.stdout


_OTHER_POOL = "or use a pool on another file system"
_CAUSES = tuple(
    (re.compile(pattern), hint)
    for pattern, hint in {
        "failed to set times on ": "the pool's file system has no such time: set another with `touch`,"
        f" {_OTHER_POOL}",
        "set_acl": f"the pool's file system has no ACLs: take them away with `setfacl -b`, {_OTHER_POOL}",
        "rsync_xal_set": "the pool's file system has no such attributes: take them away with"
        f" `setfattr -x`, {_OTHER_POOL}",
        "File name too long": "the pool's file system has no names as long as that: shorten it,"
        f" {_OTHER_POOL}",
        r"\[sender\].*Permission denied": "whoever builds must be allowed to read all of the proto directory;"
        " `--exclude` leaves out what is not for the image",
    }.items()
)
"""What is in rsync's errors, by its sources up to 3.5 (generator.c, acls.c, xattrs.c, sender.c, flist.c), and
what can be done about each."""

_NO_CAUSE = "rsync's messages above name the file; no image was released"


def set_times(root: Root, times: Mapping[bytes, int]) -> None:
    """Give paths in a root these times (ns); what is not there is passed over."""
    folders: dict[bytes, list[bytes]] = {}
    for path in times:
        folders.setdefault(path.rpartition(b"/")[0], []).append(path)
    for paths in folders.values():
        with contextlib.suppress(FileNotFoundError), root.parent(os.fsdecode(paths[0])) as (folder, _):
            for path in paths:
                ns = (times[path], times[path])
                with contextlib.suppress(FileNotFoundError):
                    os.utime(path.rpartition(b"/")[2], ns=ns, dir_fd=folder, follow_symlinks=False)


def taken(proto: Path, exclude: Sequence[str], timeout: float) -> set[bytes]:
    """Return the paths of the proto directory that rsync takes: only it knows all of its patterns.

    timeout: seconds that it may take. Raises CommandFailed.
    """
    flags = [*host.HERE.rsync, "--dry-run", *(f"--exclude={pattern}" for pattern in exclude)]
    flags += ["--itemize-changes", "--itemize-changes", "--out-format=%n"]
    with tempfile.TemporaryDirectory(prefix="buildstep-") as nothing:
        listed = _rsync([*flags, "--", f"{proto}/", f"{nothing}/"], timeout, Bus())
    return set(map(os.fsencode, _listed(listed, Placement("", ""))))


def _flags(placement: Placement, placements: Sequence[Placement], options: CopyOptions) -> list[str] | None:
    """Return rsync's options for one placement; None if its directory is excluded."""
    rules = rules_below(options.exclude, placement.source)
    if rules is None:
        return None
    # Size and time alone do not tell whether a file of the base is the proto's.
    flags = [*host.HERE.rsync, "--ignore-times"]
    if options.privileged:
        flags += ["--owner", "--group"]
        ids = options.rule.rules[0][1]
        if options.rule.uniform and ids is not None:
            flags.append(f"--chown={ids[0]}:{ids[1]}")
        elif options.rule.keeps:
            own = own_owner(0, 0)
            flags += [f"--usermap=0:{own[0]}", f"--groupmap=0:{own[1]}"] if own != (0, 0) else []
    inner = [other.source for other in placements if other != placement and placement.covers(other.source)]
    flags += [f"--exclude=/{_literal(path.removeprefix(placement.source).lstrip('/'))}" for path in inner]
    return flags + [f"--exclude={pattern}" for pattern in rules]


def rules_below(patterns: Sequence[str], source: str) -> list[str] | None:
    """Rewrite rsync's exclude rules for a run that begins in a directory (`source`) of the proto directory.

    A rule that rsync compares with a whole path would never match in such a run. Returns None if the
    directory itself is excluded.
    """
    if not source:
        return list(patterns)
    steps = source.split("/")
    for depth in range(1, len(steps) + 1):
        for pattern in patterns:
            sign, words = _rule(pattern)
            if any(not rest for rest in _rests(words, steps[:depth])):
                if sign == "+ ":
                    break  # the first rule that matches decides
                return None
    found = []
    for pattern in patterns:
        sign, words = _rule(pattern)
        slash = "/" if pattern.endswith("/") else ""
        anywhere = not pattern.removeprefix(sign).startswith("/")
        rests = {"/".join(rest) for rest in _rests(words, steps) if rest}
        found += [f"{sign}/{rest}{slash}" for rest in sorted(rests) if not (anywhere and rest[:2] == "**")]
        if anywhere:
            found.append(pattern)
    return found


def _rule(pattern: str) -> tuple[str, list[str]]:
    """Return a rule's sign and the components of its pattern; `**` is the first if it may match anywhere."""
    sign = pattern[:2] if pattern[:2] in ("+ ", "- ") else ""
    text = pattern.removeprefix(sign)
    words = text.strip("/").split("/")
    return sign, words if text.startswith("/") else ["**", *words]


def _rests(words: Sequence[str], steps: Sequence[str], *, eaten: bool = False) -> Iterator[Sequence[str]]:
    """Yield what can be left of a pattern after a directory's components matched; empty: nothing is.

    eaten: whether the `**` at its start has matched a component already.
    """
    if list(words) == ["***"]:
        yield ()
    elif not steps:
        yield words
        if eaten and words:
            yield words[1:]
    elif not words:
        return
    elif words[0] == "**":
        yield from _rests(words, steps[1:], eaten=True)
        yield from _rests(words[1:], steps)
    elif fnmatch.fnmatchcase(steps[0], words[0]):
        yield from _rests(words[1:], steps[1:])


def _literal(path: str) -> str:
    return re.sub(r"([\\*?\[\]])", r"\\\1", path) if re.search(r"[*?\[]", path) else path


def report_changed_modes(
    proto: Path, root: Root, placements: Sequence[Placement], modes: ModeRule, bus: Bus
) -> None:
    """Warn where the proto directory changes the mode of /tmp and such: in a checkout all modes are 755."""
    for placement in placements:
        for name in ("tmp", "var/tmp", "root"):
            source = proto / placement.source / name
            if source.is_symlink() or not source.is_dir():
                continue
            there = root.lstat(f"{placement.target}/{name}")
            given = stat.S_IMODE(source.stat().st_mode)
            mode = modes.of(f"{placement.source}/{name}".lstrip("/"), given, "d")
            if there is not None and stat.S_ISDIR(there.st_mode) and stat.S_IMODE(there.st_mode) != mode:
                old = stat.S_IMODE(there.st_mode)
                bus.note(
                    f"the proto directory changes the mode of /{name} from {old:04o} to {mode:04o}",
                    level="warning",
                )


def _listed(listing: str, placement: Placement) -> dict[str, str]:
    """Return where each path of the proto directory was copied to, from what rsync listed with `%n`."""
    found = {}
    for row in listing.splitlines():
        # rsync writes what is no character as \#ooo.
        raw = re.sub(rb"\\#([0-7]{3})", lambda m: bytes([int(m[1], 8)]), os.fsencode(row))
        name = os.fsdecode(raw).rstrip("/")
        if name not in ("", "."):
            source = f"{placement.source}/{name}".lstrip("/")
            found[source] = placement.place(source)
    return found


def _link_across(proto: Path, root: Root, copied: Mapping[str, str]) -> None:
    """Join hard-link groups again whose members were copied by different runs of rsync."""
    for first, *others in hard_link_groups(proto, copied):
        with root.parent(copied[first]) as (source, name):
            leader = os.stat(name, dir_fd=source, follow_symlinks=False)
            for path in others:
                with root.parent(copied[path]) as (target, other):
                    there = os.stat(other, dir_fd=target, follow_symlinks=False)
                    if (there.st_dev, there.st_ino) == (leader.st_dev, leader.st_ino):
                        continue
                    folder = os.fstat(target)
                    os.unlink(other, dir_fd=target)
                    os.link(name, other, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
                    os.utime(target, ns=(folder.st_atime_ns, folder.st_mtime_ns))
