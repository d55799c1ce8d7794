"""Mappings in one file: what is read, what a change leaves as it was, and who waits for one."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from buildstep.assets import mapping, open_assets, open_register
from buildstep.assets.interface import Register, RegisterAccess, RegisterError
from buildstep.errors import UsageError
from buildstep.events import Bus


def register(path: Path | str) -> Register:
    return open_register(f"file:{path}", RegisterAccess(environ={}, bus=Bus()))


@pytest.fixture(params=["mappings.toml", "mappings.json"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / "below" / str(request.param)


def test_add_remove_and_read(path: Path) -> None:
    one = register(path)
    assert one.load("web-*") is None
    assert mapping.add(one, "web-*", ["b", " a", "b,c"]).after == ("a", "b", "c")
    mapping.add(one, 'odd"\\[a]', ["x"])
    assert dict(register(path).read().services) == {'odd"\\[a]': ("x",), "web-*": ("a", "b", "c")}
    done = mapping.remove(one, "web-*", ["b", "nobody"])
    assert (done.after, done.unknown) == (("a", "c"), ("nobody",))
    assert mapping.remove(one, "web-*", ["a", "c"]).after is None
    assert list(one.read().services) == ['odd"\\[a]']
    with pytest.raises(RegisterError, match="no mapping"):
        mapping.remove(one, "web-*", ["a"])
    assert mapping.remove(one, 'odd"\\[a]', []).after is None
    assert one.read().services == {}, "an empty register is one"


def test_a_file_that_is_not_there_is_not_without_mappings(path: Path) -> None:
    with pytest.raises(RegisterError, match="there is no register"):
        register(path).read()


@pytest.mark.parametrize(
    "text",
    [
        "[hosts",
        '[hosts]\nx = "a"\n',
        "[hosts]\nx = [1]\n",
        "[host]\n",
        '[hosts]\nx = ["a"]\nx = ["b"]\n',
        "\x00",
    ],
)
def test_a_file_with_one_wrong_row_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text(text)
    for call in (lambda: register(path).read(), lambda: mapping.add(register(path), "a", ["b"])):
        with pytest.raises(RegisterError, match="cannot be read"):
            call()
    assert path.read_text() == text


def test_names_that_no_service_has_are_told_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text('[hosts]\n"a" = [" web ", "no-name", ""]\n"b" = []\n')
    found = register(path).read()
    assert dict(found.services) == {"a": ("web",), "b": ()}
    assert len(found.faults) == 3, found.faults


def test_d06_a_name_that_no_service_has_can_be_removed(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text('[hosts]\n"a" = ["web", "no-name"]\n"b" = ["no-name"]\n')
    one = register(path)
    assert mapping.add(one, "a", ["web"]).kept == ("'a': 'no-name' is no name of a service",)
    done = mapping.remove(one, "a", ["no-name"])
    assert (done.after, done.unknown, len(done.dropped)) == (("web",), (), 1)
    assert mapping.remove(one, "a", ["no-name"]).unknown == ("no-name",)
    assert mapping.remove(one, "b", ["no-name"]).after is None
    assert one.read().faults == ()


BEFORE = """# who has what

[hosts]
# the web
"web-*" = ["web"]  # since 2014
'x-*' = [
  "x",
]
"""


def test_comments_stay(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text(BEFORE)
    path.chmod(0o640)
    one = register(path)
    mapping.add(one, "db-*", ["db"])
    text = path.read_text()
    assert text == BEFORE.replace("[hosts]\n", '[hosts]\n"db-*" = ["db"]\n')
    mapping.add(one, "web-*", ["app"])
    assert path.read_text() == text.replace('["web"]  # since 2014', '["app", "web"]')
    mapping.remove(one, "web-*", [])
    assert "# the web\n'x-*'" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o640
    mapping.add(one, "x-*", ["y"])
    assert path.read_text() == '[hosts]\n"db-*" = ["db"]\n"x-*" = ["x", "y"]\n', "as no line is this mapping"


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "m.toml"
    link.symlink_to("real/m.toml")
    mapping.add(register(link), "a", ["b"])
    assert link.is_symlink()
    assert (tmp_path / "real/m.toml").exists()


def test_a_folder_is_no_register(tmp_path: Path) -> None:
    with pytest.raises(RegisterError, match="Is a directory"):
        register(tmp_path).read()
    with pytest.raises(UsageError):
        register("")


def _add_hundred(path: str, name: str) -> None:
    one = register(path)
    for number in range(100):
        mapping.add(one, "web-*", [f"{name}{number}"])


def test_d06_two_who_edit_one_file_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    threads = [threading.Thread(target=_add_hundred, args=(str(path), name)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = register(path).read().services
    assert set(found["web-*"]) == {f"{name}{number}" for name in "ab" for number in range(100)}
    assert list(json.loads(path.read_text())["hosts"]["web-*"]) == sorted(found["web-*"])


def test_who_waits_is_told_of_a_change(path: Path) -> None:
    one = register(path)
    mapping.add(one, "a", ["b"])
    index = one.read().index
    began = time.monotonic()
    assert one.wait(index, 0.05).index == index
    assert time.monotonic() - began < 1
    later = threading.Timer(0.1, mapping.add, (one, "a", ["c"]))
    later.start()
    found = one.wait(index, 5)
    later.join()
    assert found.services["a"] == ("b", "c")
    assert found.index != index
    path.touch()
    assert one.read().index == found.index, "the same content is the same reading"
    assert one.wait("", 5).index == found.index, "who knows nothing need not wait"


def test_a_path_alone_is_a_file(tmp_path: Path) -> None:
    one = open_register(f"{tmp_path}/m.toml", RegisterAccess(environ={}, bus=Bus()))
    assert one.url == f"file:{os.path.realpath(tmp_path)}/m.toml"


def test_a_change_keeps_who_may_read_and_write_the_file(path: Path) -> None:
    one = register(path)
    mapping.add(one, "web-*", ["a"])
    path.chmod(0o664)  # more than the umask leaves
    whose = (12345, 12346) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(path, *whose)
    mapping.add(one, "web-*", ["b"])
    info = path.stat()
    assert (info.st_mode & 0o777, info.st_uid, info.st_gid) == (0o664, *whose)


@pytest.mark.parametrize(("folder", "lock"), [(0o755, 0o600), (0o775, 0o660), (0o777, 0o666)])
def test_who_may_replace_the_file_may_lock_it(path: Path, folder: int, lock: int) -> None:
    path.parent.mkdir()
    path.parent.chmod(folder)
    mapping.add(register(path), "web-*", ["a"])
    (found,) = path.parent.glob(".*.lock")
    assert found.stat().st_mode & 0o777 == lock


def test_an_unknown_kind_is_told_without_its_secrets() -> None:
    url = "conzul://user:s3cret@host:8500?token=s3cret"
    with pytest.raises(UsageError, match="'conzul://host:8500'") as caught:
        open_register(url, RegisterAccess(environ={}, bus=Bus()))
    assert "s3cret" not in str(caught.value)
    with pytest.raises(UsageError, match="'conzul://host:8500'"):
        open_assets(url, environ={})
