"""Push images of components to a registry: all content first, by digest, then the tags.

Whoever pulls by a tag never sees half of a push: no tag is moved before the content of all images is there.
Our own client talks to the registry, so that no password is in an argument, a log or another program's file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from buildstep.components.builders import Builder, Run
from buildstep.components.interface import Base, Built
from buildstep.components.settings import Registry
from buildstep.components.work import NoStock, Stock
from buildstep.errors import BuildstepError, ExitCode, PublishError, UsageError
from buildstep.events import Bus
from buildstep.files.parallel import parallel
from buildstep.formats.oci.layout import open_layout
from buildstep.images.publishers.registry import push_image
from buildstep.net.credentials import Credentials, credentials_for
from buildstep.net.http import Http
from buildstep.net.registry import Reference, RegistryClient
from buildstep.net.request import HttpOptions

FORMAT: Final = 1

AT_ONCE: Final = 4
"""Images that are saved and sent at the same time."""


class NotAllPushed(BuildstepError):
    """Some images were not pushed; what was done is in the result."""

    exit_code = ExitCode.PUBLISH


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """An image on its way. image: its name; built: of its record; repository: HOST/NAME; digest: of its
    manifest there; tags: those that name it now; error: why it is not all there."""

    image: str
    built: Built
    repository: str
    digest: str = ""
    tags: tuple[str, ...] = ()
    error: BuildstepError | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the row of the result manifest."""
        return {
            "image": self.image,
            "id": self.built.output,
            "key": self.built.key,
            "repository": self.repository,
            "digest": self.digest,
            "reference": f"{self.repository}@{self.digest}" if self.digest else "",
            "tags": list(self.tags),
            "error": self.error.message if self.error else "",
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """What pushing uses. run: runs commands of the builder; stock: has images that are not in its store;
    insecure: do not check certificates; limits: fields of `HttpOptions`."""

    builder: Builder
    run: Run
    environ: Mapping[str, str]
    bus: Bus
    stock: Stock = NoStock()  # noqa: RUF009 - it has no state
    insecure: bool = False
    limits: Mapping[str, Any] = field(default_factory=dict)


def chosen(names: Sequence[str], built: Mapping[str, Built | None]) -> dict[str, Built]:
    """Return the images to push, by name: those named, or all. built: all images of the plan, None for one
    that was not built from the sources as they are now.

    Raises UsageError for names that are no images, PublishError for images that are not built; both before
    anything is pushed.
    """
    from difflib import get_close_matches

    unknown = [name for name in names if name not in built]
    if unknown:
        near = get_close_matches(unknown[0], list(built), 1)
        hint = f"did you mean {near[0]}?" if near else f"images: {', '.join(sorted(built)) or 'none'}"
        raise UsageError(f"no such image in this plan: {', '.join(unknown)}", hint=hint)
    found: dict[str, Built] = {}
    missing = []
    for name in dict.fromkeys(names) if names else sorted(built):
        record = built[name]
        if record is None:
            missing.append(name)
        else:
            found[name] = record
    if missing:
        raise PublishError(
            f"not built from the sources as they are now: {', '.join(missing)}",
            hint="run `buildstep components build` first, or name the images to push with -i",
        )
    return found


def push(
    images: Mapping[str, Built], registry: Registry, access: Access, tell: Callable[[str], None]
) -> list[Pushed]:
    """Push images, and return a row for each, in the order of their names.

    tell: is given a line for each image and tag. An image that fails has its error in its row; no tag of any
    image is set then. Raises UsageError where no registry is named.
    """
    if not registry.host:
        raise UsageError(
            "no registry is named",
            hint="--registry HOST[/NAMESPACE], `registry` in components.toml, or -c with pai's configuration",
        )
    rows = [
        Pushed(image=name, built=built, repository=registry.repository(name))
        for name, built in sorted(images.items())
    ]
    credentials = registry.credentials or credentials_for(registry.host, access.environ)
    with _session(access) as http:
        clients = {row.image: _client(row, http, credentials, access) for row in rows}
        rows = list(parallel(lambda row: _content(row, clients[row.image], access, tell), rows, AT_ONCE))
        if any(row.error for row in rows):
            return rows
        return list(parallel(lambda row: _tags(row, clients[row.image], registry, tell), rows, AT_ONCE))


@contextmanager
def _session(access: Access) -> Iterator[Http]:
    options = HttpOptions.of(access.environ, insecure=access.insecure, **access.limits)
    with Http(environ=access.environ, options=options, bus=access.bus) as http:
        yield http


def _client(row: Pushed, http: Http, credentials: Credentials | None, access: Access) -> RegistryClient:
    reference = Reference.parse(row.repository)
    listed = access.environ.get("BUILDSTEP_INSECURE_REGISTRIES", "").split(",")
    plain = True if access.insecure or reference.host in listed else None
    return RegistryClient(reference, http=http, credentials=credentials, plain=plain)


def _content(row: Pushed, client: RegistryClient, access: Access, tell: Callable[[str], None]) -> Pushed:
    """Send an image's layers and manifest, under its digest only."""
    try:
        with tempfile.TemporaryDirectory(prefix="buildstep-push-") as scratch:
            folder = Path(scratch, "layout")
            access.stock.image(Base(row.built.output, row.image), access.run)
            access.builder.save(row.built.output, folder, access.run)
            layout = open_layout(folder, row.image)
            entry = layout.find("")
            push_image(layout, entry, client, {})
    except BuildstepError as error:
        return replace(row, error=error)
    tell(f"{row.image}: {row.repository}@{entry.digest}")
    return replace(row, digest=entry.digest)


def _tags(row: Pushed, client: RegistryClient, registry: Registry, tell: Callable[[str], None]) -> Pushed:
    """Let the tags name an image whose content is there."""
    done: list[str] = []
    try:
        kind, data = client.manifest(row.digest)
        for tag in registry.tags:
            there = client.resolve(tag)
            if there is None or there.digest != row.digest:
                client.push_manifest(tag, kind, data)
            done.append(tag)
            tell(f"{row.image}: {row.repository}:{tag}")
    except BuildstepError as error:
        return replace(row, tags=tuple(done), error=error)
    return replace(row, tags=tuple(done))


def result(rows: Sequence[Pushed]) -> dict[str, Any]:
    """Return the result manifest: what is where, under which digest and tags."""
    return {"format": FORMAT, "ok": all(row.error is None for row in rows),
            "images": [row.to_json() for row in rows]}  # fmt: skip


def check(rows: Sequence[Pushed]) -> None:
    """Raise NotAllPushed if an image is not all there, with what is and what is not."""
    failed = [row for row in rows if row.error is not None]
    if not failed:
        return
    lines = []
    for row in failed:
        assert row.error is not None
        lines += [f"  {row.image}: {row.error.message}", *(f"    {x}" for x in row.error.detail.splitlines())]
    tagged = [row.image for row in rows if row.tags]
    state = f"tags were set of: {', '.join(tagged)}" if tagged else "no tag was set"
    raise NotAllPushed(
        f"{len(failed)} of {len(rows)} images not pushed; {state}",
        detail="\n".join(lines),
        hint=next((row.error.hint for row in failed if row.error and row.error.hint), "")
        or "the same command goes on where this one ended",
    )
