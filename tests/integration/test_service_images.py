"""Two services as a user has them: built, loaded by container engines under their names, started with the
command of the image, and answering over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import demand
from tests.integration.served import served
from tests.integration.two_services import (
    Service,
    answers_of_run,
    lock_modules,
    node_service,
    python_service,
    run,
)

BOOK, WINDOW = "localhost/guestbook:1.4.0", "localhost/shop-window:2.1.0"
HEALTH = "http://127.0.0.1:8080/health"
WINDOW_URL = "http://127.0.0.1:3000"
BOOK_HEALTH = {"status": "ok", "greeting": "Welcome", "badge": "guestbook-words 1.0"}
WINDOW_HEALTH = {"status": "ok", "modules": 537, "render": "1.0.0"}


@dataclass(frozen=True, kw_only=True)
class Archives:
    python: Path
    node: Path


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The Python service, built."""
    demand("root", "namespaces", "overlay", "mmdebstrap", "mirror")
    with python_service(tmp_path_factory.mktemp("python")) as service:
        service.build()
        yield service


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The Node service, built."""
    demand("root", "namespaces", "overlay", "mmdebstrap", "mirror", "npm")
    with node_service(tmp_path_factory.mktemp("node")) as service:
        service.build()
        yield service


@pytest.fixture
def archives(book: Service, window: Service) -> Archives:
    demand("podman", "buildah", "skopeo", "umoci", "runc")
    return Archives(python=book.first, node=window.first)


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
    assert (health[0], json.loads(health[1])) == (200, BOOK_HEALTH), told
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
    assert (health[0], json.loads(health[1])) == (200, WINDOW_HEALTH), told
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
    assert (config["User"], config["WorkingDir"]) == ("shop", "/srv/app")
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
    assert process["user"]["uid"] == 991
    # A program that is started for a test has no terminal, and the network of its caller.
    config["process"] = process | {"terminal": False, "rlimits": []}
    config["linux"]["namespaces"] = [row for row in spaces if row["type"] != "network"]
    (bundle / "config.json").write_text(json.dumps(config))
    runc: list[str | Path] = ["runc", "--root", tmp_path / "runc"]
    name = f"window-{os.getpid()}"
    told = served([*runc, "run", "--bundle", bundle, name], ASK_WINDOW, stop=[*runc, "kill", name, "TERM"])
    check_window(told)
    assert told["status"] == 0


# -- edited and built again ------------------------------------------------------------------------------------


def test_the_guest_book_is_checked_and_an_edit_runs_what_it_touches(book: Service) -> None:
    first, record = book.states(), json.loads(Path(book.made[-1]["record"]).read_text())
    assert (first["run:wheels"], first["run:import"]) == ("run", "run")
    assert first["check"] == "run"
    cases = {row["check"]: row["result"] for row in record["checks"]}
    assert {"port 8080/health", "port 8080/", "nginx", "host-path"} <= set(cases), cases
    assert set(cases.values()) == {"passed"}
    (health, page) = answers_of_run(book, 8080, ["/health", "/"])
    assert (health[0], json.loads(health[1])) == (200, BOOK_HEALTH)
    assert "<h1>Guest book</h1>" in page[1]
    wheels = [path for path in book.place.asked if path.endswith(".whl")]
    assert len(wheels) == 2
    # A source file: nothing is installed again, and what depends on the source is tried again.
    book.edit("guestbook.py", "an entry is a line of text", "an entry is one line of text")
    book.build()
    assert touched(book) == {"sync", "run:import"}
    assert [path for path in book.place.asked if path.endswith(".whl")] == wheels
    # A requirement: packages stay, and what is in pip's cache is not fetched again.
    book.edit("requirements.txt", "guestbook-words==1.0", "guestbook-words==1.1")
    book.build()
    assert touched(book) == {"run:wheels", "sync", "run:import"}
    fetched = [path for path in book.place.asked if path.endswith(".whl")][2:]
    assert [Path(path).name for path in fetched] == ["guestbook_words-1.1-py3-none-any.whl"]
    (health,) = answers_of_run(book, 8080, ["/health"])
    assert json.loads(health[1]) == BOOK_HEALTH | {"badge": "guestbook-words 1.1"}


def test_the_shop_window_is_checked_and_an_edit_runs_what_it_touches(window: Service) -> None:
    first = window.states()
    assert (first["run:modules"], first["run:assets"]) == ("run", "run")
    assert first["check"] == "run"
    health, page = answers_of_run(window, 3000, ["/health", "/"])
    assert (health[0], json.loads(health[1])) == (200, WINDOW_HEALTH)
    style = page[1].partition('href="')[2].partition('"')[0]
    fetched = len(window.place.asked)
    # A source file: no module is installed, no asset made again.
    window.edit("server.js", "listening on", "listening at")
    window.build()
    assert touched(window) == {"sync"}
    # An asset: its step alone.
    window.edit("assets/shop.css", "#336699", "#993366")
    window.build()
    assert touched(window) == {"run:assets", "sync"}
    assert len(window.place.asked) == fetched
    # A requirement: what is in npm's cache, of earlier sessions too, is not fetched again, nor is npm.
    window.edit("package.json", '"window-render": "1.0.0"', '"window-render": "1.1.0"')
    lock_modules(window)
    window.build()
    assert touched(window) == {"run:modules", "run:assets", "sync"}
    assert set(window.place.asked[fetched:]) <= {"/window-render/-/window-render-1.1.0.tgz"}
    health, page = answers_of_run(window, 3000, ["/health", "/"])
    assert json.loads(health[1]) == WINDOW_HEALTH | {"render": "1.1.0"}
    now = page[1].partition('href="')[2].partition('"')[0]
    assert now != style
    (sheet,) = answers_of_run(window, 3000, [now])
    assert sheet[1] == "body { margin: 2rem auto; max-width: 40rem; } li { color: #993366; }"


def touched(service: Service) -> set[str]:
    """The steps of the last build that an edit can spare, and did not."""
    spared = {"import", "accounts", "packages", "sync"}
    return {
        name
        for name, state in service.states().items()
        if state == "run" and (name in spared or name.startswith("run:"))
    }
