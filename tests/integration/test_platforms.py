"""Images for other platforms: a real Debian for arm64, its packages and commands run by an emulator; one name
for two platforms; and what is said where nothing can run them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from buildstep.formats.oci.spec import OciPlatform
from buildstep.rootfs import emulation
from tests.integration.binfmt import CONFIGURATION, arm64_runs
from tests.integration.conftest import cache_dir, demand
from tests.integration.repository import Repository, free_port
from tests.servers.fixtures import Registry, registry
from tests.servers.layouts import layer, make_layout

__all__ = ["registry"]

TOP = Path(__file__).resolve().parents[2]
BASE = "mmdebstrap:bookworm?variant=apt"
POSTINST = "#!/bin/sh\nset -e\nuname -m > /machine\ndpkg --print-architecture >> /machine\n"


def run(*argv: str | Path, status: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        argv, env={**os.environ, **environ}, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == status, f"{done.returncode}: {done.stderr}"
    return done


def build(top: Path, *options: str | Path, pool: Path | None = None, status: int = 0, **environ: str) -> Any:
    """Run bin/build on what is in a directory; its answer, or what it said where it failed."""
    env = {"BUILDSTEP_POOL": f"overlay:{pool or top / 'pool'}", "SOURCE_DATE_EPOCH": "1700000000", **environ}
    words = ["-m", top / "m.json", "-o", top / "out", "--json", *options, top / "proto"]
    done = run(TOP / "bin/build", *words, status=status, **env)
    return json.loads(done.stdout) if status == 0 else done.stderr


def component(top: Path, **settings: object) -> None:
    """An m.json and a proto directory with a file."""
    (top / "proto/etc").mkdir(parents=True, exist_ok=True)
    (top / "proto/etc/hello").write_text("hello\n")
    document = {"name": "armed", "version": "1.0", "os": "linux", "type": "other", "build": settings}
    (top / "m.json").write_text(json.dumps(document))


def config_of(archive: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("skopeo", "inspect", "--config", f"oci-archive:{archive}").stdout)
    return found


@pytest.fixture(scope="module")
def arm64() -> Iterator[None]:
    """Programs for arm64 run."""
    demand("root", "namespaces", "overlay", "mmdebstrap", "mirror", "qemu-aarch64-static")
    assert CONFIGURATION.exists()
    with arm64_runs():
        yield


# -- an emulator ------------------------------------------------------------------------------------------


def test_a_debian_for_arm64_with_packages_and_commands(arm64: None, tmp_path: Path) -> None:
    port = free_port()
    component(
        tmp_path, image=BASE, packages=["made"], order="proto-first", formats=["oci", "tar"],
        run=["uname -m > /run-machine", ["/bin/sh", "-c", "test -e /etc/hello"]], oci={"cmd": ["/bin/bash"]},
    )  # fmt: skip
    (tmp_path / "proto/etc/apt").mkdir()
    (tmp_path / "proto/etc/apt/sources.list").write_text(f"deb [trusted=yes] http://127.0.0.1:{port}/ ./\n")
    repository = Repository(tmp_path / "repository", port)
    repository.put("made", "1.0", postinst=POSTINST)
    with repository.served():
        done = build(
            tmp_path, "--platform", "linux/arm64", pool=cache_dir() / "platforms-pool",
            BUILDSTEP_NETWORK_ALLOW=f"127.0.0.1:{port}",
        )  # fmt: skip
    names = sorted(Path(row["path"]).name for row in done["files"])
    assert names == ["armed-1.0-arm64.oci.tar", "armed-1.0-arm64.tar.zst"]
    assert Path(done["record"]).name == "armed-1.0-arm64.buildrecord.json"
    packages = json.loads(Path(done["record"]).read_text())["packages"]
    assert {row["arch"] for row in packages} == {"all", "arm64"}
    assert "made" in {row["name"] for row in packages}
    config = config_of(tmp_path / "out/armed-1.0-arm64.oci.tar")
    assert (config["os"], config["architecture"]) == ("linux", "arm64")
    argv: list[str | Path] = ["tar", "--zstd", "-xOf", tmp_path / "out/armed-1.0-arm64.tar.zst"]
    told = {name: run(*argv, name).stdout.split() for name in ("machine", "run-machine")}
    assert told == {"machine": ["aarch64", "arm64"], "run-machine": ["aarch64"]}
    head = subprocess.run([*argv, "usr/bin/bash"], capture_output=True, check=True).stdout[:20]
    assert (head[:4], head[18]) == (b"\x7fELF", 183)
    kept = run(
        TOP / "bin/buildstep",
        "image",
        "list",
        "--json",
        "--pool",
        f"overlay:{cache_dir() / 'platforms-pool'}",
    )
    (base,) = [row for row in json.loads(kept.stdout)["images"] if row["label"] == BASE]
    assert base["config"]["architecture"] == "arm64"


def test_what_is_tried_is_what_the_list_says(arm64: None) -> None:
    wanted = OciPlatform.parse("linux/arm64")
    assert emulation.runs_here(wanted)
    emulation._tried.cache_clear()
    assert emulation._tried("arm64"), "where the list is not to be seen, as in a container"
    assert emulation._tried(OciPlatform.here().architecture)


@pytest.mark.parametrize("name", [*emulation._MACHINES])
def test_each_small_program_is_one_that_its_emulator_runs(name: str, tmp_path: Path) -> None:
    program = f"qemu-{emulation._QEMU.get(name, name)}-static"
    demand(program)
    path = tmp_path / "probe"
    path.write_bytes(emulation.probe(name) or b"")
    path.chmod(0o755)
    run(program, path)


# -- without one ------------------------------------------------------------------------------------------


def unknown() -> str:
    """A platform whose programs do not run here."""
    for name in ("loong64", "mips64", "ppc64", "s390x"):
        if not emulation.can_run(OciPlatform.parse(f"linux/{name}")):
            return f"linux/{name}"
    pytest.skip("this machine runs programs of every platform")


@pytest.mark.parametrize(
    "settings",
    [
        {"image": "mmdebstrap:bookworm"},
        {"image": "oci:base", "packages": ["a"]},
        {"image": "oci:base", "run": ["true"]},
    ],
)
def test_what_cannot_run_is_said_before_anything_is_touched(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demand("root", "namespaces", "overlay", "mmdebstrap", "rsync")
    platform = unknown()
    component(tmp_path, **settings)
    make_layout(tmp_path / "base", [layer({"etc/": b"", "etc/os-release": b"ID=x\n"})], platforms=[platform])
    monkeypatch.chdir(tmp_path)
    told = build(tmp_path, "--platform", platform, status=5)
    assert told.count("\n") == 2, told
    assert f"programs of {platform}, which this machine, " in told
    assert "hint: apt-get install qemu-user-static binfmt-support" in told
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "pool/image").glob("*"))


def test_two_platforms_of_one_tag_under_one_name(registry: Registry, tmp_path: Path) -> None:
    """An index is pulled for each platform; nothing of either is run; both are published as one index again."""
    demand("root", "namespaces", "overlay", "rsync", "skopeo")
    platforms = ["linux/amd64", "linux/arm64", "linux/arm/v7"]
    make_layout(tmp_path / "base", [layer({"base": b"1"})], platforms=platforms)
    source = f"oci:{tmp_path}/base:latest"
    place = f"docker://{registry.host}"
    run("skopeo", "--insecure-policy", "copy", "--all", "--dest-tls-verify=false", source, f"{place}/base:1")
    component(tmp_path, image=f"{place}/base:1")
    made = {}
    for platform in platforms:
        done = build(tmp_path, "--platform", platform)
        made[platform] = done
        config = config_of(done["files"][0]["path"])
        assert (
            "/".join(filter(None, (config["os"], config["architecture"], config.get("variant")))) == platform
        )
    assert len({done["uuid"] for done in made.values()}) == 3
    # Each is still valid beside the others: their bases, notes and outputs are their own.
    for platform in platforms:
        again = build(tmp_path, "--platform", platform)
        assert {step["state"] for step in again["steps"]} <= {"reuse", "skip"}, platform
    told = build(tmp_path, "--platform", "linux/s390x", status=11)
    assert "has no image for linux/s390x" in told
    manifests = [done["manifest"] for done in made.values()]
    words = ["image", "publish", "--pool", f"overlay:{tmp_path / 'pool'}", "--json", "--index"]
    done = json.loads(run(TOP / "bin/buildstep", *words, f"{place}/armed:1.0", *manifests).stdout)
    raw = json.loads(run("skopeo", "inspect", "--raw", "--tls-verify=false", f"{place}/armed:1.0").stdout)
    assert [row["platform"] for row in raw["manifests"]] == [
        {"architecture": "amd64", "os": "linux"},
        {"architecture": "arm", "os": "linux", "variant": "v7"},
        {"architecture": "arm64", "os": "linux"},
    ]
    (row,) = done["published"]
    assert row["objects"]["linux/arm64"] == raw["manifests"][2]["digest"]
    for arch in ("amd64", "arm64"):
        words = ["--override-arch", arch, "inspect", "--config", "--tls-verify=false"]
        assert json.loads(run("skopeo", *words, f"{place}/armed:1.0").stdout)["architecture"] == arch
    record = json.loads(Path(made["linux/arm64"]["record"]).read_text())
    assert record["published"][0]["address"] == row["name"]
    component(tmp_path, image=f"{place}/armed:1.0")
    on_top = build(tmp_path, "--platform", "linux/arm64", "-o", tmp_path / "top")
    assert config_of(on_top["files"][0]["path"])["architecture"] == "arm64"


def test_a_base_that_is_for_another_platform_is_refused(tmp_path: Path) -> None:
    demand("root", "namespaces", "overlay", "busybox", "rsync")
    make_layout(tmp_path / "one", [layer({"base": b"1"})])
    component(tmp_path, image=f"oci:{tmp_path}/one")
    told = build(tmp_path, "--platform", "linux/arm64", status=11)
    assert "is for linux/amd64, not for linux/arm64" in told
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    # A program for a machine that is not this one, whatever this one is.
    other = "s390x" if OciPlatform.here().architecture != "s390x" else "amd64"
    (root / "bin/sh").write_bytes(emulation.probe(other) or b"")
    run("tar", "-C", root, "-cf", tmp_path / "base.tar", ".")
    component(tmp_path, image=f"tar:{tmp_path}/base.tar")
    for _ in range(2):  # the second time it is in the store
        told = build(tmp_path, "--platform", "linux/arm64", status=11)
        assert f"is for linux/{other}, not for linux/arm64" in told
    assert not list((tmp_path / "out").glob("*.tar"))
