"""Pulls by real processes: killed at any moment, watched by another; from S3 through a network that fails; by Consul."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from buildstep.assets import open_assets
from buildstep.assets.blob_store import BlobAssets
from buildstep.assets.interface import AssetStore, Incoming
from buildstep.assets.mark import MARK
from buildstep.assets.names import Name
from buildstep.assets.policy import Policy
from buildstep.assets.pull import Options, Report, pull
from tests.integration.conftest import demand
from tests.servers.consul import Agent, agent, consul  # noqa: F401 - a fixture
from tests.servers.faulty import faulty
from tests.servers.fixtures import S3Store, weed  # noqa: F401 - a fixture
from tests.servers.processes import child, ended
from tests.unit.assets.pulling import archive, member

SEED = 15
KILLS = 12


def until(done: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


Sizes = dict[str, int]


def fill(folder: Path, count: int, sizes: list[int]) -> tuple[dict[str, Sizes], int]:
    """Make assets in a directory as daybook's bucket has them; what each version has, and the bytes of all."""
    folder.mkdir()
    rng = random.Random(SEED)
    found: dict[str, Sizes] = {}
    total = 0
    for number in range(count):
        files = {f"d{index % 3}/f{index}": rng.choice(sizes) for index in range(6)}
        data = archive(*(member(name, rng.randbytes(size)) for name, size in files.items()))
        (folder / f"s{number % 5}-{number}.tar.gz").write_bytes(data)
        found[f"s{number % 5}/{number}"] = files
        total += len(data)
    return found, total


SERVICES = tuple(f"s{number}" for number in range(5))


def take(store: Callable[[], AssetStore], install: Path) -> Report:
    return pull(store, SERVICES, install, Policy(owners=os.geteuid() == 0), Options())


def whole(place: Path | int, wanted: Sizes) -> bool:
    """Whether all files are there in their size, and the mark. place: or an open directory."""
    fd = place if isinstance(place, int) else os.open(place, os.O_RDONLY)
    try:
        return os.stat(MARK, dir_fd=fd).st_size > 0 and all(
            os.stat(name, dir_fd=fd).st_size == size for name, size in wanted.items()
        )
    except FileNotFoundError:
        return False
    finally:
        if fd != place:
            os.close(fd)


def watch(top: Path, wanted: dict[str, Sizes], end: Path) -> None:
    """Look at all install directories again and again: whatever has its name there is whole."""
    looks = seen = 0
    while not end.exists():
        for install in top.glob("srv*"):
            for name, sizes in wanted.items():
                try:
                    place = os.open(install / name, os.O_RDONLY | os.O_DIRECTORY)
                except FileNotFoundError:
                    continue
                seen += 1
                assert whole(place, sizes), f"{install / name} is half"
                os.close(place)
        looks += 1
        time.sleep(0.002)
    assert looks > 20
    assert seen > 20


def progress(install: Path) -> int:
    """How far a pull is: what it has begun, and twice what is to be seen."""
    return len(list(install.glob(".staging/*/*"))) + 2 * len(list(install.glob("s*/*")))


