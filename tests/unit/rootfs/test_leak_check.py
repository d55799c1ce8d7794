"""The check that nothing of the CI host, and nothing of the build, is left in an image."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import SandboxError
from buildstep.events import Bus, Event, Note
from buildstep.rootfs.leak_check import CiHost, check_leaks
from buildstep.system.root import Root


def put(root: Path, path: str, text: str = "x") -> None:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def check(root: Path, environ: Mapping[str, str] | None = None, **options: Any) -> list[Event]:
    values = CiHost.of(environ or {}).values
    host = CiHost(resolver=b"nameserver 192.0.2.53", host_name="agent-17", values=values)
    events: list[Event] = []
    check_leaks(Root(root), host, bus=Bus(events.append), **options)
    return events


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etc/resolv.conf", "nameserver 192.0.2.53\n"),
        ("/etc/hostname", "agent-17\n"),
        ("/etc/.resolv.conf.buildstep-saved", ""),
        ("/usr/sbin/policy-rc.d", "# Put here by buildstep\nexit 101\n"),
        ("/etc/app/token.conf", "key = s3cr3t-value-1\n"),
        ("/etc/profile.d/proxy.sh", "export http_proxy=http://proxy.agent:3128\n"),
    ],
)
def test_the_check_names_what_stayed(tmp_path: Path, path: str, text: str) -> None:
    put(tmp_path, path, text)
    environ = {
        "CI_JOB_TOKEN": "s3cr3t-value-1",
        "http_proxy": "http://proxy.agent:3128",
        "LONGNAME": "nothing-secret",
    }
    with pytest.raises(SandboxError) as caught:
        check(tmp_path, environ)
    assert path in str(caught.value)
    assert "s3cr3t" not in str(caught.value) + caught.value.detail


def test_the_check_passes_a_clean_root_and_what_the_proto_says(tmp_path: Path) -> None:
    put(tmp_path, "/etc/hostname", "agent-17\n")
    put(tmp_path, "/etc/passwd", "root:x:0:0::/root:/bin/sh\n")
    check(tmp_path, keep=frozenset({"/etc/hostname"}))


def test_a_changed_file_anywhere_is_searched(tmp_path: Path) -> None:
    put(tmp_path, "/srv/app.conf", "s3cr3t-value-1")
    environ = {"API_TOKEN": "s3cr3t-value-1"}
    check(tmp_path, environ)
    with pytest.raises(SandboxError, match=r"/srv/app.conf has the CI host's API_TOKEN"):
        check(tmp_path, environ, changed=["/srv/app.conf"])


def test_the_protos_own_proxy_is_no_secret(tmp_path: Path) -> None:
    put(tmp_path, "/etc/app.conf", "proxy=http://proxy.example:3128")
    environ = {"https_proxy": "http://proxy.example:3128"}
    with pytest.raises(SandboxError, match="https_proxy"):
        check(tmp_path, environ)
    check(tmp_path, environ, keep=frozenset({"/etc/app.conf"}))


def test_what_counts_as_a_secret_of_the_host() -> None:
    environ = {
        "API_TOKEN": "long-enough-1", "GIT_AUTH": "long-enough-2", "AUTHOR": "long-enough-3",
        "DB_PASSWORD": "short", "SECRET_FILE": "/run/secrets/a", "HTTP_PROXY": "http://p:3128",
    }  # fmt: skip
    assert set(CiHost.of(environ).values) == {"API_TOKEN", "GIT_AUTH", "HTTP_PROXY"}


def test_a_secret_need_not_be_utf_8(tmp_path: Path) -> None:
    secret = b"sch\xf6n geheim"
    put(tmp_path, "/etc/x")
    (tmp_path / "etc/x").write_bytes(b"a " + secret)
    with pytest.raises(SandboxError, match="/etc/x has the CI host's MY_TOKEN in it"):
        check(tmp_path, {"MY_TOKEN": os.fsdecode(secret)})


def test_files_that_differ_are_noted(tmp_path: Path) -> None:
    put(tmp_path, "/etc/ssh/ssh_host_rsa_key")
    events = check(tmp_path)
    assert any(isinstance(event, Note) and "ssh_host_rsa_key" in event.text for event in events)
