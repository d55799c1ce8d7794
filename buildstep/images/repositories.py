"""Repositories, which have images by uuid or name@version: IMGAPI servers, directories and buckets.

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
from buildstep.net.errors import HttpError
from buildstep.net.http import Http
from buildstep.net.imgapi import ImgapiClient, expected_file, is_uuid
from buildstep.net.request import HttpOptions
from buildstep.net.s3 import S3Client
from buildstep.system.digest import Expected
from buildstep.system.files import fsync_dir
from buildstep.system.locks import lock

MAX_MANIFEST = 4 << 20


class Repository(Protocol):
    """Images somewhere else. Every method raises HttpError when it cannot find out what is there."""

    @property
    def label(self) -> str:
        """Its name in messages: the user's own for it, else its address."""
        ...

    @property
    def http(self) -> Http | None:
        """The session of its calls, for who has to stop or close them."""
        ...

    def get(self, uuid: str) -> dict[str, Any] | None:
        """Return the manifest of a uuid, or None when there is no such image."""
        ...

    def find(self, name: str, version: str) -> dict[str, Any] | None:
        """Return the manifest of the newest active image of that name and version, or None."""
        ...

    def images(self, **filters: str) -> Iterator[dict[str, Any]]:
        """Yield the manifests of the active images; filters as IMGAPI has them."""
        ...

    def fetch_file(
        self, manifest: Mapping[str, Any], target: Path, *, progress: Progress | None = None
    ) -> Downloaded:
        """Download an image's file and verify it. progress: gets how far it is, and the end."""
        ...


class ImgapiRepository(ImgapiClient):
    """An IMGAPI server as a repository."""

    def __init__(self, url: str, *, http: Http, channel: str = "", label: str = "") -> None:
        super().__init__(url, http=http, channel=channel)
        self._label = label

    @property
    def label(self) -> str:
        return self._label or super().label

    def find(self, name: str, version: str) -> dict[str, Any] | None:
        found = [
            row
            for row in self.images(name=name, version=version, state="active")
            if (row.get("name"), row.get("version")) == (name, version)
        ]
        return max(found, key=lambda row: str(row.get("published_at", "")), default=None)


class _Published:
    """What our publishers wrote, to a directory or a bucket: the same names in both."""

    label: str

    def _read(self, name: str) -> bytes | None:
        raise NotImplementedError

    def _document(self, name: str) -> dict[str, Any] | None:
        data = self._read(name)
        if data is None:
            return None
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise HttpError(f"{self.label}/{name} is not JSON") from error
        return value if isinstance(value, dict) else None

    def get(self, uuid: str) -> dict[str, Any] | None:
        manifest = self._document(f"images/{uuid}/manifest.json") if is_uuid(uuid) else None
        # A manifest as a build wrote it has no state; being where it is makes the image active.
        return manifest if manifest is None or "state" in manifest else {**manifest, "state": "active"}

    def find(self, name: str, version: str) -> dict[str, Any] | None:
        index = self._document(f"{path_of(name)}/{path_of(version)}/index.json")
        return self.get(str(index.get("uuid", ""))) if index else None


class DirectoryRepository(_Published):
    """A directory laid out for static serving."""

    http = None

    def __init__(self, path: Path, label: str = "") -> None:
        self._path = path
        self.label = label or f"dir:{path}"

    def _read(self, name: str) -> bytes | None:
        try:
            with (self._path / name).open("rb") as stream:
                return stream.read(MAX_MANIFEST)
        except (FileNotFoundError, NotADirectoryError) as error:
            if not self._path.is_dir():
                raise HttpError(f"there is no directory {self._path}") from error
            return None
        except OSError as error:
            raise HttpError(f"{self.label}: cannot read {name}: {error}") from error

    def images(self, **filters: str) -> Iterator[dict[str, Any]]:
        rows = (self._document("images/index.json") or {}).get("images", [])
        if not isinstance(rows, list):
            raise HttpError(f"{self.label}/images/index.json has no list of images")
        yield from filtered((row for row in rows if isinstance(row, dict)), filters)

    def fetch_file(
        self, manifest: Mapping[str, Any], target: Path, *, progress: Progress | None = None
    ) -> Downloaded:
        source = self._path / "images" / str(manifest["uuid"]) / "file"
        return _finished(_copy(source, target, expected_file(manifest), self.label), progress)


