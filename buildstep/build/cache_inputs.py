"""What decides a build's results: the inputs of its layer with the packages, and of its outputs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from buildstep import __version__, emit
from buildstep.cache import resolutions
from buildstep.cache.key import layer_key
from buildstep.cache.resolutions import KeptResolution
from buildstep.checks import secrets
from buildstep.formats import codecs
from buildstep.images.store import ImageRecord
from buildstep.rootfs import cleaners
from buildstep.spec import run_rules
from buildstep.spec.fields import to_data
from buildstep.spec.load import BuildSpec
from buildstep.spec.repositories import Repository
from buildstep.system.digest import sha256_bytes
from buildstep.system.host import min_platform
from buildstep.tree.proto import ProtoDir
from buildstep.tree.stat_index import StatIndex

NOT_DECISIVE = (
    "keep_on_failure", "keep_clone", "shell_on_failure", "timeouts", "limits", "origin_of", "source", "pool",
    "cache", "shared_cache", "cache_required", "cache_trust", "sharing", "paranoid",
    "index_max_age", "name", "version", "max_size", "max_growth", "over_size",
    "base_max_age", "secrets",
    "locked", "lock", "lock_problem", "proto", "output_dir",
    "trust", "sbom", "provenance", "sign_key", "base_policy", "proof",
)  # fmt: skip
"""Fields of a spec that no output depends on; name and version are part of the manifest as well. Of the proto
directory what is in it decides; where the outputs go is no matter of what they are."""

_OF_A_STORE = ("store", "ref", "outputs", "strip")
"""Fields that mean nothing where the image is not recorded in a store."""

_OF_PACKAGES = ("installer", "installer_options", "order")
"""Fields that mean nothing where no packages are asked for."""


def slot(spec: BuildSpec) -> str:
    """For what a layer was made; where nothing is known of the component's last build, one of these is what a
    missing layer is compared with."""
    return f"{component(spec)}/packages"


def component(spec: BuildSpec) -> str:
    """The component that is built: what a build is compared with is the last one of the same component, and
    for the same platform."""
    return f"{spec.name} for {spec.platform}" if spec.platform else spec.name


def installer(spec: BuildSpec, image: ImageRecord) -> str:
    """The package manager: `auto` is the same as the name of the one that the base image has."""
    return image.installer or spec.installer if spec.installer == "auto" else spec.installer


def proto_digest(spec: BuildSpec, proto: ProtoDir) -> str:
    """A digest over the proto directory as this build sees it. Every file must have been read."""
    return proto.digest(
        owners="keep" in spec.owner.values(), epoch=spec.source_date_epoch, timed=not stable_times(spec)
    )


def proto_index(spec: BuildSpec, state: Path, proto: Path | None = None) -> StatIndex:
    """Return the index of the proto directory, or of another checkout of it. state: of the pool."""
    return StatIndex(state, proto or spec.proto, component(spec))


def stable_times(spec: BuildSpec) -> bool:
    """Whether content decides what time a path has: that of the last image, where nothing else changed."""
    return spec.times == "stable" and spec.source_date_epoch is None


def _repository(row: Repository) -> dict[str, Any]:
    """Return what decides of a repository; of its key the digest, as reasons are told to people."""
    return dict(asdict(row), signed_by=sha256_bytes(row.key) if row.signed_by else "")


def known_proto_digest(spec: BuildSpec, proto: ProtoDir) -> str:
    """The same of the proto directory as the last build saw it; empty where that is not known."""
    return proto.known_digest(
        owners="keep" in spec.owner.values(), epoch=spec.source_date_epoch, timed=not stable_times(spec)
    )


_OF_THE_FILE = ("image_prefix", "ref", "oci")
"""Fields that say what the image is called or how it is run, and nothing of what is in it."""


def of_the_tree(spec: BuildSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options that can decide what is in the image. The message of the day tells its version."""
    left_out = {*_OF_THE_FILE, *(() if spec.motd else ("manifest",))}
    return {name: value for name, value in options.items() if name not in left_out}


