"""Whose records count: every way in which one must not, and the keys of a policy."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from buildstep.cache.remote import envelope, policy
from buildstep.cache.remote.interface import Output, Record, Settings, Unusable, Wanted
from buildstep.cache.remote.names import record_name, shared_key
from buildstep.cache.remote.store import SharedStore
from buildstep.errors import BuildstepError, SpecError, UsageError
from buildstep.events import Bus
from buildstep.trust import dsse

KEY = shared_key("base", {"suite": "bookworm"})
WANTED: Wanted = ("base", KEY)


@dataclass(frozen=True)
class Pair:
    private: Path
    public: str


def pair(folder: Path, name: str) -> Pair:
    """Keys in files, as openssl writes them."""
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    path = folder / f"{name}.pem"
    path.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
    public = key.public_key().public_bytes(s.Encoding.OpenSSH, s.PublicFormat.OpenSSH).decode()
    return Pair(path, public)


@dataclass(frozen=True)
class Team:
    """A store, a builder of main, one of pull requests, and a policy that knows both."""

    folder: Path
    main: Pair
    pr: Pair

    def policy(self, text: str = "") -> Path:
        path = self.folder / "policy.toml"
        path.write_text(
            text
            or f"""
format = 1
[[key]]
name = "main-builder"
public = "{self.main.public}"
scopes = ["main"]
[[key]]
name = "pr-builder"
public = "{self.pr.public}"
scopes = ["pr/*"]
"""
        )
        return path

    def open(self, scope: str = "main", key: Pair | None = None, **settings: object) -> SharedStore:
        given: dict[str, object] = {"policy": settings.get("policy") or self.policy(), **settings}
        return SharedStore.open(
            Settings(url=f"dir:{self.folder}/store", scope=scope, key=key.private if key else None, **given),  # type: ignore[arg-type]
            {},
            Bus(),
        )


@pytest.fixture
def team(tmp_path: Path) -> Team:
    return Team(tmp_path, pair(tmp_path, "main"), pair(tmp_path, "pr"))


def record(data: bytes = b"good") -> Record:
    output = Output(name="layer", digest=hashlib.sha256(data).hexdigest(), size=len(data))
    return Record(kind="base", key=KEY, outputs=(output,), seconds=5)


def test_a_record_signed_by_the_right_key_counts(team: Team) -> None:
    with team.open(key=team.main) as store:
        assert store.put(record(), {"layer": b"good"})
    with team.open() as store:
        assert store.find([WANTED])[WANTED].signer == "main-builder"


def test_an_unsigned_record_does_not_count(team: Team) -> None:
    with team.open() as store:
        store.put(record(), {"layer": b"good"})
        assert store.find([WANTED]) == {}
        assert "nobody has signed it" in store.trouble


def test_a_key_that_nobody_knows_does_not_count(team: Team) -> None:
    with team.open(key=pair(team.folder, "stranger")) as store:
        store.put(record(), {"layer": b"good"})
        assert store.find([WANTED]) == {}
        assert "no key that the policy names has signed it" in store.trouble


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ('scopes = ["main"]\nuntil = 2026-01-01', "main-builder has expired"),
        ('scopes = ["main"]\nkinds = ["packages"]', "main-builder may not sign records of the kind base"),
        ('scopes = ["branch/*"]', "main-builder may not sign in the scope main"),
    ],
)
def test_what_a_key_may_not(team: Team, rule: str, why: str) -> None:
    with team.open(key=team.main) as store:
        assert store.put(record(), {"layer": b"good"})
    text = f'format = 1\n[[key]]\nname = "main-builder"\npublic = "{team.main.public}"\n{rule}\n'
    with team.open(policy=team.policy(text)) as store:
        assert store.find([WANTED]) == {}
        assert why in store.trouble


def test_a_record_of_another_scope_or_key_is_no_record_of_this_one(team: Team) -> None:
    with team.open("pr/7", key=team.pr) as store:
        assert store.put(record(), {"layer": b"good"})
        assert WANTED in store.find([WANTED])
    top = team.folder / "store"
    mine = (top / record_name("pr/7", WANTED)).read_bytes()
    other: Wanted = ("base", "0" * 64)
    for place in (record_name("main", WANTED), record_name("pr/7", other)):
        (top / place).parent.mkdir(parents=True, exist_ok=True)
        (top / place).write_bytes(mine)
    with team.open() as store:
        assert store.find([WANTED]) == {}
        assert "is for pr/7" in store.trouble
    with team.open("pr/7") as store:
        assert store.find([other]) == {}
        assert "is for pr/7 base" in store.trouble


def test_a_pull_request_cannot_influence_main(team: Team) -> None:
    """It may write anything anywhere in the store, before main does, and signs with its own key."""
    evil = record(b"evil")
    for scope in ("main", "pr/7"):
        with team.open(scope, key=team.pr) as store:
            store.put(evil, {"layer": b"evil"})
    with team.open("pr/7") as store:
        assert store.find([WANTED])[WANTED].outputs[0].data == b"evil"
    with team.open() as store:
        assert store.find([WANTED]) == {}
        assert "pr-builder may not sign in the scope main" in store.trouble
    # It has taken the name, and main takes it back.
    with team.open(key=team.main) as store:
        assert store.put(record(), {"layer": b"good"})
    for scope in ("main", "pr/8", "branch/x"):
        with team.open(scope) as store:
            assert store.find([WANTED])[WANTED].outputs[0].data == b"good"
    # A signature of main over something else does not help either.
    path = team.folder / "store" / record_name("main", WANTED)
    value = json.loads(path.read_bytes())
    forged = json.loads(envelope.dumps(evil, "main", []))
    path.chmod(0o644)
    path.write_bytes(json.dumps({**forged, "signatures": value["signatures"]}).encode())
    with team.open() as store:
        assert store.find([WANTED]) == {}
    # Bytes under a digest that are not what the digest says are no influence: see `test_damage`.


def test_releases_may_demand_more(team: Team) -> None:
    text = "".join(
        f'[[key]]\nname = "{name}"\npublic = "{one.public}"\nscopes = ["main"]\nrelease = {flag}\n'
        for name, one, flag in (("main", team.main, "true"), ("other", team.pr, "false"))
    )
    with team.open(key=team.pr, policy=team.policy("format = 1\n" + text)) as store:
        store.put(record(), {"layer": b"good"})
        assert WANTED in store.find([WANTED])
    with team.open(policy=team.policy("format = 1\n" + text), trust="release") as store:
        assert store.find([WANTED]) == {}
        assert "other is not for releases" in store.trouble


def test_unsigned_records_count_where_the_policy_says(team: Team) -> None:
    text = 'format = 1\n[unsigned]\nscopes = ["pr/*"]\n'
    for scope in ("pr/1", "main"):
        with team.open(scope, policy=team.policy(text)) as store:
            store.put(record(), {"layer": b"good"})
            assert bool(store.find([WANTED])) == (scope == "pr/1")


def test_a_secret_of_a_team(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('format = 1\n[[secret]]\nname = "team"\nenv = "TEAM"\nscopes = ["*"]\n')
    settings = Settings(url=f"dir:{tmp_path}/store", policy=path)
    good = {"TEAM": "a secret of the team", "BUILDSTEP_CACHE_SECRET": "a secret of the team"}
    with SharedStore.open(settings, good, Bus()) as store:
        store.put(record(), {"layer": b"good"})
        assert store.find([WANTED])[WANTED].signer == "team"
    for other in ({"TEAM": "another secret of a team"}, {}):
        with SharedStore.open(settings, other, Bus()) as store:
            assert store.find([WANTED]) == {}


def test_a_directory_that_others_can_write_to_needs_a_policy(tmp_path: Path) -> None:
    for mode in (0o700, 0o777):
        top = tmp_path / f"{mode:o}"
        with SharedStore.open(Settings(url=f"dir:{top}"), {}, Bus()) as store:
            store.put(record(), {"layer": b"good"})
        top.chmod(mode)
        with SharedStore.open(Settings(url=f"dir:{top}"), {}, Bus()) as store:
            assert bool(store.find([WANTED])) == (mode == 0o700)


def test_keys_come_from_files_and_variables(team: Team) -> None:
    settings = Settings(url=f"dir:{team.folder}/store", policy=team.policy())
    for number, value in enumerate((str(team.main.private), team.main.private.read_text())):
        key = shared_key("base", {"number": number})
        with SharedStore.open(settings, {"BUILDSTEP_CACHE_KEY": value}, Bus()) as store:
            store.put(replace(record(), key=key), {"layer": b"good"})
            assert ("base", key) in store.find([("base", key)])


def test_every_fault_of_a_policy_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(
        """
