"""`build.trust`: what goes beside an image so that others can know what it is, and who made it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from buildstep.errors import Fault
from buildstep.spec.rules import LINE, WORD, is_key_file
from buildstep.spec.schema import BOOLEAN, Rule, array, at, choice, record, text
from buildstep.spec.setting import Setting

SBOMS: Final = ("spdx", "cyclonedx", "spdx3")
SEVERITIES: Final = ("negligible", "low", "medium", "high", "critical")

_DATE = text(r"[0-9]{4}-[01][0-9]-[0-3][0-9]", say="a day such as 2027-01-31")
_AGE = text(r"[0-9]{1,5}[dhm]", say="a time such as 7d, 12h or 30m")
_DIGEST = text(r"[0-9a-f]{64}", say="a SHA-256 in hex")
_EXCEPTION = record(
    {"path": WORD, "digest": _DIGEST, "rule": WORD, "reason": LINE, "until": _DATE}, required=["reason"]
)
_VULNERABILITIES = record(
    {
        "db": WORD,
        "fail": choice(SEVERITIES),
        "fixed_only": BOOLEAN,
        "ignore_unknown": BOOLEAN,
        "eol": BOOLEAN,
        "complete": BOOLEAN,
        "max_age": _AGE,
        "exceptions": WORD,
        "vex": WORD,
    },
    required=["db"],
)
_KEYS = array(WORD, unique=True, least=1)

TRUST: Final[Rule] = record(
    {
        "sbom": array(choice(SBOMS), unique=True) | {"type": ["boolean", "array"]},
        "provenance": choice([True, False, "min", "max"]),
        "key": _KEYS | WORD | {"type": ["string", "array", "null"]},
        "base": WORD,
        "secrets": choice(["fail", "warn", "off"]),
        "allow_secrets": array(_EXCEPTION),
        "secrets_baseline": WORD,
        "vulnerabilities": _VULNERABILITIES,
    }
) | {"type": ["object", "boolean"]}
"""Of the setting `trust`."""

SETTINGS: Final = (
    Setting(
        "trust",
        TRUST,
        "What goes beside the image to prove what it is: true for a bill of materials and provenance, or an"
        " object. sbom: true, or of spdx, cyclonedx and spdx3 those to write; provenance: min (true) or max;"
        " key: what signs, a file, agent, agent:FINGERPRINT, pkcs11:URI or env:NAME, or several; base: the"
        " policy that the base image has to keep; secrets: whether a secret in what the build adds is a"
        " failure or a warning; allow_secrets: those that may be there, each with its reason;"
        " secrets_baseline: a file with those that were there before;"
        " vulnerabilities: db, the directory of the databases, fail: from which severity on, fixed_only,"
        " ignore_unknown, eol, complete, max_age of the databases, and the files exceptions and vex. No byte"
        " of an image depends on it.",
    ),
    Setting(
        "sbom",
        BOOLEAN,
        "Write a bill of materials as SPDX and CycloneDX, or none; `sbom` of `trust` in the file.",
        flag="--sbom/--no-sbom",
        in_file=False,
    ),
    Setting(
        "provenance",
        text() | choice(["min", "max"]),
        "Write provenance; `provenance` of `trust` in the file.",
        flag="--provenance",
        in_file=False,
    ),
    Setting(
        "sign_key",
        _KEYS,
        "The keys that sign: a file, agent, agent:FINGERPRINT, pkcs11:URI or env:NAME; `key` of `trust` in"
        " the file.",
        flag="--sign-key",
        in_file=False,
        commas=False,
    ),
    Setting(
        "base_policy",
        WORD,
        "The policy that the base image has to keep before anything is built on it; `base` of `trust` in the"
        " file.",
        flag="--base-policy",
        in_file=False,
    ),
)
"""Rows of the table of settings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AllowedSecret:
    """A secret that may be in the image. path: a glob, digest: of the file's content; rule: which finding,
    empty for all; until: a day, after which it may no longer be there, empty for always."""

    reason: str
    path: str = ""
    digest: str = ""
    rule: str = ""
    until: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Vulnerabilities:
    """The gate for known vulnerabilities. db: a directory; fail: the least severity that is a failure, None
    where none is; ignore_unknown: whether what has no severity counts for nothing; eol: whether packages
    count that nobody looks after; complete: whether each kind of package needs a database; max_age: how old
    these may be, as it was written; exceptions: a file; vex: a file with statements of others."""

    db: str
    fail: str | None = None
    fixed_only: bool = False
    ignore_unknown: bool = False
    eol: bool = False
    complete: bool = False
    max_age: str = ""
    exceptions: str | None = None
    vex: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Trust:
    """What proves an image, as flags, file and environment have it. Paths are absolute.

    sbom: the formats; provenance: empty for none; keys: what signs, see `trust.keys`; base: the policy for
    the base image; secrets: None where nothing is said.
    """

    sbom: tuple[str, ...] = ()
    provenance: Literal["", "min", "max"] = ""
    keys: tuple[str, ...] = ()
    base: str | None = None
    secrets: Literal["fail", "warn", "off"] | None = None
    allow_secrets: tuple[AllowedSecret, ...] = ()
    secrets_baseline: str | None = None
    vulnerabilities: Vulnerabilities | None = None

    @property
    def writes(self) -> bool:
        """Whether anything goes beside the image."""
        return bool(self.sbom or self.provenance or self.keys or self.vulnerabilities)


