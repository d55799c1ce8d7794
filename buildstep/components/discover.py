"""Find the components of a repository, laid out as pai-build has them: `src/NAME/build/`.

A file belongs to the component in whose directory it lies, and describes an image only in `build` itself.
Where pai-build skipped or guessed, this says so: all faults together, and notes for what is left out.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from buildstep.components.contents import Contents
from buildstep.components.dockerignore import Ignore, ignored_files
from buildstep.components.interface import Component, Dependency, Image, Kind, ReadOptions
from buildstep.components.references import with_triggers
from buildstep.errors import Fault, SpecError
from buildstep.spec import schema
from buildstep.system.text import printable
from buildstep.tree.exclude import Exclude, excluder

SOURCE = "src"
BUILD = "build"
PRE, POST = "build-pre.sh", "build-post.sh"
DEPENDENCIES = ("component.dep", "components.dep")
"""The file that pai-build reads, and the one that its documentation names."""

IGNORE_FILE = ".buildstepignore"
MADE = ("dependency", "generated")
"""Directories of a component that builds fill; never read as its source."""

IGNORED = (".git", "node_modules")
"""Left out at any depth. `!NAME` in `.buildstepignore` takes one back in."""

MODES = ("common", "k8s", "yarn")
"""The mode words of pai-build; `common` is of every mode. With `--mode` any other word is one too."""

_WILDCARD = re.compile(r"[*?\[\\]")
_IMAGE_NAME = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
"""Source: the grammar of references in github.com/distribution/reference, a path component."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Repository:
    """What was found. root: the directory that has `src`. components: by name, sorted. notes: what was left
    out, a line each. contents: of its files, by paths relative to root."""

    root: Path
    components: dict[str, Component]
    notes: tuple[str, ...]
    contents: Contents

    def images(self) -> dict[str, Image]:
        """Return all images by name."""
        return {image.name: image for part in self.components.values() for image in part.images}


def discover(root: Path, options: ReadOptions | None = None) -> Repository:
    """Return the components of the repository in a directory.

    Errors: SpecError with all that is wrong: two files for one image, an unknown component in
    `component.dep`, a file that cannot be read, a Dockerfile that names no base image.
    """
    search = _Search(root, options or ReadOptions())
    search.run()
    if search.faults:
        raise SpecError(os.fspath(root), search.faults)
    return Repository(
        root=root,
        components=dict(sorted(search.components.items())),
        notes=tuple(sorted(search.notes)),
        contents=search.contents,
    )


