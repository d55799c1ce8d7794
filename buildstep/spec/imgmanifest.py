"""The image manifest (imgmanifest v2): validate, upgrade, inherit, assemble, read and write."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from buildstep.errors import Fault, SpecError
from buildstep.spec import schema
from buildstep.spec.imgmanifest_fields import FIELDS, Limits, V
from buildstep.spec.schema import at

Manifest = Mapping[str, Any]

NIL_UUID: Final = "00000000-0000-0000-0000-000000000000"
INHERITABLE: Final = tuple(field.name for field in FIELDS if field.inherited)

_BY_NAME = {field.name: field for field in FIELDS}
_REQUIRED = ("v", "uuid", "name", "version", "type", "os")
_ZVOL = ("nic_driver", "disk_driver", "cpu_type", "image_size")
_FILE_ORDER = ("size", "compression", "sha1")  # as imgadm writes it
_MAX_TAGS = 102400
_COMPRESSION_BY_SUFFIX = {".gz": "gzip", ".bz2": "bzip2"}
_DROPPED_BY_V2 = (
    "creator_uuid", "vendor_uuid", "creator_name", "creator_admin", "owner_uuid", "cloud_name",
    "restricted_to_uuid", "platform_type", "created_at", "updated_at", "_url",
)  # fmt: skip


# Validation.


def validate(manifest: object, *, limits: Limits) -> list[Fault]:
    """Return every fault of a manifest under the rules of imgmanifest v2; never raises.

    The fields that imgadm wants must be there. limits: `emit` holds it to the IMGAPI guide, `accept` to
    what validators let pass.
    """
    if not isinstance(manifest, dict):
        return schema.check(manifest, {"type": "object"}, "$")
    faults, sound = _check_fields(manifest, limits, _REQUIRED)
    requirements = sound.get("requirements", {})
    if "bootrom" in requirements and "brand" not in requirements:
        faults.append(Fault(where="$.requirements.bootrom", message='needs the brand "bhyve"'))
    return faults + list(_relations(sound)) + (list(_emit_faults(sound)) if limits == "emit" else [])


def validate_user(manifest: object, *, beside: Sequence[str] = ()) -> list[Fault]:
    """Return every fault of the part of a manifest that an author writes; never raises.

    Only name and version must be there: the rest is inherited or set by the build. What depends on a field
    that is still to be inherited is checked by `assemble`. beside: other names that an unknown one is
    compared with for a suggestion.
    """
    if not isinstance(manifest, dict):
        return schema.check(manifest, {"type": "object"}, "$")
    faults, sound = _check_fields(manifest, "emit", ("name", "version"), beside)
    for field in FIELDS:
        if field.name in manifest and field.who != "author":
            setter = "the build" if field.who == "buildstep" else "the image repository"
            faults.append(Fault(where=f"$.{field.name}", message=f"is set by {setter}"))
            sound.pop(field.name, None)
    return faults + list(_relations(sound)) + list(_emit_faults(sound))


def _check_fields(
    manifest: Manifest, limits: Limits, required: Sequence[str], beside: Sequence[str] = ()
) -> tuple[list[Fault], dict[str, Any]]:
    """Return the faults of single fields and of missing ones, and the fields that have none."""
    faults: list[Fault] = []
    sound: dict[str, Any] = {}
    for name, value in manifest.items():
        where = at("$", name)
        if name not in _BY_NAME:
            hint = schema.near(name, (*_BY_NAME, *beside))
            faults.append(Fault(where=where, message="is not a field of an image manifest", hint=hint))
        elif found := schema.check(value, _BY_NAME[name].rule(limits), where):
            faults += found
        else:
            sound[name] = value
    missing = [name for name in required if name not in manifest]
    return faults + [Fault(where=f"$.{name}", message="is required") for name in missing], sound


def _relations(sound: Manifest) -> Iterator[Fault]:
    """Yield faults between fields that have none by themselves. A missing field is no fault here: it may
    still be inherited."""
    kind = sound.get("type")
    if kind not in (None, "zvol"):
        for name in _ZVOL:
            if sound.get(name, "") != "":
                yield Fault(where=f"$.{name}", message=f"is for type zvol, not {kind}")
    if kind not in (None, "zone-dataset") and "inherited_directories" in sound:
        yield Fault(where="$.inherited_directories", message=f"is for type zone-dataset, not {kind}")
    if kind != "lxd" and len(sound.get("files", ())) > 1:
        yield Fault(where="$.files", message="only an image of type lxd has two files")
    if sound.get("state") not in ("creating", "failed"):
        for name in ("type", "os"):
            if sound.get(name) == "null":
                message = '"null" is for an image in state creating or failed'
                yield Fault(where=f"$.{name}", message=message)
    yield from _requirement_faults(sound.get("requirements", {}))
    yield from _tags_faults(sound.get("tags", {}))


def _requirement_faults(requirements: Manifest) -> Iterator[Fault]:
    where = "$.requirements"
    least, most = requirements.get("min_ram"), requirements.get("max_ram")
    if least is not None and most is not None and least > most:
        yield Fault(where=f"{where}.min_ram", message=f"{least} is more than max_ram, {most}")
    if "bootrom" in requirements and requirements.get("brand", "bhyve") != "bhyve":
        yield Fault(where=f"{where}.bootrom", message='needs the brand "bhyve"')


def _tags_faults(tags: Manifest) -> Iterator[Fault]:
    if schema.too_deep(tags):
        yield Fault(where="$.tags", message="is nested too deeply")
        return
    shown = json.dumps(tags, ensure_ascii=False, separators=(",", ":"))
    if fault := schema.too_long(shown, _MAX_TAGS, " of JSON"):
        yield Fault(where="$.tags", message=fault)


def _emit_faults(sound: Manifest) -> Iterator[Fault]:
    """Yield faults that validators let pass, and that we do not write."""
    if "origin" in sound and sound["origin"] == sound.get("uuid"):
        yield Fault(where="$.origin", message="is the image itself")
    if "urn" in sound:
        yield Fault(where="$.urn", message="is dead since v2")
    if "channels" in sound:
        yield Fault(where="$.channels", message="is set by a repository; imgadm fails on it")
    if "published_at" in sound:
        yield from _date_faults(sound["published_at"][:10], "%Y-%m-%d", "$.published_at")
    for name in ("min_platform", "max_platform"):
        for version, stamp in sound.get("requirements", {}).get(name, {}).items():
            yield from _date_faults(stamp[:8], "%Y%m%d", at(f"$.requirements.{name}", version))
    for index, entry in enumerate(sound.get("files", ())):
        for name in ("digest", "uncompressedDigest"):
            if name in entry and sound.get("type") != "docker":
                yield Fault(where=f"$.files[{index}].{name}", message="is for type docker")


def _date_faults(day: str, form: str, where: str) -> Iterator[Fault]:
    # The pattern refuses the 32nd of a month; only the calendar refuses the 30th of February.
    try:
        datetime.strptime(day, form)  # noqa: DTZ007  # only whether the day exists
    except ValueError:
        yield Fault(where=where, message=f"{day} is not a day of the calendar")


def _is_true(value: object) -> bool:
    return value is True or value == "true"


# Meaning.


def state_of(manifest: Manifest) -> str:
    """Return the state of an image: as its repository gives it, else computed as repositories do."""
    if manifest.get("state") in ("creating", "failed") or (
        "state" in manifest and "activated" not in manifest
    ):
        return str(manifest["state"])
    if not _is_true(manifest.get("activated")):
        return "unactivated"
    return "disabled" if _is_true(manifest.get("disabled")) else "active"


def check_platform(manifest: Manifest, sdc_version: str, live_image: str) -> list[Fault]:
    """Return why a host may not run an image; nothing if it may (imgmanifest `requirements`).

    sdc_version, live_image: what the host's sysinfo calls "SDC Version" and "Live Image". All
    comparisons are by plain string order, as on the hosts.
    """
    requirements = manifest.get("requirements", {})
    lowest: Mapping[str, str] = requirements.get("min_platform", {})
    highest: Mapping[str, str] = requirements.get("max_platform", {})
    faults = []
    if sdc_version in lowest:
        if live_image < lowest[sdc_version]:
            faults.append(_platform_fault("min", f"{lowest[sdc_version]} or later", live_image))
    elif lowest and sdc_version < min(lowest):
        faults.append(_platform_fault("min", f"SDC {min(lowest)} or later", sdc_version))
    if sdc_version in highest:
        if live_image > highest[sdc_version]:
            faults.append(_platform_fault("max", f"{highest[sdc_version]} or earlier", live_image))
    elif highest and sdc_version > max(highest):
        faults.append(_platform_fault("max", f"SDC {max(highest)} or earlier", sdc_version))
    return faults


def _platform_fault(end: str, needed: str, actual: str) -> Fault:
    return Fault(
        where=f"$.requirements.{end}_platform",
        message=f"needs platform {needed}, this host has {actual}",
    )


# Making one.


def upgrade(manifest: object) -> dict[str, Any]:
    """Return a manifest as v2: v1 (no `v`, but `creator_uuid`) is translated, others are copied.

    Errors: SpecError when it is neither, or not an object.
    """
    if not isinstance(manifest, dict):
        raise SpecError("image manifest", schema.check(manifest, {"type": "object"}, "$"))
    if "v" in manifest:
        return dict(manifest)
    if "creator_uuid" not in manifest:
        fault = Fault(where="$.v", message="is required", hint="v1 manifests have creator_uuid")
        raise SpecError("image manifest", [fault])
    new = {name: value for name, value in manifest.items() if name not in _DROPPED_BY_V2}
    new |= {"v": V, "owner": manifest["creator_uuid"], "public": True}
    if manifest.get("restricted_to_uuid"):
        new |= {"public": False, "acl": [manifest["restricted_to_uuid"]]}
    new["state"] = "disabled" if _is_true(manifest.get("disabled")) else "active"
    published = manifest.get("published_at") or manifest.get("created_at")
    if isinstance(published, str):
        to_the_minute = len(published) == len("2012-01-01T00:00Z") and published.endswith("Z")
        new["published_at"] = published[:-1] + ":00Z" if to_the_minute else published
    size = manifest.get("image_size")
    if isinstance(size, str) and size.isascii() and size.isdigit() and len(size) < 20:
        new["image_size"] = int(size)
    if isinstance(manifest.get("files"), list):
        new["files"] = [_upgrade_file(entry) for entry in manifest["files"]]
    return new


def _upgrade_file(entry: object) -> object:
    if not isinstance(entry, dict):
        return entry
    suffix = os.path.splitext(str(entry.get("path") or entry.get("url") or ""))[1]
    new = {"compression": _COMPRESSION_BY_SUFFIX.get(suffix, "none")} | entry
    return {name: value for name, value in new.items() if name not in ("path", "url")}


def inherit(user: Manifest, origin: Manifest) -> dict[str, Any]:
    """Return the user's manifest, with missing fields taken from its base image's.

    imgadm replaces `requirements` as a whole, so that a user who gives one key loses the base's networks and
    brand. Here the two are merged, key by key and networks by name, and the user's win. Empty lists are not
    inherited, nor what does not fit the type or brand that the user chose.
    """
    new = dict(user)
    kind = user.get("type", origin.get("type"))
    for name in INHERITABLE:
        fits = (name not in _ZVOL or kind == "zvol") and (
            name != "inherited_directories" or kind == "zone-dataset"
        )
        if name not in user and fits and origin.get(name) not in (None, []):
            new[name] = origin[name]
    if "requirements" in user and origin.get("requirements"):
        new["requirements"] = _merge(user["requirements"], origin["requirements"])
    return new


def _merge(ours: Manifest, theirs: Manifest) -> dict[str, Any]:
    merged = {**theirs, **ours}
    if "networks" in ours and "networks" in theirs:
        names = {network["name"] for network in ours["networks"]}
        kept = [network for network in theirs["networks"] if network["name"] not in names]
        merged["networks"] = [*kept, *ours["networks"]]
    if "bootrom" not in ours and merged.get("brand") != "bhyve":
        merged.pop("bootrom", None)
    return merged


def assemble(
    *,
    user: Manifest,
    origin: Manifest | None,
    uuid: str,
    published_at: str,
    file: Mapping[str, object] | None = None,
    incremental: bool = False,
    min_platform: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the manifest of an image, valid by imgmanifest v2 within the limits of the IMGAPI guide.

    user: what the author wrote; a uuid or published_at in it wins. origin: the base image's
    manifest; named as the origin only if the image is incremental. file: size, compression, sha1
    and, if known, dataset_guid. min_platform: for an image bound to its host's platform, wins over
    the base's but not over the user's.
    Errors: SpecError. A call without `file`, before the build, finds faults that the base brings in.
    """
    new = inherit(user, origin or {})
    new = {"uuid": uuid, "owner": NIL_UUID, "published_at": published_at} | new | {"v": V}
    if min_platform and "min_platform" not in user.get("requirements", {}):
        requirements = new.get("requirements", {})
        new["requirements"] = {**requirements, "min_platform": dict(min_platform)}
    if incremental:
        assert origin is not None, "an incremental image has an origin"
        new["origin"] = origin["uuid"]
    if file is not None:
        new["files"] = [dict(file)]
    if faults := validate(new, limits="emit"):
        raise SpecError("image manifest", faults)
    return ordered(new)


