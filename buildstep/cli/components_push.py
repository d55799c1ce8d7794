"""`buildstep components push`: push images that are built, by digest, and tag them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.components_options import decides_keys, open_, split_names
from buildstep.cli.options import JSON, POLICY, REQUIRE, show, tell

if TYPE_CHECKING:
    from buildstep.components.push import Pushed
    from buildstep.images.attestations.local import Signing
    from buildstep.images.attestations.required import Demand
    from buildstep.net.credentials import Credentials


@click.command("push")
@click.option(
    "-i", "--images", "names", multiple=True, metavar="NAME,...", callback=split_names,
    shell_complete=values.COMPONENTS, help="Only these images (default: all of the repository).",
)  # fmt: skip
@click.option("--registry", metavar="HOST[/NAMESPACE]", help="Where to push; wins over all files.")
@click.option(
    "-t", "--tag", "tags", multiple=True, metavar="TAG", help="A tag for the images; repeat for more."
)
@click.option("--username", metavar="NAME", help="Who logs in; the password comes by one of the next two.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option(
    "--password-file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    shell_complete=values.FILES, help="Read the password from a file.",
)  # fmt: skip
@click.option(
    "--sign-key", "sign_key", multiple=True, metavar="KEY", envvar="BUILDSTEP_SIGN_KEY", show_envvar=True,
    shell_complete=values.FILES,
    help="Sign the images: a file, agent, agent:FINGERPRINT or pkcs11:URI; wins over components.toml.",
)  # fmt: skip
@REQUIRE
@POLICY
@click.option("--insecure", is_flag=True, help="Plain http, or a certificate that nobody signed.")
@click.option(
    "--result", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Write what was pushed, with digests, as JSON; also when some of it failed.",
)  # fmt: skip
@decides_keys
@JSON
@click.option("-q", "--quiet", is_flag=True, help="Only errors and the result.")
def command(root: Path, **options: Any) -> int:
    """Push images of the repository that are built from its sources as they are now.

    All content goes first, under digests, with what an m.json has written to prove its image (`build.trust`);
    tags are set when all of it is there, so that nobody pulls half of a push. What the images were built with
    (--build-arg, --label and so on) has to be said here too.

    Who pushes is said by -c (OpenPAI's configuration), by --username, by BUILDSTEP_REGISTRY_USER and
    BUILDSTEP_REGISTRY_PASSWORD, or by `docker login`. Exit code 17 if an image is not all there; 30 to 34
    where something is required and not proved, as for `image publish`: then nothing was sent.
    """
    from buildstep.cli import guard

    return guard.guarded(lambda: _push(root, **options))


def _push(root: Path, *, quiet: bool, as_json: bool, result: Path | None, **options: Any) -> int:
    from dataclasses import replace

    from buildstep.components import push as pushing
    from buildstep.components.base_images import find_bases
    from buildstep.components.flow import recorded, stock_of
    from buildstep.events import Bus
    from buildstep.system import process

    demand = _demand(options)
    opened = open_(root, options)
    registry = opened.settings.registry
    if (credentials := _credentials(options)) is not None:
        registry = replace(registry, credentials=credentials)
    images = opened.graph.repository.images()
    wanted = [name for name in images if not options["names"] or name.partition("@")[0] in options["names"]]
    # What other machines have built is known by its bases, which a machine that built none may lack.
    find_bases(opened, opened.graph.jobs, tell, pull="missing" if opened.settings.handover else "never")
    known = dict.fromkeys(images) | recorded(opened, wanted)
    chosen = pushing.chosen(options["names"], known)
    access = pushing.Access(
        builder=opened.builder(),
        run=lambda argv, env, what: process.run(argv, env=env, what=what),
        environ=os.environ,
        bus=Bus(),
        stock=stock_of(opened),
        layouts=opened.state / "layouts",
        demand=replace(demand, signing=_signing(options["sign_key"] or registry.sign_key)),
        insecure=options["insecure"],
    )
    rows = pushing.push(chosen, registry, access, (lambda _text: None) if quiet else tell)
    found = pushing.result(rows)
    if result is not None:
        _write(result, found)
    show(found, _lines(rows), as_json=as_json, done=f"{sum(not row.error for row in rows)} images pushed")
    pushing.check(rows)
    return 0


def _demand(options: dict[str, Any]) -> Demand:
    """Return what is required of each image. Raises UsageError, SpecError."""
    from buildstep.images.attestations.required import Demand, words_of
    from buildstep.trust.policy import load

    policy = load(Path(options["policy"])) if options["policy"] else None
    return Demand(require=words_of(options["require"]), policy=policy)


def _signing(keys: Sequence[str]) -> Signing:
    """Return the keys that sign. Raises SigningError, ToolMissing."""
    from buildstep.events import Bus
    from buildstep.images.attestations.local import Signing
    from buildstep.trust.keys import signers

    return Signing(signers=signers(keys, os.environ, bus=Bus()))


def _credentials(options: dict[str, Any]) -> Credentials | None:
    """Return the credentials of the command line. Raises UsageError."""
    from buildstep.errors import UsageError
    from buildstep.net.credentials import Credentials

    file, stdin, user = options["password_file"], options["password_stdin"], options["username"]
    if not user:
        if file or stdin:
            raise UsageError("a password without a name", hint="say who logs in: --username NAME")
        return None
    if bool(file) == bool(stdin):
        raise UsageError(
            "--username needs one of --password-stdin and --password-file",
            hint="a password on the command line would be seen by every process of this machine",
        )
    try:
        text = sys.stdin.readline() if stdin else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UsageError(f"the password cannot be read: {why}") from error
    return Credentials(user=user, password=text.rstrip("\r\n"))


def _write(path: Path, found: dict[str, Any]) -> None:
    import json

    from buildstep.system.files import named_output

    with named_output(path) as stream:
        stream.write(json.dumps(found, indent=2).encode() + b"\n")


def _lines(rows: Sequence[Pushed]) -> Iterator[str]:
    for row in rows:
        if row.digest and row.error is None:
            yield f"{row.repository}@{row.digest}  {' '.join(row.tags)}"
