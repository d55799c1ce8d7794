"""The lock of an m.json: the base image and the package files that its image is made of, one by one.

    NAME.lock.json             beside NAME.json or NAME.json.j2
    NAME.VARIANT.lock.json     of a profile, or of a platform that a build is told on its command line

`buildstep lock` writes it; a build takes exactly what is in it. `docs/reference/lock.md` describes the JSON;
the fields here have its names and its order.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from buildstep.errors import Fault, SpecError
from buildstep.spec import schema
from buildstep.spec.schema import BOOLEAN, array, choice, integer, mapping, record, text
from buildstep.system.digest import sha256_bytes
from buildstep.system.files import atomic_write

FORMAT: Final = "buildstep.lock"
FORMAT_VERSION: Final = 1

_ENDINGS: Final = (".json.j2", ".json", ".j2")


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedPackage:
    """A package file. name: as its package manager names it, with `:ARCH` for another architecture than the
    image's; file: its path in the repository; origin: the repository's own name and suite; priority: as the
    repository has it, where a base image is made of it."""

    name: str
    version: str
    arch: str
    sha256: str
    size: int
    file: str
    repository: str
    origin: str = ""
    priority: str = ""

    @property
    def uri(self) -> str:
        """Where the repository has it."""
        return f"{self.repository.rstrip('/')}/{self.file}"

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeOf:
    """What a root of a suite was made of. epoch: the SOURCE_DATE_EPOCH by which it can be made again; newest:
    the latest date of its Release files, and so of anything in it, 0 where that was not settled; sources: its
    lists of sources, by path; packages: none where that could not be found out."""

    epoch: int = 0
    newest: int = 0
    sources: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[LockedPackage, ...] = ()

    @classmethod
    def from_json(cls, value: Any) -> MadeOf:
        """Return what `asdict` made JSON of."""
        return cls(**{**value, "packages": _packages(value["packages"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedBase:
    """A base image. key: its identity in a store of images; digest: of its manifest, where it is from a
    registry or an OCI layout; release: a digest over the Release files that it was made from; sources: its
    sources of packages, by path; epoch: the SOURCE_DATE_EPOCH by which it is made again; newest: the latest
    date of these files; packages: what it is made of, where it was made of a suite."""

    label: str
    key: str
    uuid: str
    tree_digest: str
    digest: str = ""
    release: str = ""
    epoch: int = 0
    newest: int = 0
    sources: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[LockedPackage, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a lock is an answer to. files: SHA-256 of packages that are files, by how they are given;
    repositories: in one line each; platform: such as linux/amd64."""

    image: str
    packages: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    repositories: tuple[str, ...] = ()
    hold: tuple[str, ...] = ()
    upgrade_first: bool = False
    recommends: bool = False
    installer: str = "auto"
    platform: str = ""

    def differences(self, now: Asked) -> list[str]:
        """Return what is asked now in another way, for people."""
        found = []
        for item in dataclasses.fields(self):
            old, new = getattr(self, item.name), getattr(now, item.name)
            if kind := _LISTS.get(item.name):
                old, new = set(old), set(new)
                found += [f"the {kind} {name} is not in it" for name in sorted(new - old)]
                found += [f"the {kind} {name} is asked for no more" for name in sorted(old - new)]
            elif item.name == "files":
                changed = (name for name in sorted(new) if name in self.packages)
                found += [
                    f"the package file {name} is another one"
                    for name in changed
                    if old.get(name) != new[name]
                ]
            elif old != new:
                found.append(f"{item.name} is {_shown(new)}, and was {_shown(old)}")
        return found


