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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from buildstep import process
from buildstep.errors import BuildstepError, Fault, SpecError
from buildstep.events import Bus
from buildstep.filelist import Entry, FileList
from buildstep.fsutil import Root


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

    def entry_owner(self, entry: Entry) -> tuple[int, int]:
        """For trees whose owners cannot be set: what to record for an entry that the build made."""
        ids = self.of(os.fsdecode(entry.path))
        return (entry.uid, entry.gid) if ids is None else ids


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
    process.which("rsync", hint="install it: apt-get install rsync")
    plan = parts(proto, root)
    tell_changed_modes(proto, root, plan, bus)
    top = root.path.stat()
    for part in plan:
        rules = rules_below(exclude, part.source)
        if rules is None:
            continue
        inner = [
            other.source
            for other in plan
            if other.source != part.source and _below(other.source, part.source)
        ]
        argv = ["rsync", "-rlptD", "--hard-links", "--sparse", "--numeric-ids", "--xattrs"]
        # Size and time alone do not tell whether a file of the base is the proto's.
        argv.append("--ignore-times")
        if privileged:
            argv += ["--owner", "--group", "--acls"]
            ids = rule.rules[0][1]
            if rule.uniform and ids is not None:
                argv.append(f"--chown={ids[0]}:{ids[1]}")
        if verbose:
            argv.append("--verbose")
        argv += [f"--exclude=/{_literal(path.removeprefix(part.source).lstrip('/'))}" for path in inner]
        argv += [f"--exclude={pattern}" for pattern in rules]
        target = root.host_path("/" + part.target)
        assert target is not None
        argv += ["--", f"{os.fspath(proto / part.source)}/", f"{os.fspath(target)}/"]
        process.run(
            argv,
            line=lambda text: bus.output("rsync", text),
            timeout=timeout,
            what="copying the proto directory",
            hint=_HINTS.get("any", ""),
        )
    if privileged and not rule.uniform:
        _apply_owners(proto, root, plan, rule)
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


def target_of(path: bytes, plan: Sequence[Part]) -> bytes:
    """Where a path of the proto directory goes. plan: as `parts` gives it."""
    best, length = plan[0], -1
    for part in plan:
        source = os.fsencode(part.source)
        if len(source) > length and (path == source or path.startswith(source + b"/" if source else b"")):
            best, length = part, len(source)
    rest = path[len(os.fsencode(best.source)) :].lstrip(b"/")
    return b"/".join(piece for piece in (os.fsencode(best.target), rest) if piece)


def lay(entries: FileList, plan: Sequence[Part], rule: OwnerRule) -> FileList:
    """The proto directory's entries as they will be in the image: their paths and owners.

    The same as what `sync` leaves in a tree, without copying anything. Directories that the base has
    behind a link (all parts but the first) keep what the proto says of them.
    """
    mapped = len(plan) > 1
    single = rule.rules[0][1] if rule.uniform else None
    found: FileList = {}
    for path, entry in entries.items():
        if mapped:
            entry.path = target_of(path, plan)
            if entry.first:
                entry.first = target_of(entry.first, plan)
        ids = single if rule.uniform else rule.of(os.fsdecode(path))
        if ids is not None:
            entry.uid, entry.gid = ids
        entry.text = b""
        found[entry.path] = entry
    if mapped:
        _relead(found)
    return found


def _relead(entries: FileList) -> None:
    """Hard-link groups whose paths were mapped: the first by its new path leads."""
    groups: dict[bytes, list[bytes]] = {}
    for path, entry in entries.items():
        if entry.first:
            groups.setdefault(entry.first, [entry.first]).append(path)
    for members in groups.values():
        leader = min(members)
        for path in members:
            entries[path].first = b"" if path == leader else leader
            entries[path].text = b""


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


def _apply_owners(proto: Path, root: Root, plan: Sequence[Part], rule: OwnerRule) -> None:
    targets = sorted(plan, key=lambda part: len(part.source), reverse=True)
    for folder, folders, files in os.walk(proto):
        relative = os.path.relpath(folder, proto).removeprefix(".").lstrip("/")
        for name in [*folders, *files, *([""] if not relative else [])]:
            path = f"{relative}/{name}".strip("/")
            ids = rule.of(path)
            if ids is None or not path:
                continue
            part = next(p for p in targets if path == p.source or _below(path, p.source))
            there = f"{part.target}/{path.removeprefix(part.source).lstrip('/')}".strip("/")
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
