"""Tickets: a job as it travels to another machine, and how it ended as that comes back.

A ticket is a small JSON document in the store of the hand-over, named by the SHA-256 of it. It names all that
the job needs by digest: the sources as a file list, products of hooks, images by their ids. It holds no
secret: of `secrets` and of a hook's `environment` only the names, whose values each machine has itself.

A result is the notes of a ref that is set last of all. So there is one, or there is none: whoever was killed
before has left nothing that could be taken for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from buildstep.components.handover import RESULTS, TICKETS, Handover
from buildstep.components.interface import (
    Action,
    Base,
    Component,
    Dependency,
    GraphError,
    Image,
    Job,
    Reference,
    Result,
    State,
)
from buildstep.components.settings import BuildOptions, HookOptions
from buildstep.errors import StoreError, UsageError
from buildstep.files import refs
from buildstep.files.layout import is_digest
from buildstep.files.refs import Ref
from buildstep.files.session import Session
from buildstep.system.digest import sha256_bytes
from buildstep.system.text import printable

FORMAT: Final = 1

_NOT_SENT: Final = ("onbuild", "ignored", "runs")
"""Fields of an image that only decide what there is to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticket:
    """A job for another machine.

    run: tells it from every other one; component: of the job; providers: with the files that it gets of them;
    outputs: of the jobs that it needs, by name; bases: by references as the image's file has them; options:
    of the image, with the names of secrets; hooks, tag: what hooks are run with; environment: names of the
    variables that a hook has to be given; given: those whose values may be known; changed: files of the
    component that changed since the hook last ran; source: digest of the list of all files.
    """

    run: str
    job: Job
    component: Component
    providers: tuple[Component, ...] = ()
    outputs: Mapping[str, str] = field(default_factory=dict)
    bases: Mapping[str, Base] = field(default_factory=dict)
    options: BuildOptions = BuildOptions()  # noqa: RUF009 - it cannot be changed
    hooks: HookOptions = HookOptions()  # noqa: RUF009 - it cannot be changed
    tag: str = "latest"
    environment: tuple[str, ...] = ()
    given: Mapping[str, str] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    source: str = ""

    def dumps(self) -> bytes:
        """Return the ticket as it is stored."""
        value = {"format": FORMAT, **asdict(self)}
        value["job"].pop("image")
        value["image"] = self.job.image.name if self.job.image else ""
        for part in (value["component"], *value["providers"]):
            part["path"] = f"src/{part['name']}"
            for row in part["images"]:
                for name in _NOT_SENT:
                    del row[name]
        value["options"]["secrets"] = sorted(self.options.secrets)
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def loads(data: bytes) -> Ticket:
    """Read a ticket. Raises StoreError for what is none of this version.

    Paths of components are relative to the sources; secrets have names only.
    """
    try:
        value = json.loads(data)
        if value.pop("format") != FORMAT:
            raise ValueError("its format is of another version of buildstep")
        component = _component(value.pop("component"))
        image = value.pop("image")
        images = {row.name: row for row in component.images}
        job = value.pop("job")
        options = value.pop("options")
        options["secrets"] = {name: Path() for name in options["secrets"]}
        for name in ("cache_from", "platforms"):
            options[name] = tuple(options[name])
        hooks = value.pop("hooks")
        hooks["environment"] = tuple(hooks["environment"])
        hooks["travels"] = tuple(hooks["travels"])
        found = Ticket(
            component=component,
            job=Job(
                name=job["name"],
                action=Action(job["action"]),
                component=job["component"],
                image=images[image] if image else None,
                needs=tuple(job["needs"]),
            ),
            providers=tuple(map(_component, value.pop("providers"))),
            bases={text: Base(*row) for text, row in value.pop("bases").items()},
            options=BuildOptions(**options),
            hooks=HookOptions(**hooks),
            environment=tuple(value.pop("environment")),
            changed=tuple(value.pop("changed")),
            **value,
        )
        _check(found)
        return found
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        hint = "do both machines have the same version of buildstep?"
        raise StoreError(f"the ticket cannot be read: {error}", hint=hint) from error


def _check(ticket: Ticket) -> None:
    """Raise ValueError for what no build writes: paths that leave the sources, names of what is not there."""
    component, providers = ticket.component, {part.name: part for part in ticket.providers}
    for part in (component, *ticket.providers):
        if "/" in part.name:
            raise ValueError(f"{part.name!r} is no name of a component")
        for path in (part.name, *part.files, *filter(None, (part.pre, part.post)), *_files(part)):
            if path.startswith("/") or not {"", ".", ".."}.isdisjoint(path.split("/")) or "\0" in path:
                raise ValueError(f"the path {path!r} is none below a component")
    if ticket.job.component != component.name:
        raise ValueError(f"the job is one of {ticket.job.component!r}, and the sources are not")
    if lacking := {row.provider for row in component.dependencies} - providers.keys():
        raise ValueError(f"it has no files of {', '.join(sorted(lacking))}")
    if lacking := set(ticket.job.needs) - ticket.outputs.keys():
        raise ValueError(f"it has no result of {', '.join(sorted(lacking))}")
    made = (*ticket.outputs.values(), *(base.image for base in ticket.bases.values()))
    for text in (f"sha256:{ticket.source}", *made):
        if not _is_output(text):
            raise ValueError(f"{text[:80]!r} is no digest")


