"""Base images and publishing from end to end, by the command line: servers with faults, kills, other tools."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from buildstep import cli
from buildstep.cli import guard, session
from buildstep.emit.oci_config import PATH
from buildstep.formats import unpack
from buildstep.system import sealed
from tests.integration.support import matches, wait_for
from tests.servers.fixtures import Registry, S3Store, imgapi_server, locked_registry, registry, weed
from tests.servers.imgapi import ImgapiServer
from tests.servers.processes import free_port

__all__ = ["imgapi_server", "locked_registry", "registry", "weed"]

REPOSITORY = Path(__file__).parents[2]
DEAD = "http://127.0.0.1:1"
HTTP = "connect=2,response=0.6,idle=0.4,min_rate=2000000,attempts=3,backoff=0.01"
"""Each limit is reached within a second: a test of a fault is as quick as the fault."""
LIMIT = 60


def tarball(files: dict[str, bytes], *, gz: bool = True, extra: list[tarfile.TarInfo] | None = None) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz" if gz else "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in extra or []:
            archive.addfile(info)
    return raw.getvalue()


ROOT = tarball({"etc/name": b"root", "bin/x": os.urandom(300_000)})


@dataclass
class Agent:
    """A machine with a pool. In this process by `call`, as a process of its own by `run` and `start`."""

    top: Path
    environ: dict[str, str] = field(default_factory=dict)
    scheme: str = "dir"
    children: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def pool(self) -> Path:
        return self.top / "pool"

    def env(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.top / "home"),
            "BUILDSTEP_POOL": f"{self.scheme}:{self.pool}",
            "BUILDSTEP_SOURCES": "none",
            "BUILDSTEP_HTTP": HTTP,
            **self.environ,
        }

    def start(self, *argv: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-m", "buildstep", *argv]
        child = subprocess.Popen(
            command, cwd=self.top, env={**self.env(), "PYTHONPATH": str(REPOSITORY)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self.children.append(child)
        return child

    def run(self, *argv: str, status: int = 0) -> str:
        child = self.start(*argv)
        try:
            out, err = child.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            child.kill()
            raise
        assert child.returncode == status, out + err
        return out if status == 0 else err

    def images(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.run("image", "list", "--json"))["images"]
        return found

    def left(self) -> list[str]:
        """What no run may leave behind: working datasets, folders of work, journals, whole downloads."""
        folders = [self.pool / "build", *(self.pool / "state" / name for name in ("work", "journal"))]
        found = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
        found += (self.pool / "state/downloads").rglob("*.file")
        return sorted(str(path.relative_to(self.pool)) for path in found)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    yield made
    for child in made.children:
        if child.poll() is None:
            kill(child)


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(agent: Agent, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """A command in this process, without namespaces: (status, stdout, stderr)."""
    monkeypatch.setattr(session, "enclosed", guard.guarded)
    monkeypatch.chdir(agent.top)

    def run(*argv: str) -> tuple[int, str, str]:
        for name in [name for name in os.environ if name.startswith("BUILDSTEP_")]:
            monkeypatch.delenv(name)
        for name, value in agent.env().items():
            monkeypatch.setenv(name, value)
        capfd.readouterr()
        status = cli.main(argv)
        out, err = capfd.readouterr()
        return status, out, err

    return run


# -- repositories, and what goes wrong with them ------------------------------------------------------------


FAULTS = {
    "manifest": ("500", "silent", "drip-head"),
    "file": ("500", "silent", "silent-500", "drip", "truncate", "stall", "flip", "long"),
}


@pytest.mark.parametrize(
    ("where", "kind"), [(where, kind) for where, kinds in FAULTS.items() for kind in kinds]
)
def test_a_fault_of_a_server(
    imgapi_server: ImgapiServer, agent: Agent, call: Call, where: str, kind: str
) -> None:
    """Right result or clear error, never a hang, nothing half-made; and the next run is well again."""
    manifest = imgapi_server.add(ROOT)
    uuid, path = manifest["uuid"], r"/file$" if where == "file" else r"/images/[^/]*$"
    agent.environ["BUILDSTEP_SOURCES"] = imgapi_server.url
    imgapi_server.fail(kind, path=path, times=99)
    begin = time.monotonic()
    status, _, err = call("image", "import", uuid)
    assert time.monotonic() - begin < 15
    assert status == 11, err
    assert "Traceback" not in err
    assert uuid in err
    assert agent.left() == []
    assert not list((agent.pool / "image").glob("*"))

    # Another repository that has it makes it good.
    with ImgapiServer() as second:
        second.add(ROOT)
        agent.environ["BUILDSTEP_SOURCES"] = f"{imgapi_server.url} {second.url}"
        status, out, err = call("image", "import", "--json", uuid)
        assert status == 0, err
        assert json.loads(out)["inputs"]["source"] == second.url
    assert call("image", "delete", uuid)[0] == 0

    # And so does the server itself when it is well again.
    imgapi_server.faults.clear()
    agent.environ["BUILDSTEP_SOURCES"] = imgapi_server.url
    assert call("image", "import", uuid)[0] == 0
    assert agent.left() == []
    status, out, _ = call("image", "verify", "--json")
    assert (status, json.loads(out)["images"][0]["ok"]) == (0, True)


@pytest.mark.parametrize("kind", ["500", "truncate", "stall", "silent"])
def test_a_fault_that_passes(imgapi_server: ImgapiServer, agent: Agent, call: Call, kind: str) -> None:
    uuid = imgapi_server.add(ROOT)["uuid"]
    agent.environ["BUILDSTEP_SOURCES"] = imgapi_server.url
    imgapi_server.fail(kind, path="/file")
    status, out, err = call("image", "import", "--json", uuid)
    assert status == 0, err
    assert "trying again" in err
    assert json.loads(out)["inputs"]["sha1"] == hashlib.sha1(ROOT).hexdigest()
    assert agent.left() == []


def test_dead_and_empty_sources_fail_nothing(imgapi_server: ImgapiServer, agent: Agent, call: Call) -> None:
    base = imgapi_server.add(tarball({"f": b"1"}), name="base")
    top = imgapi_server.add(tarball({"f": b"2"}), name="top", origin=base["uuid"])
    with ImgapiServer() as empty:
        agent.environ["BUILDSTEP_SOURCES"] = f"{DEAD},{empty.url},{imgapi_server.url}"
        status, _, err = call("image", "import", "top@1.0.0")
        assert status == 0, err
        assert "is passed over" in err
    status, out, _ = call("image", "list", "--json")
    assert [row["uuid"] for row in json.loads(out)["images"]] == [base["uuid"], top["uuid"]], "origin first"
    # What is here needs nobody: by uuid, by name, verified.
    agent.environ["BUILDSTEP_SOURCES"] = DEAD
    for ref in ("top@1.0.0", top["uuid"]):
        status, out, err = call("image", "import", "--json", ref)
        assert (status, json.loads(out)["present"]) == (0, True), err
    status, _, err = call("image", "import", "other@1")
    assert status == 11
    assert "1 of 1 repositories did not answer" in err


def test_present_means_verified(imgapi_server: ImgapiServer, agent: Agent, call: Call) -> None:
    uuid = imgapi_server.add(ROOT)["uuid"]
    agent.environ["BUILDSTEP_SOURCES"] = imgapi_server.url
    assert call("image", "import", uuid)[0] == 0
    name = agent.pool / "image" / uuid / "tree/etc/name"
    good = name.read_bytes()
    name.write_text("rot!")
    assert call("image", "verify")[0] == 11
    status, _, err = call("image", "import", uuid)
    assert status == 0, err
    assert "/etc/name" in err
    assert "imported again" in err
    assert name.read_bytes() == good
    assert call("image", "verify")[0] == 0
    assert imgapi_server.calls("GET", "/file") == 2


def test_not_active_and_nonsense(imgapi_server: ImgapiServer, agent: Agent, call: Call) -> None:
    uuid = imgapi_server.add(ROOT, state="disabled")["uuid"]
    agent.environ["BUILDSTEP_SOURCES"] = imgapi_server.url
    status, _, err = call("image", "import", uuid)
    assert (status, "disabled, not active" in err) == (11, True)
    status, _, err = call("image", "import", "nonsense")
    assert (status, "neither a uuid" in err) == (11, True)
    agent.environ["BUILDSTEP_SOURCES"] = "none"
    status, _, err = call("image", "import", uuid)
    assert (status, "no source" in err) == (11, True)
    agent.environ["BUILDSTEP_SOURCES"] = "gopher://x"
    status, _, err = call("image", "import", uuid)
    assert (status, "BUILDSTEP_SOURCES" in err) == (2, True)


def test_the_platform_is_checked(imgapi_server: ImgapiServer, agent: Agent, call: Call) -> None:
    uuid = imgapi_server.add(ROOT, requirements={"min_platform": {"7.0": "20260101T000000Z"}})["uuid"]
    agent.environ["BUILDSTEP_SOURCES"] = imgapi_server.url
    tools = agent.top / "tools"
    tools.mkdir()
    told = json.dumps({"SDC Version": "7.0", "Live Image": "20200101T000000Z"})
    (tools / "sysinfo").write_text(f"#!/bin/sh\necho '{told}'\n")
    (tools / "sysinfo").chmod(0o755)
    agent.environ["PATH"] = f"{tools}:{os.environ['PATH']}"
    status, _, err = call("image", "import", uuid)
    assert status == 11
    assert "needs platform 20260101T000000Z or later, this host has 20200101T000000Z" in err
    assert imgapi_server.calls("GET", "/file") == 0
    (tools / "sysinfo").unlink()
    assert call("image", "import", uuid)[0] == 0, "a host of another kind only builds them"


def test_listing_what_repositories_have(agent: Agent, call: Call) -> None:
    with ImgapiServer(channels=("dev", "release")) as server:
        for number in range(5):
            server.add(name=f"base-{number}", os="linux" if number % 2 else "smartos")
        released = server.add(name="released", channel="release")
        agent.environ["BUILDSTEP_SOURCES"] = f"{DEAD} {server.url}"

        def names(*argv: str) -> list[str]:
            status, out, err = call("image", "list", "--remote", "--json", *argv)
            assert status == 0, err
            return [row["name"] for row in json.loads(out)["images"]]

        assert len(names()) == 5
        assert names("name=~base", "os=linux") == ["base-1", "base-3"]
        assert names("--limit", "2") == ["base-0", "base-1"]
        assert names("--channel", "release") == ["released"]
        assert len(names("channel=*")) == 6
        assert call("image", "list", "--remote", "nmae=x")[0] == 2
        assert call("image", "import", released["uuid"])[0] == 11, "it is in another channel"
        (agent.top / "buildstep.toml").write_text(
            f'[[sources]]\nurl = "{server.url}"\nchannel = "release"\nlabel = "ours"\n'
        )
        status, out, _ = call("image", "show", "--remote", "released@1.0.0")
        assert (status, json.loads(out)["source"]) == (0, "ours")
    (agent.top / "buildstep.toml").unlink()
    status, _, err = call("image", "list", "--remote")
    assert (status, "no source of images answered" in err) == (11, True)


def test_listing_with_filters_here(imgapi_server: ImgapiServer, agent: Agent, call: Call) -> None:
    imgapi_server.add(ROOT, name="one", tags={"role": "web"})
    imgapi_server.add(tarball({"f": b""}), name="two", os="bsd")
    agent.environ["BUILDSTEP_SOURCES"] = imgapi_server.url
    for name in ("one", "two"):
        assert call("image", "import", f"{name}@1.0.0")[0] == 0

    def names(*argv: str) -> list[str]:
        return [row["name"] for row in json.loads(call("image", "list", "--json", *argv)[1])["images"]]

    assert names() == ["one", "two"]
    assert names("tag.role=web") == names("os=!bsd") == names("--limit", "1") == ["one"]
    assert names("name=~w", "state=active", "type=other") == ["two"]


def test_more_than_one_at_once(imgapi_server: ImgapiServer, agent: Agent, call: Call) -> None:
    uuid = ""
    for number in range(7):
        extra = {"origin": uuid} if uuid else {}
        uuid = imgapi_server.add(tarball({"f": b"%d" % number * 100_000}), **extra)["uuid"]
    agent.environ["BUILDSTEP_SOURCES"] = imgapi_server.url
    assert call("image", "import", uuid)[0] == 0
    assert len(json.loads(call("image", "list", "--json")[1])["images"]) == 7
    assert imgapi_server.most_busy <= 5
    assert agent.left() == []


@pytest.mark.parametrize("kind", ["zfs", "nothing"])
def test_a_file_that_this_pool_cannot_use(
    imgapi_server: ImgapiServer, agent: Agent, call: Call, kind: str
) -> None:
    begin = bytes(8) + (0x2F5BACBAC).to_bytes(8, "little") + (1).to_bytes(8, "little") + bytes(288)
    uuid = imgapi_server.add(begin + bytes(400_000) if kind == "zfs" else b"no image" * 99_999)["uuid"]
    agent.environ["BUILDSTEP_SOURCES"] = imgapi_server.url
    status, _, err = call("image", "import", uuid)
    assert status == 11
    assert ("only a zfs pool" if kind == "zfs" else "holds no image that we know") in err
    assert agent.left() == []


# -- files ------------------------------------------------------------------------------------------------


def manifest_for(data: bytes, **fields: Any) -> dict[str, Any]:
    entry = {"size": len(data), "sha1": hashlib.sha1(data).hexdigest(), "compression": "gzip"}
    uuid = "aaaaaaaa-0000-4000-8000-00000000000f"
    return {"v": 2, "uuid": uuid, "name": "filed", "version": "3", "type": "other", "os": "linux",
            "files": [entry], **fields}  # fmt: skip


def test_a_file_with_its_manifest(agent: Agent, call: Call) -> None:
    file, told = agent.top / "image.bin", agent.top / "m.json"
    file.write_bytes(ROOT)
    told.write_text(json.dumps(manifest_for(ROOT)))
    status, out, err = call("image", "import", "--json", "image.bin", "--manifest", "m.json")
    assert status == 0, err
    found = json.loads(out)
    assert (found["uuid"], found["name"]) == ("aaaaaaaa-0000-4000-8000-00000000000f", "filed")
    assert json.loads(call("image", "import", "--json", "filed@3")[1])["present"]
    # The same tree by another name is the same image only if that is so.
    plain = json.loads(call("image", "import", "--json", "image.bin")[1])
    assert plain["tree_digest"] == found["tree_digest"]
    assert call("image", "delete", found["uuid"])[0] == 0

    for wrong in ({"size": 5}, {"sha1": "0" * 40}):
        bad = manifest_for(ROOT)
        bad["files"][0] |= wrong
        told.write_text(json.dumps(bad))
        status, _, err = call("image", "import", "image.bin", "--manifest", "m.json")
        assert (status, "is not the file of its manifest" in err) == (11, True)
    told.write_text('{"v": 2, "name": "x"}')
    status, _, err = call("image", "import", "image.bin", "--manifest", "m.json")
    assert (status, "$.uuid" in err) == (11, True)
    assert agent.left() == []


def test_old_and_strange_manifests(agent: Agent, call: Call) -> None:
    """v1 is upgraded; those of lx and Docker are taken as they are."""
    (agent.top / "f").write_bytes(ROOT)
    old = {
        key: value
        for key, value in manifest_for(ROOT, creator_uuid="aaaaaaaa-0000-4000-8000-00000000000a").items()
        if key != "v"
    }
    for number, fields in enumerate(
        (
            old,
            manifest_for(ROOT, type="lx-dataset"),
            manifest_for(ROOT, type="docker", tags={"docker:id": "x"}),
        )
    ):
        uuid = f"aaaaaaaa-0000-4000-8000-0000000000{number:02}"
        (agent.top / "m.json").write_text(json.dumps({**fields, "uuid": uuid}))
        status, out, err = call("image", "import", "--json", "f", "--manifest", "m.json")
        assert status == 0, err
        manifest = json.loads(out)["manifest"]
        assert manifest["v"] == 2
        assert manifest["type"] == fields["type"]


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


HOSTILE = {
    "absolute": ([member("/../etc/passwd")], "etc/passwd"),
    "up": ([member("../escape")], "../escape"),
    "link out": ([member("l", tarfile.SYMTYPE, linkname=".."), member("l/etc/evil")], "symbolic link"),
    "hard link out": ([member("h", tarfile.LNKTYPE, linkname="../../etc/passwd")], "etc/passwd"),
    "devices": (
        [member(f"d{n}", tarfile.CHRTYPE, devmajor=1, devminor=3) for n in range(5000)],
        "device nodes",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("way", ["file", "server"])
def test_a_hostile_archive_is_refused_and_listed(
    imgapi_server: ImgapiServer, agent: Agent, call: Call, name: str, way: str
) -> None:
    members, text = HOSTILE[name]
    data = tarball({"good": b"1"}, extra=members)
    ref = "evil.tgz"
    if way == "server":
        ref = imgapi_server.add(data)["uuid"]
        agent.environ["BUILDSTEP_SOURCES"] = imgapi_server.url
    else:
        (agent.top / ref).write_bytes(data)
    status, _, err = call("image", "import", ref)
    assert status == 11, err
    assert "the archive is refused" in err
    assert text in err
    assert agent.left() == []
    assert not (agent.top / "escape").exists()
    assert json.loads(call("image", "list", "--json")[1])["images"] == []


def test_a_bomb_is_refused(agent: Agent, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (unpack.unpack, unpack.apply_layer, unpack.list_archive, unpack.list_layer):
        assert function.__kwdefaults__
        monkeypatch.setitem(function.__kwdefaults__, "limits", unpack.Limits(floor=1 << 20))
    (agent.top / "bomb.tgz").write_bytes(tarball({"letters": b"x" * (8 << 20)}))
    status, _, err = call("image", "import", "bomb.tgz")
    assert (status, "250 times its size" in err) == (11, True), err
    assert agent.left() == []


# -- kills and races -----------------------------------------------------------------------------------------


def kill(child: subprocess.Popen[str]) -> None:
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate(timeout=LIMIT)


@pytest.mark.parametrize("ranges", [True, False])
def test_killed_while_it_downloads(agent: Agent, ranges: bool) -> None:
    with ImgapiServer(ranges=ranges) as server:
        data = tarball({"big": os.urandom(3 << 20), "small": b"x"})
        uuid = server.add(data)["uuid"]
        agent.environ |= {"BUILDSTEP_SOURCES": server.url, "BUILDSTEP_HTTP": "idle=30,min_rate=1"}
        server.fail("stall", path="/file")
        child = agent.start("image", "import", uuid)
        partial = agent.pool / f"state/downloads/{uuid}.file.partial"
        # It is unpacked while it comes.
        wait_for(lambda: matches(agent.pool, "build/*-import*/tree/big"), child)
        assert partial.stat().st_size < len(data)
        kill(child)
        assert agent.images() == []
        found = json.loads(agent.run("image", "import", "--json", uuid))
        assert found["inputs"]["sha1"] == hashlib.sha1(data).hexdigest()
        assert len(server.ranges_asked) == 1
        assert json.loads(agent.run("image", "verify", "--json"))["images"][0]["ok"]
        assert agent.left() == []


@pytest.mark.parametrize("kind", ["stall", "silent"])
def test_stopped_while_it_waits(agent: Agent, kind: str) -> None:
    """A CI server that aborts a job does not wait until a server's time is up."""
    with ImgapiServer(ranges=True) as server:
        uuid = server.add(tarball({"big": os.urandom(3 << 20)}))["uuid"]
        agent.environ |= {"BUILDSTEP_SOURCES": server.url, "BUILDSTEP_HTTP": "idle=30,response=30,min_rate=1"}
        server.fail(kind, path="/file")
        child = agent.start("image", "import", uuid)
        if kind == "stall":
            wait_for(lambda: matches(agent.pool, "build/*-import*/tree/big"), child)
        else:
            wait_for(lambda: any(path.endswith("/file") for _, path, _ in server.log), child)
        begin = time.monotonic()
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate(timeout=LIMIT)
        assert time.monotonic() - begin < 5
        assert (child.returncode, "stopped by SIGTERM" in err) == (143, True), err
        assert agent.left() == []
        agent.run("image", "import", uuid)
        assert len(server.ranges_asked) == (kind == "stall")


