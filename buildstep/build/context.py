"""What a build is given, and what it has made so far."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from buildstep.build import proto_conflicts
from buildstep.build.finished_tree import Snapshot
from buildstep.build.log_file import BuildLog
from buildstep.build.plan import Plan, PlannedStep
from buildstep.build.run_keys import RowKey
from buildstep.cache.blobs import BlobStore
from buildstep.cache.layers import LayerCache
from buildstep.cache.resolutions import KeptResolution
from buildstep.checks.interface import Subject
from buildstep.emit.interface import Artifact, Blob
from buildstep.errors import BuildstepError
from buildstep.events import Bus
from buildstep.images.record import root_in
from buildstep.images.store import ImageRecord, ImageStore
from buildstep.pool.interface import Backend, Dataset
from buildstep.pool.journal import Journal
from buildstep.pool.stale import said
from buildstep.report.recorder import Recorder
from buildstep.rootfs.conflicts import Conflict
from buildstep.rootfs.packaging import Installed
from buildstep.spec.load import BuildSpec
from buildstep.system.output_set import Outputs
from buildstep.system.root import Root
from buildstep.tree.diff import Changes
from buildstep.tree.entry import FileList
from buildstep.tree.proto_watch import Differences

if TYPE_CHECKING:
    from buildstep.build.sidecars import Sidecars
    from buildstep.trust.keys.interface import Signer


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildContext:
    """What a build is given. stack: undoes what the build acquires; outputs: the files it commits."""

    plan: Plan
    store: ImageStore
    cache: LayerCache
    bus: Bus
    environ: Mapping[str, str]
    journal: Journal
    log: BuildLog
    recorder: Recorder
    outputs: Outputs
    stack: contextlib.ExitStack

    @property
    def spec(self) -> BuildSpec:
        return self.plan.spec

    @property
    def backend(self) -> Backend:
        return self.store.backend

    @property
    def stem(self) -> Path:
        """The path of every output, without its extension."""
        return self.spec.stem


@dataclass(kw_only=True, slots=True)
class BuildState:
    """What a build has made so far. Each step sets what it is named for, and reads what earlier ones set.

    import: image, blobs, the first of layers; replaced, what of the base gives way to the proto directory.
    accounts: owners, of what is new, by path in the dataset, for pools that cannot hold owners.
    clone: dataset; origin is what it was cloned from, below the finished tree under the layer being made.
    sync: overlay, the proto entries that are read in place; replaced again, where packages came first.
    packages: resolution, installed, packaged (the tree with them), and a layer. run: layers; run_keys, once
    they are known. under: the keys of the kept layers that the clone lies on, nearest first; image_layers: of
    those that are layers of the image, lowest first; layer_key: of the topmost, empty where what is there has
    no key. clean: entropy. snapshot: snapshot. check: unsearched, of whose files the texts are looked through
    when they are read for layers. emit: artifacts, and chunks, the layers that the proto
    directory was cut into; proto_again walks that again, for the end; sha1, of what was read besides the
    blobs, by SHA-256.
    trust: signers, the keys that sign; sidecars, what goes beside the image.
    settled: later steps that need not run any more. shell_offered: of --shell-on-failure, once a build.
    """

    image_record: ImageRecord | None = None
    blobs: BlobStore | None = None
    layers: list[Blob] = field(default_factory=list)
    clone: Dataset | None = None
    clones: int = 0
    origin: FileList = field(default_factory=dict)
    below: FileList = field(default_factory=dict)
    replaced: Sequence[Conflict] = ()
    owners: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    overlay: FileList = field(default_factory=dict)
    resolution: KeptResolution | None = None
    installed: Installed | None = None
    packaged: FileList = field(default_factory=dict)
    under: tuple[str, ...] = ()
    image_layers: tuple[str, ...] = ()
    layer_key: str = ""
    run_keys: dict[str, RowKey] | None = None
    settled: dict[str, PlannedStep] = field(default_factory=dict)
    making: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    entropy: tuple[str, ...] = ()
    finished: Snapshot | None = None
    unsearched: Subject | None = None
    chunks: list[tuple[Changes, Blob]] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)
    sha1: dict[str, str] = field(default_factory=dict)
    proto_again: Callable[[], Differences] | None = None
    signers: tuple[Signer, ...] = ()
    sidecars: Sidecars | None = None
    shell_offered: bool = False

    @property
    def image(self) -> ImageRecord:
        """The base image."""
        assert self.image_record is not None, "the base is there after the step import"
        return self.image_record

    @property
    def dataset(self) -> Dataset:
        """The clone that the build works in."""
        assert self.clone is not None, "there is a clone between the steps clone and destroy"
        return self.clone

    @property
    def snapshot(self) -> Snapshot:
        """The finished tree."""
        assert self.finished is not None, "the tree is read by the step snapshot"
        return self.finished

    @property
    def root(self) -> Root:
        """The file system of the image."""
        return image_root(self.dataset, self.image)

    @property
    def root_prefix(self) -> str:
        """The path of the root in the dataset; empty where it is all of the dataset."""
        prefix = os.path.relpath(self.root.path, self.dataset.path)
        return "" if prefix == "." else prefix

    @property
    def root_list(self) -> FileList:
        """What is in that root, by the list of the layer below."""
        return proto_conflicts.inside(self.below, os.fsencode(self.root_prefix))

    def cloned(self, dataset: Dataset) -> None:
        """Go on in a new clone."""
        self.clone = dataset
        self.clones += 1

    def dropped(self) -> None:
        """There is no clone any more."""
        self.clone = None

    def on_layer(self, entries: FileList, installed: Installed | None) -> None:
        """The clone is one of a layer with the packages."""
        self.origin = self.below = entries
        self.installed = installed

    def forget_trees(self) -> None:
        """Free the memory that only the steps needed."""
        self.overlay, self.origin, self.below, self.packaged = {}, {}, {}, {}
        self.finished = None
        self.chunks = []


@contextlib.contextmanager
def report_failure(bus: Bus, what: str) -> Iterator[None]:
    """Turn a failure of something that the build can do without into a note."""
    try:
        yield
    except (BuildstepError, OSError) as error:
        bus.note(f"{what} failed: {said(error)}", level="error")


def image_root(dataset: Dataset, image: ImageRecord) -> Root:
    """Return the file system of an image in a clone of it."""
    return root_in(dataset.path, image.manifest)
