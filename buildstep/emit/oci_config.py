"""The JSON documents of an OCI image (image-spec 1.1: config.md, manifest.md, image-index.md)."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from buildstep.emit.interface import Blob, EmitJob

_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_NOTE = "org.opencontainers.image."

# What uname -m says, as Go names it (GOARCH and variant), which is what OCI wants.
_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "i86pc": ("amd64", ""),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
}
_SYSTEMS = {"smartos": "illumos", "bsd": "freebsd", "other": "linux"}


def image_config(job: EmitJob, layers: Sequence[Blob]) -> dict[str, Any]:
    """The image configuration: the base's, with the manifest's `build.oci` laid over it."""
    base = job.base_config
    arch, variant = _architecture(job)
    config: dict[str, Any] = {
        "created": job.created,
        "architecture": arch,
        "os": _os(job),
        "config": _process(job.config, base.get("config") or {}),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers]},
        "history": _history(job, layers),
    }
    if variant:
        config["variant"] = variant
    for key in ("author", "os.version", "os.features"):
        if base.get(key):
            config[key] = base[key]
    return config


def image_manifest(job: EmitJob, layers: Sequence[Blob], config: str, size: int) -> dict[str, Any]:
    """The image manifest. config, size: hex SHA-256 and bytes of the configuration."""
    return {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _descriptor(_CONFIG, config, size),
        "layers": [_descriptor(layer.media_type, layer.digest, layer.size) for layer in layers],
        "annotations": _annotations(job),
    }


def image_index(job: EmitJob, manifest: str, size: int) -> dict[str, Any]:
    """The archive's index: one image, its reference name the manifest's version."""
    descriptor = _descriptor(_MANIFEST, manifest, size)
    arch, variant = _architecture(job)
    descriptor["platform"] = {"architecture": arch, "os": _os(job)}
    if variant:
        descriptor["platform"]["variant"] = variant
    descriptor["annotations"] = {_NOTE + "ref.name": str(job.manifest.get("version", "latest"))}
    return {
        "schemaVersion": 2,
        "mediaType": _INDEX,
        "manifests": [descriptor],
        "annotations": _annotations(job),
    }


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}


def _annotations(job: EmitJob) -> dict[str, str]:
    found = {_NOTE + "created": job.created}
    for key, field in (("title", "name"), ("version", "version"), ("description", "description")):
        if job.manifest.get(field):
            found[_NOTE + key] = str(job.manifest[field])
    return found


def _architecture(job: EmitJob) -> tuple[str, str]:
    if job.config.get("architecture"):
        name, _, variant = str(job.config["architecture"]).partition("/")
        return name, variant
    if job.base_config.get("architecture"):
        return str(job.base_config["architecture"]), str(job.base_config.get("variant") or "")
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, (machine, ""))


def _os(job: EmitJob) -> str:
    name = str(job.manifest.get("os") or "other")
    if name == "other" and job.base_config.get("os"):
        return str(job.base_config["os"])
    return _SYSTEMS.get(name, name)


def _history(job: EmitJob, layers: Sequence[Blob]) -> list[dict[str, Any]]:
    """One record per layer: the base's own for as many as it tells of, ours for the rest."""
    told: list[dict[str, Any]] = [dict(row) for row in job.base_config.get("history") or ()]
    count = sum(not row.get("empty_layer") for row in told)
    if count > len(job.layers):
        # A base that was flattened: its history does not fit its layers any more.
        told, count = [], 0
    for layer in layers[count:]:
        told.append({"created": job.created, "created_by": "buildstep"})
        if layer.comment:
            told[-1]["comment"] = layer.comment
    if len(layers) == len(job.layers) and job.history:
        row = {"created": job.created, "created_by": "buildstep", "empty_layer": True}
        told.append(row | {"comment": "; ".join(job.history)})
    return told


# -- what runs ------------------------------------------------------------------------------------------


def _process(ours: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    config = dict(base)
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
    if ours.get("labels"):
        labels = {str(key): str(value) for key, value in ours["labels"].items()}
        config["Labels"] = {**(base.get("Labels") or {}), **labels}
    return config


def _argv(value: object) -> list[str]:
    if isinstance(value, str):
        return ["/bin/sh", "-c", value]
    assert isinstance(value, Sequence)
    return [str(word) for word in value]


def _environment(base: Iterable[str], ours: object) -> list[str]:
    """`NAME=value` lines, the base's in their order, a changed value in its place."""
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
