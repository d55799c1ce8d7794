"""Find and fetch images by uuid or name@version, with their origins, from repositories in order.

A repository that does not answer never fails what another one has.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildstep.errors import BuildstepError, ImageError, SpecError
from buildstep.events import Bus
from buildstep.images import sources
from buildstep.net.errors import HttpError
from buildstep.spec import imgmanifest
from buildstep.system import space

if TYPE_CHECKING:
    from buildstep.images.repositories import Repository
    from buildstep.net.download import Downloaded, Progress

PARALLEL = 5
_MAX_ORIGINS = 100  # as servers have it


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """An image and the repository that has it."""

    manifest: Mapping[str, Any]
    repository: Repository

    @property
    def uuid(self) -> str:
        return str(self.manifest["uuid"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """An image whose file is here and verified. source: the label of the repository it came from."""

    manifest: Mapping[str, Any]
    file: Downloaded
    source: str

    @property
    def inputs(self) -> dict[str, str]:
        """Where the file came from and its digests, for the image's record."""
        return {"source": self.source, "sha1": self.file.sha1, "sha256": self.file.sha256}


class Incoming:
    """An image whose file is being downloaded, as a stream. What was read counts once it is verified."""

    def __init__(
        self, manifest: Mapping[str, Any], target: Path, progress: Progress, job: Future[Fetched]
    ) -> None:
        from buildstep.net.download import Follower

        self.manifest, self.target = manifest, target
        self._follower, self._job = Follower(progress), job
        self._peeked = b""

    def peek(self, size: int) -> bytes:
        """Return the first bytes of the file, which will be read again."""
        while len(self._peeked) < size and (more := self._follower.read(size - len(self._peeked))):
            self._peeked += more
        return self._peeked

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            data, self._peeked = self._peeked, b""
            return data + self._follower.read()
        if self._peeked:
            data, self._peeked = self._peeked[:size], self._peeked[size:]
            return data
        return self._follower.read(size)

    def verify(self) -> Fetched:
        """Wait for the end of the download. Raises HttpError if other bytes were read than the right ones."""
        fetched = self._job.result()
        self._follower.verify(fetched.file)
        return fetched

    def interrupt(self) -> None:
        self._follower.interrupt()

    def close(self) -> None:
        self._follower.close()


def resolve(
    ref: str,
    repositories: Sequence[Repository],
    *,
    bus: Bus,
    have: Callable[[str], bool] = lambda _: False,
) -> list[Resolved]:
    """Return the images that a uuid or name@version needs, its deepest origin first, itself last.

    have: whether an image is here already; neither it nor its origins are asked for.
    Raises ImageError: not found, not active, or no repository that answers.
    """
    check_ref(ref)
    if not repositories:
        raise ImageError(
            f"the image {ref} is not in the store, and there is no source to look for it in",
            hint="`buildstep image list` shows what is in the store; sources are named in buildstep.toml",
        )
    top = _search(ref, repositories, bus)
    state = imgmanifest.state_of(top.manifest)
    if state != "active":
        raise ImageError(
            f"image {ref} at {top.repository.label} is {state}, not active", hint="activate it there first"
        )
    chain = [top]
    while origin := chain[0].manifest.get("origin"):
        origin = str(origin)
        if have(origin):
            break
        if origin in {row.uuid for row in chain} or len(chain) > _MAX_ORIGINS:
            raise ImageError(f"image {ref} is based on itself: {origin} is among its own origins")
        # Origins need not be active: they may have been withdrawn from sale since. Where the image is,
        # its origin most likely is.
        near = chain[0].repository
        chain.insert(0, _search(origin, [near, *(r for r in repositories if r is not near)], bus))
    return chain


def check_ref(ref: str) -> None:
    """Raise ImageError for what is neither a uuid nor name@version."""
    from buildstep.net.imgapi import is_uuid

    name, _, version = ref.rpartition("@")
    if not is_uuid(ref) and not (name and version):
        listing = "`buildstep image list` shows what is in the store, with --remote what sources have"
        near = sources.near_miss(ref)
        raise ImageError(
            f"{ref!r} is neither a uuid nor name@version, nor a file",
            hint=f"{near} {listing}" if near else listing,
        )


def several_of(name: str, where: str, images: Sequence[tuple[str, str]]) -> ImageError:
    """Return the error for a name that several images have. images: uuid and version of each."""
    return ImageError(
        f"{len(images)} images {where} are named {name}",
        detail="\n".join(f"  {uuid}  {name}@{version}" for uuid, version in images),
        hint="say which: a uuid, or name@version for the newest of that version",
    )


def _search(ref: str, repositories: Sequence[Repository], bus: Bus) -> Resolved:
    problems: list[BuildstepError] = []
    inactive: Resolved | None = None
    for repository in repositories:
        try:
            manifest = _ask(ref, repository)
        except (HttpError, SpecError) as error:
            problems.append(error)
            bus.note(f"{repository.label} is passed over: {error.message}", level="warning")
            continue
        if manifest is None:
            continue
        found = Resolved(manifest=manifest, repository=repository)
        if imgmanifest.state_of(manifest) == "active":
            return found
        inactive = inactive or found
    if inactive is not None:
        return inactive
    asked = ", ".join(repository.label for repository in repositories)
    if problems:
        count = f"{len(problems)} of {len(repositories)}"
        raise all_failed(
            f"image {ref} was not found; {count} repositories did not answer",
            problems,
            hint="try again, or configure another repository",
        )
    raise ImageError(f"no repository has the image {ref}", hint=f"asked: {asked}")


