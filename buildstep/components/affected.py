"""What a change of files affects: the jobs that read them, and what is made from those."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from buildstep.components.discover import IGNORE_FILE, MADE, SOURCE
from buildstep.components.graph import Graph, Reach
from buildstep.components.inputs import hidden_files, is_below
from buildstep.errors import UsageError
from buildstep.system import process
from buildstep.system.text import plural

FOR_ALL: Final = (IGNORE_FILE, "components.toml", "services-configuration.yaml")
"""Files beside `src` that concern every component."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Files that changed, relative to the root. everything: it is not known which, so all may have.
    notes: what a person should know of it."""

    files: tuple[str, ...] = ()
    everything: bool = False
    notes: tuple[str, ...] = ()


def find_change(root: Path, words: Sequence[str], *, cwd: Path) -> Change:
    """Return the files that words of a command line name: each is a commit of git, a range of them (`A..B`),
    or paths with commas between them, relative to the current directory or to the root.

    Of a commit it is what differs between the work tree and where the branch left it; files that git does
    not know yet are among them. Where a shallow clone does not have that, everything may have changed.
    Raises UsageError for what is neither a path nor a commit.
    """
    files: set[str] = set()
    for word in words:
        paths = [_path(root, part, cwd) for part in word.split(",") if part]
        if paths and None not in paths:
            files.update(path for path in paths if path is not None)
        elif (found := _of_commit(root, word)) is not None:
            files.update(found)
        else:
            note = f"{word} is not in this shallow clone: everything counts as changed"
            return Change(everything=True, notes=(note,))
    return Change(files=tuple(sorted(files)))


def _path(root: Path, word: str, cwd: Path) -> str | None:
    """Return a path relative to the root, None for what is no path: it need not be there any more."""
    top = os.path.realpath(root)
    for base in (cwd, root):
        full = os.path.normpath(os.path.join(os.path.realpath(base), word))
        relative = os.path.relpath(full, top)
        if not relative.startswith("..") and (
            os.path.lexists(full) or relative.startswith((f"{SOURCE}/", *FOR_ALL))
        ):
            return relative
    return None


def _of_commit(root: Path, word: str) -> set[str] | None:
    """Return the files that changed since a commit, None if a shallow clone hides them."""

    def ask(*words: str) -> tuple[int, str]:
        result = process.query(["git", "-C", os.fspath(root), *words], ok=range(256))
        return result.status, result.stdout

    def names(*words: str) -> set[str]:
        status, out = ask(*words)
        if status:
            raise UsageError(f"git cannot tell what changed since {word}", hint=f"git {' '.join(words)}")
        return {name for name in out.split("\0") if name}

    if ask("rev-parse", "--git-dir")[0]:
        raise UsageError(
            f"--affected-by {word}: no such path, and {root} is in no git repository", hint="give paths"
        )
    shallow = ask("rev-parse", "--is-shallow-repository")[1].strip() == "true"
    ends = [end for end in word.replace("...", "..").split("..") if end]
    if any(end.startswith("-") or ask("rev-parse", "--verify", "-q", f"{end}^{{commit}}")[0] for end in ends):
        if shallow and not word.startswith("-"):
            return None
        raise UsageError(
            f"--affected-by {word}: no such path, and no commit of that name",
            hint="give a commit, a branch, A..B, or paths with commas between them",
        )
    diff = ("diff", "--name-only", "-z", "--no-renames", "--relative")
    if ".." in word:
        return names(*diff, word, "--", ".")
    status, base = ask("merge-base", word, "HEAD")
    if status:
        if shallow:
            return None
        base = word
    changed = names(*diff, base.strip(), "--", ".")
    return changed | names("ls-files", "--others", "--exclude-standard", "-z", "--", ".")


def affected(graph: Graph, change: Change, reach: Reach = "all") -> tuple[set[str], list[str]]:
    """Return the names of the jobs that a change affects, and notes.

    A job is affected if it reads a file that changed, came or went; then, as far as `reach` goes, what needs
    such a job. Files that belong to no component are counted in the notes.
    """
    components = graph.repository.components
    if change.everything or any(file in FOR_ALL for file in change.files):
        return set(graph.jobs), list(change.notes)
    files: dict[str, list[str]] = {}
    outside = 0
    for file in change.files:
        top, _, rest = file.partition("/")
        name, _, inner = rest.partition("/")
        if top == SOURCE and name in components:
            files.setdefault(name, []).append(inner)
        elif top == SOURCE and not rest:
            return set(graph.jobs), list(change.notes)
        else:
            outside += 1
    jobs: set[str] = set()
    for name, paths in files.items():
        jobs |= _readers(graph, name, paths)
    notes = list(change.notes)
    if outside:
        notes.append(f"{plural(outside, 'changed file')} of no component")
    jobs |= graph.downstream(jobs, reach)
    return jobs, notes


def _readers(graph: Graph, name: str, changed: Collection[str]) -> set[str]:
    """Return the jobs that read one of the changed paths of a component; a path may be a directory."""
    component = graph.repository.components[name]
    known = set(component.files)
    counted = [
        path
        for path in changed
        if path.partition("/")[0] not in MADE
        # What is there and is none of its files is ignored; what is not there may have been one.
        and (
            path in known
            or not path
            or any(is_below(file, path) for file in known)
            or not (component.path / path).exists()
        )
    ]
    found: set[str] = set()
    images = {image.name: image for image in component.images}
    for job in graph.of_components([name]):
        hidden = hidden_files(component, images.get(job))
        if any(path not in hidden for path in counted):
            found.add(job)
    # The files that others get of it need no job of its own.
    for other in graph.repository.components.values():
        for dependency in other.dependencies:
            if dependency.provider == name and any(
                is_below(path, wanted) or is_below(wanted, path)
                for path in counted
                for wanted in dependency.paths
            ):
                found |= graph.of_components([other.name])
    return found
