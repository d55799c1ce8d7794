"""The JSON documents of an OCI image (image-spec 1.1: config.md, manifest.md, image-index.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from buildstep.emit.interface import Blob, EmitJob
from buildstep.formats.oci import naming
from buildstep.formats.oci.spec import (
    ANNOTATION,
    OCI_INDEX,
    OCI_MANIFEST,
    REF_NAME,
    Descriptor,
    OciPlatform,
)

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs are found in an image whose base and m.json do not say."""

_SYSTEMS = {"smartos": "illumos", "bsd": "freebsd", "other": "linux"}


def image_config(job: EmitJob, layers: Sequence[Blob]) -> dict[str, Any]:
    """Return the image configuration: the base's, with the manifest's `build.oci` laid over it."""
    base = job.base_config
    inherited = {key: base[key] for key in ("author", "os.version", "os.features") if base.get(key)}
    return {
        "created": job.created,
        **_platform(job).to_json(),
        "config": _process(job, base.get("config") or {}),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers]},
        "history": _history(job, layers),
        **inherited,
    }


def run_config(job: EmitJob) -> dict[str, Any]:
    """Return of the image configuration what the image runs on, and how: what one based on it inherits."""
    process = _process(replace(job, origin={}), job.base_config.get("config") or {})
    process["Labels"] = _foreign(process["Labels"])
    return {**_platform(job).to_json(), "config": process}


def image_manifest(job: EmitJob, layers: Sequence[Blob], config: Descriptor) -> dict[str, Any]:
    """Return the image manifest. config: of the configuration, which is a blob already."""
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.to_json(),
        "layers": [layer.descriptor.to_json() for layer in layers],
        "annotations": _annotations(job),
    }


CONTAINERD_NAME = "io.containerd.image.name"
"""The annotation by which containerd and BuildKit know an image's full name."""


def image_index(job: EmitJob, manifest: Descriptor, *, tag: bool = False) -> dict[str, Any]:
    """Return the layout's index: one image, under the name by which engines load it from an archive.

    tag: under its tag alone, as tools name images in a directory (DIRECTORY:TAG; a name with a colon of its
    own cannot be written there), with the full name beside it.
    """
    name = image_name(job)
    named = {REF_NAME: name.rpartition(":")[2], CONTAINERD_NAME: name} if tag else {REF_NAME: name}
    entry = replace(manifest, platform=_platform(job).to_json(), annotations=named)
    return {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [entry.to_json()],
        "annotations": _annotations(job),
    }


def docker_manifest(job: EmitJob, layers: Sequence[Blob], config: Descriptor) -> list[dict[str, Any]]:
    """Return the list of images for `docker load`, which names the blobs of the archive as its files.

    Source: moby, image specification v1.2, "Combined Image JSON + Filesystem Changeset Format".
    """
    return [
        {
            "Config": _blob_path(config.digest),
            "RepoTags": [image_name(job)],
            "Layers": [_blob_path(layer.descriptor.digest) for layer in layers],
        }
    ]


def image_name(job: EmitJob) -> str:
    """Return the name under which container engines load the image."""
    manifest = job.manifest
    return naming.image_name(str(manifest.get("name", "")), str(manifest.get("version", "latest")), job.ref)


def _blob_path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _annotations(job: EmitJob) -> dict[str, str]:
    """Return what is told of the image: where it is from, what its manifest says, and `oci.annotations`."""
    found = {"created": job.created, **job.origin}
    for key, field in (
        ("title", "name"), ("version", "version"), ("description", "description"), ("url", "homepage"),
    ):  # fmt: skip
        if job.manifest.get(field):
            found[key] = str(job.manifest[field])
    ours = {str(key): str(value) for key, value in (job.config.get("annotations") or {}).items()}
    return {ANNOTATION + key: value for key, value in found.items()} | ours


def _labels(job: EmitJob, base: Mapping[str, str]) -> dict[str, str]:
    """Return the labels: the base's, what OCI has words for, and the manifest's `oci.labels`.

    What the base says of itself in OCI's words is not true of this image.
    """
    told = {key: value for key, value in _annotations(job).items() if key.startswith(ANNOTATION)}
    ours = {str(key): str(value) for key, value in (job.config.get("labels") or {}).items()}
    return _foreign(base) | told | ours


