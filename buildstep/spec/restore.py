"""A spec again from what a build record has of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from buildstep.errors import Fault, SpecError, UsageError
from buildstep.spec import schema
from buildstep.spec.fields import FORMAT_VERSION, BuildSpec, from_data
from buildstep.spec.repositories import PackageFile
from buildstep.spec.settings import SETTINGS

_NO_SETTINGS = ("proof", "sharing", "lock", "lock_problem", "keep_clone")
"""Fields that say how one build was done, and nothing of its image."""


def of_json(value: Mapping[str, Any], source: str) -> BuildSpec:
    """Return the spec that `BuildSpec.to_json` made JSON of, without the lock that was used.

    Package files have their name for a path: it is relative to the m.json, and that is not in the record.
    source: for messages. A record may be anybody's: what an m.json could not have is no spec either, so that
    no name of a file leads elsewhere. Raises UsageError for what is no spec, SpecError with every fault.
    """
    if (version := value.get("format_version", FORMAT_VERSION)) != FORMAT_VERSION:
        raise UsageError(
            f"{source} has settings of the format {version!r}; this buildstep reads {FORMAT_VERSION}",
            hint="rebuild with the version of buildstep that is in its `tools`",
        )
    if faults := list(_faults(value)):
        raise SpecError(source, faults)
    names = {item.name for item in dataclasses.fields(BuildSpec)} - {*_NO_SETTINGS, "package_files"}
    try:
        fields = {name: from_data(name, part) for name, part in value.items() if name in names}
        files = tuple(
            PackageFile(name=row["name"], path=Path(row["name"]), sha256=row["sha256"])
            for row in value.get("package_files", ())
        )
        return BuildSpec(**fields, package_files=files)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{source} has settings that this version cannot read: {error}",
            hint="rebuild with the version of buildstep that is in its `tools`",
        ) from error


def _faults(value: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield what the settings of an m.json could not be."""
    for name, setting in SETTINGS.items():
        if (given := _given(value.get(name))) is not None:
            if name == "run" and isinstance(given, list):  # each has a name, but for plain ones
                given = [{"name": "plain", **row} if isinstance(row, Mapping) else row for row in given]
            yield from schema.check(given, setting.rule, f"inputs.spec.{name}")
    for name in ("name", "version"):
        text = value.get(name, "x")
        if not isinstance(text, str) or not text or "\0" in text or (name == "version" and "/" in text):
            yield Fault(where=f"inputs.spec.{name}", message="cannot be part of the name of a file")


def _given(value: Any) -> Any:
    """Return a setting as an m.json has it: what is empty is not given; None for nothing."""
    if isinstance(value, Mapping):
        parts = {key: part for key, given in value.items() if (part := _given(given)) is not None}
        return parts or None
    if isinstance(value, list):
        return [given if (part := _given(given)) is None else part for given in value] or None
    return None if value == "" else value
