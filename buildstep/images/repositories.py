"""Where images are had by uuid or by name@version: IMGAPI servers, directories and buckets, all alike.

A directory or bucket is laid out as our publishers do it: `images/UUID/manifest.json` and
`images/UUID/file`, and `NAME/VERSION/index.json`, which has the uuid.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from buildstep.errors import UsageError
from buildstep.events import Bus
from buildstep.net.download import Downloaded, Progress, verify_file
from buildstep.net.errors import HttpError, HttpOptions
from buildstep.net.http import Http
from buildstep.net.imgapi import ImgapiClient, expected_file, is_uuid
from buildstep.net.s3 import S3Client
from buildstep.system.digest import Expected
from buildstep.system.files import fsync_dir
from buildstep.system.locks import lock

MAX_MANIFEST = 4 << 20


class Repository(Protocol):
    """Images somewhere else. Every method raises HttpError when it cannot be told what is there."""

    @property
    def label(self) -> str: ...

    def get(self, uuid: str) -> dict[str, Any] | None:
        """The manifest of a uuid; None when there is no such image."""
        ...

    def find(self, name: str, version: str) -> dict[str, Any] | None:
        """The manifest of the newest active image of that name and version, or None."""
        ...

    def images(self, **filters: str) -> Iterator[dict[str, Any]]:
        """The manifests of the active images; filters as IMGAPI has them."""
        ...

    def fetch_file(
        self, manifest: Mapping[str, Any], target: Path, *, sha256: str = "", progress: Progress | None = None
    ) -> Downloaded:
        """Bring an image's file here, proved. progress: told how far it is, and of the end."""
        ...


class Imgapi(ImgapiClient):
    """An IMGAPI server as a repository."""

    def find(self, name: str, version: str) -> dict[str, Any] | None:
        found = [
            row
            for row in self.images(name=name, version=version, state="active")
            if (row.get("name"), row.get("version")) == (name, version)
        ]
        return max(found, key=lambda row: str(row.get("published_at", "")), default=None)


class DirectoryRepository:
    """A directory laid out for static serving."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def label(self) -> str:
        return f"dir:{self._path}"

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            with path.open("rb") as stream:
                value = json.loads(stream.read(MAX_MANIFEST))
        except (FileNotFoundError, NotADirectoryError) as error:
            if not self._path.is_dir():
                raise HttpError(f"there is no directory {self._path}") from error
            return None
        except (OSError, ValueError) as error:
            raise HttpError(
                f"{self.label}: cannot read {path.name} of {path.parent.name}: {error}"
            ) from error
        return value if isinstance(value, dict) else None

    def get(self, uuid: str) -> dict[str, Any] | None:
        return _active(self._read(self._path / "images" / uuid / "manifest.json")) if is_uuid(uuid) else None

    def find(self, name: str, version: str) -> dict[str, Any] | None:
        index = self._read(self._path / path_of(name) / path_of(version) / "index.json")
        return self.get(str(index.get("uuid", ""))) if index else None

    def images(self, **filters: str) -> Iterator[dict[str, Any]]:
        index = self._read(self._path / "images" / "index.json") or {}
        rows = index.get("images", [])
        yield from filtered((row for row in rows if isinstance(row, dict)), filters)

    def fetch_file(
        self, manifest: Mapping[str, Any], target: Path, *, sha256: str = "", progress: Progress | None = None
    ) -> Downloaded:
        source = self._path / "images" / str(manifest["uuid"]) / "file"
        return _told(_copy(source, target, expected_file(manifest, sha256), self.label), progress)


class BucketRepository:
    """The same layout in an S3 bucket."""

    def __init__(self, client: S3Client) -> None:
        self._client = client
        self.http = client.http

    @property
    def label(self) -> str:
        return self._client.uri

    def _read(self, key: str) -> dict[str, Any] | None:
        found = self._client.get(key, limit=MAX_MANIFEST)
        if found is None:
            return None
        try:
            value = json.loads(found[0])
        except ValueError as error:
            raise HttpError(f"{self.label}/{key} is not JSON") from error
        return value if isinstance(value, dict) else None

    def get(self, uuid: str) -> dict[str, Any] | None:
        return _active(self._read(f"images/{uuid}/manifest.json")) if is_uuid(uuid) else None

    def find(self, name: str, version: str) -> dict[str, Any] | None:
        index = self._read(f"{path_of(name)}/{path_of(version)}/index.json")
        return self.get(str(index.get("uuid", ""))) if index else None

    def images(self, **filters: str) -> Iterator[dict[str, Any]]:
        keys = (info.key for info in self._client.list("images/") if info.key.endswith("/manifest.json"))
        yield from filtered((row for row in map(self._read, keys) if row), filters)

    def fetch_file(
        self, manifest: Mapping[str, Any], target: Path, *, sha256: str = "", progress: Progress | None = None
    ) -> Downloaded:
        expected = expected_file(manifest, sha256)
        return _told(
            self._client.download(f"images/{manifest['uuid']}/file", target, expected=expected), progress
        )


def _active(manifest: dict[str, Any] | None) -> dict[str, Any] | None:
    """A manifest as a build wrote it has no state; being where it is makes the image active."""
    return manifest if manifest is None or "state" in manifest else {**manifest, "state": "active"}


def path_of(text: str) -> str:
    """A name or version as one part of a path, told apart from every other one and from ours."""
    quoted = quote(text, safe="+ ")
    if quoted.startswith(".") or quoted == "images":
        return f"%{ord(quoted[0]):02X}{quoted[1:]}"
    return quoted


def filtered(rows: Iterator[dict[str, Any]], filters: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Those that pass IMGAPI's filters: equal, `~part` of a text, `!not`, and tags. Raises HttpError."""
    for row in rows:
        if all(_passes(row, name, wanted) for name, wanted in filters.items()):
            yield row


