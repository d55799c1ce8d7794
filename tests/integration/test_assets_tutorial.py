"""The tutorial of assets with S3 and Consul in the place of a directory and a file, with which `test_docs` types it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.integration.original_daybook import client
from tests.integration.test_docs import REPOSITORY, snippets
from tests.servers.consul import Agent, consul
from tests.servers.fixtures import S3Store, weed

__all__ = ["consul", "weed"]

PAGE = REPOSITORY / "docs/tutorial/services-on-hosts.md"
SETTINGS = re.compile(r"^export (BUILDSTEP_ASSETS|BUILDSTEP_REGISTER)=.*\n", re.MULTILINE)


def follow(top: Path, settings: dict[str, str]) -> str:
    """Type what the page says, in an empty directory; what is shown.

    settings: variables in place of the two lines that name the store and the register.
    """
    script = "set -eu\n" + "\n".join(text for _, text in snippets(PAGE))
    script, count = SETTINGS.subn("", script)
    assert count == 2
    program = top / "bin/buildstep"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m buildstep "$@"\n')
    program.chmod(0o755)
    (top / "tmp").mkdir()
    environ = {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "HOME": os.fspath(top),
        "TMPDIR": os.fspath(top / "tmp"),
        "PYTHONPATH": os.fspath(REPOSITORY),
        **settings,
    }
    done = subprocess.run(
        ["sh", "-c", script], cwd=top, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def check(shown: str) -> None:
    """What the page says that one sees."""
    blocks = re.findall(r"^```text\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    assert [block for block in blocks if block not in shown] == []
    assert "refused, exit code 16" in shown
    said = re.findall(r"^the shop, version (\S+)$", shown, re.MULTILINE)
    assert said == ["1.0", "1.0", "1.1", "1.0"]
    assert "web-9 wins" in shown


@pytest.mark.slow
def test_with_s3_and_consul(tmp_path: Path, weed: S3Store, consul: Agent) -> None:
    s3 = client(weed.endpoint, weed.environ)
    bucket = f"tutorial-{os.urandom(4).hex()}"
    s3.create_bucket(Bucket=bucket)
    settings = {
        "BUILDSTEP_ASSETS": f"s3://{bucket}",
        "BUILDSTEP_REGISTER": consul.url,
        "AWS_ENDPOINT_URL_S3": weed.endpoint,
        **weed.environ,
    }
    check(follow(tmp_path, settings))
    names = sorted(row["Key"] for row in s3.list_objects_v2(Bucket=bucket)["Contents"])
    assert [name for name in names if not name.startswith("~")] == [
        "monitor-7.tar.gz",
        "shop-1.0.tar.gz",
        "shop-1.1.tar.gz",
    ]
    s3.close()
    url = f"http://127.0.0.1:{consul.port}/v1/kv/daybook/hosts/web-*?raw"
    with urllib.request.urlopen(url, timeout=10) as reply:
        assert reply.read() == b"monitor,shop"
