"""What `service build` makes of a template: its recipe and its own `build` action, in a clean room.

Read and checked as a whole here, and turned into a recipe of `files build`, which does the work: everything
is laid into a clone of the base image, the action runs there in the sandbox, and what comes out is recorded
in a store.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from buildstep.build.recipe import Recipe, Source, leaves
from buildstep.errors import Fault, SpecError
from buildstep.files import refs
from buildstep.files.content import ContentStore
from buildstep.files.session import Session
from buildstep.services import platforms
from buildstep.services.delivery import NO_VERSION, RECIPE_NOTE, list_ref, recipe_key
from buildstep.services.exports import CODE, Export, exports_of, is_export
from buildstep.services.facts import PATHS
from buildstep.services.fetched import Fetcher, for_run
from buildstep.services.hrd import Ask, Document, Value, resolve
from buildstep.services.interface import Action, Call, Facts, Side
from buildstep.services.places.talk import RUNTIME, call_text
from buildstep.services.secrets import is_reference, read_secret
from buildstep.services.services_view import own_actions
from buildstep.services.templates import Template

ROOM: Final = "/.buildstep-build"
"""In the clean room: the runtime, the template's files and the call. It is no part of what comes out."""

NO_PYTHON: Final = "the image has no python3, which the build action needs: add it to build.packages"

_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_GLOB = re.compile(r"[*?\[\]!\\]")


@dataclass(frozen=True, kw_only=True, slots=True)
class TemplateBuild:
    """A template's build. image: of the base, as `build.image` has it; repo: a git repository with its
    Dockerfile; namespace: `dedupe_ns`; rows: the recipe, with those for the build; actions: the file whose
    `build` runs; component, manifest: what builds its image; values: of the template, references put in."""

    template: Template
    image: str
    repo: str
    namespace: str
    packages: Sequence[str]
    outputs: Sequence[str]
    rows: Sequence[Export]
    actions: Path | None
    component: str
    manifest: Path | None
    values: Mapping[str, Any]

    @property
    def ref(self) -> str:
        template = self.template
        return list_ref(template.domain, template.name, template.version)

    @property
    def lists(self) -> bool:
        """Whether a list comes out: there is a recipe, or a build action."""
        return bool(self.rows) or self.actions is not None

    @property
    def base(self) -> str:
        return str(self.values["system.paths.base"])

    def taken(self) -> list[str]:
        """Return the paths that are the result."""
        if self.outputs:
            return list(self.outputs)
        rows = list(for_run(self.rows))
        found = {posixpath.normpath(row.dest) for row in rows}
        if any(row.link for row in rows):
            found.add(f"{self.base}/{CODE}")
        return sorted(found)


def read_build(template: Template) -> TemplateBuild:
    """Return the build of a template. Raises SpecError with everything that is wrong with it."""
    values = _values(template)
    faults: list[Fault] = []
    where = os.fspath(template.hrd_file("service.hrd") or template.directory)
    rows = exports_of(values, platforms.host(), where, faults)
    own = template.actions.get(Side.TEMPLATE)
    actions = own if Action.BUILD in own_actions(own, Side.TEMPLATE) else None
    found = values.get("build", {})
    block: Mapping[str, Any] = found if isinstance(found, dict) else {}
    manifest = str(values.get("image.manifest") or "")
    path = template.directory / manifest if manifest else None
    if path is not None and not path.is_file():
        faults.append(Fault(where=f"{where}: image.manifest", message=f"there is no {path}"))
    component = str(values.get("image.component") or "")
    if component and path is not None:
        message = "names a component, and image.manifest an m.json"
        faults.append(Fault(where=f"{where}: image.component", message=message, hint="keep one of them"))
    document = Document.of({key: values[key] for key in ("build.packages", "build.outputs") if key in values})
    made = TemplateBuild(
        template=template,
        image=str(block.get("image") or ""),
        repo=str(block.get("repo") or ""),
        namespace=str(block.get("dedupe_ns") or ""),
        packages=[str(one) for one in document.items("build.packages")]
        if "build.packages" in document
        else [],
        outputs=[str(one) for one in document.items("build.outputs")] if "build.outputs" in document else [],
        rows=rows,
        actions=actions,
        component=component,
        manifest=path,
        values=values,
    )
    faults += _faults(made, where)
    if faults:
        raise SpecError(f"build of {template}", faults)
    return made


def _values(template: Template) -> dict[str, Value]:
    """Return the values that a build reads, references put in. Raises SpecError, also for one that asks for
    what only an instance has."""
    document = template.service
    known = {"name": template.name, "domain": template.domain, "version": template.version}
    first = {"build", "image"}
    keys = [key for key in document if is_export(key) or key.partition(".")[0] in first or key == "git.url"]
    plain = {key: value for key, value in document.values.items() if not isinstance(value, Ask)}
    mine = Document.of({**PATHS, **_without_secrets(plain)}, where=document.where)
    return resolve([mine], known.get, keys=[*PATHS, *keys])