@pytest.mark.parametrize("scheme", ["dir", "overlay"])
def test_killed_while_it_installs(imgapi_server: ImgapiServer, agent: Agent, scheme: str) -> None:
    if scheme == "overlay" and os.geteuid() != 0:
        pytest.skip("overlay needs root")
    agent.scheme = scheme
    files = {f"d{number % 40}/f{number}": b"%d" % number for number in range(3000)}
    uuid = imgapi_server.add(tarball(files))["uuid"]
    agent.environ["BUILDSTEP_SOURCES"] = imgapi_server.url
    for share in (0, 0.5, 0.99):  # at its begin, in the middle, near its end
        child = agent.start("image", "import", uuid)

        def far_enough(share: float = share) -> bool:
            rows = list(os.walk(agent.pool / "build"))
            made = sum(len(names) for _, _, names in rows)
            return made > share * len(files) if share else len(rows) > 1

        with contextlib.suppress(AssertionError):  # done already: as good a moment
            wait_for(far_enough, child)
        kill(child)
    assert all(row["uuid"] == uuid for row in agent.images())
    agent.run("image", "import", uuid)
    assert json.loads(agent.run("image", "verify", "--json"))["images"] == [
        {"uuid": uuid, "ok": True, "problem": ""}
    ]
    assert agent.left() == []