_LISTS: Final = {"packages": "package", "repositories": "repository", "hold": "held package"}
"""What is asked for in any order, and what an entry of it is."""


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """A lock. date: when it was made, as a dated mirror names it (20260102T030405Z); installer: the package
    manager; removed: packages of the base that an install removes; tools: programs and their versions.

    path and sha256: of the file that it was read from; neither is in the JSON.
    """

    asked: Asked
    base: LockedBase
    date: str
    installer: str = ""
    packages: tuple[LockedPackage, ...] = ()
    removed: tuple[str, ...] = ()
    tools: Mapping[str, str] = field(default_factory=dict)
    path: Path = field(default=Path(), compare=False)
    sha256: str = field(default="", compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the file."""
        value = asdict(self)
        del value["path"], value["sha256"]
        value["packages"] = [_row(package) for package in self.packages]
        value["base"]["packages"] = [_row(package) for package in self.base.packages]
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **value}

    def base_reference(self) -> str:
        """Return the reference by which the base image can be had, and never another one in its place."""
        scheme, _, rest = self.base.key.partition(":")
        if scheme == "image":
            return rest
        if scheme == "docker" and (found := re.match("[a-z0-9]+:[0-9a-f]{32,}", rest)):
            name = re.sub(r"(@[^/@]*|:[^/:]*)$", "", self.asked.image)
            return f"{name}@{found[0]}"
        return self.asked.image

    def versions(self) -> dict[str, str]:
        """Return what an install of it brings: versions by name, "" for a package that goes."""
        return {row.name: row.version for row in self.packages} | dict.fromkeys(self.removed, "")

    def packages_digest(self) -> str:
        """Return a digest over the package files of an install; nothing else of a lock decides that."""
        rows = sorted((row.name, row.version, row.sha256) for row in self.packages)
        return sha256_bytes(json.dumps([rows, sorted(self.removed)]).encode())


def _row(package: LockedPackage) -> dict[str, Any]:
    return {name: value for name, value in asdict(package).items() if value or name not in _MAY_LACK}


_MAY_LACK: Final = ("origin", "priority")
_LINE = text(r"[^\x00-\x1f\x7f]*", say="one line", least=0)
_WORD = text(r"[^\x00-\x20\x7f]+", say="text without spaces")
_SHA256 = text("[0-9a-f]{64}", say="a SHA-256 in hex")
_PACKAGE = record(
    {
        "name": text(r"[A-Za-z0-9][A-Za-z0-9+._-]*(:[a-z0-9-]+)?", say="the name of a package"),
        "version": text(r"[A-Za-z0-9.+:~_-]+", say="a version"),
        "arch": text("[a-z0-9-]+", say="an architecture"),
        "sha256": _SHA256,
        "size": integer(0, 2**53),
        # The last part names a file in the cache; no part leads out of a mirror's directory.
        "file": text(r"(?!(?:.*/)?\.\.(?:/|$))(?!/)[^\x00-\x20\x7f?#]+", say="a path in a repository"),
        "repository": text(r"[a-z][a-z0-9+.-]*:[^\x00-\x20\x7f]*", say="the address of a repository"),
        "origin": _LINE,
        "priority": text("[a-z]*", say="a priority", least=0),
    },
    required=("name", "version", "arch", "sha256", "size", "file", "repository"),
)
_DIGEST = text("([a-z0-9]+:)?[0-9a-f]{32,128}|", say="a digest", least=0)
RULE: Final = record(
    {
        "format": choice([FORMAT]),
        "format_version": choice([FORMAT_VERSION]),
        "asked": record(
            {
                "image": _LINE,
                "packages": array(_WORD),
                "files": mapping(_SHA256, keys=_LINE),
                "repositories": array(_LINE),
                "hold": array(_WORD),
                "upgrade_first": BOOLEAN,
                "recommends": BOOLEAN,
                "installer": _WORD,
                "platform": _LINE,
            },
            required=("image", "packages"),
        ),
        "base": record(
            {
                "label": _LINE,
                "key": text(r"[^\x00-\x1f\x7f]+", say="one line"),
                "uuid": _WORD,
                "tree_digest": _DIGEST,
                "digest": _DIGEST,
                "release": _DIGEST,
                "epoch": integer(0, 2**40),
                "newest": integer(0, 2**40),
                "sources": mapping(
                    text(least=0),
                    keys=text(r"/etc/apt/sources\.list(\.d/[A-Za-z0-9_.-]+)?", say="a list of sources"),
                ),
                "packages": array(_PACKAGE),
            },
            required=("label", "key", "uuid", "tree_digest"),
        ),
        "date": text("[0-9]{8}T[0-9]{6}Z", say="a time such as 20260102T030405Z"),
        "installer": _LINE,
        "packages": array(_PACKAGE),
        "removed": array(_WORD),
        "tools": mapping(_LINE, keys=_LINE),
    },
    required=("format", "format_version", "asked", "base", "date", "packages"),
)
"""Of the JSON of a lock."""


def path_of(source: str, cwd: Path, variants: Sequence[str] = ()) -> Path | None:
    """Return where the lock of an m.json is. source: as `Document.source` has it; None for one of no file."""
    words = [re.sub("[^A-Za-z0-9_-]+", "-", word) for word in variants]
    for ending in _ENDINGS:
        if source.endswith(ending):
            return cwd / ".".join([source.removesuffix(ending), *words, "lock.json"])
    return None


def read(path: Path) -> Lock | None:
    """Return the lock in a file; None where there is none. Raises SpecError with every fault of it."""
    if not path.exists():
        return None
    content = schema.read_file(str(path))
    value = schema.parse(content, str(path))
    if faults := [*schema.check(value, RULE, "$"), *_twice(value)]:
        raise SpecError(str(path), faults)
    assert isinstance(value, dict)
    base, asked = value["base"], value["asked"]
    return Lock(
        asked=Asked(**{**asked, **{name: tuple(asked.get(name, ())) for name in _LISTS}}),
        base=LockedBase(**{**base, "packages": _packages(base.get("packages", ()))}),
        date=value["date"],
        installer=value.get("installer", ""),
        packages=_packages(value["packages"]),
        removed=tuple(value.get("removed", ())),
        tools=value.get("tools", {}),
        path=path,
        sha256=sha256_bytes(content.encode()),
    )


def _packages(rows: Any) -> tuple[LockedPackage, ...]:
    return tuple(LockedPackage(**{**row, "size": int(row["size"])}) for row in rows)


def _twice(value: object) -> list[Fault]:
    """Return a fault for each package that is there twice: which of them is meant cannot be known."""
    if not isinstance(value, dict):
        return []
    found = []
    base = value.get("base")
    for where, rows in (
        ("$.packages", value.get("packages")),
        ("$.base.packages", base.get("packages") if isinstance(base, dict) else None),
    ):
        names = set()
        for index, row in enumerate(rows if isinstance(rows, list) else ()):
            name = row.get("name") if isinstance(row, dict) else None
            if isinstance(name, str) and name in names:
                found.append(Fault(where=schema.at(where, index), message=f"{name} is there twice"))
            names.add(name if isinstance(name, str) else "")
    return found


def write(path: Path, lock: Lock) -> None:
    """Write a lock. Raises OSError."""
    with atomic_write(path, mode=0o644) as stream:
        stream.write(schema.render(lock.to_json()).encode())