def outputs_slot(spec: BuildSpec) -> str:
    """The name under which what one build leaves for the next is kept: of the component, its formats and how
    it is made, and of no version, nor of where it is made or goes."""
    left_out = {*NOT_DECISIVE, *_OF_A_STORE, "manifest", "packages", "run", "image"}
    options = of_the_tree(spec, {k: v for k, v in spec.to_json().items() if k not in left_out})
    text = json.dumps([component(spec), options], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def question(
    spec: BuildSpec, image: ImageRecord, proto: ProtoDir | None, environ: Mapping[str, str]
) -> dict[str, Any]:
    """All that decides which packages are installed, but for what the repository has. proto: None where
    packages come first, and nothing is asked of it."""
    options = spec.installer_options
    inputs: dict[str, Any] = {
        "base image": image.tree_digest,
        "packages": list(dict.fromkeys(spec.packages)),
        "upgrade_first": spec.upgrade_first,
        "pkg_audit": spec.pkg_audit,
        "installer": installer(spec, image),
        "installer_options": {
            "recommends": options.recommends,
            "mirror": options.mirror or environ.get("BUILDSTEP_APT_MIRROR"),
            "env": dict(options.env),
            "repositories": {row.name: _repository(row) for row in options.repositories},
            "hold": list(options.hold),
        },
        "package files": {file.name: file.sha256 for file in spec.package_files},
        "clean": list(spec.cleaners(cleaners.DEFAULT)),
        **accounts(spec),
        "SOURCE_DATE_EPOCH": spec.source_date_epoch,
    }
    if spec.lock is not None:
        inputs["lock"] = spec.lock.packages_digest()
    if options.secrets:
        shapes = {name: run_rules.shape_of(name, spec.secrets[name]) for name in options.secrets}
        inputs["secrets"] = shapes
    if spec.order == "proto-first":
        assert proto is not None
        # Packages may look at what the proto directory brought: the layer is only good with just that.
        inputs |= {
            "proto directory": proto_digest(spec, proto),
            "owner": _owner(spec),
            "modes": _modes(spec),
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
    """Everything that decides a build's outputs: equal inputs make equal outputs.

    What is left to its default and what names the default are the same here.
    """
    options = {name: value for name, value in spec.to_json().items() if name not in NOT_DECISIVE}
    options |= {
        "owner": _owner(spec),
        "modes": _modes(spec),
        **accounts(spec),
        "clean": list(spec.cleaners(cleaners.DEFAULT)),
        "compression": _compression(spec),
        "secrets": {name: run_rules.shape_of(name, secret) for name, secret in spec.secrets.items()},
        **secrets.decides(spec.proof),
    }
    if spec.source_date_epoch is not None:
        options.pop("times")  # it does not say anything then
    if "files" in spec.formats:
        options["ref"] = spec.ref_name
    else:
        for name in _OF_A_STORE:
            options.pop(name)
        if emit.has_layers(spec.formats):
            options["ref"] = spec.ref
    if spec.wants_packages:
        options["installer_options"] = to_data(replace(spec.installer_options, snapshot=None))
        options["installer"] = installer(spec, image)
    else:
        for name in _OF_PACKAGES:
            options.pop(name)
        if any(command.inputs for command in spec.run):
            options["order"] = spec.order
    return {
        "buildstep": __version__,
        "option": options,
        "base image": {"uuid": image.uuid, "tree": image.tree_digest},
        "proto directory": proto,
        "package": dict(answer.inputs()) if answer is not None else {},
        **({"lock": spec.lock.packages_digest()} if spec.lock is not None and spec.wants_packages else {}),
        "tool": {name: codecs.codec(emit.codec_of(spec, name)).ident for name in spec.formats},
        # Nothing on Linux; a SmartOS agent's own libraries decide where its images can run.
        **{f"platform {key}": stamp for key, stamp in min_platform(os.uname()).items()},
    }


def _compression(spec: BuildSpec) -> str | None:
    """What the formats are compressed with; None also where it names what each has by default."""
    defaults = replace(spec, compression=None)
    named = any(emit.codec_of(spec, name) != emit.codec_of(defaults, name) for name in spec.formats)
    return spec.compression if named else None


def accounts(spec: BuildSpec) -> dict[str, Any]:
    """What decides the accounts: by their names, so that a change can be told, and in their order, in which
    they are in the tables."""
    return {
        "users": {row.name: to_data(row) for row in spec.users},
        "groups": {row.name: to_data(row) for row in spec.groups},
        "order of accounts": [*(row.name for row in spec.groups), *(row.name for row in spec.users)],
    }


def _modes(spec: BuildSpec) -> list[str]:
    return [f"{pattern}={mode}" for pattern, mode in spec.modes.items()]


def _owner(spec: BuildSpec) -> list[str]:
    """The rules in their order: the first that matches counts."""
    return [f"{pattern}={owner}" for pattern, owner in spec.owner.items()]