def test_two_at_once_download_once(imgapi_server: ImgapiServer, agent: Agent) -> None:
    base = imgapi_server.add(tarball({"b": os.urandom(1 << 20)}))
    tops = [imgapi_server.add(tarball({"t": b"%d" % n}), origin=base["uuid"])["uuid"] for n in range(2)]
    agent.environ["BUILDSTEP_SOURCES"] = imgapi_server.url
    children = [agent.start("image", "import", "--json", uuid) for uuid in (tops[0], tops[0], tops[1])]
    told = [child.communicate(timeout=LIMIT) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], told
    assert sorted(json.loads(out)["present"] for out, _ in told[:2]) == [False, True]
    assert imgapi_server.calls("GET", "/file") == 3, "each file once"
    assert len(agent.images()) == 3
    assert agent.left() == []


# -- keeping and removing ---------------------------------------------------------------------------------


def test_an_image_in_use_stays(imgapi_server: ImgapiServer, agent: Agent, call: Call) -> None:
    uuid = imgapi_server.add(ROOT)["uuid"]
    agent.environ["BUILDSTEP_SOURCES"] = imgapi_server.url
    assert call("image", "import", uuid)[0] == 0
    store = session.open_session(f"dir:{agent.pool}", quiet=True).store
    with store.locks.using(store.get(uuid).uuid):
        status, _, err = call("image", "delete", uuid)
        assert (status, "in use by a build" in err) == (11, True)
        rows = json.loads(call("image", "gc", "--unused", "0", "--json")[1])["images"]
        assert [row["removed"] for row in rows] == [False]
    rows = json.loads(call("image", "gc", "--json")[1])["images"]
    assert [(row["uuid"], row["removed"]) for row in rows] == [(uuid, False)], "it was used just now"
    rows = json.loads(call("image", "gc", "--unused", "0", "--dry-run", "--json")[1])["images"]
    assert [row["removed"] for row in rows] == [True]
    assert json.loads(call("image", "delete", "--json", uuid)[1]) == {"deleted": [uuid]}
    assert list((agent.pool / "state/images").iterdir()) == []


