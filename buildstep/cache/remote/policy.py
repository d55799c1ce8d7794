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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from buildstep.cache.remote.interface import KINDS, Record, Unusable
from buildstep.errors import Fault, SigningError, SpecError, UsageError
from buildstep.trust import dsse
from buildstep.trust.keys.public import PublicKey, ed25519_key, public_from

FORMAT = 1
_LARGEST = 1 << 20
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
    import tomllib

    try:
        with path.open("rb") as stream:
            text = stream.read(_LARGEST).decode()
        value = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"cannot read the cache policy {path}: {error.strerror}") from error
    except ValueError as error:
        raise SpecError(str(path), [Fault(where="$", message=f"not TOML: {error}")]) from error
    reader = _Reader(path.parent, environ)
    found = reader.policy(value, release=release)
    if reader.faults:
        raise SpecError(str(path), reader.faults)
    return found


_COMMON = {"name", "scopes", "kinds", "until", "release", "file"}
_MEMBERS = {"key": _COMMON | {"public"}, "secret": _COMMON | {"env"}}


class _Reader:
    """Reads a policy and gathers what is wrong with it."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.folder = folder
        self.environ = environ
        self.faults: list[Fault] = []

    def policy(self, value: Mapping[str, Any], *, release: bool) -> Policy:
        if value.get("format") != FORMAT:
            self._wrong("$.format", f"must be {FORMAT}")
        self._known("$", value, {"format", "key", "secret", "unsigned"})
        rules = []
        for table in ("key", "secret"):
            rows = value.get(table, [])
            if not isinstance(rows, list):
                self._wrong(f"$.{table}", f"write [[{table}]]")
                continue
            for number, row in enumerate(rows):
                where = f"$.{table}[{number}]"
                if not self._known(where, row, _MEMBERS[table]):
                    continue
                key = self._public(where, row) if table == "key" else self._secret(where, row)
                rule = self._rule(where, row, str(row.get("name") or ""), key)
                # Without its key, a rule lets nothing count; one whose secret is not set here is no fault.
                rules += [rule] if key else []
        names = [rule.name for rule in rules]
        for name in sorted({name for name in names if name and names.count(name) > 1}):
            self._wrong("$", f"two keys are called {name}")
        unsigned = value.get("unsigned")
        if unsigned is None:
            return Policy(rules=tuple(rules), release=release)
        if not self._known("$.unsigned", unsigned, {"scopes", "kinds", "until", "release"}):
            return Policy(rules=tuple(rules), release=release)
        return Policy(
            rules=tuple(rules), unsigned=self._rule("$.unsigned", unsigned, "unsigned", None), release=release
        )

    def _rule(
        self, where: str, row: Mapping[str, Any], name: str, key: PublicKey | dsse.Secret | None
    ) -> Rule:
        if not name:
            self._wrong(f"{where}.name", "is missing: give the key a name")
        kinds = self._texts(f"{where}.kinds", row.get("kinds", list(KINDS)))
        for kind in kinds:
            if kind not in KINDS:
                self._wrong(f"{where}.kinds", f"{kind!r} is no kind", f"one of {', '.join(KINDS)}")
        release = row.get("release", False)
        if not isinstance(release, bool):
            self._wrong(f"{where}.release", "must be true or false")
        return Rule(
            name=name, key=key, kinds=tuple(kinds), release=bool(release),
            scopes=tuple(self._texts(f"{where}.scopes", row.get("scopes"))),
            until=self._until(f"{where}.until", row.get("until")),
        )  # fmt: skip

    def _until(self, where: str, value: object) -> float:
        if value is None:
            return float("inf")
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, date):
            return datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp() + _DAY
        self._wrong(where, "must be a date, such as 2027-06-30, without quotes")
        return 0.0

    def _texts(self, where: str, value: object) -> Sequence[str]:
        if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
            self._wrong(where, "must be a list of texts that is not empty")
            return ()
        return value

    def _public(self, where: str, row: Mapping[str, Any]) -> PublicKey | None:
        data = self._data(where, row, "public", lambda text: text.encode())
        try:
            return ed25519_key(public_from(data, f"{where}.public"), f"{where}.public") if data else None
        except SigningError as error:
            self._wrong(where, error.message, error.hint)
            return None

    def _secret(self, where: str, row: Mapping[str, Any]) -> dsse.Secret | None:
        data = self._data(where, row, "env", lambda name: self.environ.get(name, "").encode()).strip()
        if 0 < len(data) < _SHORTEST_SECRET:
            self._wrong(where, f"the secret has less than {_SHORTEST_SECRET} bytes")
        return dsse.Secret(str(row.get("name", "")), data) if data else None

    def _data(self, where: str, row: Mapping[str, Any], direct: str, get: Callable[[str], bytes]) -> bytes:
        """Return what one of two members gives: the member `direct`, or `file`."""
        given = [name for name in (direct, "file") if row.get(name)]
        if len(given) != 1 or not isinstance(row[given[0]], str):
            self._wrong(where, f"give one of {direct} and file, as text")
            return b""
        if given[0] == direct:
            return get(row[direct])
        try:
            with (self.folder / row["file"]).open("rb") as stream:
                data: bytes = stream.read(_LARGEST)
                return data
        except OSError as error:
            self._wrong(f"{where}.file", f"cannot read {row['file']}: {error.strerror}")
            return b""

    def _known(self, where: str, value: object, known: set[str]) -> bool:
        """Report members that are not known; false for what is no table."""
        if not isinstance(value, dict):
            self._wrong(where, "must be a table")
            return False
        for name in sorted(value.keys() - known):
            self._wrong(f"{where}.{name}", "is not known", f"one of {', '.join(sorted(known))}")
        return True

    def _wrong(self, where: str, message: str, hint: str = "") -> None:
        self.faults.append(Fault(where=where, message=message, hint=hint))


_DAY = timedelta(days=1).total_seconds()
