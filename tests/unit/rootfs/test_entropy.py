"""Files that are known to differ from build to build."""

from __future__ import annotations

from pathlib import Path

from buildstep.rootfs import entropy
from buildstep.system.root import Root


def put(root: Path, path: str, text: str = "x") -> None:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_known_sources_of_entropy_are_named(tmp_path: Path) -> None:
    put(tmp_path, "/etc/ssh/ssh_host_rsa_key")
    put(tmp_path, "/etc/ssl/private/ssl-cert-snakeoil.key")
    put(tmp_path, "/etc/machine-id", "")
    assert [path for path, _ in entropy.entropy(Root(tmp_path))] == [
        "/etc/ssh/ssh_host_rsa_key",
        "/etc/ssl/private/ssl-cert-snakeoil.key",
    ]