def _ask(ref: str, repository: Repository) -> dict[str, Any] | None:
    from buildstep.net.imgapi import is_uuid

    if is_uuid(ref):
        found = repository.get(ref)
    else:
        name, _, version = ref.rpartition("@")
        found = repository.find(name, version)
    if found is None:
        return None
    manifest = imgmanifest.upgrade(found)
    # Servers say more of an image than a manifest on disk may have.
    checked = {key: value for key, value in manifest.items() if key != "channels"}
    if faults := imgmanifest.validate(checked, limits="accept"):
        raise SpecError(f"{repository.label}: manifest of {ref}", faults)
    return manifest


def fetch_files(
    images: Sequence[Resolved],
    repositories: Sequence[Repository],
    folder: Path,
    *,
    bus: Bus,
    on_begin: Callable[[Incoming], bool] = lambda _: False,
    on_ready: Callable[[Fetched], None] = lambda _: None,
) -> list[Fetched]:
    """Download the images' files into a folder, as `UUID.file`, several at once; results in their order.

    on_ready: called in this thread for each, in order, as soon as it and all before it are here, while
    the rest is downloaded: installs are one at a time, an origin before what is based on it. on_begin:
    called before, during the download; when it returns True it did (and verified) all there was to do.
    The first failure stops the others. Raises ImageError; what can be resumed stays for the next run.
    """
    from buildstep.net.download import Progress

    pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="download")
    progress = [Progress() for _ in images]
    jobs = [
        pool.submit(reported.reporting()(_fetch), image, repositories, folder, bus, reported)
        for image, reported in zip(images, progress, strict=True)
    ]
    done: list[Fetched] = []
    try:
        for image, job, reported in zip(images, jobs, progress, strict=True):
            target = folder / f"{image.uuid}.file"
            with contextlib.closing(Incoming(image.manifest, target, reported, job)) as incoming:
                if on_begin(incoming):
                    done.append(job.result())
                    continue
            # Whichever fails first is reported at once, and not when it would be its turn.
            pending = set(jobs[len(done) :])
            while not job.done():
                finished, pending = wait(pending, timeout=1.0, return_when=FIRST_EXCEPTION)
                failed = next((other for other in finished if other.exception() is not None), None)
                if failed is not None:
                    failed.result()
            fetched = job.result()
            done.append(fetched)
            on_ready(fetched)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for repository in {id(r): r for r in [*repositories, *(i.repository for i in images)]}.values():
            if repository.http is not None:
                repository.http.stop()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return done


def _fetch(
    image: Resolved, repositories: Sequence[Repository], folder: Path, bus: Bus, progress: Progress
) -> Fetched:
    """Download an image's file from where it was found, or else from one that has the same file.

    Raises ImageError, and DiskError where there is no room for it: nobody else's file has it either.
    """
    target = folder / f"{image.uuid}.file"
    title = f"download {image.manifest.get('name')}@{image.manifest.get('version')}"
    with bus.job(title, sum(file.get("size", 0) for file in image.manifest.get("files", [])[:1])) as gauge:
        progress.gauge = gauge
        return _fetch_from(image, repositories, target, bus, progress)


def _fetch_from(
    image: Resolved, repositories: Sequence[Repository], target: Path, bus: Bus, progress: Progress
) -> Fetched:
    problems: list[BuildstepError] = []
    for repository in [image.repository, *(r for r in repositories if r is not image.repository)]:
        try:
            if repository is not image.repository and not _has_same(image, repository):
                continue
            return Fetched(
                manifest=image.manifest,
                # A reader follows the first attempt only; it takes the complete file if that fails.
                file=repository.fetch_file(
                    image.manifest, target, progress=progress if repository is image.repository else None
                ),
                source=repository.label,
            )
        except (HttpError, SpecError) as error:
            if failure := space.explain(error):
                raise failure from error
            progress.fail(error)
            problems.append(error)
            bus.note(
                f"{repository.label} did not give the file of {image.uuid}: {error.message}", level="warning"
            )
    first = problems[0]
    raise all_failed(
        f"cannot download image {image.uuid}: {first.message}", problems, listed=problems[1:], hint=first.hint
    ) from first


def all_failed(
    message: str,
    problems: Sequence[BuildstepError],
    *,
    hint: str,
    listed: Sequence[BuildstepError] | None = None,
) -> ImageError:
    """Return one error for the failures of several repositories. listed: those in detail, by default all."""
    return ImageError(
        message,
        detail="\n".join(error.message for error in (problems if listed is None else listed)),
        hint=hint,
        retryable=any(error.retryable for error in problems),
    )


def _has_same(image: Resolved, repository: Repository) -> bool:
    from buildstep.net.imgapi import expected_file

    other = repository.get(image.uuid)
    if other is None:
        return False
    ours, theirs = expected_file(image.manifest), expected_file(imgmanifest.upgrade(other))
    return (ours.size, ours.sha1) == (theirs.size, theirs.sha1)
