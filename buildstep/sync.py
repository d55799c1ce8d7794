"""Lay a proto directory on an image's root with rsync, inside the root whatever links either holds.

rsync never follows a link below the directory it is told to write to. Where the base has a link to a
directory and the proto has a directory of that name (a merged /usr has several), the proto's content
belongs behind the link: that part is copied by a run of its own to where the link leads inside the root.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from buildstep.errors import BuildstepError, Fault, SpecError
from buildstep.events import Bus
from buildstep.system import host, process
from buildstep.system.root import Root
from buildstep.tree.entry import Entry, FileList
from buildstep.tree.scan import Owner, link_groups, plain_mode


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the proto directory and where it goes: paths without a leading slash, "" for the top."""

    source: str
    target: str


def parts(proto: Path, root: Root) -> list[Part]:
    """How the proto directory is laid on this root, the top first."""
    found = [Part("", "")]
    _find_parts(proto, root, "", "", found)
    return found


def _find_parts(proto: Path, root: Root, source: str, target: str, found: list[Part]) -> None:
    with os.scandir(proto / source) as listing:
        folders = sorted(item.name for item in listing if item.is_dir(follow_symlinks=False))
    for name in folders:
        below, there = f"{source}/{name}".lstrip("/"), f"{target}/{name}".lstrip("/")
        info = root.lstat(there)
        if info is None:
            continue
        if stat.S_ISLNK(info.st_mode):
            real = root.real(there)
            if real is None or not root.is_dir(real):
                continue  # rsync puts the proto's directory in place of a link that leads nowhere
            there = real.lstrip("/")
            found.append(Part(below, there))
        elif not stat.S_ISDIR(info.st_mode):
            continue
        _find_parts(proto, root, below, there, found)


@dataclass(frozen=True, slots=True)
class OwnerRule:
    """Who owns what comes from the proto directory: patterns to (uid, gid), the first match wins.

    None instead of numbers keeps the proto's own owner.
    """

    rules: tuple[tuple[str, tuple[int, int] | None], ...]

    def of(self, path: str) -> tuple[int, int] | None:
        for pattern, ids in self.rules:
            plain = pattern.strip("/")
            if fnmatch.fnmatchcase(path, plain) or path.startswith(plain.removesuffix("/**") + "/"):
                return ids
        return (0, 0)

    @property
    def uniform(self) -> bool:
        """Whether one owner is right for everything."""
        return len(self.rules) == 1 and self.rules[0][0] == "*"


def recorded(rule: OwnerRule, base: FileList, brought: Mapping[bytes, bytes]) -> Owner:
    """What to record for entries of a tree whose owners could not be set when it was made.

    base: the tree that it began as. brought: paths that came from the proto directory, each with its path
    there. What the base had keeps its owner, and the mode and attributes that could not be set.
    """

    def owner(entry: Entry) -> tuple[int, int]:
        if entry.path in brought:
            ids = rule.of(os.fsdecode(brought[entry.path]))
            return (entry.uid, entry.gid) if ids is None else ids
        old = base.get(entry.path)
        if old is None or old.kind != entry.kind:
            return (0, 0)
        if entry.mode == plain_mode(old):
            entry.mode = old.mode
        there = tuple(pair for pair in entry.xattrs if pair[0].startswith(b"user."))
        kept = tuple(pair for pair in old.xattrs if not pair[0].startswith(b"user."))
        entry.xattrs = tuple(sorted(there + kept))
        return old.uid, old.gid

    return owner


def brought_by(proto: Path, root: Root, paths: Iterable[bytes]) -> dict[bytes, bytes]:
    """Where paths of the proto directory have gone, by where they are in the root."""
    plan = parts(proto, root)
    return {target_of(path, part_of(path, plan)): path for path in paths}


def owner_rule(owner: Mapping[str, str], root: Root) -> OwnerRule:
    """Resolve names with the image's own passwd and group. Raises SpecError naming every unknown one."""
    faults: list[Fault] = []
    rules = [
        (pattern, _ids(value, root, f"$.build.owner[{pattern!r}]", faults))
        for pattern, value in owner.items()
    ]
    if faults:
        raise SpecError("owner", faults)
    return OwnerRule(tuple(rules))


def _ids(owner: str, root: Root, where: str, faults: list[Fault]) -> tuple[int, int] | None:
    if owner == "keep":
        return None
    user, _, group = owner.partition(":")
    group = group or user
    uid = _lookup(user, root, "/etc/passwd")
    gid = _lookup(group, root, "/etc/group")
    for name, found, what in ((user, uid, "user"), (group, gid, "group")):
        if found is None:
            hint = "use a number, or order packages-first if a package adds it"
            faults.append(Fault(where=where, message=f"the image has no {what} {name!r}", hint=hint))
    return (uid or 0, gid or 0)


def _lookup(name: str, root: Root, table: str) -> int | None:
    if re.fullmatch(r"[0-9]+", name):
        return int(name)
    if name == "root":
        return 0
    try:
        text = root.read(table).decode(errors="replace")
    except (OSError, BuildstepError):
        return None
    for row in text.splitlines():
        fields = row.split(":")
        if len(fields) > 2 and fields[0] == name and fields[2].isdigit():
            return int(fields[2])
    return None


