"""A build under way: what it works on and what it has made so far, for the steps that share it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from buildstep.build import steps
from buildstep.build.plan import TITLES, Plan, proto_text
from buildstep.cache.blobs import BlobStore
from buildstep.cache.layers import LayerCache
from buildstep.cache.resolutions import Answer
from buildstep.emit.interface import Blob
from buildstep.errors import BuildstepError
from buildstep.events import Bus
from buildstep.images.store import ImageRecord, ImageStore
from buildstep.pool.interface import Backend, Dataset, Kind
from buildstep.pool.journal import Journal, keep
from buildstep.report.recorder import Recorder
from buildstep.rootfs.packaging import Installed
from buildstep.system.root import Root
from buildstep.system.text import plural
from buildstep.tree.diff import Changes
from buildstep.tree.entry import FileList


class Build:
    """One build under way: what it works on, and the layers below that."""

    def __init__(
        self, plan_: Plan, store: ImageStore, cache: LayerCache, bus: Bus, environ: Mapping[str, str]
    ) -> None:
        self.plan = plan_
        self.spec = plan_.spec
        self.store = store
        self.cache = cache
        self.backend: Backend = store.backend
        self.bus = bus
        self.environ = environ
        self.recorder = Recorder(bus, total=len(plan_.steps))
        self.context = steps.Context(spec=self.spec, backend=self.backend, bus=bus, environ=environ)
        self.installed: Installed | None = None
        self.answer: Answer | None = None
        self.blobs: BlobStore | None = None
        self.layers: list[Blob] = []
        self.parts: list[tuple[Changes, Blob]] = []
        self.origin: FileList = {}
        self.below: FileList = {}
        self.laid: FileList = {}
        self.dataset: Dataset | None = None
        self.clones = 0
        self.image: ImageRecord | None = None

    # Working datasets. Each has its journal line before it exists and its undo right after.

    def clone(self, journal: Journal, stack: contextlib.ExitStack, kind: Kind, ident: str) -> None:
        self.clones += 1
        name = journal.dataset(f"{journal.ident}-{self.clones}")
        stack.callback(self._drop, name)
        self.dataset = self.backend.clone(kind, ident, name)

    def _drop(self, name: str) -> None:
        """Undo of a clone. A failure here never hides the error that brought us here."""
        failed = self.dataset is not None and self.dataset.ident == name
        if failed and self.spec.keep_on_failure and self.dataset is not None:
            keep(self.backend, name)
            where = self.dataset.path
            text = f"the clone is kept: {where}"
            if getattr(self.dataset, "upper", None) is not None:
                # The mount goes with the build; what was changed is on disk.
                text = f"the clone is kept: {where.parent} (what changed is in its upper/)"
            self.bus.note(f"{text}; `buildstep heal --kept` removes it", level="warning")
            return
        with tell_only(self.bus, f"dropping the clone {name}"):
            self.backend.destroy(Kind.BUILD, name)
            self.dataset = None if failed else self.dataset

    @property
    def tree(self) -> Dataset:
        assert self.dataset is not None, "there is a clone between the steps clone and destroy"
        return self.dataset

    @property
    def shell_root(self) -> Path:
        """Where a shell after a failure opens."""
        return self.tree.path if self.image is None else self.root(self.image).path

    def root(self, image: ImageRecord) -> Root:
        return steps.image_root(self.tree, image)

    def inside(self, image: ImageRecord) -> Callable[[str], str]:
        """From a path in the tree to the path in the image's root."""
        prefix = os.path.relpath(self.root(image).path, self.tree.path)
        return lambda path: "/" + (path if prefix == "." else os.path.relpath(path, prefix))


@contextlib.contextmanager
def tell_only(bus: Bus, what: str) -> Iterator[None]:
    try:
        yield
    except (BuildstepError, OSError) as error:
        bus.note(f"{what} failed: {error}", level="error")


def clone_step(build: Build, journal: Journal, stack: contextlib.ExitStack, kind: Kind, ident: str) -> None:
    with build.recorder.step("clone", TITLES["clone"]) as step:
        build.clone(journal, stack, kind, ident)
        step.reason = f"{kind} {ident}"


def sync_step(build: Build, image: ImageRecord) -> None:
    with build.recorder.step("sync", TITLES["sync"]) as step:
        root = build.root(image)
        step.reason = proto_text(build.spec, build.plan.proto, direct=build.plan.direct)
        if build.plan.direct:
            laid = steps.lay_direct(build.context, root, build.tree, build.plan.proto, build.below)
            if laid is not None:
                build.laid = laid
                return
            step.reason = f"{build.spec.proto.name}/, {plural(build.plan.proto.files, 'file')}, copied"
        steps.sync(build.context, root)
