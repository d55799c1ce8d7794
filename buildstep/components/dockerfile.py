"""Read a Dockerfile: its instructions, its stages, and the images that they are made from.

Source of the rules: Docker's Dockerfile reference, and BuildKit's parser where the reference is silent
(a comment in a continued line is left out, an empty line in one too, a doubled escape continues nothing).
Nothing is run or fetched. Instructions that we do not know are left to the builder.
"""

from __future__ import annotations

import csv
import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from buildstep.components.dockerfile_words import NoValue, expand, split
from buildstep.components.interface import OnBuild, ReadImage, ReadOptions, Reference
from buildstep.errors import Fault

_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*")
_HEREDOC = re.compile(r"\d*<<(-?)([^<]+)")
_WITH_HEREDOCS = ("ADD", "COPY", "RUN")


class Instruction(NamedTuple):
    """One instruction. name: in capitals; rest: what follows it, continued lines joined; line: where it
    begins, from 1."""

    name: str
    rest: str
    line: int


@dataclass(kw_only=True, slots=True)
class Instructions:
    """A Dockerfile as its instructions. escape: the character that continues lines; faults: with where."""

    escape: str = "\\"
    rows: list[Instruction] = field(default_factory=list)
    faults: list[tuple[int, str]] = field(default_factory=list)


def instructions(text: str) -> Instructions:
    """Return the instructions of a Dockerfile's text; heredocs, comments and directives are taken out."""
    found = Instructions()
    lines = text.removeprefix("\ufeff").split("\n")
    at = _directives(lines, found)
    escape = re.escape(found.escape)
    continued = re.compile(rf"(?:^|(?<!{escape})){escape}[ \t]*\r?$")
    while at < len(lines):
        begin, bare = at, lines[at].strip()
        at += 1
        if not bare or bare[0] == "#":
            continue
        if found.escape in bare:
            at -= 1
            bare, at = _joined(lines, at, continued)
        # An escape alone, and nothing that goes on from it, is no instruction.
        if words := bare.split(None, 1):
            row = Instruction(words[0].upper(), words[1] if len(words) > 1 else "", begin + 1)
            found.rows.append(row)
            if "<<" in row.rest:
                at = _past_heredocs(row, lines, at, found)
    return found


def _joined(lines: list[str], at: int, continued: re.Pattern[str]) -> tuple[str, int]:
    """Return a line with those that continue it, and the index of the one after them. Comments and empty
    lines among them are left out."""
    parts: list[str] = []
    more = True
    while more and at < len(lines):
        line = lines[at]
        at += 1
        bare = line.strip()
        if parts and (not bare or bare[0] == "#"):
            continue
        end = continued.search(line)
        more = end is not None
        parts.append(line[: end.start()] if end else line.removesuffix("\r"))
    return "".join(parts).strip(), at


def _directives(lines: list[str], found: Instructions) -> int:
    """Read the parser directives at the top; return the index of the first line after them."""
    at = 0
    while at < len(lines) and (directive := _DIRECTIVE.fullmatch(lines[at].strip())):
        key, value = directive[1].lower(), directive[2]
        if key not in ("syntax", "escape", "check"):
            break
        if key == "escape":
            if value in ("\\", "`"):
                found.escape = value
            else:
                found.faults.append((at + 1, f"the escape character {value!r} is neither \\ nor `"))
        at += 1
    return at


def _past_heredocs(row: Instruction, lines: list[str], at: int, found: Instructions) -> int:
    """Return the index of the line after the heredocs of an instruction; `at`: of the one after itself."""
    for tabs, word in _heredocs(row, found.escape):
        begin = at
        while at < len(lines):
            line = lines[at].removesuffix("\r")
            at += 1
            if (line.lstrip("\t") if tabs else line) == word:
                break
        else:
            found.faults.append((row.line, f"the heredoc {word} does not end"))
            return begin
    return at


def _heredocs(row: Instruction, escape: str) -> Iterator[tuple[bool, str]]:
    """Yield whether tabs before the end of a heredoc are left out, and the word that ends it."""
    name, rest = row.name, row.rest
    if name == "ONBUILD":
        name, _, rest = rest.partition(" ")
    if name.upper() not in _WITH_HEREDOCS or "<<" not in rest:
        return
    for word in split(rest, escape):
        if heredoc := _HEREDOC.fullmatch(word):
            try:
                yield bool(heredoc[1]), expand(heredoc[2], {}, escape)
            except (NoValue, ValueError):
                yield bool(heredoc[1]), heredoc[2]


def _listed(text: str) -> list[str] | None:
    """Return the words of an instruction in its JSON form, None if it is in the other one."""
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None