def sync(
    proto: Path,
    root: Root,
    *,
    rule: OwnerRule,
    exclude: Sequence[str],
    privileged: bool,
    bus: Bus,
    verbose: bool = False,
    timeout: float = 3600.0,
) -> None:
    """Copy the proto directory in. Raises CommandFailed for any status of rsync but 0."""
    process.which("rsync", hint=f"install it: {host.HERE.getting('rsync')}")
    plan = parts(proto, root)
    tell_changed_modes(proto, root, plan, bus)
    top = root.path.stat()
    # rsync tells what it has laid where: what is excluded is not ours to link or to give an owner.
    listing = len(plan) > 1 or (privileged and not rule.uniform)
    copied: dict[str, str] = {}
    for part in plan:
        rules = rules_below(exclude, part.source)
        if rules is None:
            continue
        inner = [
            other.source
            for other in plan
            if other.source != part.source and _below(other.source, part.source)
        ]
        argv = ["rsync", *host.HERE.rsync]
        # Size and time alone do not tell whether a file of the base is the proto's.
        argv.append("--ignore-times")
        if privileged:
            argv += ["--owner", "--group"]
            ids = rule.rules[0][1]
            if rule.uniform and ids is not None:
                argv.append(f"--chown={ids[0]}:{ids[1]}")
        if verbose and not listing:
            argv.append("--verbose")
        argv += [f"--exclude=/{_literal(path.removeprefix(part.source).lstrip('/'))}" for path in inner]
        argv += [f"--exclude={pattern}" for pattern in rules]
        if listing:
            argv += ["--itemize-changes", "--itemize-changes", "--out-format=%n"]
        target = root.host_path("/" + part.target)
        assert target is not None
        argv += ["--", f"{os.fspath(proto / part.source)}/", f"{os.fspath(target)}/"]
        done = process.run(
            argv,
            line=None if listing else lambda text: bus.output("rsync", text),
            timeout=timeout,
            what="copying the proto directory",
            hint=_HINTS.get("any", ""),
        )
        if listing:
            copied |= _laid(done.stdout, part)
    # Of two that went to one path the later one is there.
    copied = {source: target for target, source in {to: path for path, to in copied.items()}.items()}
    if len(plan) > 1:
        _link_across(proto, root, copied)
    if privileged and not rule.uniform:
        _apply_owners(proto, root, copied, rule)
    # The proto's own directory is not part of it: a private work folder must not make / private.
    root.path.chmod(stat.S_IMODE(top.st_mode))
    if privileged:
        os.chown(root.path, top.st_uid, top.st_gid)
    os.utime(root.path, ns=(top.st_atime_ns, top.st_mtime_ns))


def rules_below(patterns: Sequence[str], source: str) -> list[str] | None:
    """rsync's exclude rules as they read from a folder of the tree they were written for.

    None: the folder itself is excluded. A rule that rsync compares with a whole path would otherwise
    never match in a run that begins further down.
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
    """A rule's sign and the components of its pattern, which begins with `**` where it may match anywhere."""
    sign = pattern[:2] if pattern[:2] in ("+ ", "- ") else ""
    text = pattern.removeprefix(sign)
    words = text.strip("/").split("/")
    return sign, words if text.startswith("/") else ["**", *words]


def _rests(words: Sequence[str], steps: Sequence[str], *, eaten: bool = False) -> Iterator[Sequence[str]]:
    """What may be left of a pattern when a folder's components are matched; nothing: it is the folder's.

    eaten: whether the `**` that stands first has matched a component already.
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


_HINTS = {"any": "rsync's messages above name the file; nothing was shipped"}


def part_of(path: bytes, plan: Sequence[Part]) -> Part:
    """The part that lays a path of the proto directory. plan: as `parts` gives it."""
    fitting = [part for part in plan if path == (top := os.fsencode(part.source)) or _below_bytes(path, top)]
    return max(fitting, key=lambda part: len(part.source))


def target_of(path: bytes, part: Part) -> bytes:
    """Where a path of the proto directory goes."""
    rest = path[len(os.fsencode(part.source)) :].lstrip(b"/")
    return b"/".join(piece for piece in (os.fsencode(part.target), rest) if piece)


def _below_bytes(path: bytes, top: bytes) -> bool:
    return not top or path.startswith(top + b"/")


def lay(entries: FileList, plan: Sequence[Part], rule: OwnerRule) -> FileList:
    """The proto directory's entries as they will be in the image: their paths and owners.

    The same as what `sync` leaves in a tree, without copying anything. Directories that the base has
    behind a link (all parts but the first) keep what the proto says of them.
    """
    single = rule.rules[0][1] if rule.uniform else None
    for path, entry in entries.items():
        ids = single if rule.uniform else rule.of(os.fsdecode(path))
        if ids is not None:
            entry.uid, entry.gid = ids
        entry.text = b""
    found = _mapped(entries, plan) if len(plan) > 1 else dict(entries)
    for entry in found.values():
        if entry.first:  # a hard-link group has one owner: its first member decides
            entry.uid, entry.gid = found[entry.first].uid, found[entry.first].gid
    return found


def _mapped(entries: FileList, plan: Sequence[Part]) -> FileList:
    """Entries by where they go. Of two that go to one path the later part's wins, as it is laid last."""
    groups: dict[bytes, tuple[int, int]] = {}
    for entry in entries.values():
        if entry.first:
            groups[entry.path] = groups.setdefault(entry.first, (0, len(groups)))
    order = {part: number for number, part in enumerate(plan)}
    found: FileList = {}
    inodes: dict[bytes, tuple[int, int]] = {}
    for path, part in sorted(
        ((path, part_of(path, plan)) for path in entries), key=lambda row: order[row[1]]
    ):
        entry = entries[path]
        entry.path = target_of(path, part)
        found[entry.path] = entry
        inodes.pop(entry.path, None)
        if path in groups:
            inodes[entry.path] = groups[path]
    link_groups(found, inodes)
    return found


