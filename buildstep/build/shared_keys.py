"""What decides the layer with the packages and what they resolve to, in words that hold on every agent.

A key of a pool stands on the digest of the base's tree, which has no times; a shared one on that of its list,
which has them, as equal keys promise equal bytes there. Nothing of an agent is in it: no name, date or path.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from buildstep import __version__
from buildstep.build import cache_inputs
from buildstep.cache.resolutions import KeptResolution
from buildstep.cache.shared import CREDENTIALS
from buildstep.images.record import ImageRecord
from buildstep.spec.load import BuildSpec
from buildstep.system.digest import sha256_bytes

if TYPE_CHECKING:
    from buildstep.cache.remote.interface import Record

_FORMAT: Final = 1
_HOUR: Final = 3600


def shareable(spec: BuildSpec) -> str:
    """Return why the layer with the packages is not shared; empty if it is."""
    if not spec.wants_packages:
        return "no packages are asked for"
    if spec.order != "packages-first":
        return "the proto directory is in the layer with the packages: `order` is proto-first"
    if spec.installer_options.secrets:
        return "its packages are from a repository that takes secrets"
    return "it has an audit of today" if spec.pkg_audit else ""


def question(spec: BuildSpec, image: ImageRecord, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return all that decides which packages are installed, but for what the repository has."""
    asked = cache_inputs.question(spec, image, None, environ)
    options = _hidden(asked["installer_options"])
    options["env"] = {name: _digest(str(value)) for name, value in options["env"].items()}
    return asked | {
        "base image": image.list_digest, "buildstep": __version__, "format": _FORMAT,
        "installer_options": options,
    }  # fmt: skip


def _hidden(value: Any) -> Any:
    """Return what decides with a digest in the place of each address that says who calls: a record shows its
    inputs to all who can read the store."""
    if isinstance(value, Mapping):
        return {name: _hidden(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(part) for part in value]
    return _digest(value) if isinstance(value, str) and CREDENTIALS.search(value) else value


def _digest(text: str) -> str:
    return f"sha256:{sha256_bytes(text.encode())}"


def of_record(record: Record) -> ImageRecord:
    """Return what is known of a base before it is fetched, as far as a question needs it."""
    facts = record.facts
    return ImageRecord(
        uuid="", key="", label="", tree_digest=str(facts["tree_digest"]), fingerprint="", manifest={},
        inputs={}, packages=(), config={}, imported=0.0, files=0, size=0,
        list_digest=str(facts["list_digest"]), installer=str(facts["installer"]),
    )  # fmt: skip


def slot(spec: BuildSpec, base: str) -> str:
    """Return what all versions of a layer with packages have in common. base: the key of its base image,
    which stays while what is in that changes."""
    return sha256_bytes(json.dumps([_FORMAT, base, list(spec.packages)]).encode())


def packages(asked: Mapping[str, Any], answer: KeptResolution) -> dict[str, Any]:
    """Return what decides the layer with the packages."""
    options = {name: value for name, value in asked["installer_options"].items() if name != "mirror"}
    return {**asked, **answer.inputs(), "installer_options": options}


def answers(spec: BuildSpec, asked: Mapping[str, Any], release: str, now: float) -> list[dict[str, Any]]:
    """Return of which inputs an answer of the repository counts now, the best first.

    One that a lock has given holds for ever, and one for Release files as long as they are these. Any other
    holds for a while, and is found by the hour of it. release: of the base's sources, asked for just now;
    empty for unknown.
    """
    if spec.lock is not None:
        return [dict(asked)]
    found = []
    options = spec.installer_options
    if release and not options.repositories and not options.mirror:
        found.append({**asked, "release": release})
    hour = int(now) // _HOUR
    return [*found, *({**asked, "hour": number} for number in (hour, hour - 1))]


def answer_of(facts: Mapping[str, Any]) -> KeptResolution:
    """Return an answer that another agent has had. Raises KeyError, TypeError, ValueError."""
    return KeptResolution(
        index=str(facts["index"]),
        versions={str(name): str(version) for name, version in facts["versions"].items()},
        exact=bool(facts["exact"]),
        asked=min(float(facts["asked"]), time.time()),
        order=tuple(str(row) for row in facts["order"]),
    )
