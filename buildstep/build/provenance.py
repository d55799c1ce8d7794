"""Provenance of an image: what it was built from, how and by whom, as SLSA has it.

The form is "Build: Provenance" v1 of slsa-framework/slsa (spec/build-provenance.md), in an in-toto statement.
It is made of a list of fields that may be told, and of nothing else: `min` has no text that somebody wrote
freely, as that may hold anything, `max` has more of the settings, times and the build's id. Neither has the
value of a variable. `docs/reference/provenance.md` describes every field.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from buildstep import emit
from buildstep.build.dependencies import Row, names_of
from buildstep.images.shown import shown_reference
from buildstep.net.errors import safe_url
from buildstep.spec.fields import RunCommand, to_data
from buildstep.spec.load import BuildSpec
from buildstep.spec.shared_cache import SharedCache
from buildstep.trust.statements import STATEMENTS
from buildstep.trust.statements.statement import Statement, Subject

BUILD_TYPE: Final = "urn:buildstep:build-type:v1"
BUILDER: Final = "urn:buildstep:builder"
TYPE: Final = STATEMENTS["provenance"].predicate_types[0]

_Field = Callable[[BuildSpec], Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What provenance tells beside the settings. subjects: the artifacts; dependencies: see `dependencies`;
    byproducts: what else the build wrote; ident: of the build; started, finished: seconds since 1970; route:
    how it got to its outputs; pool: the kind of its pool."""

    subjects: tuple[Subject, ...]
    dependencies: Sequence[Row]
    byproducts: Sequence[Row] = ()
    ident: str = ""
    started: float = 0.0
    finished: float = 0.0
    internal: Mapping[str, Any] = field(default_factory=dict)


def statement(spec: BuildSpec, facts: Facts) -> Statement:
    """Return the provenance of an image, as its settings ask for it."""
    whole = spec.proof.provenance == "max"
    definition: dict[str, Any] = {
        "buildType": BUILD_TYPE,
        "externalParameters": external(spec, whole=whole),
        "resolvedDependencies": list(facts.dependencies),
    }
    details: dict[str, Any] = {
        "builder": {"id": builder(spec), "version": _versions(spec)},
        "byproducts": list(facts.byproducts),
    }
    if whole:
        definition["internalParameters"] = {**internal(spec), **facts.internal}
        details["metadata"] = {
            "invocationId": facts.ident,
            "startedOn": _time(facts.started),
            "finishedOn": _time(facts.finished),
        }
    return Statement(facts.subjects, TYPE, {"buildDefinition": definition, "runDetails": details})


def builder(spec: BuildSpec) -> str:
    """Return who builds, as provenance and the record of a build name it."""
    return builder_id(spec.sharing if spec.cache else None)


def builder_id(sharing: SharedCache | None) -> str:
    """Return who vouches for a build: this machine alone, or whoever may write what it has reused.

    `local`: nothing was taken from elsewhere; `signed-cache`: a shared cache of which only records with the
    signature of a key count; `shared-cache`: one that others may write to.
    """
    if sharing is None:
        return f"{BUILDER}:local"
    signed = sharing.trust == "release" or sharing.policy is not None
    return f"{BUILDER}:{'signed-cache' if signed else 'shared-cache'}"


def _versions(spec: BuildSpec) -> dict[str, str]:
    """Return the versions of what writes the image; of the machine nothing."""
    return {name: text for name, text in emit.tool_versions(spec).items() if name != "kernel"}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# -- what may be told of the settings -----------------------------------------------------------------------


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _command(command: RunCommand) -> dict[str, Any]:
    """Return which command ran: its name, and of what it runs the digest alone: a line may hold a token."""
    runs = [list(command.argv), command.script, list(command.interpreter)]
    return {"name": command.name, "sha256": _digest(runs)}


def _command_in_full(command: RunCommand) -> dict[str, Any]:
    return _command(command) | {
        "file": command.file or "",
        "inputs": list(command.inputs),
        "env": sorted(command.env),
        "secrets": list(command.secrets),
        "network": command.network,
        "user": command.user or "",
    }