colour = "blue"
[[key]]
public = "ssh-rsa AAAA"
scopes = "main"
[[key]]
name = "two"
file = "nowhere.pub"
scopes = ["main"]
kinds = ["bases"]
until = "tomorrow"
release = 1
[[secret]]
name = "short"
env = "SHORT"
scopes = []
[unsigned]
scope = ["main"]
"""
    )
    with pytest.raises(SpecError) as caught:
        policy.load(path, {"SHORT": "abc"})
    told = {fault.where for fault in caught.value.faults}
    assert told == {
        "$.format", "$.colour", "$.key[0]", "$.key[0].name", "$.key[0].scopes", "$.key[1].file", "$.key[1].kinds",
        "$.key[1].until", "$.key[1].release", "$.secret[0]", "$.secret[0].scopes", "$.unsigned.scope",
        "$.unsigned.scopes",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", ["format = ", 'format = 1\nkey = "x"', "format = 1\nkey = [1]", "format = 1\nunsigned = 1"]
)
def test_a_policy_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "policy.toml").write_text(text)
    with pytest.raises(SpecError):
        policy.load(tmp_path / "policy.toml", {})
    with pytest.raises(UsageError):
        policy.load(tmp_path / "nowhere.toml", {})


def test_wrong_settings_are_errors(tmp_path: Path) -> None:
    for wrong in ({"scope": "../x"}, {"trust": "blind"}, {"key": tmp_path / "none"}, {"url": "gopher:x"}):
        given = {"url": f"dir:{tmp_path}/store", **wrong}
        with pytest.raises(BuildstepError):
            SharedStore.open(Settings(**given), {}, Bus())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"outputs": {}}, {"outputs": [{}]}, {"facts": []}, {"seconds": "9"}, {"seconds": -1},
        {"made_at": 1e300}, {"key": "abc"}, {"scope": 5}, {"builder": "x" * 2000}, {"kind": []},
        {"outputs": [{"name": "../x", "digest": "0" * 64, "size": 1, "media": ""}]},
        {"outputs": [{"name": "x", "digest": "0" * 63, "size": 1, "media": ""}]},
        {"outputs": [{"name": "x", "digest": "0" * 64, "size": 1 << 50, "media": ""}]},
        {"outputs": [{"name": "x", "digest": "0" * 64, "size": True, "media": ""}]},
        {"outputs": [{"name": "x", "digest": "0" * 64, "size": 1, "media": "", "data": "eA=="}]},
        {"outputs": [{"name": "x", "digest": "0" * 64, "size": 1, "media": ""}] * 2},
        {"outputs": [{"name": "x", "digest": "0" * 64, "size": 1, "media": "", "parts": "../../etc"}]},
    ],
)  # fmt: skip
def test_a_record_of_another_form_is_refused_even_if_it_is_signed(change: dict[str, object]) -> None:
    secret = dsse.Secret("team", b"a secret of many bytes")
    payload = json.loads(dsse.parse(envelope.dumps(record(), "main", [])).payload)
    data = dsse.seal(envelope.PAYLOAD_TYPE, json.dumps(payload | change).encode(), [secret])
    with pytest.raises(Unusable):
        envelope.record_in(envelope.parse(data), "main", WANTED)


def test_a_record_that_is_too_large_is_not_even_parsed(tmp_path: Path) -> None:
    path = tmp_path / "store" / record_name("main", WANTED)
    path.parent.mkdir(parents=True)
    (tmp_path / "store").chmod(0o700)
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with SharedStore.open(Settings(url=f"dir:{tmp_path}/store"), {}, Bus()) as store:
        assert store.find([WANTED], deadline=2) == {}
        assert "more than" in store.trouble
        assert store.facts.bytes_in < 1 << 20
    assert os.stat(path).st_size == 1 << 40


def test_the_policy_that_the_reference_shows_is_one(tmp_path: Path) -> None:
    page = Path(__file__).parents[4] / "docs/reference/cache-policy.md"
    (tmp_path / "policy.toml").write_text(page.read_text().split("```toml\n")[1].split("```")[0])
    (tmp_path / "branch-builder.pub").write_text(pair(tmp_path, "x").public)
    found = policy.load(tmp_path / "policy.toml", {})
    assert [rule.name for rule in found.rules] == ["main-builder", "branch-builder"]
    assert (found.rules[0].release, found.rules[1].kinds) == (True, ("base", "packages", "layer"))
