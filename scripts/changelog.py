"""Join the fragments of changelog.d into CHANGELOG.md.

`python -m scripts.changelog VERSION DATE` writes a section for the release and removes the fragments;
changelog.d/README.md says what a fragment is.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

TOP = Path(__file__).parents[1]

KINDS = {"added": "Added", "changed": "Changed", "fixed": "Fixed", "removed": "Removed"}
"""Kinds of fragments, in the order of their sections."""

_NAME = re.compile(rf"[a-z0-9-]+\.({'|'.join(KINDS)})\.md")


def fragments(top: Path) -> dict[str, list[Path]]:
    """Return the fragments by kind. Raises ValueError for a file whose name is none."""
    found: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    for path in sorted((top / "changelog.d").iterdir()):
        if path.name == "README.md":
            continue
        match = _NAME.fullmatch(path.name)
        if match is None or not path.read_text(encoding="utf-8").strip():
            raise ValueError(f"changelog.d/{path.name} is no fragment: see changelog.d/README.md")
        found[match[1]].append(path)
    return found


def section(found: dict[str, list[Path]], version: str, date: str) -> str:
    """Return the section of a release: a line for each fragment, by kind."""
    parts = [f"## {version} ({date})\n"]
    for kind, paths in found.items():
        texts = [" ".join(path.read_text(encoding="utf-8").split()) for path in paths]
        if texts:
            parts.append(f"### {KINDS[kind]}\n\n" + "".join(f"- {text}\n" for text in texts))
    return "\n".join(parts)


def release(top: Path, version: str, date: str) -> int:
    """Write the section of a release above the last one, remove its fragments, and return their number."""
    found = fragments(top)
    count = sum(map(len, found.values()))
    if not count:
        raise ValueError("there is no fragment in changelog.d")
    log = top / "CHANGELOG.md"
    head, mark, rest = log.read_text(encoding="utf-8").partition("\n## ")
    log.write_text(f"{head}\n{section(found, version, date)}{mark}{rest}", encoding="utf-8")
    for paths in found.values():
        for path in paths:
            path.unlink()
    return count


def main() -> int:
    """Make a release's section from the command line."""
    if len(sys.argv) != 3:
        click.echo("usage: python -m scripts.changelog VERSION DATE", err=True)
        return 2
    try:
        count = release(TOP, sys.argv[1], sys.argv[2])
    except ValueError as error:
        click.echo(f"changelog: {error}", err=True)
        return 1
    click.echo(f"CHANGELOG.md has {sys.argv[1]}, with {count} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
