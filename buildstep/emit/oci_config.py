"""The JSON documents of an OCI image (image-spec 1.1: config.md, manifest.md, image-index.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from buildstep.emit.interface import Blob, EmitJob
from buildstep.formats.oci.spec import (
    ANNOTATION,
    OCI_INDEX,
    OCI_MANIFEST,
    REF_NAME,
    Descriptor,
    OciPlatform,
)

_SYSTEMS = {"smartos": "illumos", "bsd": "freebsd", "other": "linux"}


def image_config(job: EmitJob, layers: Sequence[Blob]) -> dict[str, Any]:
    """Return the image configuration: the base's, with the manifest's `build.oci` laid over it."""
    base = job.base_config
    inherited = {key: base[key] for key in ("author", "os.version", "os.features") if base.get(key)}
    return {
        "created": job.created,
        **_platform(job).to_json(),
        "config": _process(job.config, base.get("config") or {}),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers]},
        "history": _history(job, layers),
        **inherited,
    }


def run_config(job: EmitJob) -> dict[str, Any]:
    """Return of the image configuration what the image runs on, and how: what one based on it inherits."""
    return {**_platform(job).to_json(), "config": _process(job.config, job.base_config.get("config") or {})}


def image_manifest(job: EmitJob, layers: Sequence[Blob], config: Descriptor) -> dict[str, Any]:
    """Return the image manifest. config: of the configuration, which is a blob already."""
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.to_json(),
        "layers": [layer.descriptor.to_json() for layer in layers],
        "annotations": _annotations(job),
    }


def image_index(job: EmitJob, manifest: Descriptor) -> dict[str, Any]:
    """Return the archive's index: one image, its reference name the manifest's version."""
    name = str(job.manifest.get("version", "latest"))
    entry = replace(manifest, platform=_platform(job).to_json(), annotations={REF_NAME: name})
    return {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [entry.to_json()],
        "annotations": _annotations(job),
    }


def _annotations(job: EmitJob) -> dict[str, str]:
    found = {ANNOTATION + "created": job.created}
    for key, field in (("title", "name"), ("version", "version"), ("description", "description")):
        if job.manifest.get(field):
            found[ANNOTATION + key] = str(job.manifest[field])
    return found


def _platform(job: EmitJob) -> OciPlatform:
    """Return what the image runs on: as the manifest says, else as its base does, else as this host is."""
    os = str(job.manifest.get("os") or "other")
    base = job.base_config
    os = str(base["os"]) if os == "other" and base.get("os") else _SYSTEMS.get(os, os)
    if job.config.get("architecture"):
        name, _, variant = str(job.config["architecture"]).partition("/")
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
    rows += [ours | ({"comment": layer.comment} if layer.comment else {}) for layer in layers[count:]]
    if len(layers) == job.base_layers:
        rows.append(ours | {"empty_layer": True, "comment": "nothing was added to the base image's files"})
    return rows


# -- what runs ------------------------------------------------------------------------------------------


def _process(ours: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `config` object: what the base's says, changed by the manifest's `build.oci`."""
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
