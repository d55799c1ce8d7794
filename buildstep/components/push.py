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

from buildstep.components import kept_layouts
from buildstep.components.builders import Builder, Run
from buildstep.components.interface import Base, Built
from buildstep.components.settings import Registry
from buildstep.components.work import NoStock, Stock
from buildstep.errors import BuildstepError, ExitCode, PublishError, UsageError
from buildstep.events import Bus
from buildstep.files.parallel import parallel
from buildstep.formats.oci.layout import open_layout
from buildstep.formats.oci.spec import OCI_INDEX, Descriptor, OciPlatform, index_of
from buildstep.images.attestations.inside import papers_in
from buildstep.images.attestations.local import Papers
from buildstep.images.attestations.required import NOTHING, Demand
from buildstep.images.publish import check_papers
from buildstep.images.publishers.registry import attested, push_image
from buildstep.net.credentials import Credentials, credentials_for
from buildstep.net.http import Http
from buildstep.net.referrers import ReferrerRegistry
from buildstep.net.registry import Reference
from buildstep.net.request import HttpOptions

FORMAT: Final = 1

AT_ONCE: Final = 4
"""Images that are saved and sent at the same time."""


class NotAllPushed(BuildstepError):
    """Some images were not pushed; what was done is in the result."""

    exit_code = ExitCode.PUBLISH


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """An image on its way. image: its name; built: of its record, None for one of several platforms;
    repository: HOST/NAME; digest: of its manifest or index there; tags: those that name it now; error: why it
    is not all there; parts: the same of each platform, by its name."""

    image: str
    built: Built | None
    repository: str
    digest: str = ""
    tags: tuple[str, ...] = ()
    error: BuildstepError | None = None
    parts: Mapping[str, Pushed] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the row of the result manifest."""
        return {
            "image": self.image,
            "id": self.built.output if self.built else "",
            "key": self.built.key if self.built else "",
            "repository": self.repository,
            "digest": self.digest,
            "reference": f"{self.repository}@{self.digest}" if self.digest else "",
            "tags": list(self.tags),
            "error": self.error.message if self.error else "",
            "platforms": {
                name: {"digest": part.digest, "id": part.built.output, "key": part.built.key}
                for name, part in self.parts.items()
                if part.built
            },
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """What pushing uses. run: runs commands of the builder; stock: has images that are not in its store;
    layouts: has images as our own pipeline made them (`kept_layouts`); demand: what has to be proved of each,
    and the keys that sign; insecure: do not check certificates; limits: fields of `HttpOptions`."""

    builder: Builder
    run: Run
    environ: Mapping[str, str]
    bus: Bus
    stock: Stock = NoStock()  # noqa: RUF009 - it has no state
    layouts: Path | None = None
    demand: Demand = NOTHING
    insecure: bool = False
    limits: Mapping[str, Any] = field(default_factory=dict)


def chosen(names: Sequence[str], built: Mapping[str, Built | None]) -> dict[str, Built]:
    """Return the images to push, by name: those named, or all. built: all images of the plan, None for one
    that was not built from the sources as they are now. A name stands for all platforms of its image.

    Raises UsageError for names that are no images, PublishError for images that are not built; both before
    anything is pushed.
    """
    from difflib import get_close_matches

    known: dict[str, list[str]] = {}
    for name in sorted(built):
        known.setdefault(name.partition("@")[0], []).append(name)
    unknown = [name for name in names if name not in known]
    if unknown:
        near = get_close_matches(unknown[0], list(known), 1)
        hint = f"did you mean {near[0]}?" if near else f"images: {', '.join(known) or 'none'}"
        raise UsageError(f"no such image in this plan: {', '.join(unknown)}", hint=hint)
    found: dict[str, Built] = {}
    missing = []
    for name in (full for short in dict.fromkeys(names or known) for full in known[short]):
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
    image is set then. Raises UsageError where no registry is named, and UnsignedError and its siblings where
    something is required and not proved; then nothing is sent.
    """
    if not registry.host:
        raise UsageError(
            "no registry is named",
            hint="--registry HOST[/NAMESPACE], `registry` in components.toml, or -c with pai's configuration",
        )
    rows = [
        Pushed(image=name, built=built, repository=registry.repository(name.partition("@")[0]))
        for name, built in sorted(images.items())
    ]
    credentials = registry.credentials or credentials_for(registry.host, access.environ)
    with tempfile.TemporaryDirectory(prefix="buildstep-push-") as scratch, _session(access) as http:
        there = _proved(rows, registry, access, Path(scratch)) if access.demand else {}
        clients = {row.image: _client(row, http, credentials, access) for row in rows}
        sent = parallel(
            lambda row: _content(row, clients[row.image], access, tell, there.get(row.image)), rows, AT_ONCE
        )
        rows = list(sent)
        rows = [_joined(group, clients[group[0].image], access, tell) for group in _by_image(rows)]
        clients |= {row.image: clients[f"{row.image}@{name}"] for row in rows for name in list(row.parts)[:1]}
        if any(row.error for row in rows):
            return rows
        return list(parallel(lambda row: _tags(row, clients[row.image], registry, tell), rows, AT_ONCE))