MIN: Final[Mapping[str, _Field]] = {
    "name": lambda spec: spec.name,
    "version": lambda spec: spec.version,
    "manifest": lambda spec: {"sha256": _digest(to_data(spec.manifest))},
    "image": lambda spec: shown_reference(spec.image),
    "platform": lambda spec: spec.platform or "",
    "packages": lambda spec: names_of(spec.packages),
    "installer": lambda spec: spec.installer,
    "recommends": lambda spec: spec.installer_options.recommends,
    "upgrade_first": lambda spec: spec.upgrade_first,
    "run": lambda spec: [_command(command) for command in spec.run],
    "order": lambda spec: spec.order,
    "clean": lambda spec: list(spec.clean) if spec.clean is not None else "default",
    "formats": lambda spec: list(spec.formats),
    "compression": lambda spec: spec.compression or "",
    "sparse": lambda spec: spec.sparse,
    "times": lambda spec: spec.times,
    "full": lambda spec: spec.full,
    "locked": lambda spec: spec.lock is not None,
    "source_date_epoch": lambda spec: spec.source_date_epoch,
}
"""What `min` tells of the settings: all of it is a name, a choice, a number or a digest."""

MAX: Final[Mapping[str, _Field]] = {
    **MIN,
    "run": lambda spec: [_command_in_full(command) for command in spec.run],
    "mirror": lambda spec: safe_url(spec.installer_options.mirror or ""),
    "repositories": lambda spec: [
        {"name": row.name, "uris": [safe_url(uri) for uri in row.uris]}
        for row in spec.installer_options.repositories
    ],
    "hold": lambda spec: list(spec.installer_options.hold),
    "installer_env": lambda spec: sorted(spec.installer_options.env),
    "run_env": lambda spec: sorted(spec.run_options.env),
    "secrets": lambda spec: sorted(spec.secrets),
    "users": lambda spec: [{"name": row.name, "uid": row.uid} for row in spec.users],
    "groups": lambda spec: [{"name": row.name, "gid": row.gid} for row in spec.groups],
    "owner": lambda spec: [[pattern, owner] for pattern, owner in spec.owner.items()],
    "modes": lambda spec: [[pattern, mode] for pattern, mode in spec.modes.items()],
    "units": lambda spec: to_data(spec.units),
    "exclude": lambda spec: list(spec.exclude),
    "replace": lambda spec: list(spec.replace),
    "outputs": lambda spec: list(spec.outputs),
    "oci": lambda spec: {
        "env": sorted(spec.oci.env),
        "labels": sorted(spec.oci.labels),
        "expose": list(spec.oci.expose),
        "volumes": list(spec.oci.volumes),
        "user": spec.oci.user or "",
        "workdir": spec.oci.workdir or "",
    },
    "origin_of": lambda spec: {
        name: origin for name, origin in sorted(spec.origin_of.items()) if origin != "default"
    },
}
"""What `max` tells of them: of variables, labels and secrets the names."""

INTERNAL: Final[Mapping[str, _Field]] = {
    "cache": lambda spec: bool(spec.cache),
    "paranoid": lambda spec: spec.paranoid,
    "network": lambda spec: spec.network,
    "index_max_age": lambda spec: spec.index_max_age,
    "timeouts": lambda spec: to_data(spec.timeouts),
}
"""What `max` tells of how the build was done, and what no output depends on."""


def external(spec: BuildSpec, *, whole: bool) -> dict[str, Any]:
    """Return what whoever asked for the build has decided."""
    return _told(spec, MAX if whole else MIN)


def internal(spec: BuildSpec) -> dict[str, Any]:
    """Return how it was done."""
    return _told(spec, INTERNAL)


def _told(spec: BuildSpec, table: Mapping[str, _Field]) -> dict[str, Any]:
    """Return the fields of a table that say something."""
    values = {name: value(spec) for name, value in table.items()}
    return {name: value for name, value in values.items() if value not in (None, "", [], {}, False)}
