"""`buildstep verify`: whether an image is what somebody has signed, by keys or by a policy."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from buildstep.cli import values
from buildstep.cli.options import JSON, show

if TYPE_CHECKING:
    from buildstep.trust.policy import Policy
    from buildstep.trust.verify.evidence import Evidence

_DOCKER = "docker://"
_EPILOG = (
    "Exit codes: 0 verified, 30 unsigned, 31 signed by a key that is not trusted or altered since, 32 signed,"
    " but something else, 33 a key or exception whose time is over or has not come, 34 denied by the policy."
)


@click.command("verify", epilog=_EPILOG)
@click.argument(
    "what", nargs=-1, required=True, metavar="ARCHIVE|DIR|RECORD|FILE|REF...", shell_complete=values.FILES
)
@click.option(
    "--key", "keys", multiple=True, metavar="PUB", shell_complete=values.FILES,
    help="A public key that is trusted; repeat for several, of which one must have signed.",
)  # fmt: skip
@click.option(
    "--policy", "policy_file", metavar="FILE", shell_complete=values.FILES,
    help="The policy, in TOML: keys, what they may sign, and what has to be proved of what.",
)  # fmt: skip
@click.option(
    "--require", "require", multiple=True, metavar="LIST", shell_complete=values.PROOFS,
    help="What has to be proved: signature, provenance, sbom, tests, vulnerabilities; with a policy, too.",
)  # fmt: skip
@click.option(
    "--threshold",
    type=click.IntRange(1),
    metavar="N",
    help="So many of the keys of --key must have signed it.",
)
@click.option(
    "--platform",
    metavar="OS/ARCH",
    help="Of an image in a registry for several platforms: what is said of this one's counts too.",
)
@JSON
def command(
    what: tuple[str, ...],
    keys: tuple[str, ...],
    policy_file: str | None,
    require: tuple[str, ...],
    threshold: int | None,
    platform: str | None,
    as_json: bool,
) -> None:
    """Say whether images are what somebody has signed, who has, and what is proved of them.

    It reads an image file of any format (OCI archives and directories, tars, zfs and btrfs streams, or any
    other file) with the signatures and statements beside it; all images of a build, given its record or its
    directory; or docker://HOST/NAME[:TAG|@DIGEST] with what its registry has. What is there is hashed: every
    blob of an OCI image too. Files need no root, no pool and no network.
    """
    from buildstep.trust.verify.judge import judge
    from buildstep.trust.verify.report import worst

    policy = _policy(keys, policy_file, require, threshold)
    now = time.time()
    reports = [judge(evidence, policy, now) for text in what for evidence in _evidence(text, platform)]
    failure = worst(reports).error()
    value = {
        "code": 0 if failure is None else failure.code,
        "verdict": worst(reports).verdict,
        "policy": policy.where,
        "artifacts": [report.to_json() for report in reports],
    }
    show(value, [line for report in reports for line in report.lines()], as_json=as_json)
    if failure is not None:
        raise failure


def _policy(
    keys: Sequence[str], policy_file: str | None, require: Sequence[str], threshold: int | None
) -> Policy:
    """Return what to judge by. Raises UsageError, SpecError, SigningError."""
    from buildstep.errors import UsageError
    from buildstep.trust import policy
    from buildstep.trust.keys.public import public_of

    if bool(keys) == (policy_file is not None):
        raise UsageError(
            "give --key or --policy, one of them", hint="--key release.pub, or --policy policy.toml"
        )
    names, unknown = policy.proofs(require)
    if unknown:
        known = ", ".join(policy.PROOFS)
        raise UsageError(f"--require: {', '.join(unknown)} is not known", hint=f"it can be {known}")
    if policy_file is not None:
        if threshold is not None:
            raise UsageError("--threshold is for --key", hint="a policy has it in its rules")
        return policy.load(Path(policy_file)).requiring(names)
    found = policy.of_keys([(Path(key).name, public_of(Path(key))) for key in keys], names)
    return found.with_threshold(threshold or 1)


def _evidence(text: str, platform: str | None) -> Sequence[Evidence]:
    """Return what there is about what was named: one for each artifact."""
    from buildstep.images.attestations.inside import from_path
    from buildstep.trust.verify.from_files import artifacts_of

    if text.startswith(_DOCKER):
        return [_of_registry(text, platform)]
    path, tag = _split(text)
    return [from_path(artifact, tag) for artifact in artifacts_of(path)]


def _of_registry(text: str, platform: str | None) -> Evidence:
    """Return what a registry has about an image. Its tag is asked for once."""
    import os
    import sys

    from buildstep.cli.session import environment
    from buildstep.events import Bus
    from buildstep.formats.oci.spec import OciPlatform
    from buildstep.images.attestations.evidence import evidence_of
    from buildstep.report.console import view_for
    from buildstep.spec import config as configs

    config = configs.load(os.environ, Path.cwd())
    bus = Bus(view_for(sys.stderr, verbose=0, quiet=False))
    return evidence_of(
        text,
        environ=environment(config, None),
        limits=config.http,
        platform=OciPlatform.parse(platform) if platform else None,
        bus=bus,
    )


def _split(text: str) -> tuple[Path, str]:
    """Return the path and, behind a colon, the tag of what was named, as `oci:PATH:TAG` has them."""
    plain = text.removeprefix("oci:").removeprefix("tar:")
    if Path(plain).exists():
        return Path(plain), ""
    path, colon, tag = plain.rpartition(":")
    return (Path(path), tag) if colon and Path(path).exists() else (Path(plain), "")