@dataclass(kw_only=True, slots=True)
class _Stage:
    """A stage: its name in lower case, the values that its words can use, and which of them ENV gave.
    native: whether it is of the platform of the machine that builds, whatever the image is for."""

    name: str
    values: dict[str, str]
    environment: set[str]
    native: bool = False


class _Reading:
    """A Dockerfile that is being read. arguments: those that the builder gives."""

    def __init__(self, where: str, arguments: Mapping[str, str], found: Instructions, platform: str) -> None:
        self.where, self.arguments, self.escape = where, arguments, found.escape
        self.globals = dict(platform_arguments(platform))
        self.runs = False
        self.stages: list[_Stage] = []
        self.bases: list[Reference] = []
        self.sources: list[tuple[str, str, int]] = []
        self.copies: list[Reference] = []
        self.onbuild = OnBuild()
        self.faults = [Fault(where=f"{where}:{line}", message=message) for line, message in found.faults]

    def fault(self, line: int, message: str, hint: str = "") -> None:
        self.faults.append(Fault(where=f"{self.where}:{line}", message=message, hint=hint))

    def words(self, row: Instruction) -> tuple[list[str], list[str]]:
        """Return the flags of an instruction, and its other words."""
        words = split(row.rest, self.escape)
        count = 0
        while count < len(words) and words[count].startswith("--"):
            count += 1
        if "[" not in row.rest:
            return words[:count], words[count:]
        rest = row.rest
        for flag in words[:count]:
            rest = rest.lstrip().removeprefix(flag)
        listed = _listed(rest.strip())
        return words[:count], words[count:] if listed is None else listed

    def expanded(self, word: str, values: Mapping[str, str], row: Instruction) -> str | None:
        """Return a word with the values of variables, None with a fault if that cannot be done."""
        try:
            return expand(word, values, self.escape)
        except NoValue as error:
            self.fault(
                row.line,
                f"{row.name} {word}: {error} has no value",
                "give its ARG a default, or the value as a build argument",
            )
        except ValueError as error:
            self.fault(row.line, f"{row.name} {error}")
        return None

    def take(self, row: Instruction) -> None:
        match row.name:
            case "FROM":
                self.from_(row)
            case "ARG" | "ENV":
                self.variables(row)
            case "COPY" | "ADD" if self.stages:
                self.copy(row)
            case "RUN" if self.stages:
                self.runs |= not self.stages[-1].native
                self.mounts(row)
            case "ONBUILD" if self.stages:
                self.trigger(row)

    def from_(self, row: Instruction) -> None:
        flags, words = self.words(row)
        if len(words) not in (1, 3) or (len(words) == 3 and words[1].upper() != "AS"):
            self.fault(row.line, f"FROM {row.rest}".rstrip(), "write FROM IMAGE, or FROM IMAGE AS NAME")
            words = words[:1]
        name = words[2].lower() if len(words) == 3 else ""
        base = self.expanded(words[0], self.globals, row) if words else None
        if base == "":
            self.fault(row.line, f"FROM {words[0]} names no image", "give its ARG a value")
        parent = next((stage for stage in self.stages if base and stage.name == base.lower()), None)
        if base and parent is None:
            self.need(base, "FROM", row.line)
        if parent is not None:
            self.copies += self.onbuild.copies
        # A stage has what the stage has that it is made from.
        values, environment = (parent.values, parent.environment) if parent else ({}, set())
        native = parent.native if parent else self.is_native(flags, row)
        self.stages.append(
            _Stage(name=name, values=dict(values), environment=set(environment), native=native)
        )

    def is_native(self, flags: list[str], row: Instruction) -> bool:
        """Return whether `--platform` of a FROM is that of the machine that builds."""
        wanted = [flag.partition("=")[2] for flag in flags if flag.startswith("--platform=")]
        return bool(wanted) and self.expanded(wanted[-1], self.globals, row) == self.globals["BUILDPLATFORM"]

    def need(self, image: str, how: str, line: int) -> None:
        if image != "scratch":
            self.bases.append(Reference(image, how, line))

    def variables(self, row: Instruction) -> None:
        """Take the values that ARG and ENV give."""
        words = split(row.rest, self.escape)
        if row.name == "ENV" and words and "=" not in words[0]:
            words = [f"{words[0]}={' '.join(words[1:])}"]
        values = self.stages[-1].values if self.stages else self.globals
        environment = self.stages[-1].environment if self.stages else set()
        for word in words:
            name, given, default = word.partition("=")
            if row.name == "ENV":
                environment.add(name)
            elif name in environment:
                continue  # ENV wins over ARG, wherever it stands
            if row.name == "ARG" and name in self.arguments:
                values[name] = self.arguments[name]
            elif row.name == "ARG" and not given:
                if self.stages and name in self.globals:
                    values[name] = self.globals[name]
            else:
                try:
                    values[name] = expand(default, values, self.escape)
                except NoValue:
                    # A variable without a value is empty here; only where an image is named it is a fault.
                    values[name] = expand(default, _Empty(values), self.escape)
                except ValueError as error:
                    self.fault(row.line, f"{row.name} {error}")

    def copy(self, row: Instruction) -> None:
        flags, words = self.words(row)
        source = ""
        for flag in flags:
            name, _, value = flag.partition("=")
            if name == "--from":
                source = self.expanded(value, self.stages[-1].values, row) or "scratch"
        if source:
            self.sources.append((source, f"{row.name} --from", row.line))
            return
        for word in words[:-1]:
            # What a variable holds while the image is built need not be what we know of it.
            self.copies.append(Reference("" if "$" in word else self.bare(word), row.name, row.line))

    def trigger(self, row: Instruction) -> None:
        """Take what an image makes those do that are made from it: they have the values of its variables."""
        name, _, rest = row.rest.partition(" ")
        inner = Instruction(name.upper(), rest.strip(), row.line)
        if inner.name not in _WITH_HEREDOCS:
            return
        kept = self.sources, self.copies, self.faults
        self.sources, self.copies, self.faults = [], [], []
        if inner.name == "RUN":
            self.mounts(inner)
        else:
            self.copy(inner)
        # The names of stages are those of the other file.
        bases = (Reference(text, f"ONBUILD {how}", line) for text, how, line in self.sources)
        self.onbuild = OnBuild(
            (*self.onbuild.bases, *(base for base in bases if base.text != "scratch")),
            (*self.onbuild.copies, *self.copies),
        )
        self.sources, self.copies, self.faults = kept

    def bare(self, word: str) -> str:
        """Return a word without its quotes."""
        try:
            return expand(word, {}, self.escape)
        except (NoValue, ValueError):
            return ""

    def mounts(self, row: Instruction) -> None:
        for flag in self.words(row)[0]:
            name, _, value = flag.partition("=")
            if name != "--mount":
                continue
            pieces = (piece.partition("=") for piece in next(csv.reader([self.bare(value) or value]), []))
            options = {key.strip().lower(): given.strip() for key, _, given in pieces}
            if "from" in options:
                source = self.expanded(options["from"], self.stages[-1].values, row)
                self.sources.append((source or "scratch", "RUN --mount", row.line))
            elif options.get("type", "bind") == "bind":
                path = options.get("source", options.get("src", ""))
                self.copies.append(Reference("" if "$" in path else path, "RUN --mount", row.line))

    def finish(self) -> ReadImage:
        """Return what was read: a `--from` can name any stage, so that all must be known."""
        if not self.stages:
            self.fault(1, "there is no FROM", "a Dockerfile begins with FROM IMAGE")
        names = {stage.name for stage in self.stages}
        for source, how, line in self.sources:
            stage = source.isdecimal() and int(source) < len(self.stages)
            if not stage and source.lower() not in names:
                self.need(source, how, line)
        bases = tuple(sorted(self.bases, key=lambda base: base.line))
        return ReadImage(bases, tuple(self.copies), tuple(self.faults), self.onbuild, self.runs)


