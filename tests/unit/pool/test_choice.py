"""The one rule by which a command's pool is found."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from buildstep import pool
from buildstep.pool import overlay
from buildstep.pool.layout import MARK
from buildstep.system import location, sealed, userns

Who = Callable[..., dict[str, str]]

LACKS = [("/etc/subuid has no range for ann", "as root: usermod --add-subuids 100000-165535 ann")]


@pytest.fixture
def who(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Who:
    """Be somebody; returns the environment."""

    def become(
        *, uid: int, inside: bool = False, lacks: object = (), overlays: bool = True, mounts: bool = True
    ) -> dict[str, str]:
        monkeypatch.setattr(os, "geteuid", lambda: uid)
        monkeypatch.setattr(userns, "in_user_namespace", lambda: inside)
        monkeypatch.setattr(userns, "lacks", lambda **_: lacks)
        monkeypatch.setattr(userns, "may_mount", lambda: mounts)
        refusal = "" if overlays else "no such device"
        monkeypatch.setattr(overlay.OverlayBackend, "refusal", lambda _path: refusal)
        monkeypatch.setattr(location, "SYSTEM_LOCATION", os.fspath(tmp_path / "system"))
        return {"HOME": os.fspath(tmp_path)}

    return become


def make(path: Path, owners: str | None = None) -> Path:
    path.mkdir(parents=True)
    facts = {"format": 1, "scheme": "dir"} | ({} if owners is None else {"owners": owners})
    sealed.write(path / MARK, facts)
    return path


@pytest.mark.parametrize(
    ("overlays", "there", "name", "why"),
    [
        (True, "", "overlay", "can hold overlays"),
        (False, "", "dir", "overlays do not work on"),
        (False, "overlay-subids", "overlay", "it is there"),
        (True, "dir-subids", "overlay", "can hold overlays"),
    ],
)
def test_a_user_with_subordinate_ids_has_overlays_where_the_kernel_lets_them(
    who: Who, tmp_path: Path, overlays: bool, there: str, name: str, why: str
) -> None:
    location = tmp_path / ".local/share/buildstep"
    if there:
        make(location / there)
    inside = pool.choose(None, who(uid=0, inside=True, overlays=overlays))
    assert (inside.uri, inside.namespace) == (f"{name}:{location}/{name}-subids", False)
    assert inside.why.startswith("this user can be root of a user namespace")
    assert why in inside.why
    assert [row.uri for row in inside.older] == ([f"dir:{location}/{there}"] if there == "dir-subids" else [])


def test_outside_of_the_namespace_the_pool_that_is_there_is_told(who: Who, tmp_path: Path) -> None:
    location = tmp_path / ".local/share/buildstep"
    assert pool.choose(None, who(uid=1000))[::2] == (f"dir:{location}/dir-subids", True)
    make(location / "overlay-subids")
    assert pool.choose(None, who(uid=1000))[::2] == (f"overlay:{location}/overlay-subids", True)


def test_a_user_without_has_a_plain_one_and_is_told_why(who: Who, tmp_path: Path) -> None:
    found = pool.choose(None, who(uid=1000, lacks=LACKS) | {"XDG_DATA_HOME": os.fspath(tmp_path / "data")})
    assert (found.uri, found.namespace) == (f"dir:{tmp_path}/data/buildstep/dir", False)
    assert found.why == "this user has no user namespace: /etc/subuid has no range for ann"


def test_root_that_may_not_mount_is_as_any_user(who: Who, tmp_path: Path) -> None:
    location = tmp_path / ".local/share/buildstep"
    assert pool.choose(None, who(uid=0, mounts=False))[::2] == (f"dir:{location}/dir-subids", True)
    found = pool.choose(None, who(uid=0, mounts=False, lacks=LACKS))
    assert (found.uri, found.namespace) == (f"dir:{location}/dir", False)
    assert pool.choose(f"dir:{tmp_path}/mine", who(uid=0, mounts=False)).namespace
    assert not pool.choose(f"dir:{tmp_path}/mine", who(uid=0, mounts=False, lacks=LACKS)).namespace


@pytest.mark.parametrize(
    ("overlays", "there", "name"),
    [(True, "", "overlay"), (False, "", "dir"), (False, "overlay", "overlay"), (True, "dir", "overlay")],
)
def test_root_has_overlay_where_it_works_or_is(
    who: Who, tmp_path: Path, overlays: bool, there: str, name: str
) -> None:
    if there:
        make(tmp_path / "system" / there)
    found = pool.choose(None, who(uid=0, overlays=overlays))
    assert (found.uri, found.namespace) == (f"{name}:{tmp_path}/system/{name}", False)
    assert [row.uri for row in found.older] == ([f"dir:{tmp_path}/system/dir"] if there == "dir" else [])


@pytest.mark.parametrize(
    ("older", "lacks", "what", "fix"),
    [
        ("dir", (), "was made before this user had subordinate ids", "rm -rf"),
        (
            "dir-subids",
            LACKS,
            "holds files of subordinate ids, and this user has none now",
            "as root: rm -rf",
        ),
    ],
)
def test_a_pool_that_the_rule_gave_before_is_told(
    who: Who, tmp_path: Path, older: str, lacks: object, what: str, fix: str
) -> None:
    path = make(tmp_path / ".local/share/buildstep" / older)
    (row,) = pool.choose(None, who(uid=1000, lacks=lacks)).older
    assert (row.uri, row.what) == (f"dir:{path}", what)
    assert row.fix.endswith(f"{fix} {path}")
    assert pool.choose(f"dir:{tmp_path}/mine", who(uid=1000, lacks=lacks)).older == (), "one was named"


@pytest.mark.parametrize(
    ("owners", "lacks", "namespace"),
    [
        ("recorded", (), False),
        ("real", (), True),
        ("real", LACKS, False),
        (None, (), False),  # of a version that did not write it down
        ("", (), True),  # there is none yet
        ("", LACKS, False),
    ],
)
def test_a_named_pool_is_used_as_it_was_made(
    who: Who, tmp_path: Path, owners: str | None, lacks: object, namespace: bool
) -> None:
    if owners != "":
        make(tmp_path / "pool", owners)
    uri = f"dir:{tmp_path}/pool"
    found = pool.choose(uri, who(uid=1000, lacks=lacks), by="BUILDSTEP_POOL")
    assert found == (uri, "named by BUILDSTEP_POOL", namespace, ())
    assert not pool.choose(uri, who(uid=0)).namespace


def test_only_directories_are_used_from_a_namespace(who: Who) -> None:
    for uri in ("zfs:tank/a", "btrfs:/b", "dir:", "nonsense"):
        assert not pool.choose(uri, who(uid=1000)).namespace, uri
    assert pool.choose("overlay:/c", who(uid=1000)).namespace
    assert not pool.choose("overlay:/c", who(uid=1000, lacks=LACKS)).namespace
