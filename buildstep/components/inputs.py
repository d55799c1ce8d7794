"""What goes into a job, by name, and the key that is made of it.

A job with the same key gives the same result, so that a known one is used again. What a job needs counts by
its output, not by its own key: a provider that is built anew and gives the same ends the wave there.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from buildstep.components.discover import SOURCE
from buildstep.components.graph import Graph
from buildstep.components.interface import Built, Component, GraphError, Image, Job
from buildstep.components.references import base_key
from buildstep.components.settings import Settings
from buildstep.system.digest import sha256_bytes
from buildstep.system.text import printable

FORMAT: Final = "1"
"""It is part of every key: another one when the meaning of inputs changes."""

LISTED: Final = 500
"""Files of a component that are inputs of their own; more of them count by directory."""

FILE, NEED, BASE, PRODUCT, SETTING = "file", "need", "base", "product", "setting"
"""What the names of inputs begin with."""


class Inputs:
    """The inputs of a graph's jobs. Files are read when they are asked for, and once; from any thread.

    settings: what is configured for a job, by name; digest: of a base image from elsewhere, empty where it is
    not known.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        settings: Callable[[Job], Mapping[str, str]] = lambda _job: {},
        digest: Callable[[str], str] = lambda _image: "",
    ) -> None:
        self.graph = graph
        self._settings, self._digest = settings, digest
        self._own: dict[str, dict[str, str]] = {}
        self._lock = threading.Lock()
        self._files_of: dict[str, Mapping[str, str]] = {}

    def own(self, name: str) -> Mapping[str, str]:
        """Return what goes into a job besides the outputs of what it needs. Raises GraphError for a file that
        cannot be read."""
        with self._lock:
            if name not in self._own:
                self._own[name] = self._find(name)
            return self._own[name]

    def _find(self, name: str) -> dict[str, str]:
        job = self.graph.jobs[name]
        component = self.graph.repository.components[job.component]
        found = {"format": FORMAT, "action": str(job.action)}
        found |= self._files(component, job.image)
        for dependency in component.dependencies:
            found |= self._products(dependency.provider, dependency.paths)
        found |= {f"{SETTING}:{key}": value for key, value in self._settings(job).items()}
        if job.image is not None:
            found |= {"kind": job.image.kind, "description": job.image.file}
            for base in self.graph.external[name]:
                found[f"{BASE}:{base}"] = self._digest(base_key(base, job.image.platform))
        return found

    def all(self, name: str, outputs: Mapping[str, str]) -> dict[str, str]:
        """Return all that goes into a job. outputs: of the jobs that it needs, by name."""
        needs = {f"{NEED}:{need}": outputs[need] for need in self.graph.jobs[name].needs}
        return {**self.own(name), **needs}

    def _files(self, component: Component, image: Image | None) -> Mapping[str, str]:
        """Return the files of a component; the hooks and images that read all of them share one answer."""
        if hidden := hidden_files(component, image):
            return self._digests(component, [name for name in component.files if name not in hidden], FILE)
        if component.name not in self._files_of:
            self._files_of[component.name] = self._digests(component, component.files, FILE)
        return self._files_of[component.name]

    def _products(self, provider: str, paths: tuple[str, ...]) -> Mapping[str, str]:
        """Return the files of a provider that a component gets besides what hooks make."""
        component = self.graph.repository.components[provider]
        names = [name for name in component.files if any(is_below(name, path) for path in paths)]
        return self._digests(component, names, f"{PRODUCT}:{provider}")

    def _digests(self, component: Component, names: Sequence[str], prefix: str) -> dict[str, str]:
        contents = self.graph.repository.contents
        top = f"{SOURCE}/{component.name}"
        try:
            found = {name: contents.digest(f"{top}/{name}") for name in names}
        except OSError as error:
            place = os.path.relpath(os.fsdecode(error.filename), contents.root)
            raise GraphError(f"{place} cannot be read: {error.strerror}") from error
        if len(found) > LISTED:
            found = _by_directory(found)
        return {f"{prefix}:{name}": value for name, value in found.items()}


