"""What `build.checks` and `build.allow` may say: the checks of a finished image, as rules for JSON values.

The tests are in the schema of container-structure-test, 2.0.0, with `listen` besides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from buildstep.errors import Fault
from buildstep.spec.schema import BOOLEAN, Rule, array, at, choice, integer, mapping, record, text

Severity = Literal["fail", "warn", "off"]

RULES: Final[dict[str, Severity]] = {
    "dangling-link": "fail",
    "shebang": "fail",
    "library": "fail",
    "host-path": "fail",
    "secret": "warn",
    "world-writable": "fail",
    "setuid": "fail",
    "capability": "fail",
    "unknown-owner": "warn",
    "budget": "fail",
}
"""The rules that every image is held to, and what a finding leads to where nothing else is said."""

TESTS: Final = ("commandTests", "fileExistenceTests", "fileContentTests", "metadataTest", "goss", "listen")
"""The keys of tests, in the order in which they are done."""

_ON_TREE: Final = frozenset(TESTS) - {"metadataTest"}
_IN_IMAGE: Final = frozenset(("commandTests", "goss", "listen"))

_NAME = text(r"[^\x00-\x1f\x7f]+", say="one line")
_PATH = text(r"/[^\x00]*", say="an absolute path")
_NO_NUL = text(r"[^\x00]*", say="free of NUL", least=0)
_WORD = text(r"[^\x00]+", say="free of NUL")
_WORDS = array(_NO_NUL)
_COMMAND = array(_NO_NUL, least=1)
_PATTERNS = array(text())
_KEY = text(r"[^\x00=]+", say="a name without =")
_VARIABLE = record({"key": _KEY, "value": _NO_NUL, "isRegex": BOOLEAN}, required=["key"])
_LABEL = record({"key": _KEY, "value": _NO_NUL, "isRegex": BOOLEAN}, required=["key", "value"])
_PORT = integer(1, 65535)
_SECONDS = integer(1, 24 * 3600)
_NUMBER = integer(-1, 2**32 - 2)
_BYTES = "[0-9]{1,15}[KMGTkmgt]?(i?[Bb])?"
_GLOB = text(r"[^\x00-\x1f\x7f]+", say="a path or a glob of one line")

_COMMAND_TEST = record(
    {
        "name": _NAME,
        "setup": array(_COMMAND),
        "teardown": array(_COMMAND),
        "command": _WORD,
        "args": _WORDS,
        "envVars": array(record({"key": _KEY, "value": _NO_NUL}, required=["key", "value"])),
        "exitCode": integer(0, 255),
        "expectedOutput": _PATTERNS,
        "excludedOutput": _PATTERNS,
        "expectedError": _PATTERNS,
        "excludedError": _PATTERNS,
        "timeout": _SECONDS,
    },
    required=["name", "command"],
)
_EXISTENCE_TEST = record(
    {
        "name": _NAME,
        "path": _PATH,
        "shouldExist": BOOLEAN,
        "permissions": text(r"[A-Za-z-]{10,12}", say="permissions such as -rw-r--r--"),
        "uid": _NUMBER,
        "gid": _NUMBER,
        "isExecutableBy": choice(["owner", "group", "other", "any"]),
    },
    required=["name", "path"],
)
_CONTENT_TEST = record(
    {"name": _NAME, "path": _PATH, "expectedContents": _PATTERNS, "excludedContents": _PATTERNS},
    required=["name", "path"],
)
_METADATA_TEST = record(
    {
        "envVars": array(_VARIABLE),
        "unboundEnvVars": array(record({"key": _KEY}, required=["key"])),
        "labels": array(_LABEL),
        "entrypoint": _WORDS,
        "cmd": _WORDS,
        "exposedPorts": array(text()),
        "unexposedPorts": array(text()),
        "volumes": array(text()),
        "unmountedVolumes": array(text()),
        "workdir": text(least=0),
        "user": text(least=0),
    }
)
_LISTEN = record(
    {
        "name": _NAME,
        "port": _PORT,
        "path": text(r"/[\x21-\x7e]*", say="a path such as /health"),
        "status": integer(100, 599),
        "body": text(),
        "headers": mapping(
            text(r"[^\x00\r\n]*", say="one line", least=0), keys=text(r"[A-Za-z0-9-]+", say="a header")
        ),
        "timeout": _SECONDS,
        "command": _COMMAND,
        "env": mapping(_NO_NUL, keys=_KEY),
        "user": _WORD,
    },
    required=["port"],
)

ALLOW: Final[Rule] = mapping(array(_GLOB, least=1), keys=choice(RULES))
"""Of `build.allow`: for each rule the paths that it lets pass."""

CHECKS: Final[Rule] = record(
    {
        "rules": mapping(choice(["fail", "warn", "off"]), keys=choice(RULES)),
        "budget": text(_BYTES, say="a number of bytes such as 500K or 10M"),
        "schemaVersion": choice(["2.0.0"]),
        "globalEnvVars": array(record({"key": _KEY, "value": _NO_NUL}, required=["key", "value"])),
        "commandTests": array(_COMMAND_TEST),
        "fileExistenceTests": array(_EXISTENCE_TEST),
        "fileContentTests": array(_CONTENT_TEST),
        "metadataTest": _METADATA_TEST,
        "goss": array(_NAME, unique=True),
        "listen": array(_LISTEN),
    }
)
"""Of `build.checks`."""


def on_tree(checks: Mapping[str, Any]) -> bool:
    """Whether a test looks at the finished tree, which has to be on a disk then."""
    return any(checks.get(name) for name in _ON_TREE)


def in_image(checks: Mapping[str, Any]) -> bool:
    """Whether a test runs programs of the image."""
    return any(checks.get(name) for name in _IN_IMAGE)


_EXPRESSIONS: Final = frozenset(
    (
        "expectedOutput", "excludedOutput", "expectedError", "excludedError", "expectedContents",
        "excludedContents", "body",
    )
)  # fmt: skip


def faults(checks: Mapping[str, Any], where: str, folder: Path) -> Iterator[Fault]:
    """Yield what is wrong with checks beyond their rule: expressions that are none, files of goss that cannot
    be read. folder: their paths are relative to it."""
    for index, name in enumerate(checks.get("goss", ())):
        try:
            _text(folder / name)
        except (OSError, ValueError) as error:
            message = f"{folder / name}: {getattr(error, 'strerror', '') or error}"
            yield Fault(where=at(at(where, "goss"), index), message=message)
    yield from _expressions(checks, where)
    metadata = checks.get("metadataTest", {})
    for key in ("envVars", "labels"):
        for number, row in enumerate(metadata.get(key, ())):
            if row.get("isRegex"):
                yield from _expression(row.get("value", ""), at(at(at(where, "metadataTest"), key), number))


def with_files(checks: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """Return checks with the content of files of goss beside their names, as they are without one."""
    if not checks.get("goss"):
        return checks
    return {**checks, "goss": [{"name": name, "text": _text(folder / name)} for name in checks["goss"]]}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _expressions(value: object, where: str) -> Iterator[Fault]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            if key in _EXPRESSIONS:
                for number, word in enumerate([part] if isinstance(part, str) else part):
                    place = at(where, key)
                    yield from _expression(word, place if isinstance(part, str) else at(place, number))
            else:
                yield from _expressions(part, at(where, key))
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from _expressions(part, at(where, number))


def _expression(word: str, where: str) -> Iterator[Fault]:
    try:
        re.compile(word)
    except re.error as error:
        yield Fault(where=where, message=f"is no regular expression: {error}")
