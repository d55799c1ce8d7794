"""The image to publish, the options, and the result: the values that every publisher shares."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from buildstep.errors import PublishError, SpecError
from buildstep.events import Bus
from buildstep.formats.oci.layout import Layout, open_layout
from buildstep.formats.oci.spec import Descriptor
from buildstep.images.attestations import local
from buildstep.images.attestations.push import Forms
from buildstep.images.attestations.required import Demand
from buildstep.net.http import Http, translated
from buildstep.net.request import HttpOptions
from buildstep.report.record import ImageFile
from buildstep.spec import imgmanifest
from buildstep.system.digest import digests_of
from buildstep.trust import sidecars

FORMAT = 1
"""Of the documents that a name stands for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """A file to publish, and what is in it. Digests in hex."""

    path: Path
    size: int
    sha1: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Content:
        """Read a file. Raises PublishError when it cannot be read."""
        try:
            return cls(path=path, **asdict(digests_of(path)))
        except OSError as error:
            raise PublishError(f"cannot read {path}: {error.strerror}") from error


OCI_IMAGES = (".oci", ".oci.tar")
"""How the names of OCI images end that a build writes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OciPart:
    """The OCI image of a build: its layout, and the descriptor of the image in there."""

    path: Path
    layout: Layout
    entry: Descriptor


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """One built image. manifest: its .imgmanifest. artifacts: its image files, the manifest's own first.

    record: its build record, where there is one; recorded: what that says of each artifact, by its name.
    Files are read and hashed once, when first asked for, and compared with that. An artifact can be a
    directory, which only a registry takes.
    """

    manifest: Path
    artifacts: tuple[Path, ...]
    record: Path | None = None
    recorded: Mapping[str, ImageFile] = field(default_factory=dict)

    @cached_property
    def meta(self) -> dict[str, Any]:
        """The manifest, checked. Raises PublishError."""
        try:
            return imgmanifest.read(self.manifest)
        except SpecError as error:
            raise PublishError(error.message, detail=error.detail, hint=error.hint) from error

    @property
    def uuid(self) -> str:
        return str(self.meta["uuid"])

    @property
    def name(self) -> str:
        return str(self.meta["name"])

    @property
    def version(self) -> str:
        return str(self.meta["version"])

    @cached_property
    def contents(self) -> tuple[Content, ...]:
        """The image files with their digests, in order. Raises PublishError where one is not as built."""
        found = tuple(Content.of(path) for path in self.artifacts if not path.is_dir())
        for content in found:
            row = self.recorded.get(content.path.name)
            if row is not None and row.sha256 != content.sha256:
                raise PublishError(
                    f"{content.path.name} is not what its build record says",
                    detail=f"sha256 {content.sha256}, not {row.sha256}",
                    hint="was it changed, or copied only in part? build again",
                )
        return found

    @cached_property
    def oci(self) -> OciPart:
        """The OCI image among the artifacts, a directory sooner than an archive. Raises PublishError where
        there is none, or where it is not what was built, and ImageError.

        Nothing but its index is read for that: it names all else by digests, which whoever gets it verifies.
        """
        found = [path for path in self.artifacts if path.name.endswith(OCI_IMAGES)]
        if not found:
            raise PublishError(
                f"{self.manifest.name}: no OCI image was built", hint="build with --format oci or oci-dir"
            )
        path = min(found, key=lambda path: not path.is_dir())
        layout = open_layout(path, path.name)
        entry = layout.find("")
        row = self.recorded.get(path.name)
        if row is not None and row.extra.get("digest", entry.digest) != entry.digest:
            raise PublishError(
                f"{path.name} is not what its build record says",
                detail=f"its image is {entry.digest}, not {row.extra['digest']}",
                hint="was it changed, or copied only in part? build again",
            )
        return OciPart(path=path, layout=layout, entry=entry)

    @cached_property
    def image(self) -> Content:
        """The file that the manifest describes. Raises PublishError when none of them is it."""
        files = self.meta.get("files") or [{}]
        size, sha1 = files[0].get("size"), str(files[0].get("sha1", "")).lower()
        if not self.contents:
            raise PublishError(
                f"{self.artifacts[0].name} is a directory, which only a registry takes",
                hint="publish to docker://HOST/NAME, or build with --format oci as well",
            )
        for content in self.contents:
            if (content.size, content.sha1) == (size, sha1):
                return content
        raise PublishError(
            f"no image file beside {self.manifest.name} has its size {size} and sha1 {sha1}",
            hint="were the files changed after the build? build again",
        )

    @property
    def stem(self) -> Path:
        """What the names of all files of the build begin with."""
        return sidecars.stem_of(self.manifest)

    @cached_property
    def sidecars(self) -> tuple[Path, ...]:
        """The files that say what is in the image, where it comes from and who made it."""
        files = [path for path in self.artifacts if not path.is_dir()]
        return (*local.beside(self.stem), *local.signatures_of(files))

    @property
    def compression(self) -> str:
        return str(self.meta["files"][0].get("compression", "none"))

    def extras(self) -> list[Content]:
        """What goes along with the image's own file: the other artifacts, the manifest, the record, and what
        there is to prove."""
        image = self.image
        others = [content for content in self.contents if content is not image]
        papers = [self.manifest, *([self.record] if self.record is not None else [])]
        return [*others, *(Content.of(path) for path in (*papers, *self.sidecars))]

    def index(self, places: Mapping[str, str]) -> bytes:
        """The document that a name stands for in a directory or bucket. places: file name to where it is."""
        rows = [
            {
                "name": content.path.name,
                "path": places[content.path.name],
                "size": content.size,
                "sha1": content.sha1,
                "sha256": content.sha256,
            }
            for content in (self.image, *self.extras())
        ]
        value = {
            "format": FORMAT,
            "name": self.name,
            "version": self.version,
            "uuid": self.uuid,
            "files": sorted(rows, key=lambda row: str(row["name"])),
        }
        return json.dumps(value, indent=2).encode() + b"\n"

    def manifest_bytes(self) -> bytes:
        """The manifest as it is published."""
        return imgmanifest.dumps(self.meta).encode()


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishOptions:
    """Settings for publishers beside the target; each uses those that concern it.

    environ: credentials and proxies are looked for there, and nowhere else. insecure: no certificate
    checks (registry: plain http as well). user, key: who signs (IMGAPI); key: a file's path, or `agent`,
    or `agent:FINGERPRINT`. endpoint: of an S3 store. replace: a registry's tag may
    be moved to the new image. notes: the pool's notes of what was published where. limits: of `HttpOptions`.
    demand: what has to be proved of the image, and keys that sign what goes to a registry unsigned else.
    attestations: as what a registry gets them.
    """

    environ: Mapping[str, str] = field(default_factory=dict)
    insecure: bool = False
    channel: str = ""
    user: str = ""
    key: str = ""
    endpoint: str = ""
    replace: bool = False
    notes: Path | None = None
    limits: Mapping[str, Any] = field(default_factory=dict)
    demand: Demand = field(default_factory=Demand)
    attestations: Forms = "all"

    @contextlib.contextmanager
    def session(self, bus: Bus) -> Iterator[Http]:
        """Open an HTTP session for the length of a block; a call that fails raises PublishError."""
        limits = HttpOptions.of(self.environ, insecure=self.insecure, **self.limits)
        with translated(PublishError), Http(environ=self.environ, options=limits, bus=bus) as http:
            yield http


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """An image that is published. name: the one to ask for it by. state: whether this call was needed.

    objects: its parts there, name to digest (`sha256:...`, or `sha1:...` where only that is known).
    """

    target: str
    name: str
    state: Literal["published", "already"]
    uuid: str
    objects: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def is_published(there: bytes | None, ours: bytes, what: str, where: str) -> bool:
    """Say whether a document is published; `there` is what was found under its name.

    Raises PublishError when that is something else.
    """
    if there is not None and there != ours:
        raise PublishError(
            f"{what} is published already, with other content",
            detail=f"see {where}",
            hint="what is published never changes: publish another version, or remove that one first",
        )
    return there is not None


def renewed(there: bytes | None, ours: bytes, what: str, where: str) -> bytes:
    """Return the index that a name is to have: ours, with the sidecars that are published already and are not
    here. Image files never change; who signs one later, publishes it again. there: what was found.

    Raises PublishError where that is another image.
    """
    if there is None or there == ours:
        return ours
    try:
        theirs, value = json.loads(there), json.loads(ours)
        rows = {row["name"]: row for row in theirs["files"] if _is_sidecar(row["name"])}
        plain = [row for row in theirs["files"] if row["name"] not in rows]
    except (ValueError, KeyError, TypeError, AttributeError):
        rows, plain, value, theirs = {}, [], {"files": []}, {}
    same = [row for row in value["files"] if not _is_sidecar(row["name"])] == plain
    if not same or {**value, "files": 0} != {**theirs, "files": 0}:
        is_published(there, ours, what, where)
    rows |= {row["name"]: row for row in value["files"]}
    value["files"] = sorted(rows.values(), key=lambda row: str(row["name"]))
    return json.dumps(value, indent=2).encode() + b"\n"


def _is_sidecar(name: str) -> bool:
    return name.endswith(tuple(sidecars.SIDECARS.values()))


class Publisher(Protocol):
    """Publishes an image. Content goes first and its name last, so nothing half-published is ever found.

    Publishing the same again is no error and changes nothing; other content under the same name is
    refused. Raises PublishError.
    """

    scheme: ClassVar[str]

    def publish(self, bundle: Bundle, target: str, *, options: PublishOptions, bus: Bus) -> Published: ...
