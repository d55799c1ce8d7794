"""`buildstep files build`: a recipe's result in a store."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from buildstep.cli import values
from buildstep.cli.files_options import STORE
from buildstep.cli.options import JSON, POOL, pairs, show
from buildstep.system.text import plural, size_text


@click.command("build")
@click.argument("recipe", type=click.Path(dir_okay=False), shell_complete=values.FILES)
@click.option("--ref", metavar="NAME", help="The name of the result in the store (default: NAME/VERSION).")
@STORE
@POOL
@click.option("--no-cache", is_flag=True, help="Run everything, also where the store has the result.")
@click.option(
    "-o", "--output-dir", metavar="DIR", shell_complete=values.FOLDERS,
    help="Where the record and the logs go (default: bits/NAME).",
)  # fmt: skip
@click.option(
    "--report", metavar="FILE", type=click.Path(dir_okay=False), help="Write the report there as well."
)
@click.option(
    "-D", "defines", multiple=True, callback=pairs, metavar="KEY=VALUE", help="A value for templates."
)
@click.option("-v", "--verbose", count=True, help="Show the commands' output; twice: debug notes.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors and the result.")
@JSON
def command(recipe: str, store: str | None, pool: str | None, **options: Any) -> int:
    """Build RECIPE: its sources laid into a clone of its base image, its commands run there, its outputs
    recorded in a store.

    RECIPE is a JSON or TOML file, or a template of JSON (.j2). Commands run as root in a sandbox, without the
    network unless the recipe has `network: true`. If the store has the result of the same inputs, that gets
    the name and nothing is run. Nothing is asked: a recipe has to say everything.
    """
    from buildstep.build import recipe as recipes
    from buildstep.cli import session, user_namespace
    from buildstep.cli.build import load_spec, named_pool
    from buildstep.spec.document import Document

    read = recipes.read(Path(recipe), environ=os.environ, defines=options.pop("defines"))
    flags = {
        "proto": "/",  # the recipe's sources take its place
        "pool": pool, "store": store, "ref": options.pop("ref"), "output_dir": options.pop("output_dir"),
        "cache": False if options.pop("no_cache") else None,
    }  # fmt: skip
    spec = load_spec(Document(recipe, read.document), flags)
    user_namespace.enter(named_pool(spec), packages=spec.runs)
    return session.enclosed(lambda: _build(read, spec, **options))


def _build(
    recipe: Any,
    spec: Any,
    *,
    report: str | None,
    verbose: int,
    quiet: bool,
    as_json: bool,
) -> int:
    from buildstep import emit
    from buildstep.build.plan import store_target
    from buildstep.build.recipe_build import Room, build
    from buildstep.cli import session
    from buildstep.cli.build import named_pool, named_store

    opened = session.open_session(
        named_pool(spec), verbose=verbose, quiet=quiet, silent=quiet, store=named_store(spec)
    )
    spec = replace(
        spec, store=opened.environ["BUILDSTEP_STORE"], limits=spec.limits.or_else(opened.config.limits)
    )
    emit.check_target(spec.formats, store_target(spec, opened.environ), opened.bus)
    room = Room(store=opened.store, cache=opened.cache, bus=opened.bus, environ=opened.environ)
    made = build(recipe, spec, room)
    if report:
        Path(report).write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    out = made["outputs"]
    done = f"{made['ref']}: {plural(out['entries'], 'path')}, {size_text(out['bytes'])}"
    show(made, [f"{made['ref']}  {out['list']}"], as_json=as_json, done=done)
    return 0