# On disk.


def ordered(manifest: Manifest) -> dict[str, Any]:
    """Return the same manifest in the order we write, so that equal manifests are equal bytes.

    Fields come as in the reference, entries of `files` start with size, compression and sha1 as imgadm
    writes them, and every other object is sorted by key.
    """
    names = [name for name in _BY_NAME if name in manifest]
    names += sorted(name for name in manifest if name not in _BY_NAME)
    new = {name: _sorted(manifest[name]) for name in names}
    if isinstance(new.get("files"), list):
        new["files"] = [
            {name: entry[name] for name in _FILE_ORDER if name in entry} | entry
            if isinstance(entry, dict)
            else entry
            for entry in new["files"]
        ]
    return new


def _sorted(value: object) -> Any:
    if isinstance(value, Mapping):
        return {name: _sorted(value[name]) for name in sorted(value)}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_sorted(item) for item in value]
    return value


def dumps(manifest: Manifest) -> str:
    """Return a manifest as text: `ordered`, indented by two, with a line end."""
    return schema.render(ordered(manifest))


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the manifest in a file, as v2, checked to the limits of what validators accept.

    Errors: SpecError with every fault, also when it cannot be read.
    """
    source = os.fspath(path)
    manifest = upgrade(schema.parse(schema.read_file(source), source))
    if faults := validate(manifest, limits="accept"):
        raise SpecError(source, faults)
    return manifest


def uuid_of(text: str) -> str:
    """Return a uuid made from a text, always the same one (in the form of version 4)."""
    return str(UUID(bytes=hashlib.sha256(text.encode()).digest()[:16], version=4))