def _files(component: Component) -> list[str]:
    return [name for image in component.images for name in (image.file, image.ignore) if name]


def _is_output(text: str) -> bool:
    return text.startswith("sha256:") and is_digest(text.removeprefix("sha256:"))


def _component(value: Mapping[str, Any]) -> Component:
    more = {name: value[name] for name in ("name", "pre", "post")}
    return Component(
        path=Path(value["path"]),
        images=tuple(_image(row) for row in value["images"]),
        dependencies=tuple(Dependency(row[0], tuple(row[1]), row[2]) for row in value["dependencies"]),
        files=tuple(value["files"]),
        **more,
    )


def _image(value: Mapping[str, Any]) -> Image:
    more = {
        row.name: value[row.name] for row in fields(Image) if row.name not in ("bases", "copies", *_NOT_SENT)
    }
    bases = tuple(Reference(*row) for row in value["bases"])
    return Image(bases=bases, copies=tuple(value["copies"]), **more)


# -- in the store -----------------------------------------------------------------------------------


def put_ticket(session: Session, ticket: Ticket) -> str:
    """Store a ticket whose sources are stored, and return its digest. Raises StoreError."""
    data = ticket.dumps()
    digest = session.put(data, sha256_bytes(data))
    ref = Ref(name=f"{TICKETS}/{digest}", list=ticket.source, contents=(digest,))
    session.set_ref(ref, None)
    return digest


def read_ticket(handover: Handover, digest: str) -> Ticket:
    """Return a ticket. Raises StoreError where there is none, or nobody waits for it any more, or it is
    damaged; UsageError for no digest."""
    if not is_digest(digest):
        raise UsageError(f"{digest[:80]!r} is no ticket", hint="64 hex digits, as the build gives them")
    if not is_wanted(handover, digest):
        raise StoreError(
            f"{handover.place} has no ticket {digest[:12]}",
            hint="its build has ended, or has given the job to another machine; or is it another hand-over?",
        )
    data = handover.store.get(digest)
    if sha256_bytes(data) != digest:  # of what is stored in chunks, only these were verified
        raise StoreError(f"the ticket {digest[:12]} in {handover.place} is damaged")
    return loads(data)


def is_wanted(handover: Handover, digest: str) -> bool:
    """Return whether a build still waits for the result of a ticket. Raises StoreError."""
    return refs.read(handover.store.storage, f"{TICKETS}/{digest}") is not None


def put_result(handover: Handover, digest: str, result: Result) -> bool:
    """Store how the job of a ticket ended, with its log; return whether it is the first word on it, and
    anybody waits for it.

    What the job made has to be in the hand-over. Raises StoreError, OSError.
    """
    if not is_wanted(handover, digest):
        return False
    notes = {
        "format": FORMAT,
        "ticket": digest,
        "job": result.job,
        "state": str(result.state),
        "output": result.output,
        "message": result.message,
        "worker": result.worker,
        "started": result.started,
        "seconds": result.seconds,
        "log": "",
    }
    with Session(handover.store, f"result of {result.job}") as session:
        if result.log is not None:
            with result.log.open("rb") as stream:
                notes["log"] = session.put_stream(stream, result.log.stat().st_size)
        contents = (str(notes["log"]),) if notes["log"] else ()
        ref = Ref(name=f"{RESULTS}/{digest}", contents=contents, notes=notes)
        try:
            session.set_ref(ref, None)
        except refs.RefChanged:
            return False
    return True


def read_result(handover: Handover, digest: str, job: Job, log: Path) -> Result | None:
    """Return how the job of a ticket ended, None if it has not. log: the file for its log here.

    Raises StoreError; GraphError where the result is of another job, or what it names is not there.
    """
    ref = refs.read(handover.store.storage, f"{RESULTS}/{digest}")
    if ref is None:
        return None
    notes = ref.notes
    try:
        found = Result(
            job=str(notes["job"]),
            state=State(notes["state"]),
            output=str(notes["output"]),
            message="\n".join(map(printable, str(notes["message"]).split("\n"))),
            log=log,
            worker=printable(str(notes["worker"])),
            started=float(notes["started"]),
            seconds=float(notes["seconds"]),
        )
        content = str(notes["log"])
        right = notes["format"] == FORMAT and notes["ticket"] == digest and found.job == job.name
        right = right and (not content or is_digest(content))
        right = right and (found.state is not State.BUILT or _is_output(found.output))
    except (ValueError, KeyError, TypeError) as error:
        raise GraphError(f"{job.name}: its result in {handover.place} cannot be read: {error}") from error
    if not right or found.state not in (State.BUILT, State.FAILED):
        raise GraphError(f"{job.name}: what is in {handover.place} as its result is none of it")
    if found.state is State.BUILT:
        there = handover.images.has if job.action is Action.IMAGE else handover.has_products
        if not there(found.output):
            raise GraphError(f"{job.name}: {found.worker} said that it is built, and put nothing")
    with log.open("wb", buffering=0) as stream:
        if content:
            handover.store.write_to(content, stream.fileno())
    return found