@dataclass(slots=True)
class _Search:
    """A search that is under way."""

    root: Path
    options: ReadOptions
    components: dict[str, Component] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    plain: set[str] = field(default_factory=set)
    lines_of_copies: dict[tuple[str, str], str] = field(default_factory=dict)
    contents: Contents = field(init=False)
    kinds: list[Kind] = field(init=False)

    def __post_init__(self) -> None:
        from buildstep.components import KINDS

        self.contents = Contents(self.root)
        self.kinds = [*KINDS.values(), *KINDS.plugins(self.notes.append).values()]

    def fault(self, where: str, message: str, hint: str = "") -> None:
        self.faults.append(Fault(where=where, message=message, hint=hint))

    def text(self, path: str) -> str | None:
        """Return a file's text, None with a fault if it cannot be read."""
        try:
            return self.contents.text(path)
        except (OSError, UnicodeDecodeError) as error:
            self.fault(path, getattr(error, "strerror", None) or str(error))
            return None

    def lines(self, path: str) -> list[str]:
        return (self.text(path) or "").splitlines()

    def run(self) -> None:
        try:
            with os.scandir(self.root / SOURCE) as rows:
                names = sorted(row.name for row in rows if row.is_dir(follow_symlinks=False))
        except OSError as error:
            self.fault(SOURCE, error.strerror or str(error), "a repository has its components in src/NAME")
            return
        above = self.ignore_rules(IGNORE_FILE)
        for name in names:
            if name.startswith(".") or above.excludes(f"{SOURCE}/{name}", directory=True):
                continue
            if os.path.isdir(f"{self.contents.root}/{SOURCE}/{name}/{BUILD}"):
                self.component(name, above)
            else:
                self.plain.add(name)
        self.inherit()
        self.dependencies(above)
        self.one_file_per_image()

    def component(self, name: str, above: _Rules) -> None:
        """Read one component; `component.dep` only once all are known."""
        top = f"{SOURCE}/{name}"
        files = self.files(top, above)
        inside = [file.removeprefix(f"{BUILD}/") for file in files if file.startswith(f"{BUILD}/")]
        here = {file for file in inside if "/" not in file}
        images = []
        for file in sorted(here):
            images += self.images(name, file, files)
        if not images and any(self.stem(file) for file in here):
            self.notes.append(f"{top}: left out, none of its images is of the mode {self.options.mode}")
            self.plain.add(name)
            return
        self.components[name] = Component(
            name=name,
            path=self.root / top,
            images=tuple(sorted(images, key=lambda image: image.name)),
            pre=f"{BUILD}/{PRE}" if PRE in here else "",
            post=f"{BUILD}/{POST}" if POST in here else "",
            files=tuple(files),
        )

    def stem(self, file: str) -> tuple[Kind, str] | None:
        return next(((kind, stem) for kind in self.kinds if (stem := kind.stem(file))), None)

    def images(self, component: str, file: str, files: Sequence[str]) -> list[Image]:
        """Return the image that a file of `build` describes, of several platforms each. files: all of its
        component."""
        found = self.stem(file)
        if found is None:
            return []
        kind, stem = found
        name, _, mode = stem.rpartition(".")
        if not name or mode not in {*MODES, self.options.mode}:
            name, mode = stem, ""
        if mode not in ("", "common", self.options.mode) and self.options.mode != "all":
            return []
        path = f"{SOURCE}/{component}/{BUILD}/{file}"
        if not _IMAGE_NAME.fullmatch(name):
            self.fault(path, f"{name!r} cannot be the name of an image", "a-z 0-9, and . _ - between them")
        if self.leads_out(path, component):
            hint = "a copy of the component is built, and what it links to is not in it"
            self.fault(path, "is a link that leads out of the component", hint)
        if (text := self.text(path)) is None:
            return []
        options = self.options
        if name in options.arguments_of:
            options = replace(options, arguments=options.arguments_of[name])
        platforms = options.platforms_of.get(name, options.platforms)
        self.faults += kind.platform_faults(platforms, path)
        ignore = kind.ignore_file(f"{BUILD}/{file}", files)
        ignored = self.ignored(component, ignore, files, f"{BUILD}/{file}") if ignore else frozenset()
        made = []
        for platform in platforms or ("",):
            read = kind.read(text, where=path, options=replace(options, platform=platform, top=self.root))
            self.faults += [fault for fault in read.faults if fault not in self.faults]
            lines = {copy.text: f"{path}:{copy.line}" for copy in reversed(read.copies)}
            full = f"{name}@{platform}" if len(platforms) > 1 else name
            self.lines_of_copies |= {(full, copy): line for copy, line in lines.items()}
            made.append(
                Image(
                    name=full,
                    component=component,
                    kind=kind.name,
                    file=f"{BUILD}/{file}",
                    mode=mode,
                    bases=read.bases,
                    copies=tuple(sorted(lines)),
                    onbuild=read.onbuild,
                    ignore=ignore,
                    ignored=ignored,
                    platform=platform,
                    runs=read.runs,
                )
            )
        return made

    def ignored(self, component: str, file: str, files: Sequence[str], image: str) -> frozenset[str]:
        """Return the files of a component that an ignore file keeps out of an image's context."""
        path = f"{SOURCE}/{component}/{file}"
        ignore = Ignore(self.text(path) or "")
        for number, pattern in ignore.faults:
            self.fault(f"{path}:{number}", f"{pattern!r} is no pattern")
        return ignored_files(ignore, files, (file, image))

    def inherit(self) -> None:
        """Give images what the ONBUILD of their bases does in them, and components what their images copy of
        others."""
        images = {image.name: image for part in self.components.values() for image in part.images}
        for name, component in self.components.items():
            full = tuple(with_triggers(image, images, self.options) for image in component.images)
            copied = tuple(
                Dependency(
                    *wanted,
                    self.lines_of_copies.get((image.name, copy), f"{SOURCE}/{name}/{image.file}:1"),
                )
                for image in full
                for copy in image.copies
                if (wanted := _of_dependency(copy))
            )
            if copied or full != component.images:
                self.components[name] = replace(component, images=full, dependencies=copied)

    def leads_out(self, path: str, component: str) -> bool:
        """Return whether a file is a link to what is not in its component."""
        if not os.path.islink(f"{self.contents.root}/{path}"):
            return False
        top = os.path.realpath(f"{self.contents.root}/{SOURCE}/{component}")
        return not os.path.realpath(f"{self.contents.root}/{path}").startswith(f"{top}/")

    def files(self, top: str, above: _Rules) -> list[str]:
        """Return the files of a component, relative to it, sorted."""
        rules = self.ignore_rules(f"{top}/{IGNORE_FILE}", above)
        found: list[str] = []
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(f"{self.contents.root}/{top}/{folder}") as rows:
                    entries = list(rows)
            except OSError as error:
                self.fault(f"{top}/{folder}".rstrip("/"), error.strerror or str(error))
                continue
            for entry in entries:
                path = f"{folder}{entry.name}"
                directory = entry.is_dir(follow_symlinks=False)
                if rules.excludes(path, directory=directory, whole=f"{top}/{path}"):
                    continue
                if not directory and not entry.is_symlink() and not entry.is_file(follow_symlinks=False):
                    # Whoever opened a pipe would wait for ever.
                    self.notes.append(f"{top}/{printable(path)}: not read, it is no file and no link")
                elif not directory:
                    found.append(path)
                    if folder != f"{BUILD}/" and self.stem(entry.name):
                        self.notes.append(
                            f"{top}/{printable(path)}: builds no image, it is not in {top}/{BUILD}"
                        )
                elif path in MADE:
                    self.notes.append(f"{top}/{path}: not read, builds make it")
                else:
                    folders.append(f"{path}/")
        return sorted(found)

    def ignore_rules(self, file: str, above: _Rules | None = None) -> _Rules:
        """Read an ignore file, relative to root; it need not be there. above: rules that hold as well."""
        defaults = set(above.defaults if above else IGNORED)
        patterns: list[str] = []
        if os.path.isfile(f"{self.contents.root}/{file}"):
            for number, line in enumerate(self.lines(file), 1):
                pattern = line.strip()
                if pattern.startswith("!") and pattern[1:].rstrip("/") in defaults:
                    defaults.discard(pattern[1:].rstrip("/"))
                elif pattern and not pattern.startswith("#"):
                    if excluder([pattern]) is None:
                        hint = (
                            f"a pattern as rsync's --exclude has it, or one of {', '.join(IGNORED)} after !"
                        )
                        self.fault(f"{file}:{number}", f"{pattern!r} is no pattern", hint)
                    else:
                        patterns.append(pattern)
        return _Rules(frozenset(defaults), excluder(patterns) if patterns else None, above)

    def dependencies(self, above: _Rules) -> None:
        """Read the `component.dep` of all components, and look the names up."""
        wanted: set[str] = set()
        for name, component in self.components.items():
            rows: list[Dependency] = []
            for file in DEPENDENCIES:
                if f"{BUILD}/{file}" in component.files:
                    rows += self.dependency_file(f"{SOURCE}/{name}/{BUILD}/{file}")
            rows += component.dependencies
            kept = []
            for row in rows:
                if row.provider == name:
                    self.fault(row.where, f"{name} cannot depend on itself")
                elif row.provider in self.components or row.provider in self.plain:
                    wanted.add(row.provider)
                    kept.append(row)
                elif row.where.rpartition(":")[0].endswith(DEPENDENCIES):
                    known = {*self.components, *self.plain}
                    same = [other for other in known if other.lower() == row.provider.lower()]
                    hint = f'did you mean "{same[0]}"?' if same else schema.near(row.provider, known)
                    self.fault(row.where, f"there is no component {row.provider}", hint)
            if rows:
                self.components[name] = replace(component, dependencies=_merged(kept))
        for name in sorted(wanted & self.plain):
            top = f"{SOURCE}/{name}"
            self.components[name] = Component(
                name=name, path=self.root / top, files=tuple(self.files(top, above))
            )

    def dependency_file(self, path: str) -> Iterator[Dependency]:
        """Yield the lines of a `component.dep`: a component, and paths of it that are wanted besides
        `generated`; `#` begins a comment."""
        for number, line in enumerate(self.lines(path), 1):
            words = re.sub(r"(^|\s)#.*", "", line).split()
            where = f"{path}:{number}"
            for word in words[1:]:
                if word.startswith("/") or ".." in word.split("/"):
                    self.fault(where, f"{word} leads out of {words[0]}", "a path relative to the component")
            if words:
                paths = (os.path.normpath(word) for word in words[1:])
                yield Dependency(words[0], tuple(path for path in paths if not _is_made(path)), where)

    def one_file_per_image(self) -> None:
        first: dict[str, Image] = {}
        for component in self.components.values():
            for image in component.images:
                name = image.name.partition("@")[0]
                other = first.setdefault(name, image)
                if (other.component, other.file) != (image.component, image.file):
                    self.fault(
                        f"{SOURCE}/{image.component}/{image.file}",
                        f"{SOURCE}/{other.component}/{other.file} describes the image {name} too",
                        "rename one; of the modes only one is built at a time (--mode)",
                    )