def _foreign(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels that are not in OCI's words."""
    return {key: text for key, text in labels.items() if not key.startswith(ANNOTATION)}


def platform_name(job: EmitJob) -> str:
    """Return what the image runs on, such as linux/arm64."""
    return str(_platform(job))


def _platform(job: EmitJob) -> OciPlatform:
    """Return what the image runs on: as the manifest says, else as its base does, else as this host is."""
    os = str(job.manifest.get("os") or "other")
    base = job.base_config
    os = str(base["os"]) if os == "other" and base.get("os") else _SYSTEMS.get(os, os)
    if job.config.get("architecture"):
        name, _, variant = str(job.config["architecture"]).partition("/")
        # Without a variant a reader cannot choose among several for arm; this is what engines then take.
        variant = variant or ("v7" if name == "arm" else "")
        return OciPlatform(os=os, architecture=name, variant=variant)
    if base.get("architecture"):
        variant = str(base.get("variant") or "")
        return OciPlatform(os=os, architecture=str(base["architecture"]), variant=variant)
    return replace(OciPlatform.here(), os=os)


def _history(job: EmitJob, layers: Sequence[Blob]) -> list[dict[str, Any]]:
    """Return a record for each layer: the base's own for as many as it has, ours for the rest."""
    rows: list[dict[str, Any]] = [dict(row) for row in job.base_config.get("history") or ()]
    count = sum(not row.get("empty_layer") for row in rows)
    if count != job.base_layers:
        # A base that was flattened: its history does not fit its layers any more.
        rows, count = [], 0
    ours = {"created": job.created, "created_by": "buildstep"}
    for layer in layers[count:]:
        by = {"created_by": layer.created_by} if layer.created_by else {}
        rows.append(ours | by | ({"comment": layer.comment} if layer.comment else {}))
    if len(layers) == job.base_layers:
        rows.append(ours | {"empty_layer": True, "comment": "nothing was added to the base image's files"})
    return rows


def told(job: EmitJob, layers: Sequence[Blob]) -> list[tuple[str, str]]:
    """Return of each layer what the history says that it was made by, and its comment there."""
    rows = [row for row in _history(job, layers) if not row.get("empty_layer")]
    return [(str(row.get("created_by") or ""), str(row.get("comment") or "")) for row in rows]


# -- what runs ------------------------------------------------------------------------------------------


def _process(job: EmitJob, base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `config` object: what the base's says, changed by the manifest's `build.oci`."""
    ours, config = job.config, dict(base)
    if ours.get("entrypoint") is not None:
        config["Entrypoint"] = _argv(ours["entrypoint"])
        # The base's arguments were meant for the base's program.
        config.pop("Cmd", None)
    if ours.get("cmd") is not None:
        config["Cmd"] = _argv(ours["cmd"])
    if ours.get("env"):
        config["Env"] = _environment(base.get("Env") or (), ours["env"])
    for key, field in (("User", "user"), ("WorkingDir", "workdir"), ("StopSignal", "stop_signal")):
        if ours.get(field) is not None:
            config[key] = str(ours[field])
    ports = [str(port) for port in ours.get("expose") or ()]
    _extend(config, "ExposedPorts", (port if "/" in port else f"{port}/tcp" for port in ports))
    _extend(config, "Volumes", map(str, ours.get("volumes") or ()))
    config["Labels"] = _labels(job, base.get("Labels") or {})
    # Without it a runtime finds programs by a default of its own, or not at all.
    if _platform(job).os == "linux" and not any(row.startswith("PATH=") for row in config.get("Env") or ()):
        config["Env"] = [PATH, *(config.get("Env") or ())]
    return config


def _argv(value: object) -> list[str]:
    if isinstance(value, str):
        return ["/bin/sh", "-c", value]
    assert isinstance(value, Sequence)
    return [str(word) for word in value]


def _environment(base: Iterable[str], ours: object) -> list[str]:
    """Return `NAME=value` lines: the base's in their order, a changed value in its place."""
    rows = dict(row.partition("=")[::2] for row in base)
    if isinstance(ours, Mapping):
        rows.update({str(key): str(value) for key, value in ours.items()})
    else:
        assert isinstance(ours, Sequence)
        rows.update(str(row).partition("=")[::2] for row in ours)
    return [f"{name}={value}" for name, value in rows.items()]


def _extend(config: dict[str, Any], key: str, names: Iterable[str]) -> None:
    added: dict[str, Any] = {name: {} for name in names}
    if added:
        config[key] = {**(config.get(key) or {}), **added}