def conflicts(entries: FileList, base: FileList) -> list[bytes]:
    """Paths where the proto has something else than the base's non-empty directory: rsync refuses those."""
    clashing = [
        path
        for path, entry in entries.items()
        if entry.kind != "d" and path in base and base[path].kind == "d"
    ]
    return [path for path in clashing if any(other.startswith(path + b"/") for other in base)]


def _below(path: str, top: str) -> bool:
    return not top or path.startswith(top + "/")


def _literal(path: str) -> str:
    return re.sub(r"([\\*?\[\]])", r"\\\1", path) if re.search(r"[*?\[]", path) else path


def tell_changed_modes(proto: Path, root: Root, plan: Sequence[Part], bus: Bus) -> None:
    """A checkout has mode 755 everywhere; laid on /tmp that is a surprise worth a line."""
    for part in plan:
        for name in ("tmp", "var/tmp", "root"):
            source = proto / part.source / name
            if source.is_symlink() or not source.is_dir():
                continue
            there = root.lstat(f"{part.target}/{name}")
            mode = stat.S_IMODE(source.stat().st_mode)
            if there is not None and stat.S_ISDIR(there.st_mode) and stat.S_IMODE(there.st_mode) != mode:
                old = stat.S_IMODE(there.st_mode)
                bus.note(
                    f"the proto directory changes the mode of /{name} from {old:04o} to {mode:04o}",
                    level="warning",
                )


def _laid(listing: str, part: Part) -> dict[str, str]:
    """Path in the proto directory to path in the root, of all that a run of rsync told with `%n`."""
    found = {}
    for row in listing.splitlines():
        # rsync writes what is no character as \#ooo.
        raw = re.sub(rb"\\#([0-7]{3})", lambda m: bytes([int(m[1], 8)]), os.fsencode(row))
        name = os.fsdecode(raw).rstrip("/")
        if name not in ("", "."):
            found[f"{part.source}/{name}".lstrip("/")] = f"{part.target}/{name}".lstrip("/")
    return found


def _groups(proto: Path, copied: Mapping[str, str]) -> list[list[str]]:
    """The hard-link groups of the proto directory as paths in it, each sorted by its paths in the root."""
    found: dict[tuple[int, int], list[str]] = {}
    for path in sorted(copied, key=lambda path: os.fsencode(copied[path])):
        info = os.lstat(proto / path)
        if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
            found.setdefault((info.st_dev, info.st_ino), []).append(path)
    return [group for group in found.values() if len(group) > 1]


def _link_across(proto: Path, root: Root, copied: Mapping[str, str]) -> None:
    """Put hard-link groups together again whose members were laid by different runs of rsync."""
    for first, *others in _groups(proto, copied):
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


def _apply_owners(proto: Path, root: Root, copied: Mapping[str, str], rule: OwnerRule) -> None:
    # A hard-link group has one owner: its first member decides.
    decided = {path: group[0] for group in _groups(proto, copied) for path in group[1:]}
    for path, there in copied.items():
        ids = rule.of(path)
        if ids is None or path in decided:
            continue
        info = root.lstat(there)
        if info is None or (info.st_uid, info.st_gid) == ids:
            continue
        with root.parent(there) as (fd, last):
            _chown(last, fd, ids, info)


def _chown(name: str, fd: int, ids: tuple[int, int], info: os.stat_result) -> None:
    """lchown, and back what the kernel takes away with it: set-id bits and capabilities."""
    path = f"/proc/self/fd/{fd}/{name}"
    caps = None
    if stat.S_ISREG(info.st_mode):
        try:
            caps = os.getxattr(path, "security.capability", follow_symlinks=False)
        except OSError:
            caps = None
    os.chown(name, *ids, dir_fd=fd, follow_symlinks=False)
    if stat.S_ISREG(info.st_mode):
        os.chmod(name, stat.S_IMODE(info.st_mode), dir_fd=fd)
        if caps is not None:
            os.setxattr(path, "security.capability", caps, follow_symlinks=False)