@dataclass(frozen=True, slots=True)
class _Rules:
    """What is left out. defaults: names at any depth; exclude: patterns, relative to where they were read."""

    defaults: frozenset[str]
    exclude: Exclude | None
    above: _Rules | None = None

    def excludes(self, path: str, *, directory: bool, whole: str = "") -> bool:
        """Return whether a path stays out. whole: the same path, relative to the root."""
        if path.rpartition("/")[2] in self.defaults:
            return True
        if self.exclude is not None and self.exclude(os.fsencode(path), directory):
            return True
        above = self.above.exclude if self.above else None
        return above is not None and above(os.fsencode(whole), directory)


def _of_dependency(source: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the component, and the path of it, that a source of COPY takes from `dependency`; None for
    any other source. A wildcard stands for all that is in its directory."""
    parts = os.path.normpath(source.lstrip("/")).split("/")
    if parts[0] != MADE[0] or len(parts) < 2 or _WILDCARD.search(parts[1]):
        return None
    plain = list(itertools.takewhile(lambda part: not _WILDCARD.search(part), parts[2:]))
    path = "/".join(plain)
    # `dependency/NAME` alone copies what is there; it wants nothing more.
    if not parts[2:] or _is_made(path):
        return parts[1], ()
    return parts[1], (path or ".",)


def _is_made(path: str) -> bool:
    """Return whether a path of a provider is below `generated`, which others get without asking."""
    return path.partition("/")[0] == MADE[1]


def _merged(rows: Sequence[Dependency]) -> tuple[Dependency, ...]:
    """Return one dependency for each provider, with the paths of all its rows, sorted."""
    found: dict[str, Dependency] = {}
    for row in rows:
        before = found.get(row.provider, row)
        found[row.provider] = before._replace(paths=tuple(sorted({*before.paths, *row.paths})))
    return tuple(found[name] for name in sorted(found))
