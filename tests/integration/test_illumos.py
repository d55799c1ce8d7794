"""Whole builds on illumos as far as it can be had here: which tools are called, in which order, and what is undone.

What runs is `bin/build` and `bin/buildimage` themselves. The system they find is a stand-in (tests/illumos):
its zfs, mount and zonename are ours, so nothing here proves that a real illumos takes these commands. The order
of the steps is compared with the one of the tool that this one replaces.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from buildstep.formats.zfs_stream import BEGIN_SIZE, read_begin
from tests.illumos.launcher import VERSION
from tests.illumos.zone import BASE, REPOSITORY, Call, Zone, clean_tmp
from tests.integration.conftest import demand, enclosed
from tests.integration.support import LIMIT, matches, wait_for

Private = Callable[[Callable[[], Any]], Any]

STAMP = VERSION.partition("_")[2]
STEM = "hello-illumos-1.0.0"
POOL = "zones/agent-1/data"

ORIGINAL = (
    "import", "clone", "files", "mounts", "upgrade", "packages", "list", "audit", "pkgin data", "config", "motd",
    "unmounts", "image", "destroy",
)  # fmt: skip
"""The steps of Triton's buildimage in their order, with every flag given. Its proxy step runs no tool."""

GOLDEN = (
    "import", "clone", "files", "mounts", "upgrade", "packages", "list", "audit", "pkgin data",
    "unmounts", "config", "motd", "image", "destroy",
)  # fmt: skip
"""Ours. One step stands elsewhere, on purpose: nothing is removed from the tree or written to it while the
agent's own directories are mounted in it."""


@pytest.fixture
def zone(require: Any, tmp_path: Path) -> Zone:
    require("root", "namespaces", "busybox", "rsync")
    return Zone.make(tmp_path)


def steps_of(calls: list[Call]) -> list[str]:
    """The steps that a log shows. What only asks is left out; a call that is in no step fails the test."""
    found: list[str] = []

    def add(name: str) -> None:
        if not found or found[-1] != name:
            found.append(name)

    before = Call(tool="", argv=[])
    for call in calls:
        if call.clone:
            if before.pkgin and not call.pkgin:
                add("pkgin data")
            # Between two calls nothing tells which of these was first: the directories get their old times
            # again. That cleaners come before the motd is held by the table of steps.
            if before.config and not call.config:
                add("config")
            if call.motd and not before.motd:
                add("motd")
            before = call
        name = step_of(call)
        if name:
            add(name)
    return found


def step_of(call: Call) -> str:
    words = call.argv
    match call.tool, words[0] if words else "":
        case ("zonename", _) | ("ctrun", _):
            return ""
        case "zfs", "get" | "list" | "holds":
            return ""
        case "zfs", "create":
            assert words[-1] == f"{POOL}/buildstep"
            return ""
        case "zfs", "receive":
            return "import"
        case "zfs", "rename" | "set":
            return "import"
        case "zfs", "clone":
            return "clone"
        case "rsync", _:
            return "files"
        case "zfs", "snapshot" | "send":
            return "image"
        case "zfs", "destroy":
            return "destroy"
        case ("mount", _) | ("umount", _):
            if call.tool == "mount" and "zfs" in words:
                return ""
            return mount_step(call)
        case "chroot", _:
            return IN_IMAGE[words[1].rpartition("/")[2], words[2] if len(words) > 2 else ""]
    pytest.fail(f"a call in no step: {call}")


def mount_step(call: Call) -> str:
    target = call.argv[-1]
    if target.endswith("/var/db/pkgin/cache") or "/root/" not in target:
        return ""  # the cache of downloads, which the original has not; the datasets themselves
    return "mounts" if call.tool == "mount" else "unmounts"


IN_IMAGE = {
    ("pkgin", "update"): "upgrade",
    ("pkgin", "-y"): "upgrade",
    ("pkgin", "avail"): "",
    ("pkg_add", "-U"): "packages",
    ("pkg_info", "-a"): "list",
    ("pkg_admin", "fetch-pkg-vulnerabilities"): "audit",
    ("pkg_admin", "audit"): "audit",
}


def manifest(**more: object) -> str:
    return json.dumps({"name": "hello", "version": "1.0.0", "description": "A test", **more})


def build(zone: Zone, base: str, *more: str) -> Any:
    return zone.run(
        "build", "-i", base, "-o", f"{zone.top}/out", "-m", manifest(), *more, f"{zone.top}/stage/root"
    )


def tar_of(zone: Zone) -> Path:
    (found,) = (zone.top / "out").glob("*.tar")
    return found


