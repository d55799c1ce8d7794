"""The directory layout that file-based pools share: mark, state, and one folder per dataset.

PATH/buildstep-pool.json      {"format": 1, "scheme": ...}: without it nothing here is ours
PATH/state/                   records, locks, journals, caches
PATH/{image,layer,build}/ID/  one dataset each
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from buildstep.errors import DatasetError
from buildstep.fsutil import fsync_dir, read_json, remove_tree, write_json
from buildstep.interfaces import Kind

MARK = "buildstep-pool.json"
FORMAT = 1

_IDENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class PoolDir:
    """A marked directory. Opening it makes it; a directory that holds something else is refused."""

    def __init__(self, path: Path, scheme: str) -> None:
        self.path = path
        self.state = path / "state"
        mark = path / MARK
        try:
            self._open(mark, scheme)
        except OSError as error:
            raise DatasetError(
                f"cannot use the pool {scheme}:{path}: {error.strerror}",
                hint="choose another with --pool or BUILDSTEP_POOL",
            ) from error

    def _open(self, mark: Path, scheme: str) -> None:
        if mark.exists():
            try:
                found = read_json(mark)
                there = (found["format"], found["scheme"])
            except (ValueError, KeyError, TypeError) as error:
                raise DatasetError(
                    f"{mark} is damaged: {error}", hint="was it edited? remove the pool"
                ) from error
            if there != (FORMAT, scheme):
                raise DatasetError(
                    f"{self.path} is a pool of {there[1]}, format {there[0]}, not of {scheme}, format {FORMAT}",
                    hint=f"use --pool {there[1]}:{self.path}, or another directory",
                )
            return
        self.path.mkdir(parents=True, exist_ok=True)
        if any(name not in ("lost+found", "state") for name in os.listdir(self.path)):
            raise DatasetError(
                f"{self.path} holds files that are not ours",
                hint="give an empty directory, or a pool made by buildstep, to --pool",
            )
        for kind in Kind:
            (self.path / kind).mkdir(mode=0o755, exist_ok=True)
        self.state.mkdir(mode=0o755, exist_ok=True)
        write_json(mark, {"format": FORMAT, "scheme": scheme})

    def folder(self, kind: Kind, ident: str) -> Path:
        """Where a dataset is, whether it exists or not. Raises DatasetError for a name that is no name."""
        if not _IDENT.fullmatch(ident):
            raise DatasetError(f"{ident!r} is not a dataset name")
        return self.path / kind / ident

    def make(self, ident: str) -> Path:
        """The folder of a new working dataset."""
        folder = self.folder(Kind.BUILD, ident)
        try:
            folder.mkdir(mode=0o755)
        except OSError as error:
            raise DatasetError(f"cannot make the dataset {ident}: {error.strerror}") from error
        return folder

    def keep(self, ident: str, kind: Kind, final: str) -> None:
        """Rename a working dataset to its permanent name. An existing one of that name is an error."""
        target = self.folder(kind, final)
        try:
            self.folder(Kind.BUILD, ident).rename(target)
        except OSError as error:
            raise DatasetError(f"cannot keep {ident} as {kind} {final}: {error.strerror}") from error
        fsync_dir(target.parent)

    def exists(self, kind: Kind, ident: str) -> bool:
        return self.folder(kind, ident).is_dir()

    def idents(self, kind: Kind) -> list[str]:
        folder = self.path / kind
        return sorted(name for name in os.listdir(folder) if _IDENT.fullmatch(name))

    def remove(self, kind: Kind, ident: str) -> None:
        """Remove a dataset's folder: first out of sight, so that a half-removed one is never found."""
        folder = self.folder(kind, ident)
        if kind is Kind.BUILD:
            remove_tree(folder)
            return
        aside = self.path / Kind.BUILD / f"removing-{kind}-{ident}"
        try:
            folder.rename(aside)
        except FileNotFoundError:
            return
        remove_tree(aside)
