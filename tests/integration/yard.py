"""Builds run in the test's own process, many in a row: what they wrote, said, planned and cost."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildstep import pool as pool_module
from buildstep.build.execute import execute
from buildstep.build.plan import plan as plan_build
from buildstep.cache.layers import LayerCache
from buildstep.cli.choices import choices
from buildstep.errors import BuildstepError
from buildstep.events import Bus, Event, Note
from buildstep.images.store import ImageStore
from buildstep.report import compare
from buildstep.report.parse import from_json
from buildstep.spec import load as specs
from buildstep.spec.document import Document
from buildstep.system import process
from buildstep.tree import hashing, scan
from buildstep.tree.entry import tree_digest
from tests.integration.support import TELL_ONLY

EPOCH = 1_700_000_000


def tiny_base(path: Path, *, salt: str = "") -> Path:
    """A base image of a few files: links that directories of a proto meet, things that it replaces."""

    def add(tar: tarfile.TarFile, name: str, kind: bytes, content: bytes = b"", **more: Any) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.mtime, member.size = kind, EPOCH, len(content)
        member.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
        for key, value in more.items():
            setattr(member, key, value)
        tar.addfile(member, io.BytesIO(content))

    with tarfile.open(path, "w") as tar:
        for name in (".", "usr", "usr/bin", "usr/lib", "etc", "var", "var/lib", "var/lib/deep", "opt", "tmp"):
            add(tar, name, tarfile.DIRTYPE)
        add(tar, "bin", tarfile.SYMTYPE, linkname="usr/bin")
        add(tar, "lib", tarfile.SYMTYPE, linkname="/usr/lib")
        add(tar, "etc/conf", tarfile.REGTYPE, b"of the base\n")
        add(tar, "etc/base", tarfile.REGTYPE, f"salt {salt}\n".encode())
        add(tar, "usr/bin/tool", tarfile.REGTYPE, b"tool of the base", mode=0o755)
        add(tar, "usr/bin/twin", tarfile.LNKTYPE, linkname="usr/bin/tool")
        add(tar, "var/lib/f1", tarfile.REGTYPE, b"1\n")
        add(tar, "opt/stays", tarfile.REGTYPE, b"x" * 3000, uid=5, gid=6)
    return path


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A build as it went. files: SHA-256 by format; counts: its costs, `started` the processes."""

    files: Mapping[str, str]
    tree: str
    counts: Mapping[str, int]
    steps: Mapping[str, tuple[str, str]]
    plan: Mapping[str, tuple[str, str]]
    notes: Sequence[str]
    error: str = ""

    @property
    def same(self) -> tuple[object, ...]:
        """What two builds of the same inputs have in common."""
        return (dict(self.files), self.tree, self.error.partition(":")[0])

    def reasons(self, *, planned: bool = False) -> str:
        return "\n".join(
            f"{state} {reason}" for state, reason in (self.plan if planned else self.steps).values()
        )


@dataclass(kw_only=True)
class Yard:
    """A pool and an output directory. Run its builds inside a build's namespaces."""

    pool: str
    out: Path
    proto: Path
    base: Path
    document: dict[str, Any] = field(default_factory=dict)
    build: dict[str, Any] = field(default_factory=dict)
    formats: tuple[str, ...] = ("oci", "tar")
    environ: dict[str, str] = field(default_factory=dict)
    source: str = "inline manifest"

    def spec(self, environ: Mapping[str, str], **flags: object) -> specs.BuildSpec:
        document = {
            "name": "hello", "version": "1.0.0", "os": "linux", "type": "other", **self.document,
            "build": {"image": f"tar:{self.base}", "formats": list(self.formats), **self.build},
        }  # fmt: skip
        given: dict[str, object] = {"proto": os.fspath(self.proto), "output_dir": os.fspath(self.out)}
        environ = {"BUILDSTEP_CHECKS": TELL_ONLY, **environ}
        return specs.load(
            Document(self.source, document), flags=given | flags, environ=environ, cwd=self.out.parent,
            choices=choices(),
        )  # fmt: skip

    def open(self, bus: Bus, environ: Mapping[str, str]) -> tuple[ImageStore, LayerCache]:
        backend = pool_module.open_pool(self.pool)
        return ImageStore(backend, bus=bus, environ=environ), LayerCache(backend)

    def plan(self, *, epoch: int | None = EPOCH, **flags: object) -> dict[str, tuple[str, str]]:
        environ = environment(epoch) | self.environ
        store, cache = self.open(Bus(), environ)
        planned = plan_build(self.spec(environ, **flags), store, cache, environ=environ)
        return {step.name: (step.state, step.reason) for step in planned.steps}

    def run(
        self, *, epoch: int | None = EPOCH, plain: bool = False, more: Mapping[str, str] | None = None,
        **flags: object,
    ) -> Outcome:  # fmt: skip
        """Build; a failure that we understand is an outcome as well."""
        environ = environment(epoch) | self.environ | dict(more or {})
        events: list[Event] = []
        bus = Bus(events.append)
        store, cache = self.open(bus, environ)
        started = process.started
        planned: dict[str, tuple[str, str]] = {}
        try:
            plan = plan_build(self.spec(environ, **flags), store, cache, plain=plain, environ=environ)
            planned = {step.name: (step.state, step.reason) for step in plan.steps}
            result = execute(plan, store=store, cache=cache, bus=bus, environ=environ)
        except BuildstepError as error:
            return Outcome(
                files={}, tree="", counts=bus.counts, steps={}, plan=planned, notes=_notes(events),
                error=f"{type(error).__name__}: {error}\n{error.detail}",
            )  # fmt: skip
        return Outcome(
            files={str(row["format"]): str(row["sha256"]) for row in result.files},
            tree=result.tree_digest,
            counts={**bus.counts, "started": process.started - started},
            steps={step.name: (step.state, step.reason) for step in result.recorder.steps},
            plan=planned,
            notes=_notes(events),
        )

    @property
    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / "hello-1.0.0.buildrecord.json").read_bytes())
        return found


def differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What `buildstep why` prints of two build records."""
    rows = compare.differences(from_json(old, Path("old")), from_json(new, Path("new")))
    return "\n".join(row.text for row in rows)


def _notes(events: Sequence[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Note)]


def environment(epoch: int | None) -> dict[str, str]:
    found = {"PATH": os.environ["PATH"], "HOME": "/nowhere"}
    return found if epoch is None else {**found, "SOURCE_DATE_EPOCH": str(epoch)}


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _only_name(layout: Path) -> str:
    (row,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    return str(row["annotations"]["org.opencontainers.image.ref.name"])


def unpacked(archive: Path, into: Path) -> str:
    """The digest of the tree that umoci makes of an OCI archive."""
    layout = into / "layout"
    layout.mkdir(parents=True)
    _run("tar", "-xf", os.fspath(archive), "-C", os.fspath(layout))
    _run("umoci", "unpack", "--image", f"{layout}:{_only_name(layout)}", os.fspath(into / "bundle"))
    return digest_of(into / "bundle/rootfs")


def digest_of(root: Path) -> str:
    entries = scan.scan(root)
    hashing.hash_entries(root, entries.values())
    hashing.spread_digests(entries)
    return tree_digest(entries)


def forget_outputs(pool: str) -> None:
    """Make the next build write its outputs again, by everything else that is cached."""
    state = pool_module.open_pool(pool).state
    for path in (state / "artifacts").glob("*.json"):
        if not path.name.startswith("last-"):
            path.unlink()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
