"""Fetch what recipes name, each commit and each download once, and lay it into a directory.

Kept in the user's cache, `recipes/`: a repository by its URL and commit, a download by its digest. What is
kept is compared with its digest before it is used; what is damaged is fetched again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from buildstep.build.recipe import Source
from buildstep.build.recipe_sources import Laid, commit_of, digest_below, lay
from buildstep.errors import UsageError
from buildstep.events import Bus
from buildstep.files.places import cache_folder
from buildstep.net.errors import HttpError, safe_url
from buildstep.net.http import Http
from buildstep.net.request import HttpRequest
from buildstep.services.exports import BUILD, CODE, Export
from buildstep.services.interface import ServiceError
from buildstep.system.files import atomic_write, fsync_dir
from buildstep.system.locks import lock
from buildstep.system.remove import remove_tree
from buildstep.system.root import Root
from buildstep.tree.hashing import hash_entries, spread_digests
from buildstep.tree.scan import scan

_MD5: Final = re.compile(r"\b[0-9a-fA-F]{32}\b")
_NAME: Final = re.compile(r"[^A-Za-z0-9._+~-]+")


class Fetcher:
    """Fetches rows of recipes. secrets: by the names that rows have for them, `git.export.1.passwd`; base:
    `system.paths.base` of the service. A context manager: a user without a cache has one until its end."""

    def __init__(self, environ: Mapping[str, str], bus: Bus, secrets: Mapping[str, str], base: str) -> None:
        self._environ, self._bus, self._secrets, self._base = environ, bus, secrets, base
        self._stack = contextlib.ExitStack()
        self._commits: dict[tuple[str, str], str] = {}

    def __enter__(self) -> Self:
        kept = cache_folder(self._environ)
        if kept is None:
            self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="buildstep-")))
        else:
            self._folder = kept.parent / "recipes"
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def pin(self, export: Export) -> str:
        """Return what a row is now: the commit of its branch, as the server says; the digest of a download.
        Raises UsageError, CommandFailed, ToolMissing."""
        if not export.git:
            return export.sha256 or "md5"
        known = export.url, export.branch
        if not export.commit and known not in self._commits:
            self._commits[known] = commit_of(self._source(export), self._environ)
        return export.commit or self._commits[known]

    def lay(self, exports: Sequence[Export], pins: Mapping[str, str], into: Path) -> list[Laid]:
        """Lay rows below a directory, as they would lie below the top of a system; return what they were.

        pins: of each row by its key. Raises ServiceError for a file that a row may not overwrite, UsageError,
        CommandFailed, ToolMissing, HttpError, OSError.
        """
        found: list[Laid] = []
        for export in exports:
            sources = self.sources(export, pins[export.key])
            if not export.overwrite and found:
                self._refuse(export, sources, into)
            laid = self._lay(sources, into)
            source = Source(dest=export.dest, git=export.url, branch=export.branch, source=export.source)
            found.append(replace(laid[-1], source=source, commit=pins[export.key]))
        return found

    def _lay(self, sources: Sequence[Source], into: Path) -> list[Laid]:
        with tempfile.TemporaryDirectory(prefix=".lay-", dir=self._folder) as work:
            return lay(tuple(sources), into, Path(work), self._bus, self._environ)

    def _refuse(self, export: Export, sources: Sequence[Source], into: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=".part-", dir=self._folder) as part:
            self._lay(sources, Path(part))
            ours = {path for path, entry in scan(Path(part)).items() if entry.kind != "d"}
        there = sorted(ours & {path for path, entry in scan(into).items() if entry.kind != "d"})
        if there:
            shown = ", ".join("/" + os.fsdecode(path) for path in there[:5])
            raise ServiceError(
                f"{export.key} may not overwrite what another export has laid: {shown}",
                hint="overwrite:True lets it; or give it another dest",
            )

    def sources(self, export: Export, pin: str) -> list[Source]:
        """Return what a row comes to: copies of what is kept here, fetched if it is not, and links. Raises
        UsageError, CommandFailed, ToolMissing, HttpError, OSError."""
        if not export.git:
            return [Source(path=self._download(export), dest=export.dest)]
        tree = self._checkout(export, pin)
        if not export.link:
            return [Source(path=tree, source=export.source, dest=export.dest, plain=export.plain)]
        name = export.url.rpartition("//")[2].rpartition("@")[2].removesuffix(".git").replace(":", "/")
        code = f"{self._base}/{CODE}/{name.strip('/')}/{pin}"
        copy = Source(path=tree, dest=code)
        part = export.source.removesuffix("*").strip("/")
        target = f"{code}/{part}".rstrip("/")
        if not export.each:
            return [copy, Source(link=target, dest=export.dest)]
        found = Root(tree).real("/" + part)
        if found is None or not (tree / found.lstrip("/")).is_dir():
            raise UsageError(f"{export.key}: {part or '/'} in {export.url} is no directory")
        names = [
            entry.name
            for entry in sorted(os.scandir(tree / found.lstrip("/")), key=lambda entry: entry.name)
            if not (export.plain and entry.is_dir(follow_symlinks=False))
        ]
        return [
            copy,
            *(Source(link=f"{target}/{one}", dest=f"{export.dest.rstrip('/')}/{one}") for one in names),
        ]

    def _source(self, export: Export, commit: str = "") -> Source:
        return Source(
            dest="/",
            git=export.url,
            commit=commit,
            branch="" if commit else export.branch,
            login=export.login or self._secrets.get(f"{export.key}.login", ""),
            password=self._secrets.get(f"{export.key}.passwd", ""),
        )

    # -- what is kept -----------------------------------------------------------------------------------

    def _checkout(self, export: Export, commit: str) -> Path:
        """Return the tree of a repository at a commit, without its history."""
        name = hashlib.sha256(f"{export.url}\0{commit}".encode()).hexdigest()
        folder = self._folder / "git" / name
        folder.parent.mkdir(exist_ok=True)
        with lock(folder.with_name(f".{name}.lock")):
            if not self._whole(folder):
                remove_tree(folder)
                new = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
                try:
                    (new / "tree").mkdir()
                    source = self._source(export, commit)
                    laid = self._lay([source], new / "tree")[0]
                    about = {"url": export.url, "commit": commit, "digest": laid.digest}
                    with atomic_write(new / "about.json") as stream:
                        stream.write(json.dumps(about, indent=1).encode())
                    os.rename(new, folder)
                    fsync_dir(folder.parent)
                finally:
                    remove_tree(new)
            else:
                self._bus.note(f"{export.url}: commit {commit} is here")
        return folder / "tree"

    def _whole(self, folder: Path) -> bool:
        """Return whether a checkout that is kept is as it was made."""
        try:
            about = json.loads((folder / "about.json").read_bytes())
            entries = scan(folder / "tree")
            hash_entries(folder / "tree", entries.values())
        except (OSError, ValueError):
            return False
        spread_digests(entries)
        return bool(about.get("digest") == digest_below(entries, b""))

    def _download(self, export: Export) -> Path:
        """Return a file with the right digest, under the name that its URL ends with."""
        with Http(environ=self._environ, bus=self._bus) as http:
            algorithm, wanted = "sha256", export.sha256
            if export.md5:
                beside = http.send(HttpRequest("GET", f"{export.url}.md5sum", limit=1 << 16)).body
                told = _MD5.search(beside.decode(errors="replace"))
                if told is None:
                    raise HttpError(f"{safe_url(export.url)}.md5sum holds no MD5")
                algorithm, wanted = "md5", told[0].lower()
            folder = self._folder / "web" / f"{algorithm}-{wanted}"
            folder.mkdir(parents=True, exist_ok=True)
            last = safe_url(export.url).rstrip("/").rpartition("/")[2]
            path = folder / (_NAME.sub("_", last).lstrip(".") or "file")
            with lock(folder / ".lock"):
                if path.is_file() and _digest(path, algorithm) == wanted:
                    self._bus.note(f"{safe_url(export.url)}: {algorithm} {wanted} is here")
                else:
                    http.retrying(lambda: _fetch(http, export.url, path, algorithm, wanted))
            return path


def _fetch(http: Http, url: str, path: Path, algorithm: str, wanted: str) -> None:
    """Download a file; it has its name only if its digest is right. Raises HttpError, OSError."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with http.stream(HttpRequest("GET", url)) as stream, atomic_write(path, mode=0o644) as file:
        for data in stream.chunks():
            digest.update(data)
            file.write(data)
        if (found := digest.hexdigest()) != wanted:
            raise HttpError(
                f"{safe_url(url)} has the {algorithm} {found}, not {wanted}",
                hint="compare with what its author says, and correct sha256 if that is what is meant",
            )


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def for_run(exports: Sequence[Export]) -> Iterator[Export]:
    """Yield the rows that are delivered; those of `git.build` are for a build alone."""
    return (export for export in exports if export.kind != BUILD)