@contextmanager
def _session(access: Access) -> Iterator[Http]:
    options = HttpOptions.of(access.environ, insecure=access.insecure, **access.limits)
    with Http(environ=access.environ, options=options, bus=access.bus) as http:
        yield http


def _client(row: Pushed, http: Http, credentials: Credentials | None, access: Access) -> ReferrerRegistry:
    reference = Reference.parse(row.repository)
    listed = access.environ.get("BUILDSTEP_INSECURE_REGISTRIES", "").split(",")
    plain = True if access.insecure or reference.host in listed else None
    return ReferrerRegistry(reference, http=http, credentials=credentials, plain=plain)


def _content(
    row: Pushed,
    client: ReferrerRegistry,
    access: Access,
    tell: Callable[[str], None],
    folder: Path | None,
) -> Pushed:
    """Send an image's layers and manifest, under its digest only, and what is said of it. folder: its layout,
    where it is there already."""
    try:
        with tempfile.TemporaryDirectory(prefix="buildstep-push-") as scratch:
            layout = open_layout(folder or _layout(row, access, Path(scratch)), row.image)
            entry = layout.find("")
            push_image(layout, entry, client, {})
            papers = papers_in(layout, entry.digest)
            attested(client, entry, papers, row.image, access.demand.signing)
    except BuildstepError as error:
        return replace(row, error=error)
    tell(f"{row.image}: {row.repository}@{entry.digest}")
    return replace(row, digest=entry.digest)


def _layout(row: Pushed, access: Access, scratch: Path) -> Path:
    """Return the layout of an image: the one that is kept, or a new one."""
    assert row.built is not None
    if kept := kept_layouts.find(access.layouts, row.image, row.built.output):
        return kept
    folder = scratch / "layout"
    access.stock.image(Base(row.built.output, row.image), access.run)
    access.builder.save(row.built.output, folder, access.run)
    return folder


def _proved(rows: Sequence[Pushed], registry: Registry, access: Access, scratch: Path) -> dict[str, Path]:
    """Return the layouts of all images, once each is proved as it is required. Raises UnsignedError and its
    siblings: that of the first, with what is wrong with all."""
    places = {row.image: scratch / str(number) for number, row in enumerate(rows)}
    for place in places.values():
        place.mkdir()
    folders = parallel(lambda row: _layout(row, access, places[row.image]), rows, AT_ONCE)
    found = dict(zip(places, folders, strict=True))
    wrong = []
    for row in rows:
        layout = open_layout(found[row.image], row.image)
        entry = layout.find("")
        papers = papers_in(layout, entry.digest)
        plain = Reference.parse(row.repository)
        for tag in registry.tags or ("",):
            ref = replace(plain, tag=tag)
            try:
                check_papers(
                    layout, entry, papers, ref, access.demand, name=row.image, where="inside its layout"
                )
            except BuildstepError as error:
                wrong.append(error)
                break
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        raise type(wrong[0])(
            f"nothing was pushed: {len(wrong)} images are not proved",
            detail="\n".join(line for error in wrong for line in (error.message, *error.detail.splitlines())),
            hint=wrong[0].hint,
        )
    return found


def _by_image(rows: Sequence[Pushed]) -> list[list[Pushed]]:
    """Return rows with those of the same image, for several platforms, together."""
    found: dict[str, list[Pushed]] = {}
    for row in rows:
        found.setdefault(row.image.partition("@")[0], []).append(row)
    return list(found.values())


def _joined(
    rows: Sequence[Pushed], client: ReferrerRegistry, access: Access, tell: Callable[[str], None]
) -> Pushed:
    """Return the row of an image: of several platforms one with an index of these (image-spec,
    image-index.md), which is sent under its digest."""
    name, several, _ = rows[0].image.partition("@")
    if not several:
        return rows[0]
    parts = {row.image.partition("@")[2]: row for row in rows}
    whole = Pushed(image=name, built=None, repository=rows[0].repository, parts=parts)
    if errors := [row.error for row in rows if row.error is not None]:
        return replace(whole, error=errors[0])
    try:
        entries = []
        for platform, row in parts.items():
            kind, data = client.manifest(row.digest)
            its = OciPlatform.parse(platform).to_json()
            entries.append(Descriptor(media_type=kind, digest=row.digest, size=len(data), platform=its))
        index, data = index_of(entries)
        client.push_manifest(index.digest, OCI_INDEX, data)
        attested(client, index, Papers(), name, access.demand.signing)
    except BuildstepError as error:
        return replace(whole, error=error)
    tell(f"{name}: {whole.repository}@{index.digest} for {', '.join(parts)}")
    return replace(whole, digest=index.digest)


def _tags(row: Pushed, client: ReferrerRegistry, registry: Registry, tell: Callable[[str], None]) -> Pushed:
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
