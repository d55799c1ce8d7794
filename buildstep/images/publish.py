"""Publish a built image: find everything that belongs to it, publish it, and record where it went."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from buildstep.cache import outputs
from buildstep.emit.files import EXTENSION
from buildstep.errors import ImageError, PublishError, SpecError, UsageError
from buildstep.events import Bus
from buildstep.formats.oci.layout import Layout
from buildstep.formats.oci.naming import tag_of
from buildstep.formats.oci.spec import Descriptor, parse_manifest
from buildstep.images.attestations import local, required
from buildstep.images.attestations.evidence import created_of
from buildstep.images.attestations.inside import from_path
from buildstep.images.attestations.local import Papers, Signing
from buildstep.images.attestations.required import Demand
from buildstep.images.publishers import Bundle, Published, PublishOptions
from buildstep.images.publishers import publish as publish_bundle
from buildstep.net.http import translated
from buildstep.net.registry import Reference
from buildstep.pool.stale import output_lock
from buildstep.report.parse import load
from buildstep.report.record import RECORD_SUFFIX, BuildRecord
from buildstep.spec.config import TargetConfig
from buildstep.system import files as system_files
from buildstep.system.files import read_json, write_json
from buildstep.system.locks import lock
from buildstep.system.private import private_dir
from buildstep.trust import sidecars
from buildstep.trust.keys import signers
from buildstep.trust.policy import load as load_policy
from buildstep.trust.verify.evidence import Evidence, RawEnvelope

MANIFEST = ".imgmanifest"
_IMAGES = (".oci", ".oci.tar", ".tar", ".zfs", ".zvol", ".btrfs")
_NOTES = "published.jsonl"
_COMPRESSED = ("", ".gz", ".bz2", ".xz", ".zst")


@contextlib.contextmanager
def bundle_of(path: Path, *, targets: int = 1) -> Iterator[Bundle]:
    """Everything that a build wrote, given its manifest, its record, an image file or its directory.

    targets: how many of them get it. Raises PublishError when something is missing. What is not what the
    record says shows when it is read.
    """
    manifest = _manifest_at(path)
    stem = manifest.name.removesuffix(MANIFEST)
    record_path = manifest.with_name(stem + RECORD_SUFFIX)
    record = _record_at(record_path) if record_path.exists() else None
    files = _image_files(manifest.parent, stem) if record is None else _recorded_files(record)
    if not files:
        raise PublishError(
            f"there is no image file beside {manifest}", hint="publish where the build wrote it"
        )
    if all(file.name.endswith(EXTENSION) for file in files):
        raise PublishError(
            f"{files[0].name} says in which store the image is, and is no image that can be published",
            hint="others take it from that store, as files:STORE#REF; or write another format as well",
        )
    with contextlib.ExitStack() as stack:
        published = None if record is None else _as_built(record_path, stack, targets)
        recorded = {} if record is None else {row.name: row for row in record.artifacts}
        bundle = Bundle(manifest=manifest, artifacts=tuple(files), record=published, recorded=recorded)
        if record is not None and record.uuid != bundle.uuid:
            raise PublishError(f"the manifest and the build record of {bundle.name} are of two builds")
        yield bundle


def _manifest_at(path: Path) -> Path:
    if path.is_dir() and not (path / "oci-layout").is_file():
        found = sorted(path.glob(f"*{MANIFEST}"))
        if len(found) != 1:
            names = ", ".join(item.name for item in found[:5]) or f"no *{MANIFEST}"
            raise PublishError(f"{path} does not hold one image", hint=f"it has {names}; name one")
        return found[0]
    for ending in (RECORD_SUFFIX, MANIFEST, *(kind + end for kind in _IMAGES for end in _COMPRESSED)):
        if path.name.endswith(ending):
            manifest = path.with_name(path.name.removesuffix(ending) + MANIFEST)
            if manifest.is_file():
                return manifest
            raise PublishError(f"there is no manifest {manifest}", hint="was it built there, and completely?")
    raise PublishError(
        f"{path} is no manifest, build record or image", hint=f"give NAME-VERSION{MANIFEST}, or its directory"
    )


def _record_at(path: Path) -> BuildRecord:
    try:
        return load(path)
    except UsageError as error:
        raise PublishError(error.message, detail=error.detail, hint=error.hint) from error


def _as_built(path: Path, stack: contextlib.ExitStack, targets: int) -> Path:
    """Return the record without the places where its image was published, and what it says of the files that
    prove it: these come later and change, and what is published does not.

    The record itself gets another such place after each target.
    """
    record = read_json(path)
    as_is = record.pop("published", None) is None and not record.get("trust")
    if as_is and targets == 1:
        return path
    if "trust" in record:
        record["trust"] = {}  # as it is where nothing was asked for
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="buildstep-publish-"))
    copy = Path(directory) / path.name
    write_json(copy, record, mode=0o644, durable=False)
    return copy


def _image_files(folder: Path, stem: str) -> list[Path]:
    names = [stem + kind + end for kind in _IMAGES for end in _COMPRESSED]
    return [path for path in (folder / name for name in names) if _is_image(path)]


def _is_image(path: Path) -> bool:
    return path.is_file() or (path / "oci-layout").is_file()


def _recorded_files(record: BuildRecord) -> list[Path]:
    """Return the image files of a record: beside it, wherever the build wrote them first."""
    found = []
    for row in record.artifacts:
        file = record.path.with_name(row.name)
        if not _is_image(file):
            raise PublishError(f"{record.path.name} names {file.name}, which is not beside it")
        found.append(file)
    return found


# -- publishing -------------------------------------------------------------------------------------------


def target_named(text: str, targets: Mapping[str, TargetConfig]) -> TargetConfig:
    """A target as it is written, or by its name in the configuration. Raises UsageError."""
    if ":" in text:
        return TargetConfig(target=text)
    if text in targets:
        return targets[text]
    known = f"names: {', '.join(sorted(targets))}" if targets else "no target has a name in buildstep.toml"
    raise UsageError(f"{text!r} is no place to publish to", hint=f"SCHEME:PLACE, or a name; {known}")


def check(bundle: Bundle, target: str, demand: Demand) -> None:
    """Raise the error of what is required at a target, and not proved here. Nothing is sent.

    To a registry goes the image with statements that are about it; elsewhere go the files that were built,
    each with the signatures beside it. Raises UnsignedError and its siblings, PublishError, SigningError.
    """
    if not demand:
        return
    if target.startswith("docker:"):
        ref = Reference.parse(target, default_tag=tag_of(bundle.version))
        part = bundle.oci
        check_image(part.layout, part.entry, bundle.stem, ref, demand)
        return
    for path in bundle.artifacts:
        if not path.is_dir():
            found = from_path(path)
            required.check(replace(found, names=(*found.names, target)), demand)


def check_image(layout: Layout, entry: Descriptor, stem: Path, ref: Reference, demand: Demand) -> None:
    """Do the same for an image on its way to a registry. stem: of the files of its build."""
    where = sidecars.sidecar(stem, sidecars.STATEMENTS).name
    check_papers(layout, entry, local.papers_of(stem, entry), ref, demand, name=stem.name, where=where)


def check_papers(
    layout: Layout,
    entry: Descriptor,
    papers: Papers,
    ref: Reference,
    demand: Demand,
    *,
    name: str,
    where: str,
) -> None:
    """Do the same for an image of which papers speak. name: of the image, for people and policies; where: the
    papers are."""
    papers = local.signed_by(papers, entry, name, demand.signing)
    plain = replace(ref, tag="", digest="")
    config = layout.read(parse_manifest(layout.read(entry), entry, layout.label).config)
    evidence = Evidence(
        name=f"{name} for {ref}",
        names=(str(ref), f"{plain}@{entry.digest}", str(plain), name),
        digests={"oci": entry.hex},
        envelopes=tuple(RawEnvelope(item.data, where) for item in papers.signed),
        created=created_of(config),
    )
    required.check(evidence, demand)


def publish(
    bundle: Bundle, target: TargetConfig, *, options: PublishOptions, state: Path, bus: Bus
) -> Published:
    """Publish to one target and write it down: in the build's record, and in the pool's state."""
    with translated(PublishError):
        try:
            options = replace(options, notes=state / _NOTES)
            done = publish_bundle(bundle, target.target, options=options, bus=bus)
        except (ImageError, SpecError) as error:
            raise PublishError(error.message, detail=error.detail, hint=error.hint) from error
    if done.target.startswith("http") and bundle.sidecars:
        names = ", ".join(path.name for path in bundle.sidecars)
        bus.note(f"{names}: left out; an IMGAPI server has no place for them", level="warning")
    left_out = [path.name for path in bundle.artifacts if path.is_dir()]
    if left_out and not done.target.startswith("docker:"):
        bus.note(f"{', '.join(left_out)}: a directory, left out; only a registry takes it", level="warning")
    note(bundle, done, state, bus)
    return done


def note(bundle: Bundle, done: Published, state: Path, bus: Bus) -> None:
    """Write down where an image was published: in its build's record, and in the pool's state."""
    entry = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **done.to_json()}
    record = bundle.manifest.with_name(bundle.manifest.name.removesuffix(MANIFEST) + RECORD_SUFFIX)
    try:
        _note_in_state(state, {"name": bundle.name, "version": bundle.version, **_flat(entry)})
        if record.exists():
            _note_in_record(record, entry, state)
    except OSError as error:
        # It is published all the same, and what is published cannot be taken back by us.
        bus.note(f"published, but this could not be written down: {error}", level="warning")


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """`name` of what is published is its address; the image has a name as well."""
    return {("address" if key == "name" else key): value for key, value in entry.items()}


def _note_in_record(path: Path, entry: Mapping[str, Any], state: Path) -> None:
    guard = output_lock(path.with_name(path.name.removesuffix(RECORD_SUFFIX)))
    with lock(guard):
        try:
            record = read_json(path)
            rows = record.setdefault("published", [])
            if not any(_same(row, entry) for row in rows):
                rows.append(_flat(entry))
                before = system_files.stamp(path)
                write_json(path, record, mode=0o644)
                outputs.restamp(state, path, before)
        finally:
            guard.unlink(missing_ok=True)


def _same(row: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Whether this is written down already; a registry's address has the digest in it."""
    new = _flat(entry)
    return all(row.get(key) == new[key] for key in ("target", "address", "uuid"))


