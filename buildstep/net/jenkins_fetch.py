"""Image files of a Jenkins build: downloaded aside, verified by their manifests and records, then renamed."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from buildstep.errors import CIError, EmitError
from buildstep.net.jenkins import JenkinsBuild, JenkinsServer
from buildstep.report.record import RECORD_SUFFIX
from buildstep.system.digest import Digester
from buildstep.system.files import write_all
from buildstep.system.output_set import Outputs, create, temporary_name

_MANIFEST = ".imgmanifest"


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchedFile:
    """A file that was fetched. checked_by: the names of the files whose digests it was compared with."""

    path: str
    size: int
    sha1: str
    sha256: str
    checked_by: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def fetch(
    server: JenkinsServer,
    build: JenkinsBuild,
    dest: Path,
    *,
    patterns: Sequence[str] = (),
    any_result: bool = False,
) -> list[FetchedFile]:
    """Download a build's image files into a directory, all of them or none.

    A manifest or a build record among the artifacts must have the digests of each image file. patterns: of
    the paths of artifacts to take; manifests and records are always taken. any_result: take the files of a
    build that failed, too. Raises CIError.
    """
    state = server.info(build)
    label = f"{build.job} {build.number}"
    if state.get("building") and not any_result:
        raise CIError(f"{label} has not ended yet", hint="buildstep jenkins watch waits for it")
    if state.get("result") not in ("SUCCESS", "UNSTABLE") and not any_result:
        raise CIError(f"{label} ended as {state.get('result')}", hint="--any-result takes what there is")
    chosen = _choose(state.get("artifacts") or (), label)
    sources = {name for name in chosen if name.endswith((_MANIFEST, RECORD_SUFFIX))}
    if not sources:
        raise CIError(f"{label} archived no image manifest", hint="archive bits/**, as buildImage does")
    taken = {
        name: path
        for name, path in chosen.items()
        if name in sources or not patterns or any(fnmatch.fnmatchcase(path, it) for it in patterns)
    }
    if not os.path.isdir(dest):
        raise CIError(f"{dest} is not a directory")
    with Outputs() as outputs:
        found = {name: _download(server, build, path, dest / name, outputs) for name, path in taken.items()}
        checked = _check(found, {name: _document(found[name][0]) for name in sorted(sources)}, patterns)
        # A manifest gets its name last: where one stands, its image is complete.
        try:
            outputs.commit()
        except EmitError as error:
            raise CIError(f"{label}: {error.message}") from error
    return checked


def _choose(artifacts: Sequence[Mapping[str, Any]], label: str) -> dict[str, str]:
    """Return the path of each artifact by the name of its file here, manifests last.

    Raises CIError for a name that is not safe, as names come from another machine, and for one that is taken.
    """
    chosen: dict[str, str] = {}
    for item in artifacts:
        path = str(item.get("relativePath", ""))
        name = path.rpartition("/")[2]
        if not name or name in (".", "..") or not name.isprintable() or ".." in path.split("/"):
            raise CIError(f"{label} has an artifact with the name {path!r}, which is not safe")
        if name in chosen:
            raise CIError(f"{label} has two artifacts called {name}", detail=f"{chosen[name]}\n{path}")
        chosen[name] = path
    names = sorted(chosen, key=lambda name: (name.endswith(_MANIFEST), name.endswith(RECORD_SUFFIX), name))
    return {name: chosen[name] for name in names}


def _download(
    server: JenkinsServer, build: JenkinsBuild, relative: str, final: Path, outputs: Outputs
) -> tuple[Path, FetchedFile]:
    temporary = temporary_name(final)
    fd = create(temporary)
    outputs.add(temporary, final)
    digester = Digester()

    def begin() -> Callable[[bytes], object]:
        nonlocal digester
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        digester = Digester()

        def take(piece: bytes) -> None:
            write_all(fd, piece)
            digester.update(piece)

        return take

    try:
        server.download(build, relative, begin)
        os.fsync(fd)
    finally:
        os.close(fd)
    return temporary, FetchedFile(path=os.fspath(final), **asdict(digester.result()))


def _document(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise CIError(f"{path.name} from the server is not JSON", detail=str(error)) from error


def _check(
    found: Mapping[str, tuple[Path, FetchedFile]], documents: Mapping[str, Any], patterns: Sequence[str]
) -> list[FetchedFile]:
    """Return every file with the names of its checksum sources. Raises CIError with all that is wrong."""
    checked_by: dict[str, list[str]] = {name: [] for name in found}
    wrong: list[str] = []
    for source, document in documents.items():
        entries = list(_claims(source, document, found))
        if not entries:
            wrong.append(f"{source} names no image file that is there")
        for name, claim in entries:
            if name not in found:
                if not patterns:
                    wrong.append(f"{name}, named by {source}, is not among the artifacts")
                continue
            have = asdict(found[name][1])
            differing = [f"{key} {have[key]}, not {claim[key]}" for key in claim if claim[key] != have[key]]
            wrong += [f"{name} is not what {source} describes: {'; '.join(differing)}"] if differing else []
            checked_by[name].append(source)
    wrong += [
        f"no manifest or record has the digests of {name}"
        for name, by in checked_by.items()
        if not by and _is_image(name)
    ]
    if wrong:
        raise CIError(
            "what the server gave is not what the build made", detail="\n".join(f"  {it}" for it in wrong)
        )
    return [replace(got, checked_by=tuple(checked_by[name])) for name, (_, got) in found.items()]


def _claims(
    source: str, document: Any, found: Mapping[str, tuple[Path, FetchedFile]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the files that a manifest or a record names, with size and digests as it has them."""
    try:
        if source.endswith(RECORD_SUFFIX):
            for item in document["artifacts"]:
                if item.get("format") == "oci-dir":
                    continue  # a directory, and artifacts are files
                name = str(item["path"]).rpartition("/")[2]
                yield name, {key: item[key] for key in ("size", "sha1", "sha256") if item.get(key)}
            return
        first = document["files"][0]
        claim = {"size": first["size"], "sha1": first["sha1"]}
    except (LookupError, TypeError):
        return
    # A manifest does not name its file: it is the one beside it with its name that has this digest.
    stem = source.removesuffix(_MANIFEST) + "."
    beside = [name for name in found if name.startswith(stem) and _is_image(name)]
    fitting = [name for name in beside if found[name][1].sha1 == claim["sha1"]]
    for name in fitting or beside[:1]:
        yield name, claim


def _is_image(name: str) -> bool:
    return not name.endswith((_MANIFEST, RECORD_SUFFIX)) and name.endswith(
        (".oci.tar", ".zfs.gz", ".zfs", ".tar", ".tar.gz", ".tar.zst", ".btrfs.zst", ".btrfs", ".zfs.zst")
    )
