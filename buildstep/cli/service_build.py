"""`buildstep service build`: what templates deliver, built in a clean room and recorded in a store."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.files_options import STORE
from buildstep.cli.options import JSON, POOL, QUIET, show
from buildstep.cli.service_options import ROOT, TEMPLATES, open_repository
from buildstep.system.text import plural, size_text

if TYPE_CHECKING:
    from buildstep.services.repository import Repository
    from buildstep.services.template_build import TemplateBuild


@click.command("build")
@click.argument("name", shell_complete=values.SERVICE_TEMPLATES)
@click.option("--build", "image_build", is_flag=True,
              help="First build the image of build.image, by the Dockerfile of build.repo.")  # fmt: skip
@click.option("--push", "image_push", is_flag=True, help="Push the image of build.image to its registry.")
@click.option("--debug", is_flag=True, help="Keep the clone that it is built in, and say where.")
@click.option("--host", metavar="KEY", shell_complete=values.SERVICE_KEYS,
              help="Do all of it on this node, over ssh; buildstep must be there.")  # fmt: skip
@click.option("--components", type=click.Path(path_type=Path, file_okay=False, exists=True), metavar="DIR",
              help="The root of the components, for image.component (default: the repository).")  # fmt: skip
@click.option("--no-cache", is_flag=True, help="Run everything, also where the store has the result.")
@ROOT
@TEMPLATES
@STORE
@POOL
@JSON
@click.option("-v", "--verbose", count=True, help="Show the commands' output; twice: debug notes.")
@QUIET
def command(
    name: str, root: Path | None, templates: tuple[str, ...], host: str | None, **options: Any
) -> int:
    """Build a template: its recipe laid into a clone of build.image, the build action of its actions_tmpl.py
    run there, and what comes out recorded in a store, as DOMAIN__NAME/VERSION.

    Services of the template get their files from there when they are installed. --build and --push are for
    the image, and neither asks for the other. With image.component or image.manifest, that is built first,
    and is what the rest is built in.
    """
    from buildstep.cli import guard, user_namespace

    def on_host() -> int:
        from buildstep.services.build_host import build_there

        repository = open_repository(root, templates)
        words = [f"--{word.replace('_', '-')}" for word in ("debug", "no_cache") if options[word]]
        words += [f"--{word}" for word in ("build", "push") if options[f"image_{word}"]]
        words += [
            word for flag in ("store", "pool") if options[flag] for word in (f"--{flag}", options[flag])
        ]
        made = build_there(repository, str(host), name, words, os.environ)
        _show(made, as_json=options["as_json"])
        return 0

    if host is not None:
        return guard.guarded(on_host)
    user_namespace.enter(options["pool"], packages=True)
    return guard.guarded(lambda: _build(open_repository(root, templates), name, **options))


def _build(
    repository: Repository,
    name: str,
    *,
    image_build: bool,
    image_push: bool,
    components: Path | None,
    **options: Any,
) -> int:
    """Build the image first, by programs of their own; then the rest, in namespaces of its own."""
    from buildstep.cli import session
    from buildstep.events import Bus
    from buildstep.report.console import view_for
    from buildstep.services.build_images import Images, Wanted
    from buildstep.services.template_build import read_build, secrets_of_rows

    template = repository.templates.one(name)
    build = read_build(template)
    secrets = secrets_of_rows(template, repository.root, os.environ)
    quiet, as_json = options["quiet"], options.pop("as_json")
    bus = Bus() if quiet else Bus(view_for(sys.stderr, verbose=options["verbose"], quiet=False))
    wanted = Wanted(build=image_build, push=image_push, components=components or repository.root)
    with tempfile.TemporaryDirectory(prefix="buildstep-template-") as folder:
        images = Images(build, Path(folder), os.environ, bus)
        image = images.base(wanted)
        made = {"template": str(template), "ref": "", "list": "", "store": "", "kept": "", **images.done}

        def inside() -> int:
            _show(made | _listed(build, image, Path(folder), secrets, options), as_json=as_json)
            return 0

        if build.lists:
            return session.enclosed(inside)
    _show(made, as_json=as_json)
    return 0


def _listed(
    build: TemplateBuild, image: str, folder: Path, secrets: dict[str, str], options: dict[str, Any]
) -> dict[str, Any]:
    """Build the list of a template in a base image; return what the report says of it."""
    from buildstep import emit
    from buildstep.build.plan import store_target
    from buildstep.build.recipe_build import Room
    from buildstep.build.recipe_build import build as build_recipe
    from buildstep.cli import session
    from buildstep.cli.build import load_spec
    from buildstep.files import open_storage
    from buildstep.files.content import ContentStore
    from buildstep.services.delivery import store_of
    from buildstep.services.fetched import Fetcher
    from buildstep.services.template_build import recipe_of, remember
    from buildstep.spec.document import Document

    quiet = options["quiet"]
    opened = session.open_session(
        options["pool"], verbose=options["verbose"], quiet=quiet, silent=quiet, store=options["store"]
    )
    kept: list[str] = []
    opened.bus.subscribe(_keeper(kept))
    url = store_of(opened.environ["BUILDSTEP_STORE"], build.namespace)
    with Fetcher(os.environ, opened.bus, secrets, build.base) as fetcher:
        recipe, pins = recipe_of(build, image, fetcher, folder)
        flags = {
            "proto": "/", "pool": options["pool"], "store": url, "ref": build.ref,
            "output_dir": str(folder / "bits"),
            "cache": False if options["no_cache"] or options["debug"] else None,
        }  # fmt: skip
        spec = load_spec(Document(recipe.source, recipe.document), flags)
        spec = replace(spec, limits=spec.limits.or_else(opened.config.limits), keep_clone=options["debug"])
        emit.check_target(spec.formats, store_target(spec, opened.environ), opened.bus)
        room = Room(store=opened.store, cache=opened.cache, bus=opened.bus, environ=opened.environ)
        report = build_recipe(recipe, spec, room)
    store = ContentStore(open_storage(url, environ=opened.environ, bus=opened.bus), bus=opened.bus)
    remember(store, build.ref, build, pins)
    outputs = report["outputs"]
    return {
        "ref": build.ref, "list": outputs["list"], "store": outputs["store"], "state": report["state"],
        "entries": outputs["entries"], "bytes": outputs["bytes"], "kept": kept[-1] if kept else "",
        "exports": {row.key: {"url": row.url, "pin": pins[row.key], "dest": row.dest} for row in build.rows},
        "seconds": report["seconds"],
    }  # fmt: skip


def _keeper(kept: list[str]) -> Callable[[object], None]:
    """Return what listens for where the clone is kept."""
    from buildstep.build.clones import KEPT_AT
    from buildstep.events import Note

    def listen(event: object) -> None:
        if isinstance(event, Note) and event.text.startswith(KEPT_AT):
            kept.append(event.text.removeprefix(KEPT_AT).partition(";")[0])

    return listen


def _show(made: dict[str, Any], *, as_json: bool) -> None:
    rows = [f"image {made[word]['image']}: {word}" for word in ("built", "pushed") if word in made]
    rows += [f"component {made['component']['name']}: built"] if "component" in made else []
    rows += [f"{made['manifest']}: built"] if "manifest" in made else []
    if made["ref"]:
        rows.append(f"{made['ref']}  {made['list']}")
        done = f"{made['ref']}: {plural(made['entries'], 'path')}, {size_text(made['bytes'])}"
    else:
        done = f"{made['template']}: its image"
    rows += [f"kept: {made['kept']}"] if made["kept"] else []
    show(made, rows, as_json=as_json, done=done)