def test_d10_killed_at_any_moment_and_no_half_version_is_ever_seen(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    wanted, _ = fill(tmp_path / "store", 20, [10, 4000, 100_000])

    def store() -> AssetStore:
        return open_assets(f"dir:{tmp_path}/store")

    watcher = child(lambda: watch(tmp_path, wanted, tmp_path / "end"))
    killed = adopted = 0
    try:
        for number in range(KILLS):
            install = tmp_path / f"srv{number}"
            pid = child(lambda install=install: take(store, install))  # type: ignore[misc]
            moment = rng.random() * 2 * len(wanted)  # each is begun, and then seen
            while (
                progress(install) < moment
                and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
            ):
                time.sleep(rng.random() / 500)
            os.kill(pid, signal.SIGKILL)  # it is not waited for yet, so its number is still its own
            killed += ended(pid) == -signal.SIGKILL
            report = take(store, install)
            adopted += report.adopted
            assert report.failed == []
            assert all(whole(install / name, sizes) for name, sizes in wanted.items())
            assert os.listdir(install / ".staging") == ["lock"]
            assert take(store, install).installed == 0
            install.rename(tmp_path / f"done{number}")
    finally:
        (tmp_path / "end").touch()
        assert ended(watcher) == 0
    assert killed > KILLS // 3
    assert adopted


class Counting(BlobAssets):
    """A store that writes to a file how many bytes each process has read of it."""

    log: Path

    @contextmanager
    def open(self, name: Name) -> Iterator[Incoming]:
        with super().open(name) as incoming, self.log.open("ab", buffering=0) as log:
            read = incoming.read

            def counted(size: int = -1) -> bytes:
                data = read(size)
                log.write(len(data).to_bytes(8, "big"))
                return data

            incoming.read = counted  # type: ignore[method-assign]
            yield incoming


def test_a_pull_that_was_killed_at_half_goes_on_from_there(tmp_path: Path) -> None:
    _, total = fill(tmp_path / "store", 250, [2000, 5000])

    def store(log: str) -> AssetStore:
        found = open_assets(f"dir:{tmp_path}/store")
        found.__class__ = Counting
        found.log = tmp_path / log  # type: ignore[attr-defined]
        return found

    def count(log: str) -> int:
        data = (tmp_path / log).read_bytes() if (tmp_path / log).exists() else b""
        return sum(int.from_bytes(data[at : at + 8], "big") for at in range(0, len(data) - 7, 8))

    pid = child(lambda: take(lambda: store("first"), tmp_path / "srv"))
    while count("first") < total // 2:
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    assert ended(pid) == -signal.SIGKILL
    report = take(lambda: store("second"), tmp_path / "srv")
    assert report.failed == []
    assert count("second") <= 0.55 * total
    assert report.size + count("first") >= total


# -- by the command ----------------------------------------------------------------------------------------------


def command(*words: str, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "buildstep", "assets", *words],
        env={**os.environ, **environ}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(*words: str, **environ: str) -> tuple[int, str, str]:
    process = command(*words, **environ)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_d12_s3_through_a_network_that_fails(tmp_path: Path, weed: S3Store) -> None:  # noqa: F811
    wanted, _ = fill(tmp_path / "store", 40, [10, 20_000])
    url = f"s3://{weed.bucket}/pull"
    at = [f"--store={url}", f"--endpoint-url={weed.endpoint}", "--quiet"]
    assert run("push", f"--dir={tmp_path}/store", *at, **weed.environ)[0] == 0
    with faulty(weed.endpoint, share=0.15, seed=3) as proxy:
        words = ["pull", *SERVICES, f"--store={url}", f"--endpoint-url={proxy.url}", "--quiet", "--json"]
        words.append(f"--install-dir={tmp_path}/srv")
        status, out, err = run(*words, **weed.environ)
        assert status == 0, err
        assert sum(proxy.seen[fault] for fault in proxy.seen if fault != "calls") > 3
        assert all(whole(tmp_path / "srv" / name, sizes) for name, sizes in wanted.items())
        assert {len(row["installed"]) for row in json.loads(out)["services"].values()} == {8}
        for name in wanted:
            mark = json.loads((tmp_path / "srv" / name / MARK).read_bytes())
            data = (tmp_path / "store" / mark["file"]).read_bytes()
            assert mark["sha256"] == hashlib.sha256(data).hexdigest()
            assert mark["etag"]
        calls = proxy.seen["calls"]
        proxy.share = 0.0
        assert run(*words, **weed.environ)[0] == 0
        assert proxy.seen["calls"] - calls <= len(SERVICES)


def test_d12_what_failed_is_told_and_the_status_says_so(tmp_path: Path) -> None:
    fill(tmp_path / "store", 10, [10])
    (tmp_path / "store/s1-1.tar.gz").write_bytes(b"damaged")
    status, out, err = run(
        "pull", *SERVICES, f"--store={tmp_path}/store", f"--install-dir={tmp_path}/srv", "--json"
    )
    assert status == 22
    report = json.loads(out)
    assert report["services"]["s1"]["installed"] == ["6"]
    assert list(report["services"]["s1"]["failed"]) == ["1"]
    assert "1 service of 5 could not be pulled completely\n  s1 1: " in err


def test_d16_a_watching_pull_follows_consul(tmp_path: Path, consul: Agent) -> None:  # noqa: F811
    fill(tmp_path / "store", 10, [10])
    consul.clear()
    consul.put("daybook/hosts/web-*", "s1")
    install = tmp_path / "srv"
    process = command(
        "pull", "--watch", "--host=web-1", f"--store={tmp_path}/store", f"--install-dir={install}",
        f"--register={consul.url}", "--splay=0",
    )  # fmt: skip
    try:
        until((install / "s1/6" / MARK).exists, seconds=10)
        begin = time.monotonic()
        consul.put("daybook/hosts/web-*", "s1,s2")
        until((install / "s2/7" / MARK).exists, seconds=10)
        assert time.monotonic() - begin < 3
        assert not (install / "s3").exists()
        # What it tells of it comes after the mark.
        assert process.stdout is not None
        assert any("s2: installed" in line for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM
    finally:
        process.kill()
        _, err = process.communicate()
    assert "Traceback" not in err


def test_d16_a_watching_pull_outlives_the_agent(tmp_path: Path) -> None:
    fill(tmp_path / "store", 10, [10])
    install = tmp_path / "srv"
    with agent(tmp_path / "consul") as consul:  # noqa: F811
        consul.put("daybook/hosts/*", "s1")
        process = command(
            "pull", "--watch", "--host=web-1", f"--store={tmp_path}/store", f"--install-dir={install}",
            f"--register={consul.url}", "--splay=0", "--prune",
        )  # fmt: skip
        try:
            until((install / "s1/6" / MARK).exists, seconds=10)
            consul.signal(signal.SIGKILL)
            time.sleep(0.5)
            assert process.poll() is None
            consul.stop()
            consul.start()  # it has forgotten all mappings, and counts its changes anew
            consul.put("daybook/hosts/web-*", "s1,s2")
            until((install / "s2/7" / MARK).exists, seconds=20)
            assert (install / "s1/6" / MARK).exists()
        finally:
            process.terminate()
            err = process.communicate(timeout=10)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert "no answer from the Consul agent" in err
    assert "Traceback" not in err


def test_d16_a_rollback_by_the_command(tmp_path: Path) -> None:
    fill(tmp_path / "store", 5, [10])
    install = f"--install-dir={tmp_path}/srv"
    for version in ("5", "6"):
        shutil.copy(tmp_path / "store/s0-0.tar.gz", tmp_path / f"store/s0-{version}.tar.gz")
        assert run("pull", "s0", f"--store={tmp_path}/store", install, "--activate", "--quiet")[0] == 0
    assert run("rollback", "s0", install)[1] == "s0 runs 5, not 6 any more\n"
    status, out, _ = run("rollback", "s0", install, "--to=6", "--json")
    assert (status, json.loads(out)) == (0, {"service": "s0", "left": "5", "current": "6"})
    assert os.readlink(tmp_path / "srv/s0/current") == "6"


def test_d12_a_disk_that_gets_full_is_told_and_nothing_half_stays(tmp_path: Path) -> None:
    demand("root")
    (tmp_path / "store").mkdir()
    rng = random.Random(SEED)
    big = archive(*(member(f"f{number}", rng.randbytes(4096) * 64) for number in range(40)))
    (tmp_path / "store/s0-2.tar.gz").write_bytes(big)
    (tmp_path / "store/s1-1.tar.gz").write_bytes(archive(member("f", b"x")))
    install = tmp_path / "srv"
    install.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", install], check=True)
    try:
        assert len(big) < 1 << 20
        report = take(lambda: open_assets(f"dir:{tmp_path}/store"), install)
        assert "No space left on device" in report.services["s0"].failed["2"]
        assert os.listdir(install / ".staging") == ["lock"]
        assert not (install / "s0").exists()
        (tmp_path / "store/s0-2.tar.gz").unlink()
        assert take(lambda: open_assets(f"dir:{tmp_path}/store"), install).failed == []
        assert (install / "s1/1/f").read_text() == "x"
    finally:
        subprocess.run(["umount", install], check=True)


def test_d09_an_ordinary_user_pulls_what_he_can_have(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("another user is made of root")
    data = archive(member("f", b"x", uid=1234, gid=1234, mode=0o4755))
    (tmp_path / "store").mkdir()
    (tmp_path / "store/web-1.tar.gz").write_bytes(data)
    install = tmp_path / "srv"
    install.mkdir()
    os.chown(install, 4321, 4321)

    def job() -> None:
        os.setgroups([])
        os.setgid(4321)
        os.setuid(4321)
        report = pull(lambda: open_assets(f"dir:{tmp_path}/store"), ["web"], install, Policy(), Options())
        assert report.failed == []

    for path in [tmp_path, *tmp_path.parents]:
        if not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    assert ended(child(job)) == 0
    info = (install / "web/1/f").stat()
    assert (info.st_uid, info.st_mode & 0o7777) == (4321, 0o755)
