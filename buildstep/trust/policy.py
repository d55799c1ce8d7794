"""A policy: who may sign what, what has to be proved of which artifacts, and what is let through without.

A TOML file:

    format = 1

    [[key]]
    name = "release"
    public = "ssh-ed25519 AAAA..."     # or PEM, or minisign's; or file = "release.pub", beside the policy
    from = 2026-01-01                  # from the beginning of that day (UTC); from ever if it is left out
    until = 2027-06-30                 # to the end of that day; for ever if it is left out
    may = ["signature", "provenance"]  # what it may sign; all of it if this is left out
    builders = ["https://ci.example.org/*"]   # whose provenance it may sign; of any if this is left out

    [[rule]]                           # the first whose patterns match an artifact is the one that counts
    match = ["docker://registry.example.org/*", "hello-*"]
    keys = ["release"]                 # all keys if it is left out; [] for none
    require = ["signature", "tests"]   # ["signature"] if it is left out
    threshold = 2                      # so many keys must have signed each of it; 1 if it is left out
    builders = ["*", "!https://laptop/*"]     # what provenance may name as its builder; ! forbids
    max_age = "90d"                    # the artifact may be so old, in days (d) or hours (h)

    [[rule]]
    match = ["mmdebstrap:*"]
    require = ["archive"]              # an archive signs its packages: by its own keyring

    [[rule]]
    match = ["docker://docker.io/library/debian*"]
    require = ["pinned"]               # nobody signs it: it is one of these, and no other
    digests = ["sha256:..."]

    [[except]]                         # what is let through although a rule refuses it, or none matches
    match = ["docker://registry.example.org/old/*"]
    digest = "sha256:..."              # of that one alone; may be left out
    reason = "rebuilt next week, TICKET-12"
    until = 2026-12-31

What no rule matches is denied. In patterns * stands for any characters.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from buildstep.errors import SigningError, UsageError
from buildstep.trust.keys.public import PublicKey, public_from
from buildstep.trust.policy_tables import PolicyReader

FORMAT: Final = 1
PROOFS: Final = ("signature", "provenance", "sbom", "tests", "vulnerabilities")
"""What keys sign, and rules may require."""
ARCHIVE: Final = "archive"
"""What a rule may require besides: that an archive of packages vouches for it, by its keyring."""
PINNED: Final = "pinned"
"""And that it is one of the digests that the rule names."""

_REQUIRED: Final = (*PROOFS, ARCHIVE, PINNED)
_UNITS: Final = {"d": 86400, "h": 3600}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrustedKey:
    """A key that a policy names. since, until: seconds since the epoch; may: of `PROOFS`; builders: patterns
    of the builders whose provenance it may sign, None for any."""

    name: str
    public: PublicKey
    since: float = -math.inf
    until: float = math.inf
    may: tuple[str, ...] = PROOFS
    builders: tuple[str, ...] | None = None

    def untimely(self, now: float) -> str:
        """Return why its signatures do not count at a time, empty if they do."""
        if now < self.since:
            return f"the key {self.name} does not count before {day_of(self.since)}"
        if now >= self.until:
            return f"the key {self.name} has expired at the end of {day_of(self.until - 1)}"
        return ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What has to be proved of what it matches. keys: names of those that count; builders: None for any;
    max_age: in seconds; digests: in hex, of which it has to be one where `PINNED` is required."""

    match: tuple[str, ...]
    keys: tuple[str, ...] = ()
    require: tuple[str, ...] = ("signature",)
    threshold: int = 1
    builders: tuple[str, ...] | None = None
    max_age: float = math.inf
    digests: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiver:
    """What is let through, and why. digest: in hex, of that one alone, empty for any; until: seconds since
    the epoch."""

    match: tuple[str, ...]
    reason: str
    until: float
    digest: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Keys, rules and exceptions, in their order. where: it came from, for messages."""

    where: str
    keys: tuple[TrustedKey, ...] = ()
    rules: tuple[Rule, ...] = ()
    exceptions: tuple[Waiver, ...] = ()

    def rule_for(self, names: Sequence[str]) -> Rule | None:
        """Return the first rule that matches one of an artifact's names, None where none does."""
        return next((rule for rule in self.rules if matches(rule.match, names)), None)

    def exception_for(self, names: Sequence[str], digests: frozenset[str], now: float) -> Waiver | None:
        """Return an exception for an artifact: one that counts now before one whose time is over."""
        found = [
            it
            for it in self.exceptions
            if matches(it.match, names) and (not it.digest or it.digest in digests)
        ]
        return max(found, key=lambda it: it.until > now, default=None)

    def requiring(self, more: Sequence[str]) -> Policy:
        """Return a policy whose rules require more besides."""
        rules = [replace(rule, require=tuple(dict.fromkeys((*rule.require, *more)))) for rule in self.rules]
        return replace(self, rules=tuple(rules))

    def with_threshold(self, threshold: int) -> Policy:
        """Return a policy whose rules want so many keys. Raises UsageError where it has fewer."""
        if threshold > len(keys := {key.public.fingerprint for key in self.keys}):
            raise UsageError(f"{threshold} keys cannot have signed it: {len(keys)} are given")
        return replace(self, rules=tuple(replace(rule, threshold=threshold) for rule in self.rules))