def secrets_of_rows(template: Template, root: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the secrets of a template's recipe by the names that `Fetcher` has for them. root: what relative
    paths start at. Raises SpecError with all that are not there."""
    found: dict[str, str] = {}
    faults: list[Fault] = []
    for key, row in template.service.values.items():
        if not is_export(key) or not isinstance(row, dict):
            continue
        for name in ("login", "passwd"):
            value = row.get(name)
            if not is_reference(value):
                continue
            try:
                where = f"{template}: {key}: {name}"
                found[f"{key}.{name}"] = read_secret(str(value), where, root=root, environ=environ)
            except SpecError as error:
                faults += error.faults
    if faults:
        raise SpecError(f"secrets of {template}", faults)
    return found


def _without_secrets(values: Mapping[str, Value]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found[key] = {name: item for name, item in value.items() if not is_reference(item)}
        elif not is_reference(value):
            found[key] = value
    return found


def _faults(made: TemplateBuild, where: str) -> list[Fault]:
    found = []
    if not made.lists and not made.component and made.manifest is None and not made.repo:
        hint = "git.export.N, web.export.N, build in actions_tmpl.py, image.component, image.manifest"
        found.append(Fault(where=where, message="there is nothing to build", hint=hint))
    if made.actions is not None and not made.taken():
        hint = "build.outputs = /opt/services/apps/NAME, says it"
        found.append(Fault(where=where, message="nothing says what its build action makes", hint=hint))
    if (made.actions is not None or made.packages) and not (made.image or made.component or made.manifest):
        hint = "build = image:'mmdebstrap:bookworm', names it"
        found.append(Fault(where=f"{where}: build", message="has no image to build in", hint=hint))
    for path in made.taken():
        if not path.startswith("/") or leaves(path) or _GLOB.search(path) or path == "/":
            hint = "build.outputs names paths below the top"
            found.append(Fault(where=where, message=f"{path!r} cannot be recorded", hint=hint))
    if made.namespace and not _NAMESPACE.fullmatch(made.namespace):
        message = f"is {made.namespace!r}: letters, digits and . _ - are taken"
        found.append(Fault(where=f"{where}: build: dedupe_ns", message=message))
    return found


# -- the clean room ---------------------------------------------------------------------------------------


def recipe_of(
    build: TemplateBuild, image: str, fetcher: Fetcher, room: Path
) -> tuple[Recipe, dict[str, str]]:
    """Return the recipe that builds a template, and what each row of its own is now, by its key.

    image: the base, as `files build` takes it; room: an empty directory of this build. Raises BuildstepError.
    """
    pins = {row.key: fetcher.pin(row) for row in build.rows}
    sources = [source for row in build.rows for source in fetcher.sources(row, pins[row.key])]
    run: list[Any] = []
    if build.actions is not None:
        (room / "call.json").write_text(_call(build, pins), encoding="utf-8", errors="surrogateescape")
        sources += [
            Source(path=RUNTIME, dest=f"{ROOM}/runtime"),
            Source(path=build.template.directory, dest=f"{ROOM}/template"),
            Source(path=room / "call.json", dest=f"{ROOM}/call.json"),
        ]
        look = f"command -v python3 >/dev/null || {{ echo '{NO_PYTHON}' >&2; exit 1; }}"
        run = [f"{look}\nexec python3 -I {ROOM}/runtime calls {ROOM}/call.json"]
    settings: dict[str, Any] = {
        "formats": ["files"],
        "image": image,
        "run_options": {"network": False, "env": {}},
    }
    settings |= {"packages": list(build.packages)} if build.packages else {}
    settings |= {"run": run} if run else {}
    settings["outputs"] = [*build.taken(), f"!{ROOM}"]
    recipe = Recipe(
        name=build.ref.partition("/")[0],
        version=build.template.version or NO_VERSION,
        source=os.fspath(build.template.directory),
        sources=tuple(sources),
        build=settings,
    )
    return recipe, pins


def _call(build: TemplateBuild, pins: Mapping[str, str]) -> str:
    template = build.template
    facts = Facts(
        key=str(template),
        name=template.name,
        instance="",
        role=template.role,
        domain=template.domain,
        version=template.version,
        values={**build.values, **{f"delivered.{key}": pin for key, pin in pins.items()}},
    )
    call = Call(facts=facts, side=Side.TEMPLATE, action=Action.BUILD, digest="", timeout=3600.0)
    place = {"state": f"{ROOM}/state", "timeless": True}
    moved = {"folder": f"{ROOM}/template"}
    return call_text(call, place, source=f"{ROOM}/template/actions_tmpl.py", facts=moved)


def remember(store: ContentStore, name: str, build: TemplateBuild, pins: Mapping[str, str]) -> None:
    """Write beside a built list what it was built from, so that `install` takes it only for just that."""
    actions = build.template.directory / "actions_tmpl.py"
    notes = {
        RECIPE_NOTE: recipe_key(list(for_run(build.rows)), actions if actions.is_file() else None),
        "exports": {row.key: {"url": row.url, "pin": pins[row.key], "dest": row.dest} for row in build.rows},
    }
    with Session(store, f"notes of {name}") as session:
        ref = refs.get(store.storage, name)
        session.set_ref(replace(ref, notes={**ref.notes, **notes}), ref)
