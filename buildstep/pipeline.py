"""plan() decides and explains, execute() does and undoes."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
import uuid as uuids
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from buildstep import __version__, cleaners, compress, emitters, manifest, sandbox, steps
from buildstep.cache import LayerCache, LayerRecord
from buildstep.emitters import oci
from buildstep.errors import BuildstepError, Interrupted
from buildstep.events import ArtifactWritten, BuildStarted, Bus, State
from buildstep.filelist import Changes, FileList, diff, hash_entries, spread_digests, tree_digest
from buildstep.fsutil import Root
from buildstep.images import ImageRecord, ImageStore, shared_blob, uuid_of
from buildstep.interfaces import Artifact, Backend, Blob, Dataset, EmitJob, Finding, Kind, Package
from buildstep.journal import Journal, keep, open_journal
from buildstep.layerkey import layer_key
from buildstep.outputs import Outputs
from buildstep.record import FORMAT, Recorder
from buildstep.spec import BuildSpec

TITLES = {
    "import": "import the base image",
    "clone": "clone it",
    "sync": "lay in the proto directory",
    "packages": "install packages",
    "clean": "clean",
    "motd": "write the message of the day",
    "snapshot": "read the finished tree",
    "emit": "write the image",
    "destroy": "drop the clone",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStep:
    """What a step will do, and why."""

    name: str
    state: State
    reason: str
    key: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A build decided on: nothing has been changed yet. image: None when it has to be imported first."""

    spec: BuildSpec
    pool: str
    image: ImageRecord | None
    steps: tuple[PlannedStep, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.spec.name,
            "version": self.spec.version,
            "pool": self.pool,
            "image": self.image.uuid if self.image else None,
            "steps": [asdict(step) for step in self.steps],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildResult:
    """What a build made. manifest, record, files: under their final names."""

    uuid: str
    manifest: Path
    record: Path
    artifacts: tuple[Artifact, ...]
    tree_digest: str
    seconds: float
    recorder: Recorder

    def to_json(self) -> dict[str, Any]:
        """The object that --json prints."""
        return {
            "uuid": self.uuid,
            "manifest": os.fspath(self.manifest),
            "record": os.fspath(self.record),
            "files": [file_json(artifact) for artifact in self.artifacts],
            "steps": [
                {"name": s.name, "state": s.state, "reason": s.reason, "seconds": round(s.seconds, 4)}
                for s in self.recorder.steps
            ],
            "tree_digest": self.tree_digest,
            "seconds": round(self.seconds, 3),
        }


def file_json(artifact: Artifact) -> dict[str, Any]:
    return {**asdict(artifact), "path": os.fspath(artifact.path), "extra": dict(artifact.extra)}


# -- plan -----------------------------------------------------------------------------------------------


def plan(spec: BuildSpec, store: ImageStore, cache: LayerCache) -> Plan:
    """Decide what each step will do. Reads the store and the cache, changes nothing."""
    image = store.find(spec.image)
    if image is None and store.identify(spec.image) is None:
        store.get(spec.image)  # says what is missing
    planned: list[PlannedStep] = []

    def add(name: str, state: State, reason: str, key: str = "") -> None:
        planned.append(PlannedStep(name=name, state=state, reason=reason, key=key))

    if image is not None:
        add("import", "reuse", f"{image.label} is in the store as {image.uuid}")
    else:
        add("import", "run", f"{spec.image} is not in the store")
    add("clone", "run", "every build works in a clone of its own")
    first = spec.order == "packages-first"
    cost = "packages are installed again whenever the proto directory changes"
    if not first:
        add("sync", "run", f"{spec.proto} ({cost})" if spec.packages else os.fspath(spec.proto))
    if not steps.wants_packages(spec):
        add("packages", "skip", "no packages are asked for")
    elif first and image is not None:
        key, inputs = package_layer(spec, image)
        found = cache.find(key) if spec.cache else None
        if found is not None:
            add("packages", "reuse", f"layer {key[:12]}, made in {found.seconds:.1f} s", key)
        else:
            why = cache.miss(_slot(spec), inputs) if spec.cache else "--no-cache"
            add("packages", "run", why, key)
    else:
        add("packages", "run", ", ".join(spec.packages) or "upgrade")
    if first:
        add("sync", "run", os.fspath(spec.proto))
    add("clean", "run", ", ".join(spec.cleaners(cleaners.DEFAULT)))
    if spec.motd:
        add("motd", "run", "/etc/motd")
    else:
        add("motd", "skip", "not asked for")
    add("snapshot", "run", "what the image holds, and what differs from the base")
    add("emit", "run", ", ".join(spec.formats))
    add("destroy", "run", "nothing is left behind")
    return Plan(spec=spec, pool=store.backend.uri, image=image, steps=tuple(planned))


def _slot(spec: BuildSpec) -> str:
    return f"{spec.name}/packages"


def package_layer(spec: BuildSpec, image: ImageRecord) -> tuple[str, dict[str, Any]]:
    """The key of the layer with the packages on this base, and what it is made of."""
    inputs = {
        "base": image.tree_digest,
        "packages": list(spec.packages),
        "upgrade_first": spec.upgrade_first,
        "pkg_audit": spec.pkg_audit,
        "installer": spec.installer,
        "installer_options": {
            "recommends": spec.installer_options.recommends,
            "mirror": spec.installer_options.mirror,
            "env": dict(spec.installer_options.env),
        },
        "clean": list(spec.cleaners(cleaners.DEFAULT)),
    }
    return layer_key(image.tree_digest, "packages", inputs), inputs


# -- execute ---------------------------------------------------------------------------------------------


class _Build:
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
        self.recorder = Recorder(bus)
        self.context = steps.Context(spec=self.spec, backend=self.backend, bus=bus, environ=environ)
        self.codec = compress.codec(
            self.spec.compression if self.spec.compression in ("zstd", "none") else "gzip"
        )
        self.installed: steps.Installed | None = None
        self.layers: list[Blob] = []
        self.history: list[str] = []
        self.origin: FileList = {}
        self.below: FileList = {}
        self.dataset: Dataset | None = None
        self.clones = 0

    # Working datasets. Each has its journal line before it exists and its undo right after.

    def clone(self, journal: Journal, stack: contextlib.ExitStack, kind: Kind, ident: str) -> None:
        self.clones += 1
        name = journal.dataset(f"{journal.ident}-{self.clones}")
        stack.callback(self._drop, name)
        self.dataset = self.backend.clone(kind, ident, name)

    def _drop(self, name: str) -> None:
        """Undo of a clone. A failure here never hides the error that brought us here."""
        if self.dataset is None or self.dataset.ident != name:
            with _tell_only(self.bus, f"dropping the clone {name}"):
                self.backend.destroy(Kind.BUILD, name)
            return
        if self.spec.keep_on_failure:
            keep(self.backend, name)
            self.bus.note(
                f"the clone is kept: {self.dataset.path.parent} (buildstep heal --kept removes it)",
                level="warning",
            )
            return
        with _tell_only(self.bus, f"dropping the clone {name}"):
            self.backend.destroy(Kind.BUILD, name)
            self.dataset = None

    def root(self, image: ImageRecord) -> Root:
        assert self.dataset is not None
        return steps.image_root(self.dataset, image)

    def add_layer(
        self,
        journal: Journal,
        *,
        below: str,
        above: str,
        root: Path,
        changes: Changes,
        tree: FileList,
        comment: str,
        epoch: int | None = None,
    ) -> None:
        """A finished layer in compressed form, made when it is first needed; known by what it leads from
        and to, so that it is the right one however it came to be."""

        def make(path: Path) -> dict[str, Any]:
            self.bus.note(f"compressing {comment}")
            blob = oci.write_layer(
                root, changes, path, codec=self.codec, epoch=epoch, bus=self.bus, tree=tree, comment=comment
            )
            return {**asdict(blob), "path": os.fspath(blob.path)}

        key = f"layer {below} {above} {self.codec.ident} {epoch}"
        with shared_blob(self.backend.state, key, make, journal) as found:
            blob = Blob(
                path=Path(found["path"]),
                digest=found["digest"],
                size=found["size"],
                diff_id=found["diff_id"],
                media_type=found["media_type"],
                comment=comment,
            )
        self.layers.append(blob)
        self.history.append(comment)


@contextlib.contextmanager
def _tell_only(bus: Bus, what: str) -> Iterator[None]:
    try:
        yield
    except (BuildstepError, OSError) as error:
        bus.note(f"{what} failed: {error}", level="error")


def execute(
    plan_: Plan, *, store: ImageStore, cache: LayerCache, bus: Bus, environ: Mapping[str, str]
) -> BuildResult:
    """Carry out a plan. On any failure nothing is shipped and nothing is left; the error is raised."""
    build = _Build(plan_, store, cache, bus, environ)
    recorder = build.recorder
    recorder.total = len(plan_.steps)
    spec = plan_.spec
    try:
        with open_journal(store.backend.state, f"build {spec.name} {spec.version}") as journal:
            label = plan_.image.label if plan_.image else spec.image
            bus.emit(
                BuildStarted(
                    build_id=journal.ident,
                    name=spec.name,
                    version=spec.version,
                    image=label,
                    total_steps=recorder.total,
                )
            )
            with steps.writing(spec.output_dir / spec.basename, journal):
                result = _run(build, journal)
    except BaseException as error:
        code = error.code if isinstance(error, BuildstepError) else 1
        recorder.finish(ok=False, exit_code=code, message=str(error))
        raise
    recorder.finish(ok=True, exit_code=0)
    return result


def _run(build: _Build, journal: Journal) -> BuildResult:
    """The steps, in order."""
    spec, recorder = build.spec, build.recorder
    with contextlib.ExitStack() as stack:
        stack.push(_on_failure(build))
        with recorder.step("import", TITLES["import"]) as step:
            image, present = build.store.ensure(spec.image, journal)
            step.state = "reuse" if present else "run"
            step.reason = f"{image.label} is {image.uuid}"
            # What the base brings into the manifest is checked now, not after all the work.
            _manifest(spec, image, uuid=str(uuids.UUID(int=0)), moment=_moment(spec, recorder), file=None)
            build.origin = build.below = build.store.entries(image)
            if "oci" in spec.formats and len(build.below) > 1:
                with build.backend.tree(Kind.IMAGE, image.uuid) as tree:
                    build.add_layer(
                        journal,
                        below="",
                        above=image.tree_digest,
                        root=tree,
                        changes=oci.whole(build.below),
                        tree=build.below,
                        comment=f"base image {image.name} {image.version}",
                    )
        if spec.order == "packages-first" and steps.wants_packages(spec):
            _package_layer(build, journal, stack, image)
        else:
            _clone(build, journal, stack, Kind.IMAGE, image.uuid)
        if spec.order == "proto-first":
            _sync(build, image)
            _packages(build, image)
        else:
            if not steps.wants_packages(spec):
                _packages(build, image)
            _sync(build, image)
        _clean(build, image)
        if spec.motd:
            with recorder.step("motd", TITLES["motd"]) as step:
                step.reason = steps.motd(build.context, build.root(image), image)
        else:
            recorder.skip("motd", "not asked for")
        assert build.dataset is not None
        with recorder.step("snapshot", TITLES["snapshot"]) as step:
            shot = steps.snapshot(build.context, build.dataset, build.origin, build.below, image)
            step.reason = f"{len(shot.entries)} paths, {len(shot.changes.entries)} new or changed, {len(shot.changes.removed)} removed"
        outputs = stack.enter_context(Outputs())
        with recorder.step("emit", TITLES["emit"]) as step:
            artifacts = _emit(build, shot, outputs)
            step.reason = ", ".join(artifact.path.name for artifact in artifacts)
        with recorder.step("destroy", TITLES["destroy"]):
            name = build.dataset.ident
            build.backend.destroy(Kind.BUILD, name)
            build.dataset = None
        return _ship(build, journal, image, shot, artifacts, outputs)


def _on_failure(build: _Build) -> Callable[..., bool]:
    def look(kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> bool:
        dataset = build.dataset
        if kind is None or isinstance(error, Interrupted) or dataset is None:
            return False
        if build.spec.shell_on_failure and sys.stdin.isatty():
            build.bus.note(f"failed: {error}; a shell in the clone follows, leave it to go on", level="error")
            with _tell_only(build.bus, "the shell"):
                sandbox.shell(dataset.path)
        return False

    return look


def _clone(build: _Build, journal: Journal, stack: contextlib.ExitStack, kind: Kind, ident: str) -> None:
    with build.recorder.step("clone", TITLES["clone"]) as step:
        build.clone(journal, stack, kind, ident)
        step.reason = f"{kind} {ident[:36]}"


def _sync(build: _Build, image: ImageRecord) -> None:
    with build.recorder.step("sync", TITLES["sync"]) as step:
        step.reason = steps.sync(build.context, build.root(image))


def _packages(build: _Build, image: ImageRecord) -> None:
    with build.recorder.step("packages", TITLES["packages"]) as step:
        build.installed = steps.packages(build.context, build.root(image))
        if not steps.wants_packages(build.spec):
            step.state = "skip"
        step.reason = _installed_text(build.installed)


def _installed_text(installed: steps.Installed | None) -> str:
    if installed is None:
        return "no packages are asked for"
    return f"{installed.installer}: {len(installed.packages)} packages in the image"


def _clean(build: _Build, image: ImageRecord) -> None:
    assert build.dataset is not None
    with build.recorder.step("clean", TITLES["clean"]) as step:
        removed = cleaners.clean(
            build.spec.cleaners(cleaners.DEFAULT), build.root(image), bus=build.bus, environ=build.environ
        )
        paths, size = sum(item.paths for item in removed), sum(item.bytes for item in removed)
        step.reason = f"{paths} paths, {size} bytes removed"


def _package_layer(build: _Build, journal: Journal, stack: contextlib.ExitStack, image: ImageRecord) -> None:
    """Packages-first: the layer with the packages, from the cache or made now, and a clone on top of it."""
    spec, cache = build.spec, build.cache
    key, inputs = package_layer(spec, image)
    keepable = build.backend.cheap_clone and spec.cache
    if keepable:
        stack.enter_context(cache.using(key))
        stack.enter_context(cache.making(key))
    found = cache.find(key) if keepable else None
    if found is not None:
        build.installed = _installed_from(found.result)
        build.origin = build.below = cache.entries(found)
        _clone(build, journal, stack, Kind.LAYER, key)
        build.recorder.skip(
            "packages", f"layer {key[:12]}, made in {found.seconds:.1f} s", state="reuse", key=key
        )
        cache.touch(key)
        if "oci" in spec.formats:
            with build.backend.tree(Kind.LAYER, key) as tree:
                _add_package_layer(build, journal, image, tree)
        return
    why = cache.miss(_slot(spec), inputs) if keepable else "layers are not cached"
    begin = time.monotonic()
    _clone(build, journal, stack, Kind.IMAGE, image.uuid)
    assert build.dataset is not None
    with build.recorder.step("packages", TITLES["packages"]) as step:
        step.key = key
        build.installed = steps.packages(build.context, build.root(image))
        cleaners.clean(
            spec.cleaners(cleaners.DEFAULT), build.root(image), bus=build.bus, environ=build.environ
        )
        shot = steps.snapshot(build.context, build.dataset, build.origin, build.below, image)
        build.bus.count("bytes_hashed", hash_entries(build.dataset.path, shot.entries.values()))
        spread_digests(shot.entries)
        step.reason = f"{_installed_text(build.installed)}; {why}"
        base, build.below = build.below, shot.entries
        if "oci" in spec.formats:
            _add_package_layer(build, journal, image, build.dataset.path, base)
        if keepable:
            seconds = time.monotonic() - begin
            build.backend.snapshot(build.dataset, Kind.LAYER, key)
            record = LayerRecord(
                key=key,
                slot=_slot(spec),
                below=image.tree_digest,
                inputs=inputs,
                tree_digest=tree_digest(shot.entries),
                seconds=seconds,
                created=time.time(),
                result={"installed": asdict(build.installed) if build.installed else None},
            )
            cache.save(record, shot.entries)
            build.origin = shot.entries
            build.clone(journal, stack, Kind.LAYER, key)


def _add_package_layer(
    build: _Build, journal: Journal, image: ImageRecord, root: Path, base: FileList | None = None
) -> None:
    changes = diff(build.store.entries(image) if base is None else base, build.below)
    build.add_layer(
        journal,
        below=image.tree_digest,
        above=tree_digest(build.below),
        root=root,
        changes=changes,
        tree=build.below,
        comment=f"packages: {', '.join(build.spec.packages) or 'upgrade'}",
        epoch=build.spec.source_date_epoch,
    )


def _installed_from(result: Mapping[str, Any]) -> steps.Installed | None:
    value = result.get("installed")
    if not value:
        return None
    audit = value.get("audit")
    return steps.Installed(
        installer=value["installer"],
        packages=tuple(Package(**row) for row in value["packages"]),
        audit=None if audit is None else (audit[0], tuple(Finding(**row) for row in audit[1])),
    )


def _moment(spec: BuildSpec, recorder: Recorder) -> datetime:
    """The time an image says it was made: SOURCE_DATE_EPOCH, or when the build began."""
    return datetime.fromtimestamp(
        recorder.begin if spec.source_date_epoch is None else spec.source_date_epoch, UTC
    )


def _emit(build: _Build, shot: steps.Snapshot, outputs: Outputs) -> list[Artifact]:
    spec = build.spec
    assert build.dataset is not None
    job = EmitJob(
        tree=shot.entries,
        root=build.dataset.path,
        changes=shot.changes,
        layers=tuple(build.layers),
        history=tuple(build.history),
        manifest=spec.manifest,
        config=asdict(spec.oci),
        base_config={},
        compression=spec.compression,
        epoch=spec.source_date_epoch,
        created=_moment(spec, build.recorder).strftime("%Y-%m-%dT%H:%M:%SZ"),
        stem=spec.output_dir / spec.basename,
        bus=build.bus,
    )
    artifacts = emitters.emit(job, spec.formats, outputs)
    build.bus.count("bytes_hashed", hash_entries(build.dataset.path, shot.entries.values()))
    spread_digests(shot.entries)
    return artifacts


def _ship(
    build: _Build,
    journal: Journal,
    image: ImageRecord,
    shot: steps.Snapshot,
    artifacts: list[Artifact],
    outputs: Outputs,
) -> BuildResult:
    """Record and manifest, then every file under its name, the manifest last."""
    spec, recorder = build.spec, build.recorder
    digest = tree_digest(shot.entries)
    moment = _moment(spec, recorder)
    first = artifacts[0]
    # A build that repeats gives its image the same name for the same bytes; any other is a new image.
    repeats = spec.source_date_epoch is not None
    uuid = str(
        spec.manifest.get("uuid")
        or (uuid_of(f"{spec.name}\n{spec.version}\n{first.sha256}") if repeats else uuids.uuid4())
    )
    final = _manifest(spec, image, uuid=uuid, moment=moment, file=_file_entry(first))
    stem = spec.output_dir / spec.basename
    record_path = stem.with_name(stem.name + ".buildrecord.json")
    manifest_path = stem.with_name(stem.name + ".imgmanifest")
    record = {
        "format": FORMAT,
        "build_id": journal.ident,
        "name": spec.name,
        "version": spec.version,
        "uuid": uuid,
        "ok": True,
        "exit_code": 0,
        "error": None,
        "inputs": _inputs(build, image),
        **recorder.to_json(),
        "packages": [asdict(package) for package in build.installed.packages] if build.installed else [],
        "audit": _audit_json(build.installed),
        "entropy": cleaners.entropy(build.installed, shot.entries) if hasattr(cleaners, "entropy") else [],
        "layers": [
            {"digest": blob.digest, "diff_id": blob.diff_id, "size": blob.size, "comment": blob.comment}
            for blob in build.layers
        ],
        "artifacts": [file_json(artifact) for artifact in artifacts],
        "files_added": steps.largest_added(shot.changes),
        "tree_digest": digest,
        "tools": tool_versions(spec),
    }
    outputs.write(record_path, json.dumps(record, indent=2).encode() + b"\n")
    if build.installed is not None and build.installed.audit is not None:
        outputs.write(stem.with_name(stem.name + ".pkgaudit"), build.installed.audit[0].encode())
    outputs.write(manifest_path, manifest.dumps(final).encode())
    outputs.commit()
    for artifact in artifacts:
        build.bus.emit(
            ArtifactWritten(
                path=os.fspath(artifact.path),
                format=artifact.format,
                size=artifact.size,
                sha256=artifact.sha256,
            )
        )
    return BuildResult(
        uuid=uuid,
        manifest=manifest_path,
        record=record_path,
        artifacts=tuple(artifacts),
        tree_digest=digest,
        seconds=time.time() - recorder.begin,
        recorder=recorder,
    )


def _manifest(
    spec: BuildSpec, image: ImageRecord, *, uuid: str, moment: datetime, file: Mapping[str, Any] | None
) -> dict[str, Any]:
    return manifest.assemble(
        user={"type": "other", "os": "other", **_known(image), **spec.manifest},
        origin=image.manifest,
        uuid=uuid,
        published_at=moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        file=file,
    )


def _known(image: ImageRecord) -> dict[str, Any]:
    return {key: image.manifest[key] for key in ("type", "os") if key in image.manifest}


def _file_entry(artifact: Artifact) -> dict[str, Any]:
    """files[0] of the manifest. imgmanifest knows no zstd: such a file is, to it, not compressed."""
    compression = "none" if artifact.compression == "zstd" else artifact.compression
    guid = {"dataset_guid": artifact.extra["dataset_guid"]} if "dataset_guid" in artifact.extra else {}
    return {"size": artifact.size, "compression": compression, "sha1": artifact.sha1, **guid}


def _inputs(build: _Build, image: ImageRecord) -> dict[str, Any]:
    return {
        "image": {
            "uuid": image.uuid,
            "key": image.key,
            "label": image.label,
            "name": image.name,
            "version": image.version,
            "tree_digest": image.tree_digest,
            **dict(image.inputs),
        },
        "proto": {"path": os.fspath(build.spec.proto)},
        "manifest": dict(build.spec.manifest),
        "spec": build.spec.to_json(),
        "pool": build.backend.uri,
    }


def _audit_json(installed: steps.Installed | None) -> dict[str, Any] | None:
    if installed is None or installed.audit is None:
        return None
    return {"text": installed.audit[0], "findings": [asdict(finding) for finding in installed.audit[1]]}


def tool_versions(spec: BuildSpec) -> dict[str, str]:
    """What made the image, by name: ourselves, Python, the kernel, and the codec libraries."""
    found = {"buildstep": __version__, "python": platform.python_version(), "kernel": platform.release()}
    names = (
        {spec.compression}
        if spec.compression
        else {
            emitters.EMITTERS[name].compressions[0]
            for name in spec.formats
            if name in emitters.EMITTERS and emitters.EMITTERS[name].compressions
        }
    )
    for name in sorted(name for name in names if name):
        found[f"codec {name}"] = compress.codec(name).ident
    return found
