"""The policy of a shared cache: which keys may sign records of which kinds, in which scopes, until when.

A TOML file:

    format = 1

    [[key]]                            # an Ed25519 key; any number of them
    name = "main-builder"
    public = "ssh-ed25519 AAAA..."     # or file = "main-builder.pub", beside the policy; or PEM
    scopes = ["main"]                  # patterns: * stands for any characters
    kinds = ["base", "packages"]       # all of them if it is left out
    until = 2027-06-30                 # counts to the end of that day (UTC); for ever if it is left out
    release = true                     # counts with `trust = "release"` too

    [[secret]]                         # an HMAC secret, for a team that trusts each of its members
    name = "team"
    env = "TEAM_CACHE_SECRET"          # a variable, or file = "..."
    scopes = ["*"]

    [unsigned]                         # records that nobody signed; without this table none counts
    scopes = ["pr/*"]
"""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildstep.cache.remote.interface import KINDS, Record, Unusable
from buildstep.errors import SigningError
from buildstep.trust import dsse
from buildstep.trust.keys.public import PublicKey, ed25519_key, public_from
from buildstep.trust.policy_tables import PolicyReader

FORMAT = 1
_SHORTEST_SECRET = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What a key may sign. key: None for records that nobody signed; until: seconds since the epoch."""

    name: str
    scopes: tuple[str, ...]
    kinds: tuple[str, ...] = KINDS
    until: float = float("inf")
    release: bool = False
    key: PublicKey | dsse.Secret | None = field(default=None, repr=False)

    def against(self, record: Record, now: float, *, release: bool) -> str:
        """Return why this rule does not let a record count, empty if it does."""
        if not any(fnmatch.fnmatchcase(record.scope, pattern) for pattern in self.scopes):
            return f"may not sign in the scope {record.scope}"
        if record.kind not in self.kinds:
            return f"may not sign records of the kind {record.kind}"
        if now > self.until:
            return "has expired"
        if release and not self.release:
            return "is not for releases"
        return ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """The rules. release: only those that are marked for releases count."""

    rules: tuple[Rule, ...] = ()
    unsigned: Rule | None = None
    release: bool = False

    def signer_of(self, envelope: dsse.Envelope, record: Record, *, now: float | None = None) -> str:
        """Return the name of the key by which a record counts, empty if it counts unsigned.

        Raises Unusable, with the reason, where it does not count.
        """
        now = time.time() if now is None else now
        refused = []
        for rule in self.rules:
            assert rule.key is not None
            if envelope.signed_by(rule.key.verify):
                if not (why := rule.against(record, now, release=self.release)):
                    return rule.name
                refused.append(f"{rule.name} {why}")
        if self.unsigned and not self.unsigned.against(record, now, release=self.release):
            return ""
        if refused:
            raise Unusable(f"the record does not count: its key {'; '.join(refused)}")
        if envelope.signatures:
            raise Unusable("the record does not count: no key that the policy names has signed it")
        raise Unusable("the record does not count: nobody has signed it")


OWN_DIRECTORY = Policy(unsigned=Rule(name="", scopes=("*",), release=True))
"""For a directory that only its owner can write to: whoever could forge a record could do worse there."""


def load(path: Path, environ: Mapping[str, str], *, release: bool = False) -> Policy:
    """Read a policy. Raises SpecError with every fault, UsageError, ToolMissing without cryptography."""
    reader = _Reader(path, environ)
    found = reader.policy(reader.load(FORMAT), release=release)
    reader.check()
    return found


_COMMON = {"name", "scopes", "kinds", "until", "release", "file"}
_MEMBERS = {"key": _COMMON | {"public"}, "secret": _COMMON | {"env"}}


class _Reader(PolicyReader):
    """Reads a policy."""

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        super().__init__(path, "cache policy")
        self.environ = environ

    def policy(self, value: Mapping[str, Any], *, release: bool) -> Policy:
        self.known("$", value, {"format", "key", "secret", "unsigned"})
        rules = []
        for table, members in _MEMBERS.items():
            for where, row in self.rows(value, table, members):
                key = self._public(where, row) if table == "key" else self._secret(where, row)
                rule = self._rule(where, row, self.name(where, row), key)
                # Without its key, a rule lets nothing count; one whose secret is not set here is no fault.
                rules += [rule] if key else []
        self.twice([rule.name for rule in rules])
        unsigned = value.get("unsigned")
        if unsigned is None or not self.known("$.unsigned", unsigned, _COMMON - {"name", "file"}):
            return Policy(rules=tuple(rules), release=release)
        return Policy(
            rules=tuple(rules), unsigned=self._rule("$.unsigned", unsigned, "unsigned", None), release=release
        )

    def _rule(
        self, where: str, row: Mapping[str, Any], name: str, key: PublicKey | dsse.Secret | None
    ) -> Rule:
        release = row.get("release", False)
        if not isinstance(release, bool):
            self.wrong(f"{where}.release", "must be true or false")
        return Rule(
            name=name, key=key, release=bool(release),
            kinds=self.some(f"{where}.kinds", row.get("kinds", list(KINDS)), KINDS),
            scopes=self.texts(f"{where}.scopes", row.get("scopes")),
            until=self.day(where, row, "until", end=True),
        )  # fmt: skip

    def _public(self, where: str, row: Mapping[str, Any]) -> PublicKey | None:
        at, data = self.data(where, row, "public")
        try:
            return ed25519_key(public_from(data, at), at) if data else None
        except SigningError as error:
            self.wrong(where, error.message, error.hint)
            return None

    def _secret(self, where: str, row: Mapping[str, Any]) -> dsse.Secret | None:
        _, data = self.data(where, row, "env", lambda name: self.environ.get(name, "").encode())
        data = data.strip()
        if 0 < len(data) < _SHORTEST_SECRET:
            self.wrong(where, f"the secret has less than {_SHORTEST_SECRET} bytes")
        return dsse.Secret(str(row.get("name", "")), data) if data else None