class Given(Protocol):
    """What a setting was given as, and where."""

    @property
    def value(self) -> Any: ...
    @property
    def where(self) -> str: ...
    @property
    def origin(self) -> str: ...


def settled(given: Mapping[str, Given], folder: Path, cwd: Path) -> Trust:
    """Return what is asked for. given: the settings that were; folder: of the m.json; cwd: what a path of a
    flag or variable is relative to. Raises nothing: `faults` has found what there is."""
    found, values = given.get("trust"), _values(given)
    place = folder if found is not None and found.origin == "file" else cwd
    rows = tuple(AllowedSecret(**row) for row in values.get("allow_secrets", ()))
    gate, baseline = values.get("vulnerabilities"), values.get("secrets_baseline")
    if gate is not None:
        gate = Vulnerabilities(**{key: _placed(key, part, place) for key, part in gate.items()})
    trust = Trust(
        sbom=_sboms(values.get("sbom", False)),
        provenance=_detail(values.get("provenance", False)),
        keys=tuple(_key(word, place) for word in _words(values.get("key"))),
        base=_placed("base", values["base"], place) if "base" in values else None,
        secrets=values.get("secrets"),
        allow_secrets=rows,
        secrets_baseline=_placed("base", baseline, place) if baseline else None,
        vulnerabilities=gate,
    )
    return _with_flags(trust, given, cwd)


def _with_flags(trust: Trust, given: Mapping[str, Given], cwd: Path) -> Trust:
    """Return it with what flags say, and what variables say where the file does not."""
    named = _values(given)

    def value(name: str, key: str) -> Any:
        found = given.get(name)
        return None if found is None or (found.origin == "environment" and key in named) else found.value

    sbom, keys, base = value("sbom", "sbom"), value("sign_key", "key"), value("base_policy", "base")
    return replace(
        trust,
        sbom=trust.sbom if sbom is None else (trust.sbom or SBOMS[:2]) if sbom else (),
        provenance=value("provenance", "provenance") or trust.provenance,
        keys=trust.keys if keys is None else tuple(_key(word, cwd) for word in keys),
        base=trust.base if base is None else _absolute(base, cwd),
    )


def _values(given: Mapping[str, Given]) -> Mapping[str, Any]:
    found = given.get("trust")
    value = found.value if found is not None else {}
    if isinstance(value, bool):
        return {"sbom": True, "provenance": True} if value else {}
    return dict(value)


def _sboms(value: Any) -> tuple[str, ...]:
    return (SBOMS[:2] if value else ()) if isinstance(value, bool) else tuple(value)


def _detail(value: Any) -> Any:
    return ("min" if value else "") if isinstance(value, bool) else value


def _words(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _key(word: str, place: Path) -> str:
    return _absolute(word, place) if is_key_file(word) else word


def _placed(name: str, value: Any, place: Path) -> Any:
    return _absolute(value, place) if name in ("db", "exceptions", "vex", "base") else value


def _absolute(path: str, place: Path) -> str:
    return os.path.abspath(place / os.path.expanduser(path))


def faults(given: Mapping[str, Given], folder: Path, cwd: Path) -> Iterator[Fault]:
    """Yield what is wrong with settings that keep their rules: files that are not there, and exceptions that
    name nothing."""
    found, values = given.get("trust"), _values(given)
    if found is not None:
        place = folder if found.origin == "file" else cwd
        keys = values.get("key")
        for number, word in enumerate(_words(keys)):
            where = at(found.where, "key")
            yield from _no_file(word, where if isinstance(keys, str) else at(where, number), place)
        for name in ("base", "secrets_baseline"):
            if name in values:
                yield from _no_file(values[name], at(found.where, name), place)
        gate = values.get("vulnerabilities", {})
        for name in ("exceptions", "vex"):
            if name in gate:
                yield from _no_file(gate[name], at(at(found.where, "vulnerabilities"), name), place)
        for number, row in enumerate(values.get("allow_secrets", ())):
            if ("path" in row) == ("digest" in row):
                where = at(at(found.where, "allow_secrets"), number)
                yield Fault(where=where, message="names a path or a digest, one of them")
    if key := given.get("sign_key"):
        for word in key.value:
            yield from _no_file(word, key.where, cwd)
    if policy := given.get("base_policy"):
        yield from _no_file(policy.value, policy.where, cwd)


def _no_file(word: str, where: str, place: Path) -> Iterator[Fault]:
    if is_key_file(word) and not os.path.isfile(path := _absolute(word, place)):
        yield Fault(where=where, message=f"{path} is not a file")
