"""What tests of components share: components on disk, and how they are described."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from buildstep.components.interface import Component, Dependency


def write(top: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files below a directory; a name that ends in `.sh` is a program."""
    for name, content in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        if name.endswith(".sh"):
            path.chmod(0o755)
    return top


def component(root: Path, name: str, files: Mapping[str, str | bytes], *needs: Dependency) -> Component:
    """Write a component and describe it as discovery does."""
    path = write(root / "src" / name, files)
    items = (item for item in path.rglob("*") if item.is_symlink() or not item.is_dir())
    names = (item.relative_to(path).as_posix() for item in items)
    found = sorted(name for name in names if name.partition("/")[0] not in ("dependency", "generated"))
    hooks = ("build/build-pre.sh", "build/build-post.sh")
    pre, post = (file if file in found else "" for file in hooks)
    return Component(name=name, path=path, files=tuple(found), dependencies=needs, pre=pre, post=post)