def _note_in_state(state: Path, row: Mapping[str, Any]) -> None:
    """One line more in published.jsonl, whole or not at all."""
    private_dir(state)
    with lock(state / "locks" / "published.lock"):
        fd = os.open(state / _NOTES, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(fd).st_size
            try:
                system_files.write_all(fd, json.dumps(row).encode() + b"\n")
                os.fsync(fd)
            except OSError:
                os.ftruncate(fd, size)
                raise
        finally:
            os.close(fd)


def options_for(
    target: TargetConfig, *, environ: Mapping[str, str], http: Mapping[str, Any], bus: Bus, **flags: Any
) -> PublishOptions:
    """What flags say, and what the configuration says of the target where they say nothing.

    Raises SigningError for keys, SpecError for a policy, UsageError for proofs that are not known.
    """
    merged = {
        name: flags.get(name) or getattr(target, name)
        for name in ("channel", "insecure", "user", "key", "endpoint", "replace", "attestations")
    }
    policy, keys = flags.get("policy") or target.policy, flags.get("sign_key") or target.sign_key
    demand = Demand(
        require=required.words_of(flags.get("require") or target.require),
        policy=load_policy(Path(policy)) if policy else None,
        signing=Signing(signers=signers(keys, environ, bus=bus)),
    )
    if demand.require and merged["attestations"] == "none":
        raise UsageError(
            "what is required of an image would not be there with it",
            hint="leave out --require, or --attestations none",
        )
    return PublishOptions(environ=environ, limits=http, demand=demand, **merged)
