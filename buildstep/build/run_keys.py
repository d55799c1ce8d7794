"""What decides the trees that commands leave: each key stands on that of the layer below.

A command with inputs that runs before the proto directory is there sees nothing else of it, so that its key
has the inputs alone. All others have the proto directory as a whole in theirs.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from buildstep.build import cache_inputs, run_rows
from buildstep.build.run_rows import Row
from buildstep.cache.key import layer_key
from buildstep.errors import Fault, SpecError
from buildstep.images.store import ImageRecord
from buildstep.rootfs import cleaners
from buildstep.rootfs.owners import fits
from buildstep.spec import run_rules
from buildstep.spec.fields import BuildSpec, RunCommand
from buildstep.spec.schema import at
from buildstep.tree.entry import Entry
from buildstep.tree.hashing import hash_entries
from buildstep.tree.proto import ProtoDir


@dataclass(frozen=True, kw_only=True, slots=True)
class RowKey:
    """The key of the tree that a command leaves, and what it is made of."""

    key: str
    inputs: Mapping[str, Any]


def root_key(spec: BuildSpec, image: ImageRecord) -> str:
    """Return the key of what the first command stands on, where no packages are asked for."""
    return layer_key(image.tree_digest, "base", cache_inputs.accounts(spec))


def chain(spec: BuildSpec, proto: ProtoDir, below: str) -> dict[str, RowKey]:
    """Return the keys of all commands, by their steps. below: the key of the layer with the packages, else
    `root_key`. What they depend on in the proto directory is read, if it was not yet.

    Those that would need all of it are not there where no result of theirs would be kept.
    """
    found: dict[str, RowKey] = {}
    for row in run_rows.early(spec):
        inputs = {
            "command": command_inputs(spec, row.command),
            "input": _files(spec, row.command, proto),
        }
        below = _add(found, row, below, inputs)
    late = run_rows.late(spec)
    if not any(row.kept for row in late):
        return found
    proto.read_all()
    if spec.order == "packages-first" or not spec.wants_packages:  # else it is in the key of these
        below = layer_key(below, "proto", _proto_inputs(spec, proto))
    for row in late:
        below = _add(found, row, below, {"command": command_inputs(spec, row.command)})
    return found


def _add(found: dict[str, RowKey], row: Row, below: str, inputs: Mapping[str, Any]) -> str:
    key = layer_key(below, run_rows.STEP, inputs)
    told = {**inputs, "layer below": below[:12]}
    if "input" in told:  # a digest is known by its beginning, to a person
        told["input"] = {path: _DIGEST.sub(r"\1", words) for path, words in inputs["input"].items()}
    found[row.step] = RowKey(key=key, inputs=told)
    return key


_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")


def _proto_inputs(spec: BuildSpec, proto: ProtoDir) -> dict[str, Any]:
    return {
        "proto directory": cache_inputs.proto_digest(spec, proto),
        "rules": [list(spec.owner.items()), list(spec.modes.items()), list(spec.exclude), list(spec.replace)],
    }


def command_inputs(spec: BuildSpec, command: RunCommand) -> dict[str, Any]:
    """Return what decides the result of a command, apart from the tree that it works in."""
    options = spec.run_options
    return {
        "argv": list(command.argv),
        "script": command.script,
        "interpreter": list(command.interpreter),
        "workdir": command.workdir,
        "user": command.user,
        "env": {**options.env, **command.env},
        "network": spec.network and (options.network if command.network is None else command.network),
        "cache": list(command.cache),
        "secrets": {name: run_rules.shape_of(name, spec.secrets[name]) for name in command.secrets},
        "clean": list(spec.cleaners(cleaners.DEFAULT)),
        "SOURCE_DATE_EPOCH": spec.source_date_epoch,
    }


# -- inputs of the proto directory --------------------------------------------------------------------------


def inputs_digest(spec: BuildSpec, proto: ProtoDir) -> str:
    """Return a digest of all that early commands see of the proto directory; empty where there is none."""
    rows = run_rows.early(spec)
    text = repr([_files(spec, row.command, proto) for row in rows])
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest() if rows else ""


def check(spec: BuildSpec, proto: ProtoDir) -> None:
    """Raise SpecError, naming all inputs that are not in the proto directory."""
    faults = []
    for number, command in enumerate(spec.run):
        for index, pattern in enumerate(command.inputs):
            if not matching(proto, [pattern]):
                where = at(at(at("$.build.run", number), "inputs"), index)
                message = f"{pattern} is not in the proto directory {spec.proto}"
                faults.append(Fault(where=where, message=message))
    if faults:
        raise SpecError(spec.source, faults)


def matching(proto: ProtoDir, patterns: Sequence[str]) -> list[bytes]:
    """Return the paths of the proto directory that are inputs, sorted: what a pattern names, and what is in
    it. `*` and `?` are for what is in a name, `**` for any names."""
    exact = {os.fsencode(pattern.rstrip("/")) for pattern in patterns}
    if all(proto.kind(path) not in ("", "d") for path in exact):
        return sorted(exact)
    # What is there by just this name is meant, such as pages/[id].js.
    literal = [re.escape(path) + b"(?:/.*)?" for path in exact if proto.kind(path)]
    others = [pattern for pattern in patterns if not proto.kind(os.fsencode(pattern.rstrip("/")))]
    expression = re.compile(b"(?s:" + b"|".join([*literal, *map(_expression, others)]) + b")")
    return sorted(path for path in proto.paths if expression.fullmatch(path))


def _expression(pattern: str) -> bytes:
    *folders, last = (_name(word) for word in pattern.rstrip("/").split("/"))
    heads = "".join("(?:[^/]+/)*" if word == _ANY else f"{word}/" for word in folders)
    tail = ".+" if last == _ANY else f"{last}(?:/.*)?"
    return b"(?s:" + os.fsencode(heads + tail) + b")"


_ANY = "**"


def _name(word: str) -> str:
    """Return the expression for one name of a pattern; `**` as it is."""
    if word == _ANY:
        return word
    parts = re.split(r"(\*|\?|\[!?[^\]]+\])", word)
    known = {"*": "[^/]*", "?": "[^/]"}
    return "".join(known.get(part) or _one_of(part) or re.escape(part) for part in parts)


def _one_of(part: str) -> str:
    """Return the expression for a set in brackets; empty for what is none."""
    if part[:1] != "[" or part[-1:] != "]" or len(part) < 3:
        return ""
    inner = re.escape(part[1:-1].removeprefix("!")).replace("\\-", "-")
    return f"[{'^/' if part[1] == '!' else ''}{inner}]"


def with_folders(paths: Sequence[bytes]) -> list[bytes]:
    """Return paths with the directories that they are in, sorted."""
    found = set(paths)
    for path in paths:
        while path := path.rpartition(b"/")[0]:
            found.add(path)
    return sorted(found)


def _files(spec: BuildSpec, command: RunCommand, proto: ProtoDir) -> dict[str, str]:
    """Return what there is of each input, in words that are equal where the input is."""
    paths = matching(proto, command.inputs)
    entries = proto.entries
    wanted = {path: entries[path] for path in with_folders(paths)}
    heads = {entry.first: entries[entry.first] for entry in wanted.values() if entry.first in entries}
    proto.bytes_read += hash_entries(b"", {**heads, **wanted}.values())
    chosen = set(paths)
    owner, modes = list(spec.owner.items()), list(spec.modes.items())
    found = {}
    for path, entry in wanted.items():
        # Who places the entries in the image may give them other owners and modes.
        info = os.lstat(proto.top + b"/" + path)
        words = [entry.kind, f"{stat.S_IMODE(info.st_mode):04o}"]
        # Of the rules only what they say of these paths counts.
        whose, mode = _rule(owner, path), _rule(modes, path)
        words += [f"{info.st_uid}:{info.st_gid}" if whose == "keep" else f"of {whose}"] if whose else []
        words += [f"mode {mode}"] if mode and entry.kind != "l" else []
        if path in chosen:
            words += _content(entry, heads)
        found[os.fsdecode(path)] = " ".join(words)
    return found


def _rule(rules: Sequence[tuple[str, str]], path: bytes) -> str:
    """Return what rules say of a path of the proto directory: the first that fits counts."""
    name = os.fsdecode(path)
    return next((value for pattern, value in rules if fits(pattern, name)), "")


def _content(entry: Entry, heads: Mapping[bytes, Entry]) -> list[str]:
    digest = entry.sha256 or (heads[entry.first].sha256 if entry.first in heads else "")
    xattrs = hashlib.sha256(repr(entry.xattrs).encode()).hexdigest() if entry.xattrs else ""
    return [word for word in (digest, os.fsdecode(entry.target), xattrs) if word]
