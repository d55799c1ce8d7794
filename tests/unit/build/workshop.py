"""Builds without root, network or package manager: a pool of copies, and packages that are made up."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from buildstep.build import package_layer
from buildstep.build.deliver import BuildResult
from buildstep.build.execute import execute
from buildstep.build.plan import Plan
from buildstep.build.plan import plan as plan_build
from buildstep.cache.layers import LayerCache
from buildstep.cli.choices import choices
from buildstep.errors import InstallError
from buildstep.events import Bus, Event, Note, StepFinished
from buildstep.images.store import ImageStore
from buildstep.pool.directory import DirectoryBackend
from buildstep.rootfs.interface import Package, Resolution, StaleIndex
from buildstep.rootfs.packaging import Installed
from buildstep.spec import load as specs
from buildstep.spec.document import Document
from buildstep.system.root import Root

ENVIRON = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "SOURCE_DATE_EPOCH": "1700000000"}


@dataclass
class Repository:
    """What a made-up package manager would find. versions: by package; upcoming: those that only a query
    finds; index: its state, which changes with it; failures: messages of the next installs; stale: whether
    these are of files that are gone; disk: what causes them, and a failed query; down: True, or from which
    query on; slow: how many seconds its clock is behind."""

    versions: dict[str, str] = field(default_factory=dict)
    upcoming: dict[str, str] = field(default_factory=dict)
    index: str = "index 1"
    fetched: float = 0.0
    exact: bool = True
    failures: list[str] = field(default_factory=list)
    stale: bool = False
    blocker: str = ""
    unexpected: str = ""
    surplus: tuple[str, ...] = ()
    refreshed: list[float] = field(default_factory=list)
    installs: list[tuple[str, ...]] = field(default_factory=list)
    down: bool | int = False
    slow: float = 0.0
    disk: OSError | None = None

    @contextlib.contextmanager
    def packaging(
        self, spec: specs.BuildSpec, root: Root, *_args: object, **_: object
    ) -> Iterator[FakePackaging]:
        """In place of `prepare_packaging`."""
        yield FakePackaging(self, spec, root)


@dataclass
class FakePackaging:
    """A package manager whose packages are one file each, /usr/NAME, with the version in it."""

    repository: Repository
    spec: specs.BuildSpec
    root: Root
    name: str = "fake"

    @property
    def installer(self) -> FakePackaging:
        return self

    def refresh(self, *, hurry: bool = False, max_age: float = 0.0) -> tuple[str, float]:
        del hurry
        self.repository.refreshed.append(max_age)
        if 0 < self.repository.down <= len(self.repository.refreshed):
            raise InstallError("no route to the repository") from self.repository.disk
        if not max_age and self.repository.upcoming:
            self.repository.versions |= self.repository.upcoming
            self.repository.index += " and more"
            self.repository.upcoming = {}
        return (
            self.repository.index,
            self.repository.fetched if max_age else time.time() - self.repository.slow,
        )

    def resolve(self) -> Resolution:
        for name in self.spec.packages:
            if name not in self.repository.versions:
                raise StaleIndex(f"{name} is not known")
        wanted = {name: self.repository.versions[name] for name in self.spec.packages}
        order = tuple(f"{act} {name}" for act in ("Inst", "Conf") for name in sorted(wanted))
        return Resolution(versions=wanted, exact=self.repository.exact, order=order)

    def fetch(self, versions: Mapping[str, str] | None = None) -> None:
        del versions

    def blocker(self, added: Mapping[str, str], base: object) -> str:
        del added, base
        return self.repository.blocker

    def unexpected_changes(self, root: Root, added: Sequence[Package], changed: Sequence[str]) -> str:
        del root, added, changed
        return self.repository.unexpected

    def install(self, versions: Mapping[str, str] | None = None) -> Installed:
        if self.repository.failures:
            kind = StaleIndex if self.repository.stale else InstallError
            raise kind(self.repository.failures.pop(0)) from self.repository.disk
        names = tuple(versions if versions is not None else self.spec.packages)
        self.repository.installs.append(names)
        self.root.make_dirs("/usr")
        for name in (*names, *self.repository.surplus):
            version = self.repository.versions.get(name, "0")
            self.root.write(f"/usr/{name}", version.encode())
        there = sorted(path.name for path in (self.root.path / "usr").iterdir() if path.is_file())
        return Installed(
            installer="fake",
            packages=tuple(
                Package(name=name, version=(self.root.path / "usr" / name).read_text()) for name in there
            ),
        )


@dataclass
class Workshop:
    """A place to build in."""

    top: Path
    repository: Repository
    events: list[Event] = field(default_factory=list)

    @property
    def proto(self) -> Path:
        return self.top / "proto"

    @property
    def out(self) -> Path:
        return self.top / "out"

    def spec(self, packages: Sequence[str] = (), **build: object) -> specs.BuildSpec:
        flags = {name: build.pop(name) for name in ("cache",) if name in build}
        top: dict[str, object] = {
            name: build.pop(name) for name in ("name", "version", "description") if name in build
        }
        document = {
            "name": "hello",
            "version": "1.0.0",
            **top,
            "build": {"image": "scratch", "packages": list(packages), **build},
        }
        return specs.load(
            Document("inline manifest", document),
            flags={"proto": os.fspath(self.proto), "output_dir": os.fspath(self.out), **flags},
            environ=ENVIRON,
            cwd=self.top,
            choices=choices(),
        )

    def open(self) -> tuple[ImageStore, LayerCache, Bus]:
        self.events.clear()
        bus = Bus(self.events.append)
        backend = DirectoryBackend(os.fspath(self.top / "pool"))
        return ImageStore(backend, bus=bus, environ=ENVIRON), LayerCache(backend), bus

    def plan(self, packages: Sequence[str] = (), **build: object) -> Plan:
        store, cache, _ = self.open()
        return plan_build(self.spec(packages, **build), store, cache, environ=ENVIRON)

    def build(self, packages: Sequence[str] = (), *, plain: bool = False, **build: object) -> BuildResult:
        store, cache, bus = self.open()
        plan = plan_build(self.spec(packages, **build), store, cache, plain=plain, environ=ENVIRON)
        return execute(plan, store=store, cache=cache, bus=bus, environ=ENVIRON)

    def steps(self) -> dict[str, tuple[str, str]]:
        """State and reason of each step of the last build, as its events had them."""
        found: dict[str, tuple[str, str]] = {}
        for event in self.events:
            if isinstance(event, StepFinished):
                assert event.step not in found, f"{event.step} finished twice"
                found[event.step] = (event.state, event.reason)
        return found

    def notes(self) -> str:
        return "\n".join(event.text for event in self.events if isinstance(event, Note))

    def record(self) -> dict[str, Any]:
        return cast("dict[str, Any]", json.loads((self.out / "hello-1.0.0.buildrecord.json").read_bytes()))


def make_workshop(top: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """A workshop with one file in its proto directory, and packages a to d in its repository."""
    repository = Repository(versions=dict.fromkeys("abcd", "1"), fetched=time.time() - 60)
    monkeypatch.setattr(package_layer, "prepare_packaging", repository.packaging)
    made = Workshop(top, repository)
    (made.proto / "srv").mkdir(parents=True)
    (made.proto / "srv/page").write_text("hello")
    return made
