"""What goes into each action, by which it is known whether one that is done has to be done again.

Inputs are named values. What is kept of them tells later which one changed, and from what to what; of a
secret only a tag is kept, which says that it is another one now and nothing else.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import hmac
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from buildstep.errors import Fault, SpecError
from buildstep.services.interface import Action, Facts, Side
from buildstep.services.services_view import Subject
from buildstep.system.digest import sha256_bytes, sha256_file
from buildstep.system.files import atomic_write
from buildstep.system.private import private_dir
from buildstep.system.text import differences

Tag = Callable[[str, str], str]
"""Returns the tag of a secret, given its name and its value."""

ONCE: Final = frozenset({Action.INIT, Action.CONSUME, Action.INSTALL, Action.PREPARE, Action.CONFIGURE})
"""Actions that are done once, and again when what goes into them changes."""

DELIVERED: Final = ("git.export", "git.build", "web.export", "asset", "image", "files", "delivered")
PREPARED: Final = ("packages", "users", "ubuntu")
STARTED: Final = ("process", "env.process")
AROUND: Final = (
    "recurring", "inputs", "timeout", "tries", "description", "instances", "platform", "dependencies",
    "producer", "parent", "build", "git", "name", "version", "domain", "instance", "role", "category",
)  # fmt: skip
"""Keys by what they are for, each with all below it. `configure` depends on every key that is none of these;
the rows of a service's own words (`inputs.ACTION = param.a, param.b*`) add keys to an action."""

OWN_FILES: Final = ("state.json", "template.hrd", "instance.hrd", "questions.hrd", "schema.hrd")
"""Files in the directory of a service that are no part of its actions."""


def inputs_of(subject: Subject, side: Side, action: Action, producer: str, tag: Tag) -> dict[str, Any]:
    """Return what goes into an action, by names that a person reads.

    producer: the key of the one that is consumed. Only values that JSON has are among them.
    """
    facts = subject.facts
    found: dict[str, Any] = dict(_sources(subject, side))
    match action:
        case Action.CONSUME:
            found |= {name: value for name, value in _producers(facts) if name.startswith(f"{producer} ")}
            found.setdefault(f"{producer} ", "consumed")
        case Action.INSTALL:
            found["version"] = facts.version
            found |= {f"file {path}": sha256_bytes(text.encode()) for path, text in facts.files.items()}
            found |= dict(_trees(facts))
            found |= _values(facts, lambda key: _below(key, DELIVERED))
        case Action.PREPARE:
            found["packages"] = list(facts.packages)
            found["users"] = [dict(user) for user in facts.users]
            found |= _values(facts, lambda key: _below(key, PREPARED))
        case Action.CONFIGURE:
            found |= _values(facts, _configures)
            found |= dict(_producers(facts))
            found |= {f"secret {name}": tag(name, value) for name, value in subject.secrets.items()}
        case Action.START:
            # Its own start is run by whoever has written it; what runs is described here.
            found = dict(_processes(facts))
    found |= _values(facts, _asked(facts, action))
    return found


def digest_of(inputs: Mapping[str, Any]) -> str:
    """Return the digest of inputs."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return f"sha256:{sha256_bytes(text.encode())}"


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Say what differs between two sets of inputs, a few words each: `param.port 6379 -> 6380`."""
    found, follows = [], []
    for row in differences(dict(old), dict(new)):
        name = row.name.rstrip(" ").removeprefix("file ")
        if name.startswith("after "):
            follows.append(f"{name.removeprefix('after ')} ran")
        elif row.name.startswith(("secret ", "file ")):
            found.append(f"{name} {row.change}")
        elif row.change == "changed":
            found.append(f"{name} {_brief(row.old)} -> {_brief(row.new)}")
        else:
            value = {"added": row.new, "removed": row.old}.get(row.change)
            found.append(f"{name} {row.change}" + ("" if value is None else f": {_brief(value)}"))
    return found + follows


def _brief(value: object) -> str:
    text = str(value)
    if not text.isprintable():  # a plan has a line for each action
        text = repr(text)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _configures(key: str) -> bool:
    return not _below(key, (*DELIVERED, *PREPARED, *STARTED, *AROUND))


