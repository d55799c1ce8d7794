"""`buildstep service bake`: services in an image."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.options import JSON, POOL, QUIET, pairs
from buildstep.cli.service_options import ROOT, TEMPLATES, open_repository

if TYPE_CHECKING:
    from buildstep.services.bake import Baked
    from buildstep.services.repository import Repository


@click.command("bake")
@click.argument(
    "keys", metavar="KEY[,KEY...]...", nargs=-1, required=True, shell_complete=values.SERVICE_KEYS
)
@click.option("-i", "--image", metavar="REF", shell_complete=values.REFERENCES,
              help="The base image (default: what the m.json says).")  # fmt: skip
@click.option("-m", "--manifest", metavar="FILE|JSON", required=True, shell_complete=values.FILES,
              help="The m.json of the image, or JSON text: its name and version at least.")  # fmt: skip
@click.option("-o", "--output-dir", metavar="DIR", shell_complete=values.FOLDERS,
              help="Where the files go (default: bits/NAME).")  # fmt: skip
@click.option("-f", "--format", "formats", multiple=True, metavar="F", shell_complete=values.OF_SETTING,
              help="Format to write; repeat for more (default: oci).")  # fmt: skip
@click.option(
    "-D", "defines", multiple=True, callback=pairs, metavar="KEY=VALUE", help="A value for templates."
)
@click.option("--no-cache", is_flag=True, help="Build everything anew.")
@click.option("-n", "--dry-run", is_flag=True, help="Show what would be done and why; build nothing.")
@ROOT
@TEMPLATES
@POOL
@JSON
@click.option("-v", "--verbose", count=True, help="Show the tools' output; twice: debug notes.")
@QUIET
def command(keys: tuple[str, ...], root: Path | None, templates: tuple[str, ...], **options: Any) -> int:
    """Build an image with services: their packages, users and files, installed, prepared and configured.

    They start where the image runs: by units of systemd, if it has that, and as the command of a container.
    No secret is baked in: an action that asks for one fails. python3 must be in the image for the actions.
    What is printed, and the exit codes, are those of `buildstep build`.
    """
    from buildstep.cli import guard

    return guard.guarded(lambda: _bake(open_repository(root, templates), keys, **options))


def _bake(
    repository: Repository,
    keys: tuple[str, ...],
    *,
    manifest: str,
    defines: dict[str, str],
    formats: tuple[str, ...],
    verbose: int,
    **options: Any,
) -> int:
    from buildstep.cli.build import command as build
    from buildstep.cli.build import read_here

    document = read_here(manifest, defines)
    names = [part for key in keys for part in key.split(",") if part]
    with tempfile.TemporaryDirectory(prefix="buildstep-bake-") as scratch:
        made = _made(repository, names, document.value, Path(scratch), quiet=options["quiet"])
        file = Path(scratch, "m.json")
        file.write_text(json.dumps(made.manifest), encoding="utf-8")
        words = ["--manifest", os.fspath(file), "--dir", os.fspath(made.proto)]
        words += [word for flag in ("image", "output_dir", "pool") if options[flag]
                  for word in (f"--{flag.replace('_', '-')}", options[flag])]  # fmt: skip
        words += [word for one in formats for word in ("--format", one)]
        words += [flag for name, flag in _FLAGS.items() if options[name]] + ["--verbose"] * verbose
        return int(build.main(words, standalone_mode=False) or 0)


_FLAGS = {"no_cache": "--no-cache", "dry_run": "--dry-run", "as_json": "--json", "quiet": "--quiet"}


def _made(repository: Repository, names: list[str], document: Any, folder: Path, *, quiet: bool) -> Baked:
    from buildstep.errors import Fault, SpecError
    from buildstep.events import Bus
    from buildstep.report.console import view_for
    from buildstep.services.bake import bake, in_order
    from buildstep.services.delivery import Delivery
    from buildstep.services.flow import Services

    if not isinstance(document, dict):
        raise SpecError("m.json", [Fault(where="$", message="is no object")])
    keys = [repository.one(name).key for name in names]
    bus = Bus() if quiet else Bus(view_for(sys.stderr, verbose=0, quiet=False))
    with Services(repository, os.environ, secret=False) as services:
        ordered = in_order(services.view.needs(), keys)
        delivery = Delivery(os.environ)
        subjects = [delivery.told(services.view.subject(key), None) for key in ordered]
        return bake(subjects, document, delivery, services.tag, folder, bus)