def test_gc_keeps_what_kept_images_stand_on(imgapi_server: ImgapiServer, agent: Agent, call: Call) -> None:
    base = imgapi_server.add(tarball({"b": b"1"}))["uuid"]
    top = imgapi_server.add(tarball({"t": b"2"}), origin=base)["uuid"]
    agent.environ["BUILDSTEP_SOURCES"] = imgapi_server.url
    assert call("image", "import", top)[0] == 0
    state = agent.pool / "state/images"
    # As on a pool of native streams, where one image is a part of the other.
    for uuid, fields in ((top, {"origin": base, "imported": time.time()}), (base, {"imported": 1.0})):
        sealed.write(state / f"{uuid}.json", {**sealed.read(state / f"{uuid}.json"), **fields})
    (state / f"{base}.used").unlink(missing_ok=True)
    assert call("image", "delete", base)[0] == 11
    rows = json.loads(call("image", "gc", "--json")[1])["images"]
    assert {row["uuid"]: row["removed"] for row in rows} == {top: False, base: False}
    rows = json.loads(call("image", "gc", "--unused", "0", "--json")[1])["images"]
    assert [(row["uuid"], row["removed"]) for row in rows] == [(top, True), (base, True)]


def test_gc_takes_what_dead_imports_left(imgapi_server: ImgapiServer, agent: Agent, call: Call) -> None:
    uuid = imgapi_server.add(ROOT)["uuid"]
    agent.environ["BUILDSTEP_SOURCES"] = imgapi_server.url
    assert call("image", "import", uuid)[0] == 0
    (agent.pool / "state/images" / f"{uuid}.json").unlink()  # died between the tree and its record
    old, new = (agent.pool / "state/downloads" / name for name in ("old.file.partial", "new.file.partial"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    rows = json.loads(call("image", "gc", "--json")[1])["images"]
    assert {row["uuid"] or row["name"] for row in rows} == {uuid, "old.file.partial"}
    assert not old.exists()
    assert new.exists()
    assert not (agent.pool / "image" / uuid).exists()


# -- built, published, and built upon --------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    folder: Path
    record: dict[str, Any]

    @property
    def manifest(self) -> Path:
        return next(self.folder.glob("*.imgmanifest"))

    def again(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(next(self.folder.glob("*.buildrecord.json")).read_text())
        return found


@pytest.fixture
def builder(agent: Agent) -> Agent:
    if os.geteuid() != 0 or shutil.which("rsync") is None:
        pytest.skip("needs root and rsync")
    agent.scheme = "overlay"
    return agent


def build(agent: Agent, name: str, image: str, files: dict[str, str], *argv: str, **oci: Any) -> Made:
    proto = agent.top / f"proto-{name}"
    for path, text in files.items():
        if not (proto / path).exists():
            (proto / path).parent.mkdir(parents=True, exist_ok=True)
            (proto / path).write_text(text)
    spec = {
        "name": name,
        "version": "1.0.0",
        "os": "linux",
        "type": "other",
        "build": {"image": image, "oci": oci},
    }
    out = agent.top / "bits" / name
    agent.run("build", "-m", json.dumps(spec), "-o", str(out), "--json", *argv, str(proto))
    return Made(out, json.loads(next(out.glob("*.buildrecord.json")).read_text()))


def sample(agent: Agent) -> Made:
    base = agent.top / "base.tgz"
    if not base.exists():
        files = {"etc/os-release": b"ID=tiny\n", "usr/bin/tool": os.urandom(100_000), "old": b"o"}
        base.write_bytes(tarball(files))
    return build(
        agent, "hello", f"tar:{agent.top}/base.tgz", {"srv/www/index.html": "hello\n"}, "-f", "oci", "-f", "tar",
        entrypoint=["/usr/bin/tool"], env={"COLOUR": "blue"}, labels={"who": "us"},
    )  # fmt: skip


def tree_of(agent: Agent, ref: str) -> str:
    agent.run("image", "import", ref)
    found = json.loads(agent.run("image", "show", ref))
    return str(found["tree_digest"])


def config_of(made: Made) -> dict[str, Any]:
    """The configuration in an OCI archive."""
    with tarfile.open(next(made.folder.glob("*.oci.tar"))) as archive:

        def read(digest: str) -> Any:
            file = archive.extractfile(f"blobs/sha256/{digest.removeprefix('sha256:')}")
            assert file is not None
            return json.load(file)

        index = archive.extractfile("index.json")
        assert index is not None
        manifest = read(json.load(index)["manifests"][0]["digest"])
        found: dict[str, Any] = read(manifest["config"]["digest"])
        return found


@pytest.mark.parametrize("kind", ["registry", "locked_registry"])
def test_through_a_registry_and_back(
    request: pytest.FixtureRequest, builder: Agent, kind: str, registry: Registry
) -> None:
    server: Registry = request.getfixturevalue(kind)
    if server.user:
        builder.environ |= {
            "BUILDSTEP_REGISTRY_USER": server.user,
            "BUILDSTEP_REGISTRY_PASSWORD": server.password,
        }
    made = sample(builder)
    name = f"docker://{server.host}/images/{kind.replace('_', '-')}"
    done = json.loads(builder.run("image", "publish", "--json", str(made.folder), name))["published"][0]
    digest = done["objects"]["1.0.0"]
    assert done["name"] == f"{name}@{digest}"
    if skopeo := shutil.which("skopeo"):
        creds = [f"--creds={server.user}:{server.password}"] if server.user else []
        argv = [skopeo, "inspect", "--tls-verify=false", *creds, f"{name}:1.0.0"]
        seen = json.loads(subprocess.run(argv, capture_output=True, check=True, timeout=LIMIT).stdout)
        assert seen["Digest"] == digest
        assert seen["Env"] == [PATH, "COLOUR=blue"]

    # Published again nothing changes, and the build that is there needs not be made again either.
    again = json.loads(builder.run("image", "publish", "--json", str(made.manifest), "--to", name))
    assert again["published"][0]["state"] == "already"
    rows = made.again()["published"]
    assert [(row["state"], row["objects"]) for row in rows] == [("published", done["objects"])]
    lines = (builder.pool / "state/published.jsonl").read_text().splitlines()
    assert [json.loads(line)["state"] for line in lines] == ["published", "already"]

    # A clean machine takes it for its base.
    other = Agent(builder.top / "other", dict(builder.environ), "overlay")
    other.top.mkdir()
    assert tree_of(other, f"{name}:1.0.0") == made.record["tree_digest"]
    top = build(other, "top", f"{name}@{digest}", {"srv/www/more.html": "more\n"}, env={"SIZE": "big"})
    config = config_of(top)["config"]
    assert config["Env"] == [PATH, "COLOUR=blue", "SIZE=big"]
    assert config["Entrypoint"] == ["/usr/bin/tool"]
    labels = config["Labels"]
    assert labels["who"] == "us"
    note = "org.opencontainers.image."
    assert labels[note + "base.name"] == f"{name.removeprefix('docker://')}:1.0.0", (
        "as it was first asked for"
    )
    assert labels[note + "base.digest"] == digest
    assert top.record["inputs"]["image"]["digest"] == digest
    names = {path for path, _ in top.record["files_added"]}
    assert names == {"/srv/www/more.html"}
    assert other.left() == []


def test_a_published_build_stands(builder: Agent) -> None:
    """Writing down where it went is no reason to build it again, nor to publish something else."""
    made = sample(builder)
    target = f"dir:{builder.top}/site"
    builder.run("image", "publish", str(made.folder), target)
    assert sample(builder).again()["uuid"] == made.record["uuid"], "the image is as it was"
    told = json.loads(builder.run("image", "publish", "--json", str(made.manifest), target))
    assert told["published"][0]["state"] == "already"
    assert len(made.again()["published"]) == 1

    (builder.top / "proto-hello/srv/www/index.html").write_text("changed")
    spec = {"name": "hello", "version": "1.0.0", "build": {"image": f"tar:{builder.top}/base.tgz"}}
    builder.run("build", "-m", json.dumps(spec), "-o", str(made.folder), str(builder.top / "proto-hello"))
    err = builder.run("image", "publish", str(made.folder), target, status=17)
    assert "published already, with other content" in err
    assert "published" not in made.again()


def test_a_damaged_or_missing_file_is_not_published(builder: Agent) -> None:
    made = sample(builder)
    target = f"dir:{builder.top}/site"
    assert "does not hold one image" in builder.run("image", "publish", str(builder.top), target, status=17)
    archive = next(made.folder.glob("*.oci.tar"))
    data = archive.read_bytes()
    archive.write_bytes(data[:-512] + b"x" * 512)
    assert "is not what its build record says" in builder.run(
        "image", "publish", str(made.folder), target, status=17
    )
    archive.unlink()
    assert "is not beside it" in builder.run("image", "publish", str(made.folder), target, status=17)
    assert not (builder.top / "site").exists()
    assert "where to?" in builder.run("image", "publish", str(made.folder), status=2)
    assert "no place to publish to" in builder.run(
        "image", "publish", str(made.folder), "somewhere", status=2
    )


def test_to_named_targets_and_from_them(builder: Agent, imgapi_server: ImgapiServer) -> None:
    made = sample(builder)
    builder.environ.pop("BUILDSTEP_SOURCES", None)
    builder.environ["BUILDSTEP_SOURCES"] = ""
    (builder.top / "buildstep.toml").write_text(
        f'sources = ["dir:site"]\n[publish]\nsite = "dir:{builder.top}/site"\n'
        f'[publish.server]\ntarget = "{imgapi_server.url}"\n'
    )
    builder.run("image", "publish", str(made.folder), "site", "--to", "server")
    assert [row["target"] for row in made.again()["published"]] == [
        f"dir:{builder.top}/site",
        imgapi_server.url,
    ]
    ref = "hello@1.0.0"
    assert json.loads(builder.run("image", "list", "--remote", "--json"))["images"][0]["name"] == "hello"
    assert tree_of(builder, ref) == made.record["tree_digest"]
    uuid = json.loads(builder.run("image", "show", ref))["uuid"]
    assert uuid == made.record["uuid"]
    builder.run("image", "delete", uuid)
    # By the server's own word, and with the manifest of the build as its own.
    argv = ["image", "import", "--json", "--source", imgapi_server.url, uuid]
    found = json.loads(builder.run(*argv))
    assert found["inputs"]["source"] == imgapi_server.url
    assert found["tree_digest"] == made.record["tree_digest"]
    assert found["config"]["config"]["Env"] == [PATH, "COLOUR=blue"]


def test_a_lost_reply_of_a_server(builder: Agent, imgapi_server: ImgapiServer) -> None:
    made = sample(builder)
    uuid = made.record["uuid"]
    for fault in ("action=import", "action=activate"):
        imgapi_server.images.clear()
        imgapi_server.fail("lost", method="POST", path=uuid)
        told = json.loads(builder.run("image", "publish", "--json", str(made.folder), imgapi_server.url))
        assert told["published"][0]["uuid"] == uuid, fault
    imgapi_server.images.clear()
    imgapi_server.fail("early-422", method="PUT", path="/file", times=9)
    err = builder.run("image", "publish", str(made.folder), imgapi_server.url, status=17)
    assert "ValidationFailed" in err
    assert imgapi_server.images == {}, "nothing half-published is left"


def test_through_s3_and_back(builder: Agent, weed: S3Store) -> None:
    made = sample(builder)
    builder.environ |= weed.environ
    target = f"s3://{weed.bucket}/images"
    builder.run("image", "publish", str(made.folder), target, "--endpoint", weed.endpoint)
    other = Agent(builder.top / "other", {**weed.environ}, "overlay")
    other.top.mkdir()
    other.environ |= {"BUILDSTEP_SOURCES": "", "BUILDSTEP_HTTP": "idle=20"}
    (other.top / "buildstep.toml").write_text(
        f'[[sources]]\nurl = "{target}"\nendpoint = "{weed.endpoint}"\nlabel = "bucket"\n'
    )
    assert json.loads(other.run("image", "list", "--remote", "--json"))["images"][0]["source"] == "bucket"
    assert tree_of(other, "hello@1.0.0") == made.record["tree_digest"]
    top = build(other, "top", made.record["uuid"], {"x": "y"})
    assert config_of(top)["config"]["Env"] == [PATH, "COLOUR=blue"]


def test_a_registry_that_is_away(builder: Agent, tmp_path: Path) -> None:
    """A tag means what it meant when the registry was last asked."""
    from tests.servers.fixtures import start_registry

    made = sample(builder)
    (tmp_path / "reg").mkdir()
    server = start_registry(tmp_path / "reg")
    name = f"docker://{next(server).host}/x:1.0.0"
    builder.run("image", "publish", str(made.folder), name)
    builder.run("image", "import", name)
    server.close()  # type: ignore[attr-defined] # a generator: it stops the program
    top = build(builder, "top", name, {"x": "y"})
    assert top.record["inputs"]["image"]["label"] == name
    nobody = f"docker://127.0.0.1:{free_port()}/x:1"
    assert "Connection refused" in builder.run("image", "import", nobody, status=11)


@pytest.fixture
def exported(builder: Agent) -> Iterator[tuple[Path, Callable[..., None]]]:
    """An image that buildah made: three layers, with a whiteout, an opaque directory and hard links."""
    for tool in ("buildah", "skopeo", "umoci"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    here = builder.top / "context"
    here.mkdir()
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed")
    shutil.copy(busybox, here / "busybox")
    (here / "one").write_text("1")
    (here / "Dockerfile").write_text(
        "FROM scratch\nCOPY busybox /bin/busybox\nCOPY busybox /bin/sh\nCOPY one /etc/one\nCOPY one /opt/dir/gone\n"
        "ENV FROM=buildah\n"
        "RUN /bin/busybox rm /opt/dir/gone\n"
        "RUN /bin/busybox rm -r /opt/dir && /bin/busybox mkdir /opt/dir && /bin/busybox touch /opt/dir/new\n"
        "RUN /bin/busybox chown 7:8 /opt/dir/new && /bin/busybox ln /opt/dir/new /opt/dir/also\n"
    )
    store = ["--root", f"{builder.top}/st", "--runroot", f"{builder.top}/run", "--storage-driver", "vfs"]

    def run(*argv: str) -> None:
        subprocess.run(argv, check=True, capture_output=True, timeout=LIMIT, cwd=here)

    try:
        try:
            run("buildah", *store, "bud", "--isolation", "chroot", "--layers", "-t", "made", ".")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"buildah cannot build here: {error.stderr.decode(errors='replace')[-300:]}")
        run("buildah", *store, "push", "made", f"oci:{builder.top}/by-buildah:v1")
        yield builder.top, run
    finally:
        subprocess.run(
            ["buildah", *store, "rmi", "-a", "-f"], capture_output=True, timeout=LIMIT, check=False
        )


def test_upon_what_other_tools_export(builder: Agent, exported: tuple[Path, Callable[..., None]]) -> None:
    top, run = exported
    run("skopeo", "copy", f"oci:{top}/by-buildah:v1", f"oci-archive:{top}/by-skopeo.tar:v1")
    run("skopeo", "copy", f"oci:{top}/by-buildah:v1", f"docker-archive:{top}/for-docker.tar:made:v1")
    shutil.copytree(top / "by-buildah", top / "by-umoci")
    run("umoci", "unpack", "--image", f"{top}/by-umoci:v1", f"{top}/bundle")
    root = top / "bundle/rootfs"
    expected = {
        str(path.relative_to(root)): (path.lstat().st_mode, path.lstat().st_uid, path.lstat().st_gid)
        for path in root.rglob("*")
    }
    os.link(root / "etc/one", root / "etc/linked")
    (root / "opt/dir/new").unlink()
    run("umoci", "repack", "--image", f"{top}/by-umoci:v2", f"{top}/bundle")
    refs = (f"oci:{top}/by-buildah:v1", f"{top}/by-skopeo.tar", f"{top}/for-docker.tar")
    trees = {tree_of(builder, ref) for ref in refs}
    assert len(trees) == 1, "the same image, whoever packed it"
    uuid = json.loads(builder.run("image", "show", f"oci:{top}/by-buildah:v1"))["uuid"]
    tree = builder.pool / "image" / uuid / "tree"
    found = {
        str(path.relative_to(tree)): (path.lstat().st_mode, path.lstat().st_uid, path.lstat().st_gid)
        for path in tree.rglob("*")
    }
    assert found == expected, "as umoci unpacks it"
    assert sorted(os.listdir(tree / "opt/dir")) == ["also", "new"]
    assert len({os.stat(tree / "opt/dir" / name).st_ino for name in ("also", "new")}) == 1

    made = build(builder, "onumoci", f"oci:{top}/by-umoci:v2", {"srv/x": "y"})
    assert config_of(made)["config"]["Env"][-1] == "FROM=buildah"
    assert made.record["inputs"]["image"]["label"].startswith("oci:by-umoci")
    uuid = made.record["inputs"]["image"]["uuid"]
    tree = builder.pool / "image" / uuid / "tree"
    assert len({os.stat(tree / "etc" / name).st_ino for name in ("one", "linked")}) == 1, (
        "links across layers"
    )
    assert os.listdir(tree / "opt/dir") == ["also"]
    back = tree_of(builder, str(next(made.folder.glob("*.oci.tar"))))
    assert back == made.record["tree_digest"]
