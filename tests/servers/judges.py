"""Programs of others that judge our signatures, out of Debian's packages and unpacked beside the other servers.

cosign is in no suite as old as this one; its program is static and runs here all the same. Where one cannot be
fetched, tests that need it are skipped, each with the reason, and fail where CI is set.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest import apt
from tests.guest.cache import aside, locked, sweep_aside
from tests.guest.commands import output
from tests.guest.errors import GuestError
from tests.servers import fixtures


@dataclass(frozen=True, kw_only=True)
class _Judge:
    """Where a program is. packages: of Debian's `suite`, unpacked into one folder; version: how that of the first
    one begins; wanted: files of the folder that must be there, the program first."""

    packages: tuple[str, ...]
    suite: str
    version: str
    wanted: tuple[str, ...]


_JUDGES: Mapping[str, _Judge] = {
    "cosign-2": _Judge(packages=("cosign",), suite="trixie", version="2.5", wanted=("usr/bin/cosign",)),
    "cosign-3": _Judge(packages=("cosign",), suite="sid", version="3.", wanted=("usr/bin/cosign",)),
    "debsecan": _Judge(
        packages=("debsecan", "python3-apt"),
        suite="bookworm",
        version="0.4",
        wanted=("usr/bin/debsecan", "usr/lib/python3/dist-packages/apt"),
    ),
    "minisign": _Judge(
        packages=("minisign", "libsodium23"), suite="bookworm", version="0.11", wanted=("usr/bin/minisign",)
    ),
    "softhsm": _Judge(
        packages=("softhsm2", "libsofthsm2"),
        suite="bookworm",
        version="2.6",
        wanted=("usr/bin/softhsm2-util", "usr/lib/softhsm/libsofthsm2.so"),
    ),
}


def cosign(major: str) -> Path:
    """The program of cosign. major: "2" (2.5, as trixie has it) or "3" (as sid has it)."""
    return _folder(f"cosign-{major}") / "usr/bin/cosign"


def debsecan() -> tuple[str, Path]:
    """Where the system's Python finds what debsecan needs, and its program."""
    folder = _folder("debsecan")
    environ = {**os.environ, "PYTHONPATH": os.fspath(folder / "usr/lib/python3/dist-packages")}
    done = subprocess.run(
        ["/usr/bin/python3", "-c", "import apt_pkg"], env=environ, capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("the system's Python, or its libapt-pkg, is not that of bookworm")
    return environ["PYTHONPATH"], folder / "usr/bin/debsecan"


def minisign() -> Path:
    """The program minisign; it is started with `minisign_environ`."""
    return _folder("minisign") / "usr/bin/minisign"


def minisign_environ() -> dict[str, str]:
    """What minisign is started with: it finds its library beside it."""
    return {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": f"{_folder('minisign')}/usr/lib/x86_64-linux-gnu"}


def softhsm() -> tuple[Path, Path]:
    """softhsm2-util, and the PKCS#11 module of SoftHSM."""
    folder = _folder("softhsm")
    return folder / "usr/bin/softhsm2-util", folder / "usr/lib/softhsm/libsofthsm2.so"


def _folder(name: str) -> Path:
    judge = _JUDGES[name]
    folder = fixtures.CACHE.parent / name
    if not _complete(folder, judge):
        with locked(folder.parent / f"{name}.lock"):
            if not _complete(folder, judge):
                try:
                    _fetch(folder, judge)
                except (GuestError, OSError) as error:
                    reason = f"{name} cannot be fetched: {error}"
                    if os.environ.get("CI"):
                        pytest.fail(reason)
                    pytest.skip(reason)
    return folder


def _complete(folder: Path, judge: _Judge) -> bool:
    return all((folder / name).exists() for name in judge.wanted)


def _fetch(folder: Path, judge: _Judge) -> None:
    sweep_aside(folder.parent)
    with aside(folder) as new:
        uri = apt.mirror_uri(os.environ.get("BUILDSTEP_GUEST_MIRROR"))
        private = apt.PrivateApt(new / "apt", uri=uri, suite=judge.suite)
        private.update()
        for number, name in enumerate(judge.packages):
            package = private.package(name)
            if number == 0 and not re.match(rf"(\d+:)?{re.escape(judge.version)}", package.version):
                raise GuestError(f"{judge.suite} has {name} {package.version}, and not {judge.version}")
            output(["dpkg", "-x", private.download(package, new / "debs"), new])
        for name in ("apt", "debs", "etc", "usr/share", "var"):
            subprocess.run(["rm", "-rf", new / name], check=True)
        if missing := [name for name in judge.wanted if not (new / name).exists()]:
            raise GuestError(f"{judge.packages[0]} of {judge.suite} has no {missing[0]}")
