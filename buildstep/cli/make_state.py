"""Record the last build of `make image`, and find what has changed since.

make compares times of files, and cannot name one with a blank in it. So Makefile.inc asks here: the proto
directory by the change times that no tool can set back, the manifest by content, the commit by name.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildstep import __version__
from buildstep.cli.options import short_path
from buildstep.errors import Fault, PublishError, SpecError, StoreError
from buildstep.formats.oci.spec import ARCHITECTURES
from buildstep.report.record import RECORD_SUFFIX
from buildstep.spec.document import Document
from buildstep.system.digest import sha256_file
from buildstep.system.files import atomic_write, read_json, size_of, write_json
from buildstep.system.remove import remove_tree
from buildstep.system.text import shown_path

FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """What an image is made of. git: branch, commit and dirt, where its version is taken from them."""

    proto: Path
    files: Sequence[Path] = ()
    git: str = ""


def why_stale(state: Path, watched: Watched) -> str:
    """Return why the image has to be built; empty when nothing has changed since the last build."""
    try:
        stamp = read_json(state / "image-stamp.json")
    except FileNotFoundError:
        return "it has not been built yet"
    except ValueError:
        return "the stamp of the last build cannot be read"
    if stamp.get("format") != FORMAT or stamp.get("version") != __version__:
        return "buildstep itself has changed"
    if watched.git != stamp["git"]:
        return f"the checkout has changed ({stamp['git'] or 'unknown'} -> {watched.git})"
    for name, size in stamp["outputs"].items():
        # A build record grows when its image is published; that is no reason to build again.
        grows = name.endswith(RECORD_SUFFIX)
        if not _is_output(Path(name)) or (size_of(Path(name)) != size and not grows):
            return f"{name} is not as it was written"
    for name in {**dict.fromkeys(map(os.fspath, watched.files)), **stamp["files"]}:
        if stamp["files"].get(name, "") != _digest(name):
            return f"{name} has changed"
    changed = _newer(watched.proto, stamp["since"])
    return f"{changed} has changed" if changed else ""


def _is_output(path: Path) -> bool:
    """Tell whether there is a file, or an image that is a directory."""
    return path.is_file() or (path / "oci-layout").is_file()


def _remove(name: str) -> None:
    """Remove what a build made. Raises FileNotFoundError."""
    path = Path(name)
    if not path.is_symlink() and path.is_dir() and _is_output(path):
        remove_tree(path)
    else:
        path.unlink()


def _digest(path: str | Path) -> str:
    """Return the digest of a file; empty where there is none."""
    return sha256_file(Path(path)) if os.path.isfile(path) else ""


def _newer(tree: Path, since: int) -> str:
    """Return the first path below a directory whose inode changed after a moment; empty if there is none.

    A removed or renamed entry is seen as a change of the directory that it was in.
    """
    try:
        top = os.stat(tree)
    except FileNotFoundError:
        return os.fspath(tree)
    if top.st_ctime_ns > since:
        return os.fspath(tree)
    waiting = [os.fspath(tree)]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.stat(follow_symlinks=False).st_ctime_ns > since:
                        return shown_path(os.fsencode(entry.path))
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError:  # the build will say what is wrong with it
            return shown_path(os.fsencode(folder))
    return ""


def begin(state: Path, watched: Watched) -> str:
    """Record what a build starts from, before it reads anything; return why it is needed, or ""."""
    (state / "begun").unlink(missing_ok=True)
    why = why_stale(state, watched)
    values = os.environ.get("COMPONENT_VALUES", "")
    if not why and _read(state / "values") != values:
        why = "the component's variables have changed"
    if not why:
        return ""
    state.mkdir(parents=True, exist_ok=True)
    begun = state / "begun"
    begun.touch()
    # The clock of the file system the proto directory is most likely on, not the one of this process.
    since = begun.stat().st_ctime_ns
    noted = {
        "format": FORMAT,
        "version": __version__,
        "git": watched.git,
        "files": {os.fspath(path): _digest(path) for path in watched.files},
        "since": since,
        "values": values,
    }
    begun.write_text(json.dumps(noted))
    return why


def finish(state: Path, *, keep: int | None = None) -> list[str]:
    """Record the finished build as the last one, and return the paths of its files.

    Where no build was begun, nothing had to be built: only the time of the stamp is set, for make. Beside the
    files there are links of the name NAME-latest. keep: how many versions stay; older ones are removed.
    """
    begun, stamp = state / "begun", state / "image-stamp.json"
    if not begun.exists():
        stamp.touch()
        _drop_older(state, keep)
        return list(_read_stamp(state)["paths"])
    try:
        result = read_json(state / "result.part")
        paths = [file["path"] for file in result["files"]] + [result["manifest"], result["record"]]
        sizes = {path: size_of(Path(path)) for path in paths}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StoreError("the build reported no files that exist", detail=str(error)) from error
    noted = read_json(begun)
    # What the manifest includes is known only now, by the digests of what the build has read.
    noted["files"] |= result.get("sources", {})
    stem = result["manifest"].removesuffix(".imgmanifest")
    beside = [stem + ending for ending in (".events.jsonl", ".pkgaudit") if os.path.exists(stem + ending)]
    beside += result.get("trust", [])
    links = _link_latest(Path(result["manifest"]), [*paths, *beside])
    made = sorted({*_made(state), *paths, *beside, *links})
    write_json(state / "made.json", made, durable=False)
    versions = [row for row in _versions(state) if result["manifest"] not in row]
    write_json(state / "versions.json", [*versions, [*paths, *beside]], durable=False)
    with atomic_write(state / "values", durable=False) as stream:
        stream.write(noted.pop("values").encode(errors="surrogateescape"))
    (state / "result.part").replace(state / "result.json")
    short = [short_path(path) for path in paths]
    # Last: what stands before it is complete when this is there.
    write_json(
        stamp, {**noted, "outputs": sizes, "paths": short, "manifest": result["manifest"]}, durable=False
    )
    begun.unlink()
    _drop_older(state, keep)
    return short


def _link_latest(manifest: Path, paths: Sequence[str]) -> list[str]:
    """Make the links that lead to the newest version: of NAME-1.0.oci.tar one is NAME-latest.oci.tar.

    Those of formats that this version has not are removed. Returns their paths.
    """
    version = str(read_json(manifest)["version"])
    stem = manifest.name.removesuffix(".imgmanifest")
    # Behind the version stands the processor, where the build names a platform.
    processor = rf"(?:-(?:{'|'.join(ARCHITECTURES)})(?:-v[0-9]+)?)?"
    found = re.fullmatch(rf"(.*?){re.escape(version)}({processor})", stem)
    newest = f"{found[1]}latest{found[2]}" if found else f"{stem}-latest"
    links = []
    for path in map(Path, paths):
        if version == "latest" or not path.name.startswith(f"{stem}."):
            continue
        link = path.with_name(newest + path.name.removeprefix(stem))
        new = link.with_name(f".{link.name}.new")
        new.unlink(missing_ok=True)
        new.symlink_to(path.name)
        new.replace(link)
        links.append(os.fspath(link))
    for other in manifest.parent.glob(f"{glob.escape(newest)}.*"):
        if other.is_symlink() and not other.exists():
            other.unlink()
    return links


def _drop_older(state: Path, keep: int | None) -> None:
    """Remove the files of all versions but the newest ones, as many as are to be kept; None: all stay."""
    versions = _versions(state)
    if keep is None or len(versions) <= keep:
        return
    kept = versions[-keep:]
    gone = {path for row in versions[:-keep] for path in row} - {path for row in kept for path in row}
    for path in sorted(gone):
        with contextlib.suppress(FileNotFoundError):
            _remove(path)
    write_json(state / "made.json", sorted(set(_made(state)) - gone), durable=False)
    write_json(state / "versions.json", kept, durable=False)


def _versions(state: Path) -> list[list[str]]:
    """Return the files of each version that was built, the newest last."""
    try:
        found = read_json(state / "versions.json")
    except (OSError, ValueError):
        return []
    rows = [row for row in found if isinstance(row, list)] if isinstance(found, list) else []
    return [[path for path in row if isinstance(path, str)] for row in rows]


def publishable(state: Path, *, allow_dirty: bool) -> str:
    """Return the path of the last build's manifest. Errors: PublishError when it must not be published."""
    stamp = _read_stamp(state)
    path = Path(stamp["manifest"])
    try:
        manifest = read_json(path)
    except (OSError, ValueError) as error:
        raise PublishError(
            f"there is nothing to publish: {path}", detail=str(error), hint="make image"
        ) from error
    if str(manifest.get("version", "")).endswith("-dirty") and not allow_dirty:
        raise PublishError(
            f"{manifest['name']} {manifest['version']} was built from a tree with uncommitted changes",
            hint="commit them and build again, or set PUBLISH_DIRTY=true",
        )
    return os.fspath(path)