def _asked(facts: Facts, action: Action) -> Callable[[str], bool]:
    """Return which keys `inputs.ACTION` names."""
    value = facts.values.get(f"inputs.{action}", ())
    patterns = [value] if isinstance(value, str) else [str(item) for item in value]
    return lambda key: any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


def _below(key: str, groups: Iterable[str]) -> bool:
    return any(key == group or key.startswith(f"{group}.") for group in groups)


def _values(facts: Facts, counts: Callable[[str], bool]) -> dict[str, Any]:
    return {key: _plain(value) for key, value in facts.values.items() if counts(key)}


def _plain(value: object) -> Any:
    """Return a value as JSON gives it back, so that what was kept equals what is computed anew."""
    return json.loads(json.dumps(value, default=str))


def _producers(facts: Facts) -> Iterator[tuple[str, Any]]:
    for role, producers in facts.producers.items():
        for producer in producers:
            yield f"{producer.key} ", role
            for key, value in _values(producer, _configures).items():
                yield f"{producer.key} {key}", value


def _processes(facts: Facts) -> Iterator[tuple[str, Any]]:
    for process in facts.processes:
        for name, value in process._asdict().items():
            if name != "number":
                yield f"process {process.number} {name}", _plain(value)


def _trees(facts: Facts) -> Iterator[tuple[str, str]]:
    """Yield what is in the directories that are laid out: contents and modes, of links where they lead."""
    for target, top in facts.trees.items():
        for name, path in _below_folder(top):
            if path.is_symlink():
                yield f"file {target}/{name}", f"-> {os.readlink(path)}"
            else:
                mode = path.stat().st_mode & 0o7777
                yield f"file {target}/{name}", f"{mode:04o} {sha256_file(path)}"


def _sources(subject: Subject, side: Side) -> Iterator[tuple[str, str]]:
    """Yield the file with the actions of a side, and the files beside it that these may read: templates of
    configuration, scripts. What `files.N` lays out is none of them: its contents count for `install`."""
    if subject.source(side) is None:
        return
    rows = [value for key, value in subject.facts.values.items() if key.startswith("files.")]
    laid = {str(row.get("source", "")) for row in rows if isinstance(row, Mapping)}
    for name, path in _below_folder(subject.folder):
        other = name.startswith("actions_") and name != f"actions_{side}.py"
        if other or name in OWN_FILES or name.partition("/")[0] in laid or name in laid:
            continue
        if not path.is_symlink():
            yield f"file {name}", sha256_file(path)


def _below_folder(top: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files below a directory, sorted, with their names from there. Logs, other services, and what
    Python keeps are left out."""
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(
            name
            for name in folders
            if "!" not in name and name not in ("log", "__pycache__") and name[0] != "."
        )
        for name in sorted(files):
            path = Path(folder, name)
            if not name.startswith("."):
                yield path.relative_to(top).as_posix(), path


# -- secrets ----------------------------------------------------------------------------------------


def tagger(folder: Path) -> Tag:
    """Return what tags secrets, by a random key that lies in a directory that only its owner may enter.

    Without the key nobody can try out what a secret may have been: a tag in a file that somebody reads, or
    commits, gives nothing away. As long as there is no key, nothing has been kept. Source: HMAC, RFC 2104.
    """
    key: list[bytes] = []

    def tag(name: str, value: str) -> str:
        if not key:
            with contextlib.suppress(FileNotFoundError):
                key.append((folder / "key").read_bytes())
        return hmac.new(b"".join(key), f"{name}\0{value}".encode(), hashlib.sha256).hexdigest()[:32]

    return tag


def has_key(folder: Path) -> bool:
    """Return whether the key is there."""
    return (folder / "key").exists()


def make_key(folder: Path) -> None:
    """Make the key that secrets are tagged with, unless it is there. Raises OSError."""
    private_dir(folder)
    if not has_key(folder):
        with atomic_write(folder / "key") as stream:
            stream.write(os.urandom(32))


# -- spans of time ----------------------------------------------------------------------------------

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_of(value: object, where: str) -> float:
    """Return the seconds of a span such as 90, "90s", "5m" or "1h". Raises SpecError."""
    text = str(value).strip()
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text[len(number) :] or "s"
    try:
        found = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        found = 0.0
    if not 0 < found < 1e9:
        fault = Fault(where=where, message=f"{text!r} is no span of time", hint="such as 30s, 5m or 1h")
        raise SpecError(where, [fault])
    return found
