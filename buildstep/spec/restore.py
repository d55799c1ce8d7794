"""A spec again from what a build record has of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from buildstep.errors import UsageError
from buildstep.spec.fields import BuildSpec, from_data
from buildstep.spec.repositories import PackageFile

_NO_SETTINGS = ("proof", "sharing", "lock", "lock_problem", "keep_clone")
"""Fields that say how one build was done, and nothing of its image."""


def of_json(value: Mapping[str, Any], source: str) -> BuildSpec:
    """Return the spec that `BuildSpec.to_json` made JSON of, without the lock that was used.

    Package files have their name for a path: it is relative to the m.json, and that is not in the record.
    source: for messages. Raises UsageError for what is no spec.
    """
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
