"""What decides a build's results: the inputs of its layer with the packages, and of its outputs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from buildstep import __version__, emit
from buildstep.cache import resolutions
from buildstep.cache.key import layer_key
from buildstep.cache.resolutions import KeptResolution
from buildstep.formats import codecs
from buildstep.images.store import ImageRecord
from buildstep.rootfs import cleaners
from buildstep.spec.load import BuildSpec
from buildstep.system.host import min_platform
from buildstep.tree.proto import ProtoDir

NOT_DECISIVE = (
    "keep_on_failure", "shell_on_failure", "timeouts", "limits", "origin_of", "source", "pool", "cache",
    "index_max_age",
)  # fmt: skip
"""Fields of a spec that no output depends on."""


def slot(spec: BuildSpec) -> str:
    """What a missing layer is compared with: the last one made for the same place."""
    return f"{spec.name}/packages"


def proto_digest(spec: BuildSpec, proto: ProtoDir) -> str:
    """A digest over the proto directory as this build sees it. Every file must have been read."""
    return proto.digest(owners="keep" in spec.owner.values(), epoch=spec.source_date_epoch)


def known_proto_digest(spec: BuildSpec, proto: ProtoDir) -> str:
    """The same of the proto directory as the last build saw it; empty where that is not known."""
    return proto.known_digest(owners="keep" in spec.owner.values(), epoch=spec.source_date_epoch)


def question(
    spec: BuildSpec, image: ImageRecord, proto: ProtoDir, environ: Mapping[str, str]
) -> dict[str, Any]:
    """All that decides which packages are installed, but for what the repository has."""
    options = spec.installer_options
    inputs: dict[str, Any] = {
        "base image": image.tree_digest,
        "packages": list(dict.fromkeys(spec.packages)),
        "upgrade_first": spec.upgrade_first,
        "pkg_audit": spec.pkg_audit,
        "installer": spec.installer,
        "installer_options": {
            "recommends": options.recommends,
            "mirror": options.mirror or environ.get("BUILDSTEP_APT_MIRROR"),
            "env": dict(options.env),
        },
        "clean": list(spec.cleaners(cleaners.DEFAULT)),
        "SOURCE_DATE_EPOCH": spec.source_date_epoch,
    }
    if spec.order == "proto-first":
        # Packages may look at what the proto directory brought: the layer is only good with just that.
        inputs |= {
            "proto directory": proto_digest(spec, proto),
            "owner": _owner(spec),
            "exclude": list(spec.exclude),
        }
    return inputs


def package_layer(
    asked: Mapping[str, Any], image: ImageRecord, answer: KeptResolution
) -> tuple[str, dict[str, Any]]:
    """The key of the layer with the packages on this base, and what it is made of."""
    inputs = {**asked, **answer.inputs()}
    # Where packages come from decides nothing once it is known which they are.
    options = {name: value for name, value in asked["installer_options"].items() if name != "mirror"}
    return layer_key(image.tree_digest, "packages", inputs | {"installer_options": options}), inputs


def answer_key(asked: Mapping[str, Any]) -> str:
    """The name under which the repository's answer to this is kept."""
    return resolutions.key_of(asked)


def decisive(
    spec: BuildSpec, image: ImageRecord, proto: str, answer: KeptResolution | None
) -> dict[str, Any]:
    """Everything that decides a build's outputs and where they go: equal inputs make equal outputs."""
    options = {name: value for name, value in spec.to_json().items() if name not in NOT_DECISIVE}
    options |= {"owner": _owner(spec), "clean": list(spec.cleaners(cleaners.DEFAULT))}
    return {
        "buildstep": __version__,
        "option": options,
        "base image": {"uuid": image.uuid, "tree": image.tree_digest},
        "proto directory": proto,
        "package": dict(answer.inputs()) if answer is not None else {},
        "tool": {name: codecs.codec(emit.codec_of(spec, name)).ident for name in spec.formats},
        # Nothing on Linux; a SmartOS agent's own libraries decide where its images can run.
        **{f"platform {key}": stamp for key, stamp in min_platform(os.uname()).items()},
    }


def _owner(spec: BuildSpec) -> list[str]:
    """The rules in their order: the first that matches counts."""
    return [f"{pattern}={owner}" for pattern, owner in spec.owner.items()]
