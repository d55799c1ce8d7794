"""The keys of `service.hrd` that mean something, and of what kind their values are: one table.

Source: the templates of AYS (JumpScale 7) and the code that reads them; our own keys are said to be so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from buildstep.services.hrd import Item, Value
from buildstep.services.interface import Action

ACTIONS: Final = [action.value for action in Action]


class Kind(StrEnum):
    """What a value is. The value says it to a person."""

    TEXT = "a text"
    PATH = "an absolute path"
    NUMBER = "a whole number"
    SECONDS = "a number of seconds"
    DURATION = "a duration, such as 30s, 5m or 1h"
    TRUTH = "True or False"
    LIST = "a list"
    TABLE = "a table of name:value"
    PORTS = "port numbers, with `;` between them"
    ANY = "any value"


class Row(NamedTuple):
    """A key. pattern: N is a number, NAME any words, ACTION the name of an action. fields: of a table that
    has certain names; None: any. required: those that must be there. ours: AYS did not have it. without: why
    it has no effect."""

    pattern: str
    kind: Kind
    about: str = ""
    fields: Mapping[str, Kind] | None = None
    required: Sequence[str] = ()
    ours: bool = False
    without: str = ""


_SOURCE = {
    "url": Kind.TEXT, "site": Kind.TEXT, "account": Kind.TEXT, "repo": Kind.TEXT, "branch": Kind.TEXT,
    "revision": Kind.TEXT, "tag": Kind.TEXT, "depth": Kind.TEXT, "login": Kind.TEXT, "passwd": Kind.TEXT,
}  # fmt: skip
_EXPORT = {
    "source": Kind.TEXT, "dest": Kind.PATH, "link": Kind.TRUTH, "nodirs": Kind.TRUTH, "overwrite": Kind.TRUTH,
    "platform": Kind.TEXT,
}  # fmt: skip
PROCESS: Final = {
    "cmd": Kind.TEXT, "args": Kind.TEXT, "cwd": Kind.TEXT, "user": Kind.TEXT, "name": Kind.TEXT,
    "env": Kind.TEXT, "prio": Kind.NUMBER, "ports": Kind.PORTS, "startupmanager": Kind.TEXT,
    "filterstr": Kind.TEXT, "timeout_start": Kind.SECONDS, "timeout_stop": Kind.SECONDS,
    "platform": Kind.TEXT,
}  # fmt: skip
USER: Final = {
    "name": Kind.TEXT, "uid": Kind.NUMBER, "gid": Kind.NUMBER, "group": Kind.TEXT, "groups": Kind.TEXT,
    "home": Kind.PATH, "shell": Kind.PATH,
}  # fmt: skip
FILE: Final = {"source": Kind.TEXT, "text": Kind.TEXT, "dest": Kind.PATH, "render": Kind.TRUTH}

KEYS: Final = (
    Row("description", Kind.TEXT, "what the service is, for a person"),
    Row("category", Kind.TEXT, "how JumpScale 7 knew producers", without="the name decides the role"),
    Row("base", Kind.ANY, without="nothing read it in AYS either"),
    Row("roles", Kind.LIST, without="the name decides the role; AYS did not read it either"),
    Row("param.NAME", Kind.ANY, "a value that all instances share"),
    Row("system.paths.NAME", Kind.PATH, "in place of the path that the system has"),
    Row("platform.supported", Kind.LIST, "platforms on which a service can run"),
    Row("instances.maxnr", Kind.NUMBER, "how many instances a node may have"),
    Row("dependencies.global", Kind.LIST, "roles: a service of each must be there"),
    Row("dependencies.node", Kind.LIST, "roles: a service of each on the same node, or created there"),
    Row("dependencies.N", Kind.TABLE, "a template whose service is needed",
        {"name": Kind.TEXT, "domain": Kind.TEXT, "instance": Kind.TEXT, "args": Kind.ANY, "type": Kind.TEXT}),
    Row("dep.args.NAME", Kind.ANY, "answers for a service that is needed"),
    Row("ns.enable", Kind.TRUTH, "use the service of the role ns, if there is one"),
    Row("process.N", Kind.TABLE, "a process", PROCESS, ("cmd",)),
    Row("env.process.N", Kind.TABLE, "environment variables of process N"),
    Row("packages", Kind.LIST, "packages of the system", ours=True),
    Row("ubuntu.packages", Kind.LIST, "packages, on Debian and Ubuntu"),
    Row("ubuntu.apt.source.N", Kind.ANY, without="add sources of packages to the image or the node"),
    Row("ubuntu.apt.key.pub.N", Kind.ANY, without="add keys of packages to the image or the node"),
    Row("ubuntu.apt.update", Kind.TRUTH, without="lists of packages are fetched when one is missing"),
    Row("ubuntu.apt.upgrade", Kind.TRUTH, without="a service does not upgrade its node"),
    Row("users.N", Kind.TABLE, "an account that must be there", USER, ("name",), ours=True),
    Row("files.N", Kind.TABLE, "a file, or a directory, of the template", FILE, ("dest",), ours=True),
    Row("git.export.N", Kind.TABLE, "files of a repository", {**_SOURCE, **_EXPORT}, ("dest",)),
    Row("git.build.N", Kind.TABLE, "a git repository for the build", {**_SOURCE, **_EXPORT}),
    Row("git.url", Kind.TEXT, "the repository of the project"),
    Row("web.export.N", Kind.TABLE, "a download, and where it goes",
        {"url": Kind.TEXT, "source": Kind.TEXT, "dest": Kind.PATH, "checkmd5": Kind.TRUTH,
         "sha256": Kind.TEXT},
        ("url", "dest")),
    Row("build", Kind.TABLE, "the image in which the template is built",
        {"image": Kind.TEXT, "repo": Kind.TEXT, "dedupe_ns": Kind.TEXT}),
    Row("build.packages", Kind.LIST, "packages that are installed before it is built", ours=True),
    Row("build.outputs", Kind.LIST, "paths that are the result of a build", ours=True),
    Row("image.component", Kind.TEXT, "the component that builds its image", ours=True),
    Row("image.manifest", Kind.TEXT, "the m.json that builds its image", ours=True),
    Row("asset.service", Kind.TEXT, "the asset that delivers it", ours=True),
    Row("asset.version", Kind.TEXT, "the version of that asset", ours=True),
    Row("asset.store", Kind.TEXT, "the store of that asset", ours=True),
    Row("asset.dest", Kind.PATH, "where what is in that asset lies", ours=True),
    Row("data.dirs", Kind.LIST, "directories with what the service writes", ours=True),
    Row("inputs.ACTION", Kind.LIST, "what decides whether an action that is done runs again", ours=True),
    Row("timeout.ACTION", Kind.DURATION, "how long an action may take", ours=True),
    Row("tries.ACTION", Kind.NUMBER, "how often an action is begun at most", ours=True),
    Row("recurring.ACTION", Kind.DURATION, "how often an action is run while the service is up"),
    Row("hrd.return", Kind.TRUTH, without="what an action sets always comes back"),
    Row("docker.NAME", Kind.ANY, without="nothing read it in AYS any more"),
)  # fmt: skip
"""In the order in which the reference page has them."""

_PARTS = {"N": r"[1-9][0-9]*", "NAME": r"[\w.-]+", "ACTION": r"[a-z_]+"}
_RULES = [
    (re.compile(r"\.".join(_PARTS.get(part) or re.escape(part) for part in row.pattern.split("."))), row)
    for row in KEYS
]


def row_of(key: str) -> Row | None:
    """Return the row of a key, None for one that means nothing."""
    return next((row for rule, row in _RULES if rule.fullmatch(key)), None)


def similar(key: str) -> str:
    """Return a key of the table that a key which is not in it may have meant, "" if none is near. Its
    number is the key's own."""
    from difflib import get_close_matches

    number = re.search(r"\.(\d+)$", key)
    names = {row.pattern for row in KEYS if "NAME" not in row.pattern and "ACTION" not in row.pattern}
    names |= {f"{word}.{action}" for word in ("timeout", "tries", "recurring") for action in ACTIONS}
    shown = {re.sub(r"\bN\b", number[1] if number else "1", name) for name in names}
    found = get_close_matches(key.lower(), sorted(shown), n=1, cutoff=0.8)
    return found[0] if found else ""


