"""Small OCI layouts made by hand, and the context that sources are given."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from buildstep.events import Bus
from buildstep.formats.oci.spec import OCI_INDEX, OCI_MANIFEST, REF_NAME
from buildstep.formats.unpack import apply_layer, unpack
from buildstep.images.interface import SourceContext
from buildstep.tree.entry import FileList

_LAYOUT = b'{"imageLayoutVersion": "1.0.0"}'
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def context(cache: Path, bus: Bus) -> SourceContext:
    """What the store gives to a source; unprivileged, so that tests need not be root."""

    def apply(stream: IO[bytes], into: Path, entries: FileList) -> FileList:
        return apply_layer(stream, into, entries, privileged=False)

    cache.mkdir(exist_ok=True)
    return SourceContext(
        cache=cache,
        downloads=cache,
        privileged=False,
        bus=bus,
        environ={},
        unpack=lambda stream, into: unpack(stream, into, privileged=False),
        apply_layer=apply,
    )


def layer(files: dict[str, bytes]) -> bytes:
    """A compressed layer of plain files; a name that ends in a slash is a directory."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            if name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
            else:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return gzip.compress(raw.getvalue(), mtime=0)


def diff_id(data: bytes) -> str:
    """The digest of a layer as configurations have it: of what it is uncompressed."""
    with contextlib.suppress(gzip.BadGzipFile, EOFError):
        data = gzip.decompress(data)
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def make_layout(
    folder: Path,
    layers: Sequence[bytes],
    *,
    tag: str = "latest",
    platforms: Sequence[str] = (),
    config: dict[str, Any] | None = None,
) -> str:
    """Write a layout; returns the digest that its index names. platforms: make an index of these."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def put(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    rootfs = {"type": "layers", "diff_ids": [diff_id(data) for data in layers]}

    def image(architecture: str) -> dict[str, Any]:
        told = {"os": "linux", "architecture": architecture, "rootfs": rootfs}
        value = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": put(
                json.dumps(told | (config or {})).encode(), "application/vnd.oci.image.config.v1+json"
            ),
            "layers": [put(data, LAYER) for data in layers],
        }
        return put(json.dumps(value).encode(), OCI_MANIFEST)

    if platforms:
        rows = []
        for name in platforms:
            system, architecture, *variant = name.split("/")
            platform = {"os": system, "architecture": architecture}
            rows.append(
                image(architecture) | {"platform": platform | ({"variant": variant[0]} if variant else {})}
            )
        value = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": rows}
        top = put(json.dumps(value).encode(), OCI_INDEX)
    else:
        top = image("amd64")
    top["annotations"] = {REF_NAME: tag}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    (folder / "oci-layout").write_bytes(_LAYOUT)
    return str(top["digest"])


def make_saved(
    path: Path, images: Mapping[str, Sequence[bytes]], *, style: str = "docker", config: str = ""
) -> Path:
    """An archive of `docker save`. images: layers, compressed or not, by tag; the tag may be empty.

    style: whose names the files get: `legacy` (Docker before 25: directories, later ones of the same layer are
    links), `docker` (25 and later: blobs, and the index of a layout beside), `skopeo`, `kaniko`, `jib`.
    """
    rows: list[dict[str, Any]] = []
    files: dict[str, bytes | str] = {}
    for number, (tag, layers) in enumerate(images.items()):
        names = []
        for place, data in enumerate(layers):
            digest = hashlib.sha256(data).hexdigest()
            name = {
                "legacy": f"{number}{place}{digest[2:]}/layer.tar",
                "docker": f"blobs/sha256/{digest}",
                "skopeo": f"{digest}.tar",
                "kaniko": f"{digest}.tar.gz",
                "jib": f"{digest}.tar.gz",
            }[style]
            first = next((known for known, value in files.items() if value == data), name)
            files[name] = data if first == name else f"../{first}"
            names.append(name)
        rootfs = {"type": "layers", "diff_ids": [diff_id(data) for data in layers]}
        told = {"os": "linux", "architecture": "amd64", "config": {"Env": [f"N={number}"]}, "rootfs": rootfs}
        text = (config or json.dumps(told)).encode()
        digest = hashlib.sha256(text).hexdigest()
        of_config = {
            "docker": f"blobs/sha256/{digest}",
            "kaniko": f"sha256:{digest}",
            "jib": "config.json",
        }.get(style, f"{digest}.json")
        files[of_config] = text
        rows.append({"Config": of_config, "RepoTags": [tag] if tag else None, "Layers": names})
    if style == "docker":
        files |= _layout_beside(rows, files)
    files["manifest.json"] = json.dumps(rows).encode()
    if style == "docker":
        files["oci-layout"] = _LAYOUT
    with tarfile.open(path, "w") as out:
        for name, value in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(value, str):
                info.type, info.linkname = tarfile.SYMTYPE, value
                out.addfile(info)
            else:
                info.size = len(value)
                out.addfile(info, io.BytesIO(value))
    return path


def _layout_beside(
    rows: Sequence[Mapping[str, Any]], files: Mapping[str, bytes | str]
) -> dict[str, bytes | str]:
    """What Docker since version 25 adds for a layout: a manifest for each image, and the index of them."""

    def described(name: str, kind: str) -> dict[str, Any]:
        return {"mediaType": kind, "digest": f"sha256:{name.rpartition('/')[2]}", "size": len(files[name])}

    added: dict[str, bytes | str] = {}
    manifests = []
    for row in rows:
        value = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": described(row["Config"], "application/vnd.oci.image.config.v1+json"),
            "layers": [described(name, LAYER) for name in row["Layers"]],
        }
        data = json.dumps(value).encode()
        digest = hashlib.sha256(data).hexdigest()
        added[f"blobs/sha256/{digest}"] = data
        tags = row["RepoTags"]
        annotations = {"annotations": {REF_NAME: tags[0].rpartition(":")[2]}} if tags else {}
        manifests.append(
            {"mediaType": OCI_MANIFEST, "digest": f"sha256:{digest}", "size": len(data)} | annotations
        )
    added["index.json"] = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
    return added


def pack(folder: Path, archive: Path) -> Path:
    """A layout as an archive."""
    with tarfile.open(archive, "w") as out:
        for path in sorted(folder.rglob("*")):
            out.add(path, path.relative_to(folder), recursive=False)
    return archive
