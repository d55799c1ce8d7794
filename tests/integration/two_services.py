"""Copies of the two services of `fixtures`, to build and to edit, and the places that they have packages from."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.integration.conftest import cache_dir
from tests.integration.support import end, wait_for
from tests.npm import packed
from tests.servers.static import StaticFiles

TOP = Path(__file__).resolve().parents[2]
NPM = "10.9.9"
"""That of `fixtures/service-node/install-modules.sh`."""


def run(*argv: str | Path) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{' '.join(str(word) for word in argv)}\n{done.stderr}"
    return done.stdout


@dataclass(frozen=True, kw_only=True)
class Service:
    """A service's directory with m.json and proto, what serves its packages, and where its images go."""

    folder: Path
    place: StaticFiles
    made: list[dict[str, Any]] = field(default_factory=list)

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def first(self) -> Path:
        """The archive of the first build, whatever was built since."""
        return self.folder / "first.oci.tar"

    @property
    def app(self) -> Path:
        return self.folder / "proto/srv/app"

    def edit(self, path: str, old: str, new: str) -> None:
        """Put other text into a file."""
        file = self.app / path
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def build(self) -> dict[str, Any]:
        """Build as its user does, in a pool that outlives the session; what --json printed."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("BUILDSTEP_")}
        env["BUILDSTEP_POOL"] = pool()
        env["BUILDSTEP_CACHE_MAX_BYTES"] = f"{3 << 30}"  # ports differ, so every session leaves other layers
        argv: list[str | Path] = [
            TOP / "bin/build",
            "-m",
            self.folder / "m.json",
            "-o",
            self.out,
            "--json",
            self.folder / "proto",
        ]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=900)
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        self.made.append(told)
        if not self.first.exists():
            os.link(self.archive, self.first)  # a later build puts another file in its place
        return told

    def states(self) -> dict[str, str]:
        """What became of each step of the last build, by its record."""
        record = json.loads(Path(self.made[-1]["record"]).read_text())
        return {row["name"]: row["state"] for row in record["steps"]}

    @property
    def archive(self) -> Path:
        (file,) = self.made[-1]["files"]
        return Path(file["path"])


def pool() -> str:
    return f"overlay:{cache_dir() / 'sample-pool'}"


@contextlib.contextmanager
def python_service(top: Path) -> Iterator[Service]:
    """The guest book, with an index of wheels."""
    with _service(top, "service-python", "127.0.0.1:3141") as service:
        assert run(sys.executable, service.folder / "make_index.py", service.place.folder) == "3 wheels\n"
        yield service


@contextlib.contextmanager
def node_service(top: Path) -> Iterator[Service]:
    """The shop window, with a registry of modules, npm itself among them."""
    with _service(top, "service-node", "127.0.0.1:4873") as service:
        lock_modules(service)
        archive = service.place.folder / f"npm/-/npm-{NPM}.tgz"
        archive.parent.mkdir(parents=True)
        shutil.copyfile(packed("npm", NPM, cache_dir()), archive)
        yield service


def lock_modules(service: Service) -> None:
    """Write the archives of the registry, and package-lock.json for what package.json asks for."""
    made = (service.place.folder, service.folder / "proto")
    assert run(sys.executable, service.folder / "make_registry.py", *made) == "540 packages\n"


@contextlib.contextmanager
def _service(top: Path, name: str, usual: str) -> Iterator[Service]:
    """A copy of a service whose packages come from a port of this test in place of the usual one."""
    folder = top / name
    shutil.copytree(TOP / "fixtures" / name, folder)
    place = StaticFiles(top / f"{name}-packages")
    place.folder.mkdir()
    with place.served():
        manifest = folder / "m.json"
        text = manifest.read_text()
        assert usual in text
        manifest.write_text(text.replace(usual, f"127.0.0.1:{place.port}"))
        yield Service(folder=folder, place=place)
    shutil.rmtree(folder / "pool", ignore_errors=True)


def answers_of_run(service: Service, port: int, paths: Sequence[str]) -> list[tuple[int, str]]:
    """Start the last image's own command with `buildstep run -p`, ask it for each path, and stop it.

    The file becomes an image of a pool, which is the test's own: nothing of it outlives the session.
    """
    argv: list[str | Path] = [TOP / "bin/buildstep", "run", "--pool", f"overlay:{service.folder}/pool"]
    child = subprocess.Popen(
        [*argv, "-p", f"0:{port}", service.archive],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stderr is not None
        told = child.stderr.readline()
        assert told.endswith(f" leads to port {port} of the image\n"), told + child.stderr.read()
        here = int(told.split()[0].rpartition(":")[2])
        wait_for(lambda: _get(here, paths[0]), child)
        found = [_get(here, path) or (0, "") for path in paths]
        child.terminate()
        child.communicate(timeout=60)
        return found
    finally:
        end(child)


def _get(port: int, path: str) -> tuple[int, str] | None:
    """The answer of whoever listens; None if nobody does yet, or a proxy has nobody behind it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return None if answer.status == 502 else (answer.status, answer.read().decode())
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
