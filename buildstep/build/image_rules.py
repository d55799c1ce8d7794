"""The finished tree of a build, as the rules for images see it."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from buildstep import emit
from buildstep.build import cache_inputs, image_config
from buildstep.build import secrets as own_secrets
from buildstep.build.clones import places_of
from buildstep.build.context import BuildContext, BuildState, report_failure
from buildstep.cache import seen_texts
from buildstep.checks import in_force, texts
from buildstep.checks.examine import examine
from buildstep.checks.finished import error
from buildstep.checks.image_tree import ImageTree
from buildstep.checks.interface import Rule, Subject
from buildstep.checks.secrets import Looking, read_baseline
from buildstep.emit.split_layer import LAYER_TARGET
from buildstep.errors import BuildstepError
from buildstep.spec.check_rules import Severity
from buildstep.spec.fields import BuildSpec
from buildstep.system.accounts import TABLES, numbers
from buildstep.tree.entry import Entry, FileList, parse

ActiveRule = tuple[Rule, Severity]
"""A rule, and what a finding leads to."""


def subject(context: BuildContext, state: BuildState) -> Subject:
    """Return what the rules look at: what this build adds to the base image, with what is around it.

    In a content update that is the files whose content changed.
    """
    update, volumes = context.plan.update, image_config.of(context, state).volumes
    if update is not None:
        tree = ImageTree(Lines(update.tree.lines), volumes=volumes)
        changed = Subject(tree=tree, base={}, added=update.changed_files(), own=lambda _path: True)
        return _with_facts(changed, context, state)
    entries, base = state.snapshot.entries, context.store.entries(state.image)
    tree = ImageTree(entries, os.fsencode(state.root_prefix), volumes=volumes)
    found = Subject(
        tree=tree,
        base=base,
        added=added(base, entries),
        own=_own(context, state),
        users=_numbers("user", state, tree),
        groups=_numbers("group", state, tree),
        top=state.dataset.path,
    )
    found = _with_facts(found, context, state)
    return replace(found, seen=_seen(context, found))


def _with_facts(found: Subject, context: BuildContext, state: BuildState) -> Subject:
    budget = context.spec.checks.get("budget")
    if budget is not None:
        from buildstep.files.compare_gate import Growth

        budget = Growth.parse(budget).size
    return replace(
        found,
        budget=budget,
        path=image_config.of(context, state).path,
        host_paths=_host_paths(context),
        secrets=_looking(context),
        settings=_settings(context.spec),
    )


def _settings(spec: BuildSpec) -> bytes:
    """Return what the image says of itself, as text: a variable a line, and the rest as JSON."""
    oci = asdict(spec.oci)
    rows = [f"{name}={value}" for name, value in (oci.pop("env", None) or {}).items()]
    return "\n".join([*rows, json.dumps([oci, spec.manifest], default=str, indent=0)]).encode(
        "utf-8", "surrogateescape"
    )


def active(spec: BuildSpec) -> list[ActiveRule]:
    """Return the rules that a build is held to: what `trust` has of secrets is of their rule."""
    checks = spec.checks
    if spec.proof.secrets is not None:
        checks = {**checks, "rules": {**checks.get("rules", {}), texts.SECRET: spec.proof.secrets}}
    return list(in_force(checks))


def _looking(context: BuildContext) -> Looking | None:
    """Return which secrets to look for; None where their rule is off. Raises UsageError."""
    spec = context.spec
    if all(rule.name != texts.SECRET for rule, _ in active(spec)):
        return None
    from buildstep.trust.secrets.search import Search

    baseline = spec.proof.secrets_baseline
    known = read_baseline(Path(baseline)) if baseline else ()
    words = own_secrets.words_of(spec, context.environ)
    return Looking(search=Search(words), allow=(*spec.proof.allow_secrets, *known))


def when(context: BuildContext, subject: Subject) -> tuple[list[ActiveRule], list[ActiveRule]]:
    """Return the rules to apply now, and those to apply once all files were read for their layers.

    Where nothing is known of a large tree, the rule that reads every text would read all of it once more.
    """
    rules = active(context.spec)
    small = sum(entry.size for entry in subject.added if entry.kind == "f") < 2 * LAYER_TARGET
    if (
        small
        or subject.seen != frozenset()
        or context.plan.update is not None
        or not emit.has_layers(context.spec.formats)
    ):
        return rules, []
    late = [row for row in rules if row[0].name in texts.RULES]
    return [row for row in rules if row not in late], late


def search(state: BuildState) -> None:
    """Look through the texts while they are read for layers, if the step check left that to be done."""
    if state.unsearched is not None and state.blobs is not None:
        state.blobs.search(texts.clean_of(state.unsearched))


def searched(context: BuildContext, state: BuildState) -> None:
    """Apply the rules that the step check left, with what was found on the way. Raises CheckError."""
    subject, state.unsearched = state.unsearched, None
    if subject is None:
        return
    clean = frozenset() if state.blobs is None else frozenset(state.blobs.clean)
    subject = replace(subject, seen=clean)
    rules = [row for row in active(context.spec) if row[0].name in texts.RULES]
    if failed := examine(rules, subject, context.spec.allow, context.bus):
        raise error(failed)
    examined(context, replace(subject, seen=frozenset()))


def examined(context: BuildContext, subject: Subject) -> None:
    """Keep which files need not be read again by the next build of this component."""
    if context.spec.cache and context.plan.update is None and len(subject.clean) >= seen_texts.FEW:
        if isinstance(subject.seen, frozenset) and subject.clean == subject.seen:
            return
        with report_failure(context.bus, "keeping what was looked through"):
            name, sought = cache_inputs.component(context.spec), _sought(subject)
            seen_texts.save(context.backend.state, name, sought, subject.clean)


def _seen(context: BuildContext, subject: Subject) -> frozenset[bytes]:
    if not context.spec.cache:
        return frozenset()
    name = cache_inputs.component(context.spec)
    return seen_texts.load(context.backend.state, name, _sought(subject))


def _sought(subject: Subject) -> str:
    version = "" if subject.secrets is None else subject.secrets.search.version
    return "\n".join([*subject.host_paths, version])


class Lines(Mapping[bytes, Entry]):
    """A file list in its canonical lines, each read when it is asked for: most of them never are."""

    def __init__(self, lines: Sequence[bytes]) -> None:
        self._lines = lines
        self._at: dict[bytes, int] = {}

    def _index(self) -> dict[bytes, int]:
        if not self._at:
            for number, line in enumerate(self._lines):
                name = line.rstrip(b"\n").rpartition(b"\t")[2]
                # An escape, or the dot that stands for the top.
                plain = b"\\" not in name and name != b"."
                self._at[name if plain else parse(line).path] = number
        return self._at

    def __getitem__(self, path: bytes) -> Entry:
        return parse(self._lines[self._index()[path]])

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._index())

    def __len__(self) -> int:
        return len(self._lines)


_WORKSPACES = ("WORKSPACE", "GITHUB_WORKSPACE", "CI_PROJECT_DIR")
"""Variables of Jenkins, GitHub and GitLab that name the directory of a job."""


def _host_paths(context: BuildContext) -> list[str]:
    """Return places of the CI host that a build has to do with."""
    spec = context.spec
    named = [context.environ.get(name, "") for name in _WORKSPACES]
    paths = [spec.proto, spec.output_dir, context.backend.wall, Path.cwd(), *map(Path, filter(None, named))]
    return [os.fspath(path) for path in dict.fromkeys([*paths, *(path.resolve() for path in paths)])]


def added(base: FileList, entries: FileList) -> list[Entry]:
    """Return the entries that are new or differ from the base, times aside."""
    return [entry for path, entry in entries.items() if not _same(base.get(path), entry)]


def _same(old: Entry | None, new: Entry) -> bool:
    if old is new:
        return True
    if old is None or not old.same_metadata(new):
        return False
    return new.kind != "f" or (bool(new.sha256) and old.sha256 == new.sha256)


def _own(context: BuildContext, state: BuildState) -> Callable[[bytes], bool]:
    """Return whether a path of the image is what this build brought itself, and not what packages did."""
    prefix = os.fsencode(state.root_prefix + "/") if state.root_prefix else b""
    packaged, entries = state.packaged, state.snapshot.entries

    @functools.cache
    def placed() -> Container[bytes]:
        return places_of(state, context.plan.proto).keys()

    def own(path: bytes) -> bool:
        full = prefix + path
        return not _same(packaged.get(full), entries[full]) or path in placed()

    return own


def _numbers(what: str, state: BuildState, tree: ImageTree) -> Container[int] | None:
    """Return the numbers in a table of the image; None where it has none."""
    path = os.fsencode(TABLES[what])
    entry = tree.get(path)
    if entry is None or entry.kind != "f":
        return None
    try:
        if entry.source:
            with open(entry.source, "rb") as stream:
                text = stream.read()
        else:
            text = state.root.read("/" + TABLES[what])
    except (OSError, BuildstepError):
        return None
    return frozenset(numbers(text).values())
