"""Stores by ssh, with a stand-in for ssh that runs the command here: addresses, scripts, errors, repeated calls."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from buildstep.errors import StoreError, UsageError
from buildstep.files import open_storage, ssh_scripts
from buildstep.files.interface import ReadOnly
from buildstep.files.ssh import Ssh
from buildstep.files.ssh_link import Target
from buildstep.net.request import HttpOptions
from tests.servers.fixtures import Notes, bus

__all__ = ["bus"]

pytestmark = pytest.mark.commands

SSH = """#!/bin/sh
here=HERE
while [ $# -gt 0 ]; do
  case $1 in
    -O) exit 0 ;;
    -o|-p|-F|-l) shift 2 ;;
    --) shift; break ;;
    -*) shift ;;
    *) break ;;
  esac
done
shift
[ "$*" = : ] || echo "$*" | head -c 300 | tr '\\n' ' ' >>$here/calls; echo >>$here/calls
if [ -s $here/fail ]; then
  sed 1d $here/fail >$here/fail.new
  said=$(head -n 1 $here/fail)
  mv $here/fail.new $here/fail
  case $said in lost*) sh -c "$*" >/dev/null ;; esac
  [ "$said" = ok ] || { echo "$said" >&2; exit 255; }
fi
[ ! -d $here/tools ] || PATH=$here/tools
exec /bin/sh -c "$*"
"""


class Host:
    """The other side. Its store is in a directory whose name needs quoting."""

    def __init__(self, top: Path, bus: Notes) -> None:
        self.here = top / "host"
        self.here.mkdir()
        self.bin = top / "bin"
        self.bin.mkdir()
        (self.bin / "ssh").write_text(SSH.replace("HERE", os.fspath(self.here)))
        (self.bin / "ssh").chmod(0o755)
        self.root = top / "it's a store"
        storage = open_storage(
            f"ssh://me@host:2222{self.root}",
            environ={},
            bus=bus,
            http=HttpOptions(attempts=3, backoff=0.001, response=20),
        )
        assert isinstance(storage, Ssh)
        self.storage = storage

    def fail(self, *said: str) -> None:
        """Let the next calls fail, each with these words of ssh."""
        (self.here / "fail").write_text("".join(f"{text}\n" for text in said))

    def calls(self) -> int:
        return len([line for line in (self.here / "calls").read_text().splitlines() if line])

    def only_tools(self, *, without: str, **scripts: str) -> None:
        """Leave only the tools of POSIX and a few more on the PATH of the host."""
        tools = self.here / "tools"
        tools.mkdir()
        names = "sh cat wc rm mkdir ls find chmod sync ln dirname mv date rmdir sleep sha256sum cut tail head stat tr"
        for name in {*names.split(), "flock"} - {without} - scripts.keys():
            (tools / name).symlink_to(shutil.which(name) or pytest.fail(name))
        for name, text in scripts.items():
            (tools / name).write_text(f"#!/bin/sh\n{text}\n")
            (tools / name).chmod(0o755)


@pytest.fixture
def host(tmp_path: Path, bus: Notes, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return Host(tmp_path, bus)


@pytest.mark.parametrize(
    ("url", "target", "shown"),
    [
        ("ssh://host/srv/store", Target("host", "/srv/store"), ""),
        ("ssh://me@host:22/srv/store/", Target("host", "/srv/store", "me", 22), "ssh://me@host:22/srv/store"),
        ("ssh://host/~/store", Target("host", "./store"), ""),
        ("ssh://[::1]:22/s", Target("::1", "/s", "", 22), ""),
        ("ssh://host/with%20space", Target("host", "/with space"), "ssh://host/with space"),
    ],
)
def test_addresses(url: str, target: Target, shown: str) -> None:
    assert Target.parse(url) == target
    assert target.url == (shown or url)


@pytest.mark.parametrize(
    "url",
    [
        "ssh://host", "ssh://host/", "ssh:///x", "ssh://-oProxyCommand=x/s", "ssh://-l@host/s", "ssh://me:pw@host/s",
        "ssh://host/a/../b", "ssh://host:port/s", "ssh://host/s?x", "ssh://host/a%0Ab",
    ],
)  # fmt: skip
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        Target.parse(url)
    assert "pw" not in str(caught.value)
    assert caught.value.hint


def test_how_rsync_takes_an_address() -> None:
    assert Target("::1", "/s", "me").rsync_path("a/b") == "me@[::1]:/s/a/b"
    assert Target("host", "./s").rsync_path("a") == "host:./s/a"


def test_small_and_large_blobs(host: Host, tmp_path: Path) -> None:
    large = os.urandom((1 << 20) + 7)
    assert host.storage.write("objects/aa/small", b"x")
    assert not host.storage.write("objects/aa/small", b"y")
    assert host.storage.write("objects/aa/large", large)
    assert not host.storage.write("objects/aa/large", b"y")
    assert host.storage.read("objects/aa/small") == b"x"
    assert host.storage.read("objects/aa/large", 5, 100) == large[5:105]
    host.storage.fetch("objects/aa/large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == large
    assert {item.name for item in host.storage.list("")} == {"objects/aa/small", "objects/aa/large"}
    assert sorted(os.listdir(host.root / "tmp/ssh")) == []
    assert oct(host.root.stat().st_mode & 0o777) == "0o700"
    assert oct((host.root / "objects/aa/large").stat().st_mode & 0o777) == "0o444"


def test_fewer_bytes_than_were_sent_are_no_blob(host: Host) -> None:
    for script, name in ((ssh_scripts.WRITE, "objects/aa/x"), (ssh_scripts.SWAP, "refs/x")):
        status, _ = host.storage._link.call(
            script, os.fspath(host.root), name, "10", "", "set", data=b"short", ok=ssh_scripts.STATUSES
        )
        assert status == ssh_scripts.CUT_SHORT
        assert not (host.root / name).exists()
    assert os.listdir(host.root / "tmp/ssh") == []


def test_a_broken_connection_is_tried_again(host: Host, bus: Notes) -> None:
    host.storage.write("a", b"1")
    host.fail("Connection reset by peer", "kex_exchange_identification: closed")
    assert host.storage.read("a") == b"1"
    assert len(bus.texts) == 2
    before = host.calls()
    host.fail(*["Connection refused"] * 3)
    with pytest.raises(StoreError, match="Connection refused") as caught:
        host.storage.read("a")
    assert host.calls() == before + 3
    assert caught.value.retryable
    assert "is the host up" in caught.value.hint
    assert "ssh://me@host:2222" in caught.value.message


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("Host key verification failed.", "known_hosts"),
        ("me@host: Permission denied (publickey).", "ssh-agent"),
        ("ssh: Could not resolve hostname host: Name or service not known", "name"),
    ],
)
def test_what_another_try_would_meet_too_is_not_tried_again(host: Host, said: str, hint: str) -> None:
    host.storage.write("a", b"1")
    before = host.calls()
    host.fail(said)
    with pytest.raises(StoreError, match=said[:20]) as caught:
        host.storage.read("a")
    assert hint in caught.value.hint
    assert host.calls() == before + 1


def test_a_change_whose_response_was_lost_was_made(host: Host) -> None:
    host.storage.swap("refs/a", b"1", None)
    version = host.storage.load("refs/a").version  # type: ignore[union-attr]
    host.fail("lost")
    assert host.storage.swap("refs/a", b"2", version)
    host.fail("lost")
    assert not host.storage.swap("refs/a", b"3", version)
    assert host.storage.read("refs/a") == b"2"
    host.fail("lost")
    assert host.storage.write("objects/aa/x", b"x") in (True, False)
    assert host.storage.read("objects/aa/x") == b"x"


def test_a_directory_that_others_may_write_to(host: Host) -> None:
    host.root.mkdir()
    host.root.chmod(0o777)
    with pytest.raises(ReadOnly, match="others may write"):
        host.storage.write("a", b"")


def test_a_store_that_is_not_there_has_nothing(host: Host) -> None:
    assert list(host.storage.list("")) == []
    assert host.storage.exists(["a"]) == set()
    assert host.storage.load("a") is None


def test_what_is_no_blob_is_in_no_listing(host: Host) -> None:
    host.storage.write("objects/aa/x", b"x")
    (host.root / "lost+found").mkdir()
    (host.root / "lost+found/#1").touch()
    (host.root / ".hidden").touch()
    (host.root / "\nb c\n1 x y\n1 2 z z").touch()
    (host.root / "objects/aa/link").symlink_to("/etc/passwd")
    assert [item.name for item in host.storage.list("")] == ["objects/aa/x"]
    assert host.storage.exists(["objects/aa/link"]) == set()
    with pytest.raises(StoreError, match="has no objects/aa/link"):
        host.storage.read("objects/aa/link")


def test_without_gnu_find(host: Host) -> None:
    host.storage.write("objects/aa/x", b"xyz")
    real = shutil.which("find")
    host.only_tools(without="", find=f'case "$*" in *printf*) exit 1;; esac\nexec {real} "$@"')
    [found] = host.storage.list("objects/")
    assert (found.name, found.size) == ("objects/aa/x", 3)
    assert abs(found.modified - time.time()) < 100
    assert [item.name for item in host.storage.list("")] == ["objects/aa/x"]


class TestWithoutFlock:
    def test_a_directory_is_the_lock(self, host: Host) -> None:
        host.only_tools(without="flock")
        assert host.storage.swap("refs/a", b"1", None)
        assert not host.storage.swap("refs/a", b"2", None)
        assert os.listdir(host.root / "tmp/ssh") == []

    def test_one_that_a_dead_process_left_is_removed(self, host: Host) -> None:
        host.only_tools(without="flock", sleep=":")
        host.storage.swap("refs/a", b"1", None)
        (host.root / "tmp/ssh/swap.d").mkdir()
        os.utime(host.root / "tmp/ssh/swap.d", (time.time() - 300,) * 2)
        assert host.storage.swap("refs/b", b"1", None)
        assert os.listdir(host.root / "tmp/ssh") == []

    def test_one_that_is_held_is_waited_for_and_named(self, host: Host) -> None:
        host.only_tools(without="flock", sleep=":")
        host.storage.swap("refs/a", b"1", None)
        (host.root / "tmp/ssh/swap.d").mkdir()
        with pytest.raises(StoreError, match=r"tmp/ssh/swap\.d") as caught:
            host.storage.swap("refs/b", b"1", None)
        assert "remove that directory" in caught.value.hint
        assert host.storage.load("refs/b") is None


def test_what_dead_writers_left_is_swept_after_a_day(host: Host) -> None:
    (host.root / "tmp/ssh").mkdir(parents=True)
    host.root.chmod(0o700)
    for name, age in (("old", 3 * 86400), ("new", 100)):
        (host.root / "tmp/ssh" / name).touch()
        os.utime(host.root / "tmp/ssh" / name, (time.time() - age,) * 2)
    host.storage.write("a", b"")
    assert os.listdir(host.root / "tmp/ssh") == ["new"]