def of_keys(publics: Sequence[tuple[str, PublicKey]], require: Sequence[str] = ()) -> Policy:
    """Return the policy that one of these keys must have signed it, whatever it is. publics: each with a
    name."""
    keys = tuple(TrustedKey(name=name, public=public) for name, public in publics)
    rule = Rule(match=("*",), keys=tuple(key.name for key in keys), require=tuple(require) or ("signature",))
    return Policy(where="the keys that were given", keys=keys, rules=(rule,))


def matches(patterns: Sequence[str], names: Sequence[str]) -> bool:
    """Tell whether one of some patterns matches one of some names."""
    plain = [
        re.sub(r"[?[]", r"[\g<0>]", pattern) for pattern in patterns
    ]  # of fnmatch's signs * alone counts
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in plain for name in names)


def allows(patterns: Sequence[str], name: str) -> bool:
    """Tell whether patterns let a name through: one has to match, and none that begins with ! may."""
    forbidden = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")]
    return matches(wanted, [name]) and not matches(forbidden, [name])


def day_of(seconds: float) -> str:
    """Return the day of a time, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def proofs(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the names of proofs in a list such as --require takes, and those that are none."""
    names = [name for text in texts for name in re.split(r"[,\s]+", text) if name]
    return list(dict.fromkeys(names)), [name for name in names if name not in PROOFS]


def load(path: Path) -> Policy:
    """Read a policy. Raises SpecError with every fault, UsageError, ToolMissing without cryptography."""
    reader = _Reader(path, "policy")
    found = reader.policy(reader.load(FORMAT), str(path))
    reader.check()
    return found


_MEMBERS: Final = {
    "key": {"name", "public", "file", "from", "until", "may", "builders"},
    "rule": {"match", "keys", "require", "threshold", "builders", "max_age", "digests"},
    "except": {"match", "digest", "reason", "until"},
}


