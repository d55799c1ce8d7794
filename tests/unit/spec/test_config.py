"""buildstep.toml and the environment: which place wins, and every fault with its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import SpecError
from buildstep.spec.config import DEFAULT_REPOSITORIES, Config, SourceConfig, load
from buildstep.spec.fields import Limits


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / name for name in ("project", "user", "system")}
    (found["user"] / "buildstep").mkdir(parents=True)
    for name in ("project/deep/er", "system"):
        (tmp_path / name).mkdir(parents=True)
    return found


def read(
    places: dict[str, Path], *, cwd: str = "deep/er", flags: dict[str, Any] | None = None, **env: str
) -> Config:
    environ = {"XDG_CONFIG_HOME": str(places["user"]), **env}
    system = places["system"] / "buildstep.toml"
    return load(environ, places["project"] / cwd, system=system, **(flags or {}))


def test_nothing_at_all(places: dict[str, Path]) -> None:
    found = read(places)
    assert [source.url for source in found.sources] == list(DEFAULT_REPOSITORIES)
    assert found.pool is None


def test_a_file_names_the_same_pool_wherever_a_command_runs(places: dict[str, Path]) -> None:
    project = places["project"]
    (project / "buildstep.toml").write_text('pool = "dir:pool"\n')
    for cwd in ("", "deep", "deep/er"):
        assert read(places, cwd=cwd).pool == f"dir:{project}/pool"
    assert read(places, flags={"pool": "dir:x"}).pool == f"dir:{project}/deep/er/x"
    assert read(places, flags={"pool": "zfs:tank/a"}).pool == "zfs:tank/a"


def test_the_order_of_places(places: dict[str, Path]) -> None:
    files = {
        "project": places["project"] / "buildstep.toml",
        "user": places["user"] / "buildstep/buildstep.toml",
        "system": places["system"] / "buildstep.toml",
    }
    for name, path in files.items():
        path.write_text(f'pool = "dir:/{name}"\n')
    env: dict[str, Any] = {"BUILDSTEP_POOL": "dir:/environment"}
    assert read(places, flags={"pool": "dir:/flag"}, **env).pool == "dir:/flag"
    for name, path in files.items():
        found = read(places, **env)
        assert (found.pool, found.pool_from) == (f"dir:/{name}", str(path))
        path.unlink()
    found = read(places, **env)
    assert (found.pool, found.pool_from) == ("dir:/environment", "BUILDSTEP_POOL")
    assert read(places, BUILDSTEP_POOL="").pool is None


def test_lists_are_taken_whole_and_tables_merged(places: dict[str, Path]) -> None:
    (places["project"] / "buildstep.toml").write_text(
        'sources = ["dir:images", {url = "https://a.example", channel = "dev", insecure = true, label = "A"}]\n'
        '[publish]\nrelease = "docker://h.example/n"\n[http]\nidle = 3\n[limits]\npids = 50\n'
    )
    (places["user"] / "buildstep/buildstep.toml").write_text(
        'sources = ["https://mine.example"]\ninsecure_registries = ["r:5000"]\n'
        '[publish.release]\ntarget = "dir:/x"\n[publish.mine]\ntarget = "s3://b"\nendpoint = "http://s3"\n'
        "[http]\nidle = 9\nconnect = 4.5\n[cache]\nimages_days = 3\n[limits]\npids = 7\noutput = 0\n"
    )
    found = read(places, BUILDSTEP_HTTP="attempts=2, idle=1")
    assert found.sources == (
        SourceConfig(url=f"dir:{places['project']}/images"),
        SourceConfig(url="https://a.example", channel="dev", insecure=True, label="A"),
    )
    assert found.targets["release"].target == "docker://h.example/n"
    assert found.targets["mine"].endpoint == "http://s3"
    assert found.http == {"idle": 3, "connect": 4.5, "attempts": 2}
    assert found.images_days == 3
    assert found.limits == Limits(pids=50, output=0)
    assert found.environ({"X": "1"}) == {
        "X": "1", "BUILDSTEP_INSECURE_REGISTRIES": "r:5000", "BUILDSTEP_NETWORK_ALLOW": "",
    }  # fmt: skip


def test_what_a_target_requires(places: dict[str, Path]) -> None:
    """Files are relative to the file that names them; keys that are in none are named as they are."""
    (places["project"] / "buildstep.toml").write_text(
        '[publish.release]\ntarget = "docker://h.example/n"\nrequire = ["tests", "signature"]\n'
        'policy = "policy.toml"\nsign_key = ["agent", "pkcs11:token=x", "keys/release.key"]\n'
        '[publish.other]\ntarget = "dir:/x"\nsign_key = "/k"\n'
    )
    found = read(places).targets["release"]
    assert found.require == ("tests", "signature")
    assert found.policy == f"{places['project']}/policy.toml"
    assert found.sign_key == ("agent", "pkcs11:token=x", f"{places['project']}/keys/release.key")
    assert read(places).targets["other"].sign_key == ("/k",)


def test_variables(places: dict[str, Path]) -> None:
    found = read(
        places, BUILDSTEP_SOURCES="https://a.example?channel=dev, dir:rel s3://b/p", BUILDSTEP_IMAGES_DAYS="7"
    )
    assert [s.url for s in found.sources] == [
        "https://a.example?channel=dev", f"dir:{places['project']}/deep/er/rel", "s3://b/p",
    ]  # fmt: skip
    assert found.images_days == 7
    assert read(places, BUILDSTEP_SOURCES="none").sources == ()
    assert read(places, flags={"sources": ["dir:/x"]}, BUILDSTEP_SOURCES="none").sources[0].url == "dir:/x"


def test_a_scheme_may_be_in_capitals(places: dict[str, Path]) -> None:
    (places["project"] / "buildstep.toml").write_text(
        'sources = ["HTTPS://a.example"]\n'
        '[publish]\na = "Https://a.example"\n[publish.b]\ntarget = "s3://b"\nendpoint = "HTTP://s3"\n'
    )
    found = read(places)
    assert found.sources == (SourceConfig(url="HTTPS://a.example"),)
    assert [found.targets[name].target for name in "ab"] == ["Https://a.example", "s3://b"]


def test_every_fault_of_every_place(places: dict[str, Path]) -> None:
    project, user = places["project"] / "buildstep.toml", places["user"] / "buildstep/buildstep.toml"
    project.write_text(
        'pool = 7\nsource = []\nsources = [{url = "https://u:secret@h.example"}, {ur = "x"}, "ftp://x"]\n'
        '[publish.a]\ntarget = "docker://h/n"\nrepalce = true\n[http]\nmin_rate = 0\n'
    )
    user.write_text("pool = [\n")
    with pytest.raises(SpecError) as caught:
        read(places, BUILDSTEP_HTTP="idle=soon", BUILDSTEP_IMAGES_DAYS="-1", BUILDSTEP_SOURCES="gopher://x")
    places_ = [fault.where for fault in caught.value.faults]
    assert sorted(places_) == sorted(
        [
            *(
                f"{project}: {path}"
                for path in (
                    "$.pool",
                    "$.source",
                    "$.sources[0].url",
                    "$.sources[1].url",
                    "$.sources[1].ur",
                    "$.sources[2]",
                    "$.publish.a.repalce",
                    "$.http.min_rate",
                )
            ),
            str(user),
            "BUILDSTEP_HTTP: $.http.idle",
            "BUILDSTEP_IMAGES_DAYS: $.cache.images_days",
            "BUILDSTEP_SOURCES: $.sources[0]",
        ]
    )
    assert 'did you mean "sources"?' in caught.value.detail
    assert 'did you mean "replace"?' in caught.value.detail


def test_what_commands_may_reach_has_a_port_that_there_is(places: dict[str, Path]) -> None:
    good = "mirror.example:1,127.0.0.1:3142,[::1]:65535,h:59999"
    assert read(places, BUILDSTEP_NETWORK_ALLOW=good).network_allow == tuple(good.split(","))
    with pytest.raises(SpecError) as caught:
        read(places, BUILDSTEP_NETWORK_ALLOW="h:0,h:65535,h:65536,h:99999,nonsense")
    assert [fault.where for fault in caught.value.faults] == [
        f"BUILDSTEP_NETWORK_ALLOW: $.network.allow[{number}]" for number in (0, 2, 3, 4)
    ]


def test_a_file_that_anybody_may_have_put_there(places: dict[str, Path]) -> None:
    (places["project"] / "buildstep.toml").write_text('pool = "dir:/evil"\n')
    places["project"].chmod(0o1777)
    assert read(places).pool is None


def test_assets_and_consul(places: dict[str, Path]) -> None:
    project, user = places["project"], places["user"]
    (project / "buildstep.toml").write_text(
        '[assets]\nregister = "file:m.toml"\nkey = "k.pem"\ntrusted = ["a.pem"]\n[consul]\nca_file = "ca.pem"\n'
    )
    (user / "buildstep/buildstep.toml").write_text(
        '[assets]\nstore = "assets"\nregister = "consul://x:1"\ncompat = true\n[consul]\ndatacenter = "d"\n'
    )
    found = read(
        places, BUILDSTEP_KEEP="3", BUILDSTEP_COMPAT="no", BUILDSTEP_HYPHENS="1", BUILDSTEP_INSTALL_DIR="in"
    ).assets
    assert found.store == f"dir:{user}/buildstep/assets"
    assert (found.register, found.key, found.trusted) == (
        f"file:{project}/m.toml", f"{project}/k.pem", (f"{project}/a.pem",),
    )  # fmt: skip
    assert (found.keep, found.compat, found.hyphens) == (3, True, True)
    assert found.install_dir == f"{project}/deep/er/in"
    assert found.consul == {"ca_file": f"{project}/ca.pem", "datacenter": "d"}
    many = read(places, BUILDSTEP_TRUSTED_KEYS="x:/y").assets
    assert many.trusted == (f"{project}/a.pem",), "the file wins"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BUILDSTEP_KEEP", "many"), ("BUILDSTEP_COMPAT", "perhaps"), ("BUILDSTEP_REGISTER", "etcd://x"),
        ("BUILDSTEP_REGISTER", "consul://token@x:1"), ("BUILDSTEP_HOST", "a/b"), ("BUILDSTEP_ASSETS", "s3://u:p@x"),
    ],
)  # fmt: skip
def test_assets_of_variables_are_checked(places: dict[str, Path], name: str, value: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(places, flags={}, **{name: value})
    assert name in caught.value.detail


def test_policies_for_bases_of_all_places_count(places: dict[str, Path]) -> None:
    project, user, system = places["project"], places["user"], places["system"]
    (project / "buildstep.toml").write_text('[trust]\nbase = "policy.toml"\n')
    (user / "buildstep/buildstep.toml").write_text('[trust]\nbase = "ours.toml"\n')
    (system / "buildstep.toml").write_text('[trust]\nbase = "/srv/policy.toml"\n')
    assert read(places).base_policies == (
        f"{project}/policy.toml", f"{user}/buildstep/ours.toml", "/srv/policy.toml",
    )  # fmt: skip
