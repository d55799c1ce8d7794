"""A store of AYS taken over, and one that its readers are served from, by commands and over HTTP."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.support import LIMIT, REPOSITORY, Done, Lab

FIXTURES = REPOSITORY / "fixtures/ays"
LISTS = ("acme__kvstore", "acme__directory")


@pytest.fixture
def bench(tmp_path: Path) -> Lab:
    """A place to run commands in, without a base."""
    return Lab(top=tmp_path, base=tmp_path / "none", environ={"HOME": os.fspath(tmp_path)})


def files(bench: Lab, *arguments: str) -> Done:
    done = bench.command("files", *arguments, "--store", "store")
    assert done.status == 0, done.stderr
    return done


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A plain web server of the directory www."""
    handler = functools.partial(_Silent, directory=os.fspath(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        data: bytes = answer.read()
        return data


def old_install(url: str, name: str) -> dict[str, bytes]:
    """What JumpScale 7 did to install from a store (ActionsBaseNode): path to content."""
    found = {}
    for row in fetch(f"{url}/dedupe/md/{name}.flist").decode().splitlines():
        path, md5, size = row.split("|")
        data = fetch(f"{url}/dedupe/files/{md5[0]}/{md5[1]}/{md5}")
        assert (len(data), hashlib.md5(data).hexdigest()) == (int(size), md5)
        found[path.replace("//", "/")] = data
    return found


def test_taken_over_and_served_again(bench: Lab, web: str) -> None:
    (bench.top / "www").mkdir()
    (bench.top / "www/dedupe").symlink_to(FIXTURES)
    before = {name: old_install(web, name) for name in LISTS}
    for name in LISTS:
        files(bench, "import", name, "--objects", f"{web}/dedupe", "--ref", name.replace("__", "/"))
    (bench.top / "www/dedupe").unlink()
    for name in LISTS:
        files(bench, "export", name.replace("__", "/"), "www/dedupe", "--to", "ays1")
    assert {name: old_install(web, name) for name in LISTS} == before


def test_killed_in_the_middle_and_done_again(bench: Lab) -> None:
    """Half of the objects come, then none any more: the store has no half of anything, and the next try ends it."""
    slow = bench.top / "slow"
    subprocess.run(["cp", "-r", FIXTURES, slow], check=True)
    wanted = (slow / "md/acme__kvstore.flist").read_text().splitlines()
    last = max(row.split("|") for row in wanted)[1]
    program = (
        "import time; from buildstep.files import ays_store; real = ays_store.AysStore.open\n"
        f"def slow(self, md5, size):\n    md5 != '{last}' or print('half', flush=True) or time.sleep(60)\n"
        "    return real(self, md5, size)\n"
        "ays_store.AysStore.open = slow; from buildstep import cli; cli.main()\n"
    )
    argv = ["files", "import", "acme__kvstore", "--objects", "slow", "--ref", "kv", "--store", "store"]
    child = subprocess.Popen(
        [sys.executable, "-c", program, *argv], cwd=bench.top, env=bench.env(), stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"half\n"
    child.send_signal(signal.SIGKILL)
    child.wait(LIMIT)
    child.stdout.close()
    assert files(bench, "list", "--json").json["refs"] == []
    assert files(bench, "import", *argv[2:-2], "--json").json["entries"] == 15
    assert [path.name for path in (bench.top / "store/tmp").iterdir()] == ["swap.lock"]
    assert len(files(bench, "list", "--json").json["refs"]) == 1
