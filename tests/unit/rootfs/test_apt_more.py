"""Package files that are given by path, before apt sees any."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildstep.errors import InstallError
from buildstep.rootfs.installers.apt_more import local_packages
from buildstep.spec.repositories import files_of


def test_each_file_that_is_no_package_is_told(tmp_path: Path) -> None:
    for name in ("a.deb", "b.deb"):
        (tmp_path / name).write_text("text")
    with pytest.raises(InstallError, match=r"a\.deb cannot be read: .*; b\.deb cannot be read: "):
        local_packages(files_of(["./a.deb", "./b.deb"], tmp_path), "amd64")
