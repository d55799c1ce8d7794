"""Where a member of an archive belongs: a path from the root, the links of its parents followed inside it.

As container runtimes do it (containerd's `archive.Apply` with `fs.RootPath`): `/app`, `//app` and `./app` are
one name, and with a link `lib -> usr/lib`, or `lib -> /usr/lib`, `lib/x` is `usr/lib/x`. They let a way that
leads out end at the root; here it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

from buildstep.system.text import shown_path
from buildstep.tree.entry import LONGEST, Entry

_MAX_NAME = 255
_MAX_LINKS = 40
"""Links that one name may lead through: Linux's own limit (path_resolution(7))."""


class MemberFault(Exception):
    """Raised for a member that must not be extracted; the text says why."""


def clean_path(name: bytes) -> bytes:
    """Return a member's name as a path from the root, without `/` in front, `./`, `..` and such.

    Raises MemberFault for one that leads out of the root, or that no file system takes.
    """
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise MemberFault("a name that leads out of the root")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    if b"\0" in name:
        raise MemberFault("a name with a NUL byte")
    return _checked(parts)


def _checked(parts: list[bytes]) -> bytes:
    if any(len(part) > _MAX_NAME for part in parts):
        raise MemberFault("a name that is too long for a file system")
    path = b"/".join(parts)
    if len(path) > LONGEST:
        raise MemberFault(f"a path of {len(path)} bytes, and an image can have {LONGEST}")
    return path


def inside(path: bytes, found: Mapping[bytes, Entry]) -> bytes:
    """Return a clean path with the links among its parents followed; the last name itself is not.

    found: what is in the tree by now; all parents of each path in it are directories in it as well. What is
    missing in the tree is taken for a directory that will be made. Nothing is looked up on the host.
    Raises MemberFault for a link that leads out of the root, and for links in a circle.
    """
    parent, _, name = path.rpartition(b"/")
    known = found.get(parent)
    if not parent or (known is not None and known.kind == "d"):
        return path
    done: list[bytes] = []
    todo = parent.split(b"/")[::-1]
    link = b""
    followed = 0
    while todo:
        part = todo.pop()
        if part == b"..":
            if not done:
                target = shown_path(found[link].target)
                raise MemberFault(
                    f"through the symbolic link {shown_path(link)} -> {target}, out of the root"
                )
            done.pop()
        elif part not in (b"", b"."):
            done.append(part)
            at = b"/".join(done)
            known = found.get(at)
            if known is not None and known.kind == "l":
                link = at
                followed += 1
                if followed > _MAX_LINKS:
                    raise MemberFault(f"through more than {_MAX_LINKS} symbolic links, at {shown_path(link)}")
                done = [] if known.target.startswith(b"/") else done[:-1]
                todo += known.target.split(b"/")[::-1]
    return _checked([*done, name])
