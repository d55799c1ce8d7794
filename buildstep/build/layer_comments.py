"""What the history of an image says of each of its layers, and the record with it.

They are made of the spec alone: a content update has to give the words of a full build, which are part of the
image's bytes.
"""

from __future__ import annotations

from buildstep.build import run_rows
from buildstep.build.run_rows import Row
from buildstep.images.record import ImageRecord
from buildstep.spec.load import BuildSpec


def base(image: ImageRecord) -> str:
    """Return the comment of the layer that is the base image."""
    return f"base image {image.name} {image.version}".rstrip()


ACCOUNTS = "accounts"
"""The comment of the layer with users and groups, where they have one to themselves."""


def accounts_apart(spec: BuildSpec) -> bool:
    """Return whether users and groups are a layer by themselves: neither packages nor commands share one."""
    return spec.wants_accounts and not spec.wants_packages and not spec.run


def packages(spec: BuildSpec) -> str:
    """Return the comment of the layer that the package manager made; with `proto-first` the proto directory
    is in it as well."""
    upgraded = ["upgrade"] if spec.upgrade_first or not spec.packages else []
    names = f"packages: {', '.join([*upgraded, *spec.packages])}"
    names = f"accounts; {names}" if spec.wants_accounts else names
    return f"proto directory; {names}" if spec.order == "proto-first" else names


def command(row: Row) -> str:
    """Return the comment of the layer that a command made before the proto directory was there."""
    return f"command: {row.name}"


def below_proto(spec: BuildSpec) -> list[tuple[str, str]]:
    """Return what made the layers between the base image and the topmost one, each with its comment."""
    found = [("packages", packages(spec))] if spec.wants_packages else []
    return found + [(run_rows.STEP, command(row)) for row in run_rows.early(spec)]


def top(spec: BuildSpec) -> str:
    """Return the comment of the layer on top of all these."""
    apart = spec.wants_packages and spec.order == "proto-first"
    names = ["cleaned" if apart else "proto directory"]
    inside = spec.wants_accounts and not (spec.wants_packages or run_rows.early(spec))
    names += ["accounts"] if inside and not accounts_apart(spec) else []
    names += ["commands"] if run_rows.late(spec) else []
    names += ["units"] if spec.units else []
    names += ["message of the day"] if spec.motd else []
    return "; ".join(names)


def part(number: int, count: int) -> str:
    """Return the comment of one of the layers that a large proto directory is cut into."""
    return f"proto directory, part {number} of {count}"


REMOVED = "what is removed from the base"
"""The comment of the layer below those parts, with whiteouts only."""

FOLDERS = "directories of the proto directory, with their times"
"""The comment of the layer on top of those parts."""