@dataclass(frozen=True, kw_only=True)
class Original:
    """A build with every flag of the original, no pool and no format named: what was called, and what came."""

    calls: list[Call]
    datasets: list[str]
    mounts: list[str]
    files: dict[str, bytes]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    demand("root", "namespaces", "busybox", "rsync")
    zone = Zone.make(tmp_path_factory.mktemp("zone"))

    def job() -> Original:
        base = zone.base(requirements={"min_platform": {"7.0": "20180101T000000Z"}})
        done = zone.run(
            "buildimage", "-i", base, "-d", f"{zone.top}/stage/root", "-m", manifest(), "-u", "-p", "nginx,zlib",
            "-M", "-S", "https://git.example.org/hello", "-a", "-P", "hello-illumos", "--no-cache",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        made = {path.name.removeprefix(f"{STEM}."): path for path in Path("/tmp").glob(f"{STEM}.*")}
        return Original(
            calls=zone.calls(), datasets=zone.datasets(), mounts=zone.mounts(),
            files={name: path.read_bytes() for name, path in made.items()},
        )  # fmt: skip

    with clean_tmp("hello-illumos"):
        return enclosed(job)


def test_the_order_of_the_original(original: Original) -> None:
    assert steps_of(original.calls) == list(GOLDEN)


def test_golden_differs_by_one_step_only() -> None:
    moved = "unmounts"
    assert [name for name in GOLDEN if name != moved] == [name for name in ORIGINAL if name != moved]


def test_nothing_is_left_and_no_mount_was_unknown(original: Original) -> None:
    assert [call for call in original.calls if not call.journaled] == []
    assert original.mounts == []
    assert original.datasets == [POOL, *(f"{POOL}/{name}" for name in (BASE, f"{BASE}@final", "buildstep"))]


def test_the_pool_is_the_zones_own(original: Original) -> None:
    assert [(call.tool, call.argv) for call in original.calls[:2]] == [
        ("zonename", []), ("zfs", ["list", "-H", "-o", "name", POOL]),
    ]  # fmt: skip
    assert {
        "zfs.gz",
        "imgmanifest",
        "pkgaudit",
    } <= original.files.keys()  # in /tmp, where the original writes


def test_the_commands_are_those_that_illumos_has(original: Original) -> None:
    calls = original.calls
    clone = next(call.argv for call in calls if call.argv[:1] == ["clone"])
    assert clone[-2] == f"{POOL}/{BASE}@final"
    assert {"mountpoint=legacy", "imgadm:ignore=true"} <= set(clone)
    assert not any("acltype" in word for call in calls for word in call.argv)
    root = next(call.argv[-1] for call in calls if call.tool == "rsync").rstrip("/")
    assert root.endswith("/root")
    lofs = [call.argv for call in calls if call.tool == "mount" and "lofs" in call.argv and "-r" in call.argv]
    folders = ("/dev", "/lib", "/proc", "/sbin", "/usr")
    assert lofs == [["-F", "lofs", "-r", folder, f"{root}{folder}"] for folder in folders]
    undone = [call.argv for call in calls if call.tool == "umount" and call.argv[-1].startswith(f"{root}/")]
    assert [words for words in undone if "pkgin" not in words[-1]] == [
        [f"{root}{folder}"] for folder in reversed(folders)
    ]
    inside = [call.argv[1:] for call in calls if call.tool == "chroot"]
    assert inside == [
        ["/opt/local/bin/pkgin", "update"],
        ["/opt/local/bin/pkgin", "avail"],
        ["/opt/local/bin/pkgin", "-y", "full-upgrade"],
        ["/opt/local/sbin/pkg_add", "-U", "nginx", "zlib"],
        ["/opt/local/sbin/pkg_info", "-a"],
        ["/opt/local/sbin/pkg_admin", "fetch-pkg-vulnerabilities"],
        ["/opt/local/sbin/pkg_admin", "audit"],
    ]
    held = [call.argv for call in calls if call.tool == "ctrun"]
    assert all(words[:4] == ["-l", "child", "-o", "noorphan"] for words in held)
    assert [words[5:] for words in held] == [[root, *words] for words in inside]
    send = next(call.argv for call in calls if call.argv[:1] == ["send"])
    assert send[:3] == ["send", "-i", f"{POOL}/{BASE}@final"]


def test_the_stream_has_base_proto_and_packages(original: Original) -> None:
    data = gzip.decompress(original.files["zfs.gz"])
    assert read_begin(data[:BEGIN_SIZE]).from_guid == 77
    with tarfile.open(fileobj=io.BytesIO(data[BEGIN_SIZE:])) as tar:
        names = {name.removeprefix("./") for name in tar.getnames()}
        greeting = tar.getmember("./root/opt/hello/greeting")
        assert (greeting.uid, greeting.gid) == (0, 0)
        motd = tar.extractfile("./root/etc/motd")
        assert motd is not None
        told = motd.read().decode()
    assert {"root/opt/local/bin/nginx", "root/opt/local/pkg/nginx-1.26.2"} <= names
    assert not any(name.startswith(("config", "root/var/db/pkgin/")) for name in names)
    assert not any(name.startswith("root/usr/") for name in names)  # the agent's own was shown there
    rows = ["", " =  T R I T O N  =", "", "    hello (1.0.0)", "    https://git.example.org/hello"]
    assert told.splitlines() == [*rows, "    base@21.4.0", ""]
    assert b"zlib" in original.files["pkgaudit"]


def test_the_manifest_has_what_the_original_sets(original: Original) -> None:
    made = json.loads(original.files["imgmanifest"])
    assert made["requirements"] == {
        "networks": [{"name": "net0", "description": "public"}], "min_platform": {"7.0": STAMP},
    }  # fmt: skip
    assert (made["origin"], made["type"], made["os"]) == (BASE, "zone-dataset", "smartos")
    assert made["owner"] == "00000000-0000-0000-0000-000000000000"
    guid = read_begin(gzip.decompress(original.files["zfs.gz"])[:BEGIN_SIZE]).guid
    assert made["files"][0]["dataset_guid"] == str(guid)


def test_the_next_build_takes_the_layer(zone: Zone, private: Private) -> None:
    def job() -> None:
        base = zone.base()
        first = build(
            zone, base, "-p", "nginx", "--order", "packages-first", "-f", "zfs", "-f", "tar", "-c", "none"
        )
        assert first.returncode == 0, first.stderr
        (zone.top / "stage/root/opt/hello/greeting").write_text("hello again\n")
        zone.forget()
        second = build(
            zone, base, "-p", "nginx", "--order", "packages-first", "-f", "zfs", "-f", "tar", "-c", "none"
        )
        assert second.returncode == 0, second.stderr
        ran = [call.argv[1] for call in zone.calls() if call.tool == "chroot"]
        assert not any("pkg_add" in word for word in ran)
        clone = next(call.argv for call in zone.calls() if call.argv[:1] == ["clone"])
        assert clone[-2].startswith(f"{POOL}/layer-")
        with tarfile.open(tar_of(zone)) as tar:
            file = tar.extractfile("root/opt/hello/greeting")
            assert file is not None
            assert file.read() == b"hello again\n"
        assert zone.mounts() == []

    private(job)


def test_min_platform_of_the_author_wins(zone: Zone, private: Private) -> None:
    wanted = {"requirements": {"min_platform": {"7.0": "20190101T000000Z"}}}

    def job() -> None:
        done = zone.run(
            "build", "-i", zone.base(), "-o", f"{zone.top}/out", "-m", manifest(**wanted), "-f", "zfs",
            f"{zone.top}/stage/root",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        made = json.loads((zone.top / "out/hello-1.0.0.imgmanifest").read_text())
        assert made["requirements"]["min_platform"] == {"7.0": "20190101T000000Z"}
        assert made["requirements"]["networks"]

    private(job)


@pytest.mark.parametrize(
    ("requirements", "why"),
    [
        ({"min_platform": {"7.0": "20220101T000000Z"}}, "20220101T000000Z or later"),
        ({"max_platform": {"7.0": "20200101T000000Z"}}, "20200101T000000Z or earlier"),
        ({"min_platform": {"7.1": "20120101T000000Z"}}, "SDC 7.1 or later"),
    ],
)
def test_a_base_for_another_platform_is_refused(
    zone: Zone, private: Private, requirements: dict[str, Any], why: str
) -> None:
    def job() -> None:
        done = build(zone, zone.base(requirements=requirements))
        assert done.returncode == 11, done.stderr
        assert why in done.stderr
        assert not any(call.argv[:1] == ["clone"] for call in zone.calls())
        assert zone.mounts() == []

    private(job)


def test_the_recipe_of_the_original(zone: Zone, private: Private) -> None:
    """The Makefile written for the original names no pool and no format."""

    def job() -> None:
        base = zone.base()
        done = zone.run("buildstep", "image", "import", base, "--json")
        assert done.returncode == 0, done.stderr
        work = zone.top / "component"
        shutil.copytree(REPOSITORY / "fixtures/buildimage-make", work)
        made = subprocess.run(
            ["make", "buildimage", f"BUILDIMAGE={REPOSITORY}/bin/buildimage", f"BASE_IMAGE_UUID={BASE}",
             "BUILDIMAGE_PKGSRC=nginx zlib", f"BUILDIMAGE_STAGEDIR={zone.top}/staged"],
            cwd=work, env=zone.env(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        stem = "hello-zfs-main-20240102T030405Z-g0123456"
        found = {path.name for path in (work / "bits/hello").iterdir()}
        assert found == {f"{stem}.zfs.gz", f"{stem}.imgmanifest", f"{stem}.pkgaudit"}

    with clean_tmp("hello-zfs-main-20240102T030405Z-g0123456"):
        private(job)


# -- what is undone ---------------------------------------------------------------------------------------


def test_a_mount_that_fails_undoes_the_others(zone: Zone, private: Private) -> None:
    """The original leaves four mounts behind, and the clone busy (D4)."""

    def job() -> None:
        base = zone.base()
        (zone.top / "refuse").write_text("-F lofs -r /proc")
        done = build(zone, base, "-p", "nginx")
        assert done.returncode == 13, done.stderr
        assert "no such thing" in done.stderr
        assert "/proc" in done.stderr
        assert zone.mounts() == []
        assert not any("/build-" in name for name in zone.datasets())
        assert list((zone.top / "pool/buildstep/journal").iterdir()) == []

    private(job)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_build(zone: Zone, private: Private, signum: signal.Signals) -> None:
    """SIGTERM: it undoes all by itself. SIGKILL: the mounts stay, and heal undoes them, but not a live build's."""

    def job() -> None:
        base = zone.base()
        assert zone.run("buildstep", "image", "import", base).returncode == 0
        before = zone.datasets()
        child = zone.start(
            "build",
            "-i",
            BASE,
            "-o",
            f"{zone.top}/out",
            "-m",
            manifest(),
            "-p",
            "hang",
            f"{zone.top}/stage/root",
        )
        wait_for(
            lambda: any(call.argv[-1:] == ["hang"] for call in zone.calls() if call.tool == "chroot"),
            child,
        )
        wait_for(lambda: matches(zone.top, "pool/buildstep/mnt/*/root/hanging"), child)
        held = zone.mounts()
        assert len(held) == 7  # the clone, five directories, the cache of downloads
        healed = zone.run("buildstep", "heal", "--json")
        assert json.loads(healed.stdout)["left"] == []
        assert zone.mounts() == held
        child.send_signal(signum)
        status = child.wait(LIMIT)
        if signum == signal.SIGTERM:
            assert status == 128 + signal.SIGTERM
        else:
            assert zone.mounts() == held
            healed = zone.run("buildstep", "heal", "--json")
            assert healed.returncode == 0, healed.stderr
            left = json.loads(healed.stdout)["left"]
            assert [row["kind"] for row in left] == ["mount"] * 7 + ["dataset", "outputs"]
            assert all(row["removed"] for row in left)
            assert [row["name"] for row in left[:7]] == held[::-1]
        assert zone.mounts() == []
        assert zone.datasets() == before
        assert list((zone.top / "pool/buildstep/journal").iterdir()) == []

    private(job)


# -- the pool ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "why"),
    [("global", "this is the global zone"), ("agent-2", "no delegated dataset zones/agent-2/data")],
)
def test_a_zone_without_a_dataset(zone: Zone, private: Private, name: str, why: str) -> None:
    """The original crashes on an undefined name (D33)."""

    def job() -> None:
        (zone.top / "zonename").write_text(name)
        done = build(zone, "scratch")
        assert done.returncode == 10, done.stderr
        assert why in done.stderr
        assert "--pool" in done.stderr
        doctor = zone.run("buildstep", "doctor", "--json")
        assert "Traceback" not in doctor.stderr, doctor.stderr
        told = [row for row in json.loads(doctor.stdout)["findings"] if row["area"] == "pool"]
        assert any(why in row["what"] for row in told)

    private(job)


def test_doctor_asks_for_what_a_zone_has(zone: Zone, private: Private) -> None:
    def job() -> None:
        argv = ("-i", zone.base(), "-m", manifest(), "-p", "nginx", "-f", "zfs", f"{zone.top}/stage/root")
        done = zone.run("buildstep", "doctor", "--json", *argv)
        assert "Traceback" not in done.stderr, done.stderr
        told = json.loads(done.stdout)
        assert told["able"], done.stdout
        assert told["pool"] == f"zfs:{POOL}"
        (zone.top / "tools/ctrun").unlink()
        done = zone.run("buildstep", "doctor", "--json", *argv)
        missing = {
            row["where"]: row["fix"] for row in json.loads(done.stdout)["findings"] if row["level"] == "error"
        }
        assert missing == {"ctrun": "ctrun is part of SmartOS: is /usr/sbin in this zone?"}
        assert not any(call.argv[:1] == ["clone"] for call in zone.calls())

    private(job)
