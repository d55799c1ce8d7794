"""The configured repositories: find images in them, download several at once, install one at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildstep.errors import Fault, ImageError
from buildstep.events import Bus
from buildstep.images.resolve import (
    Fetched,
    Incoming,
    Resolved,
    all_failed,
    fetch_files,
    resolve,
    several_of,
)
from buildstep.net.errors import HttpError
from buildstep.net.request import HttpOptions
from buildstep.spec import imgmanifest
from buildstep.spec.config import SourceConfig
from buildstep.system import host
from buildstep.system.locks import lock, try_lock
from buildstep.system.private import private_dir
from buildstep.system.text import size_text

if TYPE_CHECKING:
    from buildstep.images.repositories import Repository


class Remote:
    """The configured repositories, opened when they are first asked. http: limits by name."""

    def __init__(
        self,
        sources: Sequence[SourceConfig],
        *,
        environ: Mapping[str, str],
        http: Mapping[str, Any],
        bus: Bus,
    ) -> None:
        self.sources = tuple(sources)
        self._environ, self._http, self._bus = environ, http, bus
        self._opened: list[Repository] | None = None

    @property
    def repositories(self) -> list[Repository]:
        if self._opened is None:
            self._opened = [self._open(source, source.channel) for source in self.sources]
        return self._opened

    def _open(self, source: SourceConfig, channel: str) -> Repository:
        from buildstep.images.repositories import open_repository

        return open_repository(
            source.url,
            environ=self._environ,
            bus=self._bus,
            options=HttpOptions.of(self._environ, insecure=source.insecure, **self._http),
            channel=channel,
            endpoint=source.endpoint,
            label=source.label,
        )

    def close(self) -> None:
        for repository in self._opened or []:
            if repository.http is not None:
                repository.http.close()
        self._opened = None

    # -- looking ---------------------------------------------------------------------------------------

    def resolve(self, ref: str, have: Callable[[str], bool]) -> list[Resolved]:
        """Return the images to fetch for a uuid or name@version, an origin before what is based on it.

        Raises ImageError: nonsense, not found, not active, or not for this machine's platform.
        """
        chain = resolve(ref, self.repositories, bus=self._bus, have=have)
        faults = [fault for image in chain for fault in self._platform_faults(image)]
        if faults:
            raise ImageError(
                f"image {ref} is not for this machine", detail="\n".join(f"  {fault}" for fault in faults)
            )
        return chain

    def _platform_faults(self, image: Resolved) -> list[Fault]:
        requirements = image.manifest.get("requirements", {})
        if not requirements.get("min_platform") and not requirements.get("max_platform"):
            return []
        here = host.host_platform()
        if here is None:  # no host of such images: it only builds them
            return []
        found = imgmanifest.check_platform(image.manifest, *here)
        return [Fault(where=image.uuid, message=fault.message) for fault in found]

    def images(self, *, channel: str, filters: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (source, manifest) of every image that passes the filters, an image of two sources once.

        A source that does not answer is named and passed over. Raises ImageError when none answers.
        """
        seen: set[str] = set()
        problems: list[HttpError] = []
        for source in self.sources:
            repository = self._open(source, channel or source.channel)
            try:
                for row in repository.images(**filters):
                    if (uuid := str(row.get("uuid"))) not in seen:
                        seen.add(uuid)
                        yield repository.label, row
            except HttpError as error:
                problems.append(error)
                self._bus.note(f"{repository.label} is passed over: {error.message}", level="warning")
        if problems and len(problems) == len(self.sources):
            raise all_failed("no source of images answered", problems, hint=problems[0].hint)

    def manifest(self, ref: str) -> tuple[str, dict[str, Any]]:
        """Return the source and the manifest of an image; nothing is downloaded.

        ref: a uuid, name@version, or a name that only one image has. Raises ImageError.
        """
        from buildstep.net.imgapi import is_uuid

        if not is_uuid(ref) and "@" not in ref:
            named = list(self.images(channel="", filters={"name": ref}))
            if len(named) > 1:
                rows = [(str(row.get("uuid")), str(row.get("version"))) for _, row in named]
                raise several_of(ref, "of the sources", rows)
            if named:
                return named[0]
        top = self.resolve(ref, lambda _: True)[-1]
        return top.repository.label, dict(top.manifest)

    # -- fetching ---------------------------------------------------------------------------------------

    def fetch(
        self,
        images: Sequence[Resolved],
        folder: Path,
        *,
        follow: Callable[[Incoming], bool],
        install: Callable[[Fetched], None],
    ) -> None:
        """Download the images' files, and install them one at a time, in order.

        follow: may install an image during its download; False when that is not possible. install: is
        called for those when the file is complete. The file of an installed image is removed. Raises
        ImageError, and what `install` raises; files that are here or can be resumed stay for the next run.
        """
        private_dir(folder)
        for image in images:
            size = sum(entry.get("size", 0) for entry in image.manifest.get("files", [])[:1])
            name = f"{image.manifest.get('name')}@{image.manifest.get('version')}"
            self._bus.note(f"fetching {name} {image.uuid} ({size_text(size)}) from {image.repository.label}")

        useless: list[Path] = []

        @contextlib.contextmanager
        def noting_useless(target: Path) -> Iterator[None]:
            try:
                yield
            except ImageError as error:
                if not error.retryable:  # it is what its source has, and would be refused again
                    useless.append(target)
                raise

        def begun(incoming: Incoming) -> bool:
            with noting_useless(incoming.target):
                done = follow(incoming)
            if done:
                forget(incoming.target)
            return done

        def ready(fetched: Fetched) -> None:
            with noting_useless(fetched.file.path):
                install(fetched)
            forget(fetched.file.path)

        try:
            fetch_files(images, self.repositories, folder, bus=self._bus, on_begin=begun, on_ready=ready)
        finally:
            for target in useless:  # now that nobody writes to it any more
                forget(target)


def forget(path: Path) -> None:
    """Remove a downloaded file, complete or not, and its lock."""
    guard = path.with_name(f".{path.name}.lock")
    with lock(guard):
        for name in (path, path.with_name(f"{path.name}.partial"), guard):
            name.unlink(missing_ok=True)


def sweep(folder: Path, *, older_than: float, now: float) -> list[Path]:
    """Remove downloads of broken imports that were not resumed for so long (seconds); returns them."""
    removed = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if not path.is_file() or path.name.endswith(".lock"):
            continue
        name = path.name.removesuffix(".partial")
        guard = path.with_name(f".{name}.lock")
        with contextlib.suppress(FileNotFoundError), try_lock(guard) as free:
            if not free:
                continue
            if now - path.stat().st_mtime >= older_than:
                path.unlink()
                removed.append(path)
            if not any(path.with_name(name + end).exists() for end in ("", ".partial")):
                guard.unlink(missing_ok=True)
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_dir():
            with contextlib.suppress(OSError):  # one that is used is not empty
                path.rmdir()
    return removed