def clean(state: Path, output: Path) -> list[str]:
    """Remove what this component's builds made, and nothing else; return the paths that were removed."""
    removed = []
    top = os.path.realpath(output)
    for name in _made(state):
        # Only below the output directory, whatever the list says.
        if os.path.commonpath([top, os.path.realpath(os.path.dirname(name))]) != top:
            continue
        with contextlib.suppress(FileNotFoundError):
            _remove(name)
            removed.append(short_path(name))
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(name))
    remove_tree(state)
    for folder in (state.parent, output):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    return removed


def manifest_name(document: Document) -> str:
    """Return the image's name in a manifest. Errors: SpecError where it has none."""
    name = document.value.get("name") if isinstance(document.value, dict) else None
    if not isinstance(name, str) or not re.fullmatch(r"[^/.\x00-\x1f-][^/\x00-\x1f]*", name):
        fault = Fault(where="$.name", message="names no output directory", hint="set NAME")
        raise SpecError(document.source, [fault])
    return name


def _read_stamp(state: Path) -> Any:
    try:
        return read_json(state / "image-stamp.json")
    except (OSError, ValueError) as error:
        raise StoreError("no image has been built", detail=str(error), hint="make image") from error


def _made(state: Path) -> Iterator[str]:
    try:
        found = read_json(state / "made.json")
    except (OSError, ValueError):
        return
    yield from (name for name in found if isinstance(name, str))


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="surrogateescape")
    except FileNotFoundError:
        return None
