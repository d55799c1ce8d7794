"""A store of assets in memory, archives good and bad, and a pull of them."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from buildstep.assets.interface import Asset, AssetStore, Details
from buildstep.assets.names import Name, parse
from buildstep.assets.policy import Policy
from buildstep.assets.pull import Options, Report, pull
from buildstep.events import Bus
from buildstep.files.interface import Missing

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, **fields: Any) -> Member:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(data)
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def archive(*members: Member, pax: dict[str, str] | None = None) -> bytes:
    """A tar.gz of these members. pax: global headers."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers=pax) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), 1, mtime=0)


def simple(text: str) -> bytes:
    """An asset with one file."""
    return archive(member("run", text.encode(), mode=0o755))


@dataclass
class Object:
    data: bytes
    details: Details
    etag: str
    modified: float


class _Body:
    def __init__(self, stored: Object, tell: Callable[[int], None]) -> None:
        self.details = stored.details
        self._stream = io.BytesIO(stored.data)
        self._tell = tell

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._tell(len(data))
        return data


@dataclass
class MemoryAssets:
    """An `AssetStore` in memory. before: is called before each call with its name and the asset's, and may
    raise."""

    url: str = "memory:"
    before: Callable[[str, str], None] = lambda _call, _name: None
    objects: dict[str, Object] = field(default_factory=dict)
    at_once: int = 4
    scheme: ClassVar[str] = "memory"
    clock: int = 0

    def add(self, file: str, data: bytes, *, sha256: str | None = None, signature: str = "") -> None:
        """Store an asset. sha256: as somebody recorded it, by default the right one."""
        self.clock += 1
        digest = hashlib.sha256(data).hexdigest() if sha256 is None else sha256
        details = Details(sha256=digest, size=len(data), signature=signature)
        self.objects[file] = Object(data, details, f"e{self.clock}", float(self.clock))

    def list(self, service: str = "") -> Iterator[Asset]:
        self.before("list", service)
        for file, stored in self.objects.items():
            name = parse(file, hyphens=True)
            if name and service in ("", name.service):
                yield Asset(name=name, size=stored.details.size, modified=stored.modified, etag=stored.etag)

    def details(self, name: Name) -> Details:
        self.before("details", name.file)
        if name.file not in self.objects:
            raise Missing(f"there is no {name.file}")
        return self.objects[name.file].details

    @contextmanager
    def open(self, name: Name) -> Iterator[_Body]:
        self.before("open", name.file)
        if name.file not in self.objects:
            raise Missing(f"there is no {name.file}")
        yield _Body(self.objects[name.file], lambda _count: self.before("read", name.file))

    def put(self, name: Name, path: Path, details: Details, *, replace: bool = False) -> bool:
        self.before("put", name.file)
        self.add(name.file, path.read_bytes(), signature=details.signature)
        return True

    def delete(self, name: Name) -> None:
        del self.objects[name.file]

    def finish(self) -> None:
        """There is nothing to finish."""

    def interrupt(self) -> None:
        """No call waits."""

    def make_index(self) -> int:
        raise NotImplementedError


def pulled(
    store: AssetStore,
    install: Path,
    *services: str,
    policy: Policy | None = None,
    bus: Bus | None = None,
    **options: Any,
) -> Report:
    """Pull services, by default web."""
    names = options.pop("services", services or ("web",))
    return pull(lambda: store, names, install, policy or Policy(), Options(**options), bus=bus)


def tree(top: Path) -> dict[str, str]:
    """What is below a directory, our own files left out: the text of files, the target of links."""
    found = {}
    for path in sorted(top.rglob("*")):
        name = path.relative_to(top).as_posix()
        if ".buildstep" in name or name.startswith(".staging"):
            continue
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            found[name] = path.read_text()
    return found