def configured(settings: Settings, environ: Mapping[str, str]) -> Callable[[Job], Mapping[str, str]]:
    """Return what is configured for a job, by name, as `Inputs` takes it.

    Variables that hooks are given count by a digest, as they may be secret. The tags of a push do not count:
    one that is another with every commit would make every hook run each time.
    """

    def find(job: Job) -> Mapping[str, str]:
        if job.image is not None:
            return settings.options(job.name).inputs()
        return {
            f"variable {name}": sha256_bytes(environ[name].encode(errors="surrogateescape"))
            for name in settings.hooks.variables
            if name in environ
        }

    return find


def key_of(inputs: Mapping[str, str]) -> str:
    """Return the digest of inputs: `sha256:` and hex."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return f"sha256:{sha256_bytes(text.encode(errors='surrogateescape'))}"


def hidden_files(component: Component, image: Image | None) -> set[str]:
    """Return the files of a component that cannot matter to one of its images: those that stay out of its
    context, and those that describe its other images, unless it copies them. Hooks can read all of them."""
    if image is None:
        return set()
    others = {other.file for other in component.images if other.file != image.file}
    return {file for file in others if not any(_copies(copy, file) for copy in image.copies)} | image.ignored


def is_below(name: str, path: str) -> bool:
    """Return whether a path is another one, or below it; `.` is above all."""
    return path in ("", ".") or name == path or name.startswith(f"{path}/")


def _copies(source: str, file: str) -> bool:
    """Return whether a source of COPY may be a file, or above it. A wildcard stands for anything."""
    plain = source.lstrip("/")
    literal = min((at for at in map(plain.find, "*?[\\") if at >= 0), default=-1)
    if literal >= 0:
        return file.startswith(plain[:literal].removeprefix("./"))
    path = os.path.normpath(plain)
    return path.startswith("..") or is_below(file, path)


def _by_directory(files: Mapping[str, str]) -> dict[str, str]:
    """Return one digest for each directory at the top, and for the files beside them."""
    rows: dict[str, list[str]] = {}
    for name in sorted(files):
        top, slash, _ = name.partition("/")
        rows.setdefault(top + slash, []).append(f"{name}\0{files[name]}")
    return {
        name: sha256_bytes("\n".join(lines).encode(errors="surrogateescape")) for name, lines in rows.items()
    }


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return what differs between the inputs of two builds, a short sentence each, the causes first."""
    found = []
    for name in sorted(old.keys() | new.keys(), key=_rank):
        if old.get(name) != new.get(name):
            kind, _, rest = name.partition(":")
            found.append(_sentence(kind, rest, old.get(name), new.get(name)))
    return found


def summary(rows: list[str], most: int = 3) -> str:
    """Return sentences as one line; of many the first ones, and how many more there are."""
    if len(rows) <= most:
        return ", ".join(rows)
    return f"{', '.join(rows[:most])} and {len(rows) - most} more"


def why_reused(last: Built | None, key: str) -> str:
    """Say why a job need not run whose result is known. last: its last build."""
    return "unchanged" if last and last.key == key else "built before with the same inputs"


def elsewhere(built: Built) -> str:
    """Say that a result which is not here is that of another machine; nothing where this one made it."""
    if built.worker in ("", "local"):
        return ""
    return f"its result is not here, {built.worker} has made it"


def _rank(name: str) -> tuple[int, str]:
    order = (FILE, PRODUCT, BASE, NEED, SETTING)
    kind = name.partition(":")[0]
    return (order.index(kind) if kind in order else len(order), name)


def _sentence(kind: str, name: str, old: str | None, new: str | None) -> str:
    name = printable(name)
    change = "is new" if old is None else "is gone" if new is None else "changed"
    match kind:
        case "file":
            if old and new and old.split()[1:2] != new.split()[1:2] and old.split()[2:] == new.split()[2:]:
                change = "changed its mode"
            return f"{name} {change}"
        case "product":
            provider, _, path = name.partition(":")
            return f"{path} of {provider} {change}"
        case "base":
            return f"the base image {name} {change}"
        case "need":
            return f"{name} gave another result" if old and new else f"{name} {change} as a need"
        case "setting":
            return f"the setting {name} {change}"
        case "format":
            return "buildstep counts other inputs now"
        case _:
            return f"its {kind} {change}"
