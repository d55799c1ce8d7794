"""`buildstep image publish`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.options import JSON, POLICY, REQUIRE, show, with_session

if TYPE_CHECKING:
    from buildstep.cli.session import Session
    from buildstep.images.publishers import PublishOptions
    from buildstep.spec.config import TargetConfig


_EPILOG = (
    "Exit codes: 17 not published, 19 a key that does not sign; where something is required: 30 unsigned, 31"
    " signed by a key that is not trusted or altered since, 32 signed, but something else, 33 a key whose"
    " time is over or has not come, 34 denied."
)


@click.command("publish", epilog=_EPILOG)
@click.argument("path", metavar="MANIFEST|RECORD|DIR", shell_complete=values.FILES)
@click.argument("targets", nargs=-1, metavar="[TARGET]...", shell_complete=values.TARGETS)
@click.option(
    "--to",
    "more",
    multiple=True,
    metavar="TARGET",
    shell_complete=values.TARGETS,
    help="A target, as after the manifest; repeat.",
)
@click.option(
    "--index",
    metavar="TARGET",
    shell_complete=values.TARGETS,
    help="Publish all that is named, a platform each, as one: docker://HOST/NAME:TAG or oci:DIR:TAG.",
)
@click.option("--replace", is_flag=True, help="A registry's tag may be moved to this image.")
@click.option("--channel", metavar="C", help="Of an IMGAPI server.")
@click.option("--user", metavar="NAME", help="Who signs, for an IMGAPI server.")
@click.option(
    "--key",
    metavar="FILE|agent[:FINGERPRINT]",
    shell_complete=values.FILES,
    help="The RSA key that signs (default: agent).",
)
@click.option("--endpoint", metavar="URL", help="Of an S3 store that is not Amazon's.")
@click.option("--insecure", is_flag=True, help="Do not check certificates; plain http to a registry.")
@REQUIRE
@POLICY
@click.option(
    "--sign-key",
    "sign_key",
    multiple=True,
    metavar="KEY",
    envvar="BUILDSTEP_SIGN_KEY",
    show_envvar=True,
    shell_complete=values.FILES,
    help="Sign what goes to a registry and is not signed: a file, agent, agent:FINGERPRINT or pkcs11:URI.",
)
@click.option(
    "--attestations",
    type=click.Choice(["all", "referrers", "tags", "none"]),
    help="How a registry gets what is beside the image: as referrers, under cosign's tags, or both (all).",
)
# Nothing is mounted and no command is run: no namespaces are needed.
@with_session(healing=False, enclosed=False)
@JSON
@click.option("-v", "--verbose", count=True, help="Show more.")
def command(
    session: Session,
    path: str,
    targets: tuple[str, ...],
    more: tuple[str, ...],
    index: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Publish a built image. Content goes first and its name last; doing it again changes nothing.

    TARGET: docker://HOST/NAME[:TAG], s3://BUCKET[/PREFIX], dir:PATH, an IMGAPI server's address, or a name
    that buildstep.toml gives to one. With --index all arguments are images: builds, or OCI archives.
    """
    from buildstep.images.publish import bundle_of, check, publish, target_named

    if index is not None:
        if more:
            raise click.UsageError("--index names the target; --to is for images by themselves")
        _publish_index(session, [path, *targets], index, as_json=as_json, **flags)
        return
    wanted = [*targets, *more]
    if not wanted:
        raise click.UsageError("where to? Give a TARGET, such as docker://HOST/NAME or dir:PATH.")
    chosen = [target_named(text, session.config.targets) for text in wanted]
    rows = []
    with bundle_of(Path(path), targets=len(chosen)) as bundle:
        settings = [_options(session, target, flags) for target in chosen]
        # For all of them, before one has anything.
        for target, options in zip(chosen, settings, strict=True):
            check(bundle, target.target, options.demand)
        for target, options in zip(chosen, settings, strict=True):
            done = publish(bundle, target, options=options, state=session.backend.state, bus=session.bus)
            rows.append(done.to_json())
            word = "published" if done.state == "published" else "was there already"
            line = f"{done.uuid}  {done.name}  {done.target}  {word}"
            if not as_json:
                show({}, [line], as_json=False, done=line)
    if as_json:
        show({"published": rows}, (), as_json=True, done=f"{len(rows)} targets have it")


def _options(session: Session, target: TargetConfig, flags: dict[str, Any]) -> PublishOptions:
    from buildstep.images.publish import options_for

    return options_for(target, environ=session.environ, http=session.config.http, bus=session.bus, **flags)


def _publish_index(session: Session, paths: list[str], index: str, *, as_json: bool, **flags: Any) -> None:
    from buildstep.images.publish import target_named
    from buildstep.images.publish_index import publish

    target = target_named(index, session.config.targets)
    options = _options(session, target, flags)
    done = publish(
        [Path(path) for path in paths],
        target.target,
        options=options,
        state=session.backend.state,
        bus=session.bus,
    )
    word = "published" if done.state == "published" else "was there already"
    platforms = ", ".join(name for name in done.objects if "/" in name)
    lines = [f"{done.name}  {platforms}  {word}"]
    show({"published": [done.to_json()]}, lines, as_json=as_json, done=lines[0])
