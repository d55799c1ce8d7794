"""Secrets and caches of `build.run`: what a command is shown, and that none of it is anywhere afterwards."""

from __future__ import annotations

import json
import os
import pwd
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.integration.argv_watch import Watch
from tests.integration.conftest import demand
from tests.integration.ordinary_user import place, user
from tests.integration.pools import location
from tests.integration.support import Lab, host_state, step, write_base
from tests.integration.test_unprivileged import lab_for

__all__ = ["place", "user"]  # fixtures

CANARY = "canary-7Q2x-Zk93/+w="


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demand("root", "namespaces", "busybox", "rsync")
    return write_base(tmp_path_factory.mktemp("base") / "base.tar")


@pytest.fixture
def lab(tmp_path: Path, base: Path) -> Lab:
    return Lab(top=tmp_path, base=base)


def contents(path: str) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isreg()}  # type: ignore[union-attr]


def names(path: str) -> set[str]:
    with tarfile.open(path) as tar:
        return set(tar.getnames())


def holders(lab: Lab, needle: str = CANARY) -> list[str]:
    """Return every file of the pool and of the outputs that has the secret."""
    found = []
    for path in lab.top.rglob("*"):
        regular = path.is_file() and not path.is_symlink() and path.parent.name != "given"
        if regular and needle.encode() in path.read_bytes():
            found.append(str(path))
    return found


def row(name: str, script: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "script": script, **more}


def given(lab: Lab, name: str, text: str) -> str:
    path = lab.top / "given" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return os.fspath(path)


def test_a_secret_is_shown_to_its_command_alone_and_is_nowhere_afterwards(lab: Lab) -> None:
    files = {
        "apt-auth": f"machine deb.example login me password {CANARY}\n",
        "netrc": f"machine example.org login me password {CANARY}\n",
        "npmrc": f"//npm.example/:_authToken={CANARY}\n",
        "pip.conf": f"[global]\nindex-url = https://me:{CANARY}@pypi.example/simple\n",
        "key": f"{CANARY}\n",
    }
    secrets: dict[str, Any] = {name: {"file": given(lab, name, text)} for name, text in files.items()}
    secrets["token"] = {"env": "CI_TOKEN", "variable": "TOKEN"}
    places = "/etc/apt/auth.conf.d/90buildstep.conf /root/.netrc /root/.npmrc /root/.config/pip/pip.conf"
    places += " /run/secrets/key"
    lab.manifest(
        build={
            "secrets": secrets,
            "run": [
                row(
                    "all",
                    f"""
                    for f in {places}; do
                        test "$(stat -c %a "$f")" = 600
                        grep -q canary "$f" && cat "$f" && base64 "$f" && od -An -tx1 "$f" | tr -d ' \\n'
                        sha256sum "$f" >> /opt/sums
                    done
                    echo "$TOKEN"; echo "$TOKEN" | base64
                    test -n "$TOKEN"
                    """,
                    secrets=list(secrets),
                ),
                row(
                    "none", f'for f in {places}; do test ! -e "$f"; done; test -z "$TOKEN"; ls -la /root /etc'
                ),
            ],
        }
    )
    before = host_state(lab.top)
    watch = Watch(lambda: (b"canary-7Q2x",))
    with watch:
        built = lab.built("-f", "tar", "-c", "none", env={"CI_TOKEN": CANARY})
    assert host_state(lab.top) == before
    assert watch.looks > 10
    assert not watch.seen, "in an argv"
    assert holders(lab) == []
    found = contents(built["files"][0]["path"])
    assert len(found["opt/sums"].splitlines()) == 5
    there = names(built["files"][0]["path"])
    assert not {"root/.npmrc", "root/.netrc", "root/.config", "etc/apt"} & there
    log = next(lab.out.glob("*.events.jsonl")).read_text()
    assert "***" in log
    assert CANARY not in json.dumps(built)
    assert lab.leftovers() == []


def test_what_a_failing_command_prints_of_a_secret_is_masked_everywhere(lab: Lab) -> None:
    lab.manifest(
        build={
            "secrets": {"key": {"file": given(lab, "key", f"{CANARY}\n")}},
            "run": [row("bad", "cat /run/secrets/key; cat /run/secrets/key >&2; exit 3", secrets=["key"])],
        }
    )
    done = lab.refused(4, "-f", "tar")
    assert CANARY not in done.stderr + done.stdout
    assert "***" in done.stderr
    assert holders(lab) == []


@pytest.mark.parametrize("copy", ["cp /run/secrets/key /opt/key", "base64 -w0 /run/secrets/key > /opt/b"])
def test_a_command_that_leaves_a_secret_in_the_image_ends_the_build(lab: Lab, copy: str) -> None:
    lab.manifest(
        build={
            "secrets": {"key": {"file": given(lab, "key", f"{CANARY}\n")}},
            "run": [row("bad", copy, secrets=["key"])],
        }
    )
    done = lab.refused(13, "-f", "tar")
    assert "left a secret in the image: /opt/" in done.stderr
    assert holders(lab) == []
    assert lab.leftovers() == []


