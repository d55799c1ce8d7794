"""Where a user's own store is, and what is kept of stores on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from buildstep.system.location import default_location


def cache_folder(environ: Mapping[str, str]) -> Path | None:
    """Return where this user keeps what need not be fetched from a store again; None without a home."""
    home = environ.get("XDG_CACHE_HOME") or (f"{environ['HOME']}/.cache" if environ.get("HOME") else "")
    return Path(home, "buildstep", "files") if home else None


def state_folder(environ: Mapping[str, str]) -> Path:
    """Return where this user keeps what is known of trees that were put."""
    return default_location(environ) / "files"


def default_store(environ: Mapping[str, str]) -> str:
    """Return the store that is used where none is named: beside this user's pools."""
    return f"dir:{default_location(environ)}/store"
