"""docker://HOST[:PORT]/NAME[:TAG|@DIGEST]. An image in a registry, pulled layer by layer.

Layers come several at once, and the lowest is applied while it and the others still arrive.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

from buildstep.errors import ImageError
from buildstep.events import Bus, Gauge
from buildstep.formats.oci.spec import Descriptor, OciImage, apply_layers, describe, document
from buildstep.images.interface import Identity, SourceContext, SourceImage
from buildstep.images.sources import layer_files
from buildstep.images.sources.oci import platform_of
from buildstep.net.credentials import credentials_for
from buildstep.net.download import Downloaded, Follower, Progress
from buildstep.net.http import Http, translated
from buildstep.net.registry import Reference, RegistryClient
from buildstep.net.request import HttpOptions
from buildstep.system.files import Slice

PARALLEL = 5


class Docker:
    """environ: has credentials and proxies, BUILDSTEP_PLATFORM where it is not this machine's, and
    BUILDSTEP_INSECURE_REGISTRIES (HOST[:PORT],...), which are spoken to without TLS.
    """

    scheme: ClassVar[str] = "docker"

    def __init__(
        self, environ: Mapping[str, str] = os.environ, limits: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self._environ = environ
        self._options = HttpOptions.of(environ, **limits)
        self._digests: dict[str, str] = {}
        """The digest of each locator, so that `fetch` gets the image that `identify` found."""

    @contextlib.contextmanager
    def _client(self, locator: str, bus: Bus | None) -> Iterator[RegistryClient]:
        ref = Reference.parse(locator)
        insecure = ref.host in self._environ.get("BUILDSTEP_INSECURE_REGISTRIES", "").split(",")
        with translated(ImageError), Http(environ=self._environ, options=self._options, bus=bus) as http:
            yield RegistryClient(
                ref,
                http=http,
                credentials=credentials_for(ref.host, self._environ),
                plain=True if insecure else None,
            )

    def identify(self, locator: str, hasher: Callable[[Path], str]) -> Identity:
        del hasher
        ref = Reference.parse(locator)
        digest = ref.digest
        if not digest:
            with self._client(locator, None) as client:
                found = client.resolve(ref.tag)
            if found is None:
                raise ImageError(f"there is no image {ref}", hint="is the tag right? are credentials needed?")
            digest = found.digest
        self._digests[locator] = digest
        return Identity(key=f"docker:{digest}:{platform_of(self._environ)}", label=str(ref))

    def pin(self, locator: str, digest: str) -> None:
        """Let a locator mean the image of a digest from now on, which is not asked for again."""
        self._digests[locator] = digest

    def fetch(self, locator: str, into: Path, context: SourceContext) -> SourceImage:
        ref = Reference.parse(locator)
        with self._client(locator, context.bus) as client:
            image = client.image(self._digests.get(locator, ref.wanted), platform_of(self._environ))
            config = document(client.read(image.config), f"{ref} config")
            contents = layer_files.Contents(into)
            sizes = {layer.digest: layer.size for layer in image.layers}
            with (
                context.bus.job(f"pull {str(ref).removeprefix('docker://')}", sum(sizes.values())) as gauge,
                _Pull(client, image, context.downloads, gauge) as pull,
            ):
                layers = [pull.layer(i) for i in range(len(image.layers))]
                entries = apply_layers(layers, into, context.apply_layer, contents.count)
                files = layer_files.of_descriptors(image, config, pull.places(), contents, own=True)
        return SourceImage(
            manifest=describe(
                config, ref.repository.rpartition("/")[2], image.manifest.hex, image.annotations
            ),
            inputs={"registry": str(ref), "digest": image.manifest.digest},
            entries=entries,
            config=config,
            layers=files,
        )


class _Pull:
    """The layers of an image on their way here."""

    def __init__(self, client: RegistryClient, image: OciImage, cache: Path, gauge: Gauge) -> None:
        self._layers = image.layers
        self._paths = [cache / f"sha256-{layer.hex}" for layer in image.layers]
        self._progress: dict[str, Progress] = {layer.digest: Progress(gauge) for layer in image.layers}
        self._client = client
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="pull")
        self._jobs: dict[str, Future[Downloaded]] = {}

    def __enter__(self) -> Self:
        self._client.authorize("pull")
        for layer, path in zip(self._layers, self._paths, strict=True):
            if layer.digest not in self._jobs:
                self._jobs[layer.digest] = self._pool.submit(self._fetch, layer, path)
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        if exc[0] is not None:
            self._client.http.stop()
        self._pool.shutdown(wait=True)

    def _fetch(self, layer: Descriptor, path: Path) -> Downloaded:
        progress = self._progress[layer.digest]
        with progress.reporting():
            return self._client.fetch(layer, path, progress=progress)

    @contextlib.contextmanager
    def layer(self, index: int) -> Iterator[_Layer]:
        layer = self._layers[index]
        follower = Follower(self._progress[layer.digest])
        try:
            yield _Layer(follower, self._jobs[layer.digest], layer.size)
        finally:
            follower.close()

    def places(self) -> list[Slice]:
        """Return where the layers are. After a failure they stay there for the next run."""
        return [
            Slice(path=path, offset=0, size=layer.size)
            for path, layer in zip(self._paths, self._layers, strict=True)
        ]


class _Layer:
    """A layer as a stream. size: bytes that it will have."""

    def __init__(self, follower: Follower, job: Future[Downloaded], size: int) -> None:
        self._follower, self._job, self.size = follower, job, size

    def read(self, size: int = -1, /) -> bytes:
        return self._follower.read(size)

    def interrupt(self) -> None:
        self._follower.interrupt()

    def verify(self) -> None:
        # First to the end: the download waits for nobody, but its result only comes when it is done.
        self._follower.verify(self._job.result())