class _Reader(PolicyReader):
    """Reads a policy."""

    def policy(self, value: Mapping[str, Any], where: str) -> Policy:
        self.known("$", value, {"format", *_MEMBERS})
        keys = [self._key(at, row) for at, row in self.rows(value, "key", _MEMBERS["key"])]
        names = [name for name, _ in keys]
        self.twice(names)
        rules = [self._rule(at, row, names) for at, row in self.rows(value, "rule", _MEMBERS["rule"])]
        exceptions = [self._exception(at, row) for at, row in self.rows(value, "except", _MEMBERS["except"])]
        if not rules and not exceptions:
            self.wrong("$.rule", "is missing: without a rule everything is denied", "write [[rule]]")
        found = tuple(key for _, key in keys if key is not None)
        return Policy(where=where, keys=found, rules=tuple(rules), exceptions=tuple(exceptions))

    def _key(self, where: str, row: Mapping[str, Any]) -> tuple[str, TrustedKey | None]:
        name = self.name(where, row)
        may = self.some(f"{where}.may", row.get("may", list(PROOFS)), PROOFS)
        since, until = self.day(where, row, "from"), self.day(where, row, "until", end=True)
        if since >= until:
            self.wrong(f"{where}.until", "is before from")
        builders = self._builders(where, row)
        public = self._public(where, row)
        if public is None:
            return name, None
        return name, TrustedKey(
            name=name, public=public, since=since, until=until, may=may, builders=builders
        )

    def _rule(self, where: str, row: Mapping[str, Any], names: Sequence[str]) -> Rule:
        keys = self.texts(f"{where}.keys", row.get("keys", list(names)), empty=True)
        for name in keys:
            if name not in names:
                known = f"one of {', '.join(names)}" if names else "there is no [[key]]"
                self.wrong(f"{where}.keys", f"there is no key {name!r}", known)
        require = self.some(f"{where}.require", row.get("require", ["signature"]), _REQUIRED)
        if not keys and not set(require) <= {ARCHIVE, PINNED}:
            self.wrong(f"{where}.keys", "no key can prove what is required", "name one that can")
        builders = self._builders(where, row)
        if builders is not None and "provenance" not in require:
            require += ("provenance",)
        digests = self._digests(f"{where}.digests", row) if "digests" in row else ()
        if ("digests" in row) != (PINNED in require):
            self.wrong(f"{where}.digests", 'go together with require = ["pinned"]')
        threshold = row.get("threshold", 1)
        if type(threshold) is not int or not 1 <= threshold <= max(1, len(set(keys))):
            self.wrong(f"{where}.threshold", f"must be a number from 1 to {max(1, len(set(keys)))}")
            threshold = 1
        return Rule(
            match=self.texts(f"{where}.match", row.get("match")), keys=tuple(keys), require=require,
            threshold=threshold, builders=builders, max_age=self._age(f"{where}.max_age", row.get("max_age")),
            digests=digests,
        )  # fmt: skip

    def _exception(self, where: str, row: Mapping[str, Any]) -> Waiver:
        reason = row.get("reason")
        if not isinstance(reason, str) or not reason.strip():
            self.wrong(f"{where}.reason", "is missing: say why it is let through")
            reason = ""
        digest = self._digests(f"{where}.digest", {"digests": [row["digest"]]}) if "digest" in row else ()
        if "until" not in row:
            self.wrong(f"{where}.until", "is missing: an exception has an end", "such as 2027-06-30")
        return Waiver(
            match=self.texts(f"{where}.match", row.get("match")), reason=reason.strip(),
            until=self.day(where, row, "until", end=True),
            digest="".join(digest),
        )  # fmt: skip

    # -- values

    def _digests(self, where: str, row: Mapping[str, Any]) -> tuple[str, ...]:
        texts = self.texts(where, row["digests"])
        if not all(re.fullmatch("sha256:[0-9a-f]{64}", text) for text in texts):
            self.wrong(where, "must be sha256: and 64 hexadecimal digits")
        return tuple(text.removeprefix("sha256:") for text in texts)

    def _builders(self, where: str, row: Mapping[str, Any]) -> tuple[str, ...] | None:
        if "builders" not in row:
            return None
        found = self.texts(f"{where}.builders", row["builders"])
        if found and all(pattern.startswith("!") for pattern in found):
            self.wrong(f"{where}.builders", "only forbids: no builder is left", 'begin with "*"')
        return found

    def _age(self, where: str, value: object) -> float:
        if value is None:
            return math.inf
        found = re.fullmatch(r"([1-9][0-9]{0,5})([dh])", value) if isinstance(value, str) else None
        if found is None:
            self.wrong(where, 'must be a number and d or h, such as "90d"')
            return math.inf
        return int(found[1]) * _UNITS[found[2]]

    def _public(self, where: str, row: Mapping[str, Any]) -> PublicKey | None:
        at, data = self.data(where, row, "public")
        try:
            return public_from(data, row["file"] if at.endswith(".file") else "it") if data else None
        except SigningError as error:
            self.wrong(at, error.message, error.hint)
            return None
