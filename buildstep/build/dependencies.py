"""What an image was built from, each with its digest: the `resolvedDependencies` of its provenance.

Rows are ResourceDescriptors of in-toto (spec/v1/resource_descriptor.md). No row has a path of the CI host,
the name of a user or what stands before the host in an address.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from buildstep.images.record import ImageRecord
from buildstep.images.shown import shown_reference
from buildstep.net.errors import safe_url
from buildstep.spec.load import BuildSpec
from buildstep.spec.lock import LockedPackage
from buildstep.system import process
from buildstep.tree import git_changes, git_head
from buildstep.tree.proto import ProtoDir
from buildstep.trust.inventory.model import Component, Inventory
from buildstep.trust.statements.statement import TREE

Row = dict[str, Any]

PROTO = "buildstepProto"
"""The name of the digest of a proto directory: of content, names, modes and what else can reach an image."""
RELEASE = "buildstepRelease"
"""The name of the digest over the Release files of a suite."""
INDEX = "buildstepIndex"
"""The name of the digest over the lists of a repository."""

_OF_PACKAGES = frozenset(("deb", "pkgsrc", "apk", "rpm"))


@dataclass(frozen=True, slots=True)
class PackageFile:
    """The file of a package. uri: where the repository has it, empty where that is not known; index: whose it
    is, in words."""

    sha256: str
    uri: str
    index: str


Files = Mapping[tuple[str, str, str], PackageFile]
"""Package files by name, version and architecture."""


def package_files(spec: BuildSpec, image: ImageRecord, taken: Iterable[LockedPackage]) -> Files:
    """Return the package files that are known by their digests: those that the base was made of, those that
    the build took (taken), and those of the lock."""
    base = image.made_of.packages if image.made_of is not None else ()
    found = _locked(base, "the base image's") | _locked(taken, "the build's")
    if spec.lock is not None:
        found |= _locked([*spec.lock.base.packages, *spec.lock.packages], "the lock's")
    return found


def _locked(rows: Iterable[LockedPackage], index: str) -> dict[tuple[str, str, str], PackageFile]:
    return {
        (row.name.partition(":")[0], row.version, row.arch): PackageFile(row.sha256, safe_url(row.uri), index)
        for row in rows
    }


def file_of(component: Component, files: Files) -> PackageFile | None:
    """Return the file of a package; None where it is not known."""
    if component.kind != "deb":
        return None
    return files.get((component.name, component.version, component.arch))


def with_hashes(inventory: Inventory, files: Files) -> Inventory:
    """Return an inventory whose packages have the digests of their files."""

    def known(component: Component) -> Component:
        file = file_of(component, files)
        return component if file is None else replace(component, hashes={"sha256": file.sha256})

    return replace(inventory, components=tuple(map(known, inventory.components)))


def resolved(
    spec: BuildSpec,
    image: ImageRecord,
    proto: str,
    inventory: Inventory,
    files: Files,
    index: str,
    walked: ProtoDir | None = None,
) -> list[Row]:
    """Return all that went into an image, in an order that does not depend on the CI host. proto: the digest
    of the proto directory; index: of the repository's lists, empty for none; walked: the proto directory as
    it was seen."""
    rows = list(_base(image))
    if index:
        rows.append({"name": "package index", "digest": {INDEX: index}})
    rows += [_package(component, files) for component in inventory.components if _is_package(component)]
    rows += [
        {"name": f"package file {it.path.name}", "digest": {"sha256": it.sha256}} for it in spec.package_files
    ]
    if spec.lock is not None:
        rows.append({"name": spec.lock.path.name, "digest": {"sha256": spec.lock.sha256}})
    rows.append(_proto(spec, proto, walked))
    return rows


def without_digest(rows: Iterable[Row]) -> int:
    """Return how many packages of Debian's are named without their file's digest, which apt has of all."""
    return sum(str(row.get("uri", "")).startswith("pkg:deb/") and "digest" not in row for row in rows)


def _is_package(component: Component) -> bool:
    return component.kind in _OF_PACKAGES


def _base(image: ImageRecord) -> Iterator[Row]:
    """Yield what the base image is: its own digest where it has one, and that of its tree."""
    inputs = image.inputs
    row: Row = {
        "name": "base image",
        "uri": shown_reference(image.label),
        "digest": {TREE: image.tree_digest},
    }
    if (digest := inputs.get("digest") or inputs.get("image", "")).startswith("sha256:"):
        row["digest"]["sha256"] = digest.removeprefix("sha256:")
    elif image.key.startswith("tar:sha256:"):
        row["digest"]["sha256"] = image.key.removeprefix("tar:sha256:")
    yield row
    if release := inputs.get("release"):
        yield {"name": f"Release files of {inputs.get('suite', 'the suite')}", "digest": {RELEASE: release}}


def _package(component: Component, files: Files) -> Row:
    file = file_of(component, files)
    row: Row = {"name": component.name, "uri": component.purl or component.ref}
    if file is not None:
        row["digest"] = {"sha256": file.sha256}
        row["annotations"] = {"index": file.index}
        if file.uri:
            row["downloadLocation"] = file.uri
    return row


def _proto(spec: BuildSpec, digest: str, walked: ProtoDir | None) -> Row:
    """Return what the proto directory is: by its content, and by the commit that is checked out there."""
    row: Row = {"name": "proto directory", "digest": {PROTO: digest}}
    if spec.source_repo and "://" in spec.source_repo:
        row["uri"] = safe_url(spec.source_repo)
    head = git_head.find(os.fspath(spec.proto))
    if head is not None:
        row["digest"]["gitCommit"] = head.commit
        changed = differs_from_commit(spec.proto, walked)
        row["annotations"] = {"path": head.inner or "."} | ({} if changed is None else {"changed": changed})
    return row


def differs_from_commit(folder: Path, walked: ProtoDir | None = None) -> bool | None:
    """Tell whether files of a directory are not those of the commit that is checked out, or are in no commit;
    None where git is not there or does not say. This is the one program that is started for provenance, and
    only where git's index does not tell already. walked: the directory as it was seen."""
    if walked is not None and (told := git_changes.differs(walked)) is not None:
        return told
    if process.find("git") is None:
        return None
    words = ["--no-optional-locks", "-C", os.fspath(folder), "status", "--porcelain", "--", "."]
    result = process.query(["git", *words], ok=range(256))
    return bool(result.stdout.strip()) if result.status == 0 else None


def names_of(words: Sequence[str]) -> list[str]:
    """Return packages as they were asked for, of those that are files only the name."""
    return [os.path.basename(word) if "/" in word and word[0] in "./" else word for word in words]