def _passes(row: Mapping[str, Any], name: str, wanted: str) -> bool:
    if name == "state":
        return wanted in ("all", row.get("state", "active"))
    if name in ("channel", "sort", "inclAdminFields", "account"):
        return True
    value = row.get("tags", {}).get(name[4:]) if name.startswith("tag.") else row.get(name)
    if name == "billing_tag":
        return wanted in row.get("billing_tags", [])
    text = str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)
    if wanted.startswith("~"):
        return wanted[1:] in text
    if wanted.startswith("!"):
        return wanted[1:] != text
    return wanted == text


def _told(done: Downloaded, progress: Progress | None) -> Downloaded:
    """Tell of a file that has come as a whole."""
    if progress is not None:
        progress.finish(done.path, done.size)
    return done


def _copy(source: Path, target: Path, expected: Expected, label: str) -> Downloaded:
    """A local file, taken as carefully as one that comes over the network."""
    with lock(target.with_name(f".{target.name}.lock")):
        there = verify_file(target, expected) if target.exists() else None
        if there is not None:
            return there
        partial = target.with_name(f"{target.name}.partial")
        try:
            with source.open("rb") as stream, partial.open("wb") as out:
                shutil.copyfileobj(stream, out, 1 << 20)
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            raise HttpError(f"{label}: cannot copy {source.parent.name}: {error.strerror}") from error
        done = verify_file(partial, expected)
        if done is None:
            partial.unlink()
            raise HttpError(f"{label}: the file of image {source.parent.name} is not what its manifest says")
        partial.replace(target)
        fsync_dir(target.parent)
        return replace(done, path=target, fetched=done.size)


def open_repository(
    uri: str,
    *,
    environ: Mapping[str, str],
    bus: Bus,
    insecure: bool = False,
    options: HttpOptions | None = None,
) -> Repository:
    """The repository of `http(s)://HOST[/PREFIX][?channel=C]`, `dir:PATH` or `s3://BUCKET[/PREFIX]`.

    Raises UsageError. Nothing is asked of it yet, so that a dead one harms only what it alone has.
    """
    scheme, _, rest = uri.partition(":")
    limits = options or HttpOptions.of(environ, insecure=insecure)
    http = Http(environ=environ, options=limits, bus=bus)
    if scheme in ("http", "https"):
        return Imgapi(uri, http=http)
    if scheme == "imgapi":
        return Imgapi(rest, http=http)
    if scheme == "dir":
        return DirectoryRepository(Path(rest))
    if scheme == "s3":
        return BucketRepository(S3Client(uri, environ=environ, bus=bus, http=http))
    raise UsageError(f"{uri!r} is no source of images", hint="https://HOST, dir:PATH or s3://BUCKET[/PREFIX]")
