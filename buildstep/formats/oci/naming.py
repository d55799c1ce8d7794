"""Names of images as registries and container engines take them.

Source of the rules: distribution-spec 1.1, "Pulling manifests".
"""

from __future__ import annotations

import re
from typing import Final

REPOSITORY: Final = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
HOST: Final = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?|\[[0-9a-fA-F:]+\](:[0-9]{1,5})?")

MAX_REPOSITORY: Final = 255
"""Characters of a repository's name that engines take."""


def split_host(text: str) -> tuple[str, str]:
    """Return the host of a reference, empty where it names none, and the rest.

    As everywhere, what is in front of the first `/` is a host if it has a dot or a colon, or is `localhost`.
    """
    head, slash, tail = text.partition("/")
    if slash and ("." in head or ":" in head or head == "localhost"):
        return head, tail
    return "", text


def repository_of(name: str) -> str:
    """Return a name as a repository: in lower case, and every run of characters that it must not have is one
    dash. `image` where nothing is left."""
    parts = []
    for part in name.lower().split("/"):
        plain = re.sub(r"[^a-z0-9._-]+", "-", part)
        # Separators stand between letters: one dot, one or two underscores, or dashes.
        plain = re.sub(r"[._-]*-[._-]*|\.[._]+|_\.[._]*|_{3,}", "-", plain).strip("._-")
        parts += [plain] if plain else []
    return "/".join(parts)[:MAX_REPOSITORY].rstrip("/._-") or "image"


def tag_of(version: str) -> str:
    """Return a version as a tag: each character that a tag must not have is a dash. Capitals stay."""
    tag = re.sub(r"[^A-Za-z0-9._-]", "-", version)[:128]
    return tag if TAG.fullmatch(tag) else f"v{tag}"[:128]


def image_name(name: str, version: str, ref: str | None = None) -> str:
    """Return the name under which container engines load an image: `NAME:VERSION`.

    ref: the name that was asked for instead, `[HOST/]NAME[:TAG]`; the tag is the version's where it has none.
    Raises ValueError, with what is wrong, for one that no engine takes.
    """
    if ref is None:
        return f"{repository_of(name)}:{tag_of(version)}"
    host, rest = split_host(ref)
    repository, colon, tag = rest.partition(":")
    if host and not HOST.fullmatch(host):
        raise ValueError(f"{host!r} is no host with a port")
    if not REPOSITORY.fullmatch(repository) or len(repository) > MAX_REPOSITORY:
        said = "lower case letters and digits, with . _ - or / between them"
        raise ValueError(f"{repository!r} is no name of an image: {said}")
    if colon and not TAG.fullmatch(tag):
        raise ValueError(f"{tag!r} is no tag: up to 128 letters, digits, . _ and -")
    return f"{ref}" if colon else f"{ref}:{tag_of(version)}"