class BucketRepository(_Published):
    """The same layout in an S3 bucket."""

    def __init__(self, client: S3Client, label: str = "") -> None:
        self._client = client
        self.http = client.http
        self.label = label or client.uri

    def _read(self, name: str) -> bytes | None:
        return self._client.get(name, limit=MAX_MANIFEST)

    def images(self, **filters: str) -> Iterator[dict[str, Any]]:
        keys = (info.key for info in self._client.list("images/") if info.key.endswith("/manifest.json"))
        yield from filtered((row for row in map(self._document, keys) if row), filters)

    def fetch_file(
        self, manifest: Mapping[str, Any], target: Path, *, progress: Progress | None = None
    ) -> Downloaded:
        name = f"images/{manifest['uuid']}/file"
        return self._client.download(name, target, expected=expected_file(manifest), progress=progress)


def path_of(text: str) -> str:
    """Return a name or version as one part of a path, different from every other one and from ours."""
    quoted = quote(text, safe="+ ")
    if quoted.startswith(".") or quoted == "images":
        return f"%{ord(quoted[0]):02X}{quoted[1:]}"
    return quoted


def filtered(rows: Iterator[dict[str, Any]], filters: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield those that pass IMGAPI's filters: equal, `~part` of a text, `!not`, and tags."""
    for row in rows:
        if all(_passes(row, name, wanted) for name, wanted in filters.items()):
            yield row


def _passes(row: Mapping[str, Any], name: str, wanted: str) -> bool:
    if name == "state":
        return wanted in ("all", row.get("state", "active"))
    if name in ("channel", "sort", "inclAdminFields", "account"):
        return True
    if name == "billing_tag":
        billing = row.get("billing_tags")
        return isinstance(billing, list) and wanted in billing
    tags = row.get("tags")
    in_tags = tags if isinstance(tags, dict) else {}
    value = in_tags.get(name[4:]) if name.startswith("tag.") else row.get(name)
    text = str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)
    if wanted.startswith("~"):
        return wanted[1:] in text
    if wanted.startswith("!"):
        return wanted[1:] != text
    return wanted == text


def _finished(done: Downloaded, progress: Progress | None) -> Downloaded:
    """Report a file that came as a whole."""
    if progress is not None:
        progress.finish(done.path, done.size)
    return done


def _copy(source: Path, target: Path, expected: Expected, label: str) -> Downloaded:
    """Copy a local file as carefully as one that comes over the network."""
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
    options: HttpOptions,
    channel: str = "",
    endpoint: str = "",
    label: str = "",
) -> Repository:
    """Return the repository of `http(s)://HOST[/PREFIX][?channel=C]`, `dir:PATH` or `s3://BUCKET[/PREFIX]`.

    channel: instead of the URL's. endpoint: of an S3 store. label: its name in messages. Raises UsageError.
    No call is made yet, so that a dead one harms only what it alone has.
    """
    scheme, _, rest = uri.partition(":")
    scheme = scheme.lower()
    http = Http(environ=environ, options=options, bus=bus)
    if scheme in ("http", "https", "imgapi"):
        return ImgapiRepository(rest if scheme == "imgapi" else uri, http=http, channel=channel, label=label)
    if scheme == "dir":
        return DirectoryRepository(Path(rest), label)
    if scheme == "s3":
        return BucketRepository(S3Client(uri, http=http, endpoint=endpoint), label)
    raise UsageError(f"{uri!r} is no source of images", hint="https://HOST, dir:PATH or s3://BUCKET[/PREFIX]")
