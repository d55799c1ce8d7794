"""The finished tree of a build, kept as a list with its cut into layers.

    state/artifacts/tree-NAME.bin    the last tree of a component: a framed record for each field of Tree,
                                     in order

The next build makes its image from it, where only the content of some files changed.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from buildstep.system import framed
from buildstep.system.files import atomic_write
from buildstep.system.private import private_dir

FORMAT = 8


@dataclass(kw_only=True, slots=True)
class Tree:
    """The finished tree of a build, and how it was cut into layers.

    A place is an index into the entries of the layer that the build added; paths, at, sizes and times hold a
    value for each place.

    inputs: what decided it, the proto directory apart, and proto: the digest of that; build: the id of that
    build; lower: the stored layers below (name, comment, created_by); lines: the canonical text of the whole
    tree; at: the index in `lines`; sizes: -1 for a directory; sources: the path in the proto directory, where
    it is another; folders: index in `lines` and mtime of each directory that is not in the layer, and
    repeated: the indexes of those that the archive's last layer has all the same; hard_links: the place of
    the first name of each linked file; in_base: places that must stay as they are, because the base has the
    path too; external: places of files that are not from the proto directory; layers: the places that each
    stored layer holds, and blobs: the names of these; installed, entropy, cleaned, warnings: for the record.
    """

    inputs: str
    proto: str
    build: str
    lower: list[tuple[str, str, str]]
    lines: list[bytes]
    paths: list[bytes]
    at: list[int]
    sizes: list[int]
    times: list[int]
    sources: dict[int, bytes]
    folders: list[tuple[int, int]]
    repeated: set[int]
    hard_links: dict[int, int]
    in_base: set[int]
    external: set[int]
    layers: list[list[int]]
    blobs: list[str]
    installed: dict[str, Any] | None
    entropy: tuple[str, ...]
    cleaned: list[dict[str, Any]]
    warnings: list[str]


def _path(state: Path, slot: str) -> Path:
    name = hashlib.sha256(os.fsencode(slot)).hexdigest()[:32]
    return state / "artifacts" / f"tree-{name}.bin"


def save(state: Path, slot: str, tree: Tree) -> None:
    """Keep the tree of a build for the next one. slot: of which component and kind of outputs it is."""
    path = _path(state, slot)
    private_dir(path.parent)
    with atomic_write(path, durable=False) as stream:
        for item in fields(tree):  # one by one: together they are large
            framed.write(stream, getattr(tree, item.name))


def forget(state: Path, slot: str) -> None:
    """Remove the tree of the last build."""
    _path(state, slot).unlink(missing_ok=True)


def load(state: Path, slot: str, *, inputs: str, proto: str) -> Tree | None:
    """Return the tree of the last build, if it was made from these inputs and this proto directory."""
    try:
        data = _path(state, slot).read_bytes()
    except OSError:
        return None
    names = [item.name for item in fields(Tree)]
    values: dict[str, Any] = {}
    for name, (value, _) in zip(names, framed.read(data), strict=False):
        values[name] = value
        if values.get("inputs", inputs) != inputs or values.get("proto", proto) != proto:
            return None
    return Tree(**values) if len(values) == len(names) else None