_DURATION = re.compile(r"(?=.*[1-9])[0-9]+(\.[0-9]+)?(ms|s|m|min|h|d)?")
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")
_NUMBER = re.compile(r"[0-9]+")


def wrong(kind: Kind, value: Value | Item) -> str:
    """Return what a value of a kind must be, if this one is not; "" if it is, or if a reference in it says
    what it is. A whole-number text is one: HRD has no numbers."""
    if kind is Kind.ANY:
        return ""
    if kind is Kind.LIST:
        # One word alone is a list of one; a dict is none.
        return kind if isinstance(value, dict | bytes) else ""
    if kind is Kind.TABLE:
        return "" if isinstance(value, dict) or value == "" else kind
    if isinstance(value, list) and kind is Kind.PORTS:
        value = ";".join(map(str, value))
    if not isinstance(value, str):
        return kind
    if "$(" in value or value == "" or kind is Kind.TEXT:
        relative = kind is Kind.PATH and value and not value.startswith(("/", "$("))
        return kind if relative else ""
    fits = {
        Kind.PATH: value.startswith("/"),
        Kind.NUMBER: _NUMBER.fullmatch(value) is not None,
        Kind.SECONDS: _SECONDS.fullmatch(value) is not None,
        Kind.DURATION: _DURATION.fullmatch(value) is not None,
        Kind.TRUTH: value.lower() in ("true", "false", "1", "0", "yes", "no"),
        Kind.PORTS: all(
            _NUMBER.fullmatch(port) and 0 < int(port) < 65536 for port in re.split(r"[;,\s]+", value) if port
        ),
    }
    return "" if fits[kind] else kind