class _Empty(dict[str, str]):
    """Values where a variable that is not there is empty."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return ""

    def get(self, name: str, default: str | None = None) -> str:  # type: ignore[override]
        return self[name]


@functools.cache
def platform_arguments(platform: str = "") -> Mapping[str, str]:
    """Return the arguments that every builder gives. platform: that the image is for, by default this
    machine's."""
    from buildstep.formats.oci.spec import OciPlatform

    here = OciPlatform.here()
    there = OciPlatform.parse(platform) if platform else here
    found: dict[str, str] = {}
    for side, its in (("BUILD", here), ("TARGET", there)):
        found |= {f"{side}PLATFORM": str(its), f"{side}OS": its.os}
        found |= {f"{side}ARCH": its.architecture, f"{side}VARIANT": its.variant}
    return found


def read(text: str, *, where: str, options: ReadOptions) -> ReadImage:
    """Return the images that a Dockerfile is made from, in the order of lines, and what it copies from the
    build context.

    where: the file, as messages call it. A name of a stage is no image, and neither is `scratch`. Faults:
    a FROM that names nothing, an image's name with a variable that has no value, a heredoc without its end.
    """
    found = instructions(text)
    reading = _Reading(where, options.arguments, found, options.platform)
    for row in found.rows:
        reading.take(row)
    return reading.finish()
