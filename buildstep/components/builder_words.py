"""What the builders share: options, ids of images, and where these lie for a moment."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from buildstep.components.interface import GraphError
from buildstep.components.settings import BuildOptions
from buildstep.system.digest import sha256_bytes

ID: Final = re.compile(r"(sha256:)?([0-9a-f]{64})")


def image_id(text: str, what: str) -> str:
    """Return the id that a program printed. Raises GraphError for what is none."""
    found = ID.fullmatch(text.strip())
    if found is None:
        raise GraphError(f"{what} reported no image id but {text.strip()[:80]!r}")
    return f"sha256:{found[2]}"


@contextmanager
def iidfile() -> Iterator[Path]:
    """Yield a file that a program can write an id to."""
    with tempfile.TemporaryDirectory(prefix="buildstep-iid-") as folder:
        yield Path(folder, "iid")


@contextmanager
def room_beside(beside: Path) -> Iterator[Path]:
    """A directory for what is moved to or from a path, or is as large: on the same file system."""
    with tempfile.TemporaryDirectory(prefix="buildstep-image-", dir=beside.parent) as folder:
        yield Path(folder)


def shared_options(options: BuildOptions) -> list[str]:
    """Return the options that both programs have."""
    words: list[str] = []
    for name, value in options.arguments.items():
        words += ["--build-arg", f"{name}={value}"]
    for name, value in options.labels.items():
        words += ["--label", f"{name}={value}"]
    for name, path in options.secrets.items():
        words += ["--secret", f"id={name},src={path}"]
    for place in options.cache_from:
        words += ["--cache-from", place]
    words += ["--platform", options.platform] if options.platform else []
    words += ["--target", options.target] if options.target else []
    words += ["--no-cache"] if options.no_cache else []
    return words


def resolve_by(inspect: Callable[[str], str], text: str, platform: str) -> str:
    """Return the id of what a reference means, or the platform's alias of it. inspect: returns the id and the
    platform of an image, with a blank between them."""
    for name in (text, alias_of(text, platform)) if platform else (text,):
        identity, _, its = inspect(name).strip().partition(" ")
        # A variant is not told by every version of the programs.
        if identity and (not platform or platform.split("/")[:2] == its.split("/")[:2]):
            return image_id(identity, f"the image {text}")
    return ""


def alias_of(text: str, platform: str) -> str:
    """Return our own name for an image from elsewhere of a platform: the store has one image for a name."""
    return f"localhost/buildstep-base:{sha256_bytes(f'{platform} {text}'.encode())[:32]}"


def bare_id(image: str) -> str:
    """Return an id without the name of its digest."""
    return image.removeprefix("sha256:")