def test_a_file_of_the_image_in_the_place_of_a_secret_comes_back(lab: Lab) -> None:
    (lab.proto / "root").mkdir(mode=0o700)
    (lab.proto / "root/.npmrc").write_text("public=1\n")
    secret = {"file": given(lab, "npmrc", f"token={CANARY}\n")}
    lab.manifest(
        build={
            "secrets": {"npmrc": secret},
            "run": [
                row(
                    "use",
                    "grep -q token /root/.npmrc; echo x > /root/.npmrc && exit 1; rm /root/.npmrc && exit 1; true",
                    secrets=["npmrc"],
                )
            ],
        }
    )
    built = lab.built("-f", "tar", "-c", "none")
    assert contents(built["files"][0]["path"])["root/.npmrc"] == b"public=1\n"
    assert ".npmrc.buildstep-saved" not in str(names(built["files"][0]["path"]))


def test_another_secret_runs_nothing_again_and_another_place_does(lab: Lab) -> None:
    secret = {"file": given(lab, "key", "first-secret\n")}
    build: dict[str, Any] = {
        "secrets": {"key": secret},
        "run": [row("use", "date +%N > /opt/made", secrets=["key"]), row("after", "true")],
    }
    lab.manifest(build=build)
    lab.built()
    given(lab, "key", "second-secret\n")
    (lab.proto / "etc/hello").chmod(0o600)
    (lab.proto / "etc/hello").chmod(0o644)
    assert step(lab.built("-f", "tar"), "run:use")["state"] == "reuse"
    secret["target"] = "/srv/key"
    lab.manifest(build=build)
    assert step(lab.built(), "run:use")["state"] == "run"


def test_a_cache_stays_for_the_next_build_and_never_ships(lab: Lab) -> None:
    script = "mkdir -p /opt; ls /var/cache/mine > /opt/seen; date > /var/cache/mine/$N; test $N != 3"
    for number, seen in (("1", b""), ("2", b"1\n")):
        lab.manifest(
            build={"run": [row("fill", script, cache=["/var/cache/mine"], env={"N": number})]},
        )
        built = lab.built("-f", "tar", "-c", "none")
        assert contents(built["files"][0]["path"])["opt/seen"] == seen
        assert not {name for name in names(built["files"][0]["path"]) if "mine" in name}
    lab.manifest(build={"run": [row("fill", script, cache=["/var/cache/mine"], env={"N": "3"})]})
    lab.refused(4)
    lab.manifest(build={"run": [row("fill", script, cache=["/var/cache/mine"], env={"N": "4"})]})
    found = contents(lab.built("-f", "tar", "-c", "none")["files"][0]["path"])
    assert found["opt/seen"] == b"1\n2\n3\n", "of a command that failed as well"
    fresh = contents(lab.built("-f", "tar", "-c", "none", "--no-cache")["files"][0]["path"])
    assert fresh["opt/seen"] == b"", "--no-cache uses nothing that is kept"
    assert lab.leftovers() == []


@pytest.mark.parametrize("place", ["link", "file"])
def test_a_cache_is_never_mounted_through_a_link_of_the_image(lab: Lab, place: str) -> None:
    (lab.proto / "srv").mkdir(exist_ok=True)
    if place == "link":
        (lab.proto / "srv/cache").symlink_to("../etc")
    else:
        (lab.proto / "srv/cache").write_text("x")
    lab.manifest(build={"run": [row("fill", "touch /srv/cache/x", cache=["/srv/cache"])]})
    done = lab.refused(13)
    assert "/srv/cache in the image cannot be mounted on" in done.stderr
    assert lab.leftovers() == []


def test_a_link_that_a_command_leaves_in_a_cache_leads_nowhere(lab: Lab) -> None:
    secret = lab.top / "host-file"
    secret.write_text("of the host")
    build = {"run": [row("a", f"ln -s {secret} /srv/c/link; ln -s / /srv/c/root", cache=["/srv/c"])]}
    lab.manifest(build=build)
    lab.built()
    build["run"] = [row("b", "cat /srv/c/link > /opt/x || true; ls /srv/c/root/ > /opt/ls", cache=["/srv/c"])]
    lab.manifest(build=build)
    found = contents(lab.built("-f", "tar", "-c", "none")["files"][0]["path"])
    assert found["opt/x"] == b""
    assert b"opt" in found["opt/ls"]
    assert secret.read_text() == "of the host"


