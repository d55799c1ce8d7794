"""Two services as a user has them: built, loaded by container engines under their names, started with the
command of the image, and answering over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import cache_dir, demand
from tests.integration.served import served

TOP = Path(__file__).resolve().parents[2]
BOOK, WINDOW = "localhost/guestbook:1.4.0", "localhost/shop-window:2.1.0"
HEALTH = "http://127.0.0.1:8080/health"
WINDOW_URL = "http://127.0.0.1:3000"


def run(*argv: str | Path) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{' '.join(str(word) for word in argv)}\n{done.stderr}"
    return done.stdout


def built(service: Path, out: Path) -> Path:
    """The archive of a service, built as its user does, in a pool that outlives the session."""
    env = {**os.environ, "BUILDSTEP_POOL": f"overlay:{cache_dir() / 'sample-pool'}"}
    argv: list[str | Path] = [
        TOP / "bin/build",
        "-m",
        service / "m.json",
        "-o",
        out,
        "--json",
        service / "proto",
    ]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    (file,) = json.loads(done.stdout)["files"]
    return Path(file["path"])


@dataclass(frozen=True, kw_only=True)
class Archives:
    python: Path
    node: Path


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    demand(
        "root",
        "namespaces",
        "overlay",
        "mmdebstrap",
        "mirror",
        "podman",
        "buildah",
        "skopeo",
        "umoci",
        "runc",
    )
    top = tmp_path_factory.mktemp("services")
    node = top / "service-node"
    shutil.copytree(TOP / "fixtures/service-node", node)
    assert run(sys.executable, node / "make_modules.py", node / "proto") == "6480 files\n"
    return Archives(
        python=built(TOP / "fixtures/service-python", top / "python"), node=built(node, top / "node")
    )


@dataclass(frozen=True, kw_only=True)
class Engines:
    """A store of podman and buildah that is gone afterwards. podman finds a path of more than 50 too long.

    It is one for all tests: a layer that both images have is unpacked once.
    """

    top: Path
    driver: str

    def command(self, program: str, *words: str | Path) -> list[str | Path]:
        store: list[str | Path] = ["--root", self.top / "store", "--runroot", self.top / "run"]
        how = ["--runtime", "runc", "--cgroup-manager", "cgroupfs"] if program == "podman" else []
        return [program, *store, "--storage-driver", self.driver, *how, *words]

    def run(self, program: str, *words: str | Path) -> str:
        return run(*self.command(program, *words))

    def names(self, program: str) -> list[str]:
        how = ["--json"] if program == "buildah" else ["--format", "json"]
        rows = json.loads(self.run(program, "images", *how) or "[]")
        return [name for row in rows for name in row.get("Names") or row.get("names") or ()]

    def start(self, image: str, name: str) -> list[str | Path]:
        """The command line that starts a service with podman, as it is, in the network of its caller."""
        # What a container may have at most is what this machine gives: raising it takes a capability.
        limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]
        return self.command("podman", "run", "--rm", "--name", name, "--network", "host", *limits, image)


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    with tempfile.TemporaryDirectory(prefix="engines-", dir="/tmp") as top:
        kind = run("stat", "-f", "-c", "%T", top).strip()
        made = Engines(top=Path(top), driver="vfs" if kind == "overlayfs" else "overlay")
        yield made
        made.run("podman", "rm", "--all", "--force")
        for mounted in (made.top / "store/overlay", made.top / "store"):
            subprocess.run(["umount", "--lazy", mounted], capture_output=True, check=False)
        top_group = "libpod_parent"
        for pattern in (f"*/{top_group}/*", f"*/{top_group}", f"{top_group}/*", top_group):
            for group in Path("/sys/fs/cgroup").glob(pattern):
                with contextlib.suppress(OSError):  # it stays as long as others have containers
                    group.rmdir()


def check_book(told: dict[str, Any]) -> None:
    """nginx gives out a file, and hands the rest to gunicorn, which keeps what is written."""
    health, page, empty, signed, refused, entries = told["answers"]
    assert (health[0], json.loads(health[1])) == (200, {"status": "ok", "greeting": "Welcome"}), told
    assert page[0] == 200
    assert "<h1>Guest book</h1>" in page[1]
    assert (empty[0], json.loads(empty[1])) == (200, {"entries": []})
    assert (signed[0], refused[0]) == (201, 400)
    assert json.loads(entries[1]) == {"entries": ["Greetings, A."]}


ASK_BOOK = [
    ("GET", HEALTH, ""), ("GET", "http://127.0.0.1:8080/", ""), ("GET", "http://127.0.0.1:8080/api/entries", ""),
    ("POST", "http://127.0.0.1:8080/api/entries", "Greetings,   A.\n"),
    ("POST", "http://127.0.0.1:8080/api/entries", " "), ("GET", "http://127.0.0.1:8080/api/entries", ""),
]  # fmt: skip


def check_window(told: dict[str, Any]) -> None:
    """All 537 modules are loaded, and used for a page."""
    health, page, missing = told["answers"]
    assert (health[0], json.loads(health[1])) == (200, {"status": "ok", "modules": 537}), told
    assert "<li>window-part-001: 137</li>" in page[1]
    assert missing[0] == 404


ASK_WINDOW = [
    ("GET", f"{WINDOW_URL}/health", ""), ("GET", f"{WINDOW_URL}/", ""), ("GET", f"{WINDOW_URL}/x", ""),
]  # fmt: skip


def test_podman_loads_and_starts_it(archives: Archives, engines: Engines) -> None:
    engines.run("podman", "load", "--quiet", "--input", archives.python)
    assert BOOK in engines.names("podman")
    stop = engines.command("podman", "stop", "--time", "20", "book")
    told = served(engines.start(BOOK, "book"), ASK_BOOK, stop=stop)
    check_book(told)
    assert told["status"] == 0, "supervisor ends what it looks after on the image's stop signal"


def test_skopeo_copies_it_to_where_podman_starts_it(archives: Archives, engines: Engines) -> None:
    store = f"[{engines.driver}@{engines.top / 'store'}+{engines.top / 'run'}]"
    source = f"oci-archive:{archives.node}"
    run("skopeo", "--insecure-policy", "copy", "--quiet", source, f"containers-storage:{store}{WINDOW}")
    told = served(
        engines.start(WINDOW, "window"), ASK_WINDOW, stop=engines.command("podman", "stop", "window")
    )
    check_window(told)
    assert told["status"] == 0, "the program itself gets the signal"


def test_buildah_pulls_and_starts_it(archives: Archives, engines: Engines) -> None:
    if WINDOW in engines.names("buildah"):
        engines.run("podman", "untag", WINDOW)
    engines.run("buildah", "pull", "--quiet", f"oci-archive:{archives.node}")
    assert WINDOW in engines.names("buildah")
    name = engines.run("buildah", "from", "--pull-never", WINDOW).strip()
    config = json.loads(engines.run("buildah", "inspect", name))["OCIv1"]["config"]
    assert (config["User"], config["WorkingDir"]) == ("www-data", "/srv/app")
    start = engines.command("buildah", "run", "--isolation", "chroot", name, "--", *config["Cmd"])
    check_window(served(start, ASK_WINDOW))
    engines.run("buildah", "rm", name)


def test_umoci_unpacks_a_bundle_that_runc_starts(archives: Archives, tmp_path: Path) -> None:
    image, bundle = f"{tmp_path / 'layout'}:shop-window:2.1.0", tmp_path / "bundle"
    run("skopeo", "--insecure-policy", "copy", "--quiet", f"oci-archive:{archives.node}", f"oci:{image}")
    run("umoci", "unpack", "--image", image, bundle)
    config = json.loads((bundle / "config.json").read_text())
    process, spaces = config["process"], config["linux"]["namespaces"]
    assert (process["args"], process["cwd"]) == (["/usr/bin/node", "server.js"], "/srv/app")
    assert process["user"]["uid"] == 33
    # A program that is started for a test has no terminal, and the network of its caller.
    config["process"] = process | {"terminal": False, "rlimits": []}
    config["linux"]["namespaces"] = [row for row in spaces if row["type"] != "network"]
    (bundle / "config.json").write_text(json.dumps(config))
    runc: list[str | Path] = ["runc", "--root", tmp_path / "runc"]
    name = f"window-{os.getpid()}"
    told = served([*runc, "run", "--bundle", bundle, name], ASK_WINDOW, stop=[*runc, "kill", name, "TERM"])
    check_window(told)
    assert told["status"] == 0
