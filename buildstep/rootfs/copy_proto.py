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
from pathlib import Path

from buildstep.events import Bus
from buildstep.rootfs.owners import OwnerRule, apply_owners, hard_link_groups
from buildstep.rootfs.placement import Part, is_below, part_of, parts, target_of
from buildstep.system import host, process
from buildstep.system.root import Root


def brought_by(proto: Path, root: Root, paths: Iterable[bytes]) -> dict[bytes, bytes]:
    """Where paths of the proto directory have gone, by where they are in the root."""
    plan = parts(proto, root)
    return {target_of(path, part_of(path, plan)): path for path in paths}


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
            if other.source != part.source and is_below(other.source, part.source)
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
        apply_owners(proto, root, copied, rule)
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


def _link_across(proto: Path, root: Root, copied: Mapping[str, str]) -> None:
    """Put hard-link groups together again whose members were laid by different runs of rsync."""
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