def test_a_secret_that_a_command_leaves_in_a_cache_is_removed(lab: Lab) -> None:
    lab.manifest(
        build={
            "secrets": {"key": {"file": given(lab, "key", f"{CANARY}\n")}},
            "run": [
                row(
                    "use",
                    "cp /run/secrets/key /srv/c/a; echo fine > /srv/c/b",
                    cache=["/srv/c"],
                    secrets=["key"],
                )
            ],
        }
    )
    built = lab.built()
    assert holders(lab) == []
    record = json.loads(Path(built["record"]).read_text())
    assert any("removed from a cache" in note["text"] for note in record["notes"])


def test_a_command_runs_as_another_user_with_its_home(lab: Lab) -> None:
    lab.manifest(
        build={
            "users": [{"name": "app", "uid": 990, "home": "/srv/app"}],
            "owner": {"srv/app": "app:app", "srv/app/**": "app:app", "*": "root:root"},
            "run": [
                row("who", "id > who; echo $HOME $USER >> who; pwd >> who", user="app", workdir="/srv/app"),
                row(
                    "cache", "touch ~/.c/x; ls -ldn ~/.c > ls", user="app", workdir="/srv/app", cache=["~/.c"]
                ),
            ],
        }
    )
    (lab.proto / "srv/app").mkdir(parents=True)
    (lab.proto / "bin").mkdir(exist_ok=True)
    (lab.proto / "bin/su").symlink_to("busybox")
    built = lab.built("-f", "tar", "-c", "none")
    found = contents(built["files"][0]["path"])
    assert found["srv/app/who"].splitlines()[1:] == [b"/srv/app app", b"/srv/app"]
    assert b"uid=990" in found["srv/app/who"]
    assert b"990" in found["srv/app/ls"]
    lab.manifest(
        build={
            "users": [{"name": "app", "uid": 990}],
            "run": [{"name": "no", "argv": ["sh", "-c", "exit 3"], "user": "app"}],
        }
    )
    done = lab.refused(4)
    assert "sh -c 'exit 3': sh exited with status 3" in done.stderr


@pytest.mark.parametrize("order", ["packages-first", "proto-first"])
@pytest.mark.parametrize("kind", ["dir", "dir-reflink", "btrfs", "zfs"])
def test_commands_secrets_and_caches_on_pools_of_other_kinds(
    tmp_path: Path, base: Path, kind: str, order: str
) -> None:
    with location(kind, tmp_path) as where:
        top = tmp_path / "lab" if kind == "zfs" else Path(where) / "lab"
        lab = Lab(top=top, base=base, scheme=kind.partition("-")[0])
        extra = ("--pool", f"zfs:{where}") if kind == "zfs" else ()
        secret = {"file": given(lab, "npmrc", f"token={CANARY}\n")}
        inputs = {"inputs": ["etc/hello"], "secrets": ["npmrc"], "cache": ["/srv/c"]}
        lab.manifest(
            build={
                "order": order,
                "secrets": {"npmrc": secret},
                "run": [
                    row(
                        "one",
                        "grep -q token ~/.npmrc; echo $(cat /etc/hello) > /opt/one; touch /srv/c/x",
                        **inputs,
                    ),
                    row("two", "cat /opt/one > /opt/two; ls /srv/c >> /opt/two", cache=["/srv/c"]),
                ],
            }
        )
        (lab.proto / "etc/other").write_text("1")
        built = lab.built(*extra)
        (lab.proto / "etc/other").write_text("2")
        again = lab.built("-f", "tar", "-c", "none", *extra)
        assert step(again, "run:one")["state"] == ("reuse" if order == "packages-first" else "run")
        assert step(built, "run:two")["state"] == step(again, "run:two")["state"] == "run"
        found = contents(again["files"][0]["path"])
        assert (found["opt/one"], found["opt/two"]) == (b"hello\n", b"hello\nx\n")
        fresh = lab.built("-f", "tar", "-c", "none", "--no-cache", *extra)
        del found["opt/two"]
        assert {
            name: data for name, data in contents(fresh["files"][0]["path"]).items() if name != "opt/two"
        } == found
        third = lab.built(*extra)
        assert {step(third, f"run:{name}")["state"] for name in ("one", "two")} == {"reuse"}
        assert holders(lab) == []


def test_an_ordinary_user_has_secrets_and_caches_too(
    place: Path, base: Path, user: pwd.struct_passwd
) -> None:
    lab = lab_for(place, base, user.pw_uid, user.pw_gid)
    secret = {"file": given(lab, "npmrc", f"token={CANARY}\n")}
    lab.manifest(
        build={
            "secrets": {"npmrc": secret},
            "run": [
                row("one", "grep -q token ~/.npmrc; touch /srv/c/x", secrets=["npmrc"], cache=["/srv/c"]),
                row("two", "ls /srv/c > /opt/two; test ! -e ~/.npmrc", cache=["/srv/c"]),
            ],
        }
    )
    lab.give()
    found = contents(lab.built("-f", "tar", "-c", "none")["files"][0]["path"])
    assert found["opt/two"] == b"x\n"
    assert holders(lab) == []
