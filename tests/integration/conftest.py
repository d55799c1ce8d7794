"""What integration tests share: capabilities found by trying, work inside private mounts, a real Debian root."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pytest

from buildstep.emit import split_layer
from buildstep.formats import codecs
from buildstep.system import files, locks, mounts, namespaces, process
from tests.integration.support import Lab, write_base

if TYPE_CHECKING:
    from tests.integration.yard import Yard

T = TypeVar("T")

SUITE = "bookworm"

_WEEK = 7 * 24 * 3600


def cache_dir() -> Path:
    """Where costly fixtures outlive a session."""
    home = os.environ.get("XDG_CACHE_HOME") or os.fspath(Path.home() / ".cache")
    return Path(home) / "buildstep-tests"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small trees are cut as large ones are, into layers and these into parts."""
    monkeypatch.setattr(split_layer, "LAYER_TARGET", 60_000)
    gzip = codecs.codec("gzip")
    monkeypatch.setitem(codecs.CODECS, "gzip", lambda: replace(gzip, grain=2 << 10))


# -- code that runs inside a build's namespaces -----------------------------------------------------------


def enclosed(job: Callable[[], T]) -> T:
    """Run `job` as a build runs: process 1 of fresh namespaces. Its result comes back pickled.

    An exception in it fails the test with its traceback; what a job expects it checks itself.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        status = 1
        try:
            status = namespaces.enclose(functools.partial(_report, job, write))
        except BaseException:  # noqa: BLE001 - a fork of the test runner must end here, whatever happens
            _send(write, (False, traceback.format_exc()))
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        data = stream.read()
    _, status = os.waitpid(child, 0)
    assert data, f"the enclosed job ended without a word, status {os.waitstatus_to_exitcode(status)}"
    good, value = pickle.loads(data)
    if not good:
        pytest.fail(f"inside the build's namespaces:\n{value}", pytrace=False)
    result: T = value
    return result


def _report(job: Callable[[], object], write: int) -> int:
    try:
        message: tuple[bool, object] = (True, job())
    except BaseException as error:  # noqa: BLE001 - told to the test, which fails with it
        detail = getattr(error, "detail", "")
        message = (False, f"{traceback.format_exc()}{detail}")
    _send(write, message)
    return 0


def _send(write: int, message: tuple[bool, object]) -> None:
    files.write_all(write, pickle.dumps(message))
    os.close(write)


# -- capabilities -----------------------------------------------------------------------------------------


def _can(job: Callable[[], object]) -> bool:
    """Whether a job succeeds inside the namespaces of a build."""
    if not namespaces.supported():
        return False
    try:
        enclosed(job)
    except pytest.fail.Exception:
        return False
    return True


def _try_overlay() -> None:
    top = Path(tempfile.mkdtemp(prefix="buildstep-probe-"))  # others may try at the same time
    with mounts.tmpfs(top):
        for name in ("lower", "upper", "work", "merged"):
            (top / name).mkdir()
        options = mounts.overlay_options([top / "lower"], top / "upper", top / "work", volatile=True)
        with mounts.mounted("overlay", top / "merged", "overlay", data=options):
            (top / "merged/file").touch()
    top.rmdir()


@functools.cache
def capability(name: str) -> str:
    """Empty if the machine has it, else what is missing. A name that is no capability is a program."""
    match name:
        case "root":
            return "" if os.geteuid() == 0 else "not root"
        case "namespaces":
            return "" if _can(lambda: None) else "no private namespaces"
        case "overlay":
            return "" if _can(_try_overlay) else "no overlay mounts"
        case "mirror":
            return _try_mirror()
        case _:
            return "" if process.find(name) else f"the program {name} is not installed"


def _try_mirror() -> str:
    from buildstep.rootfs.installers.apt_sources import host_mirror

    if not host_mirror(os.environ):
        return "the machine's apt has no Debian mirror"
    return ""


CAPABILITIES = (
    "root",
    "namespaces",
    "overlay",
    "mmdebstrap",
    "mirror",
    "busybox",
    "bwrap",
    "dpkg-deb",
    "rsync",
)


class Require(Protocol):
    def __call__(self, *names: str) -> None: ...


def demand(*names: str) -> None:
    """Skip the test with the reason if the machine lacks something; on CI, fail it."""
    missing = [reason for name in names if (reason := capability(name))]
    if missing:
        text = ", ".join(missing)
        if os.environ.get("CI"):
            pytest.fail(f"required on CI: {text}", pytrace=False)
        pytest.skip(text)


@pytest.fixture
def require() -> Require:
    """`require("overlay", "mmdebstrap")`: go on only where the machine has these."""
    return demand


def pytest_report_header() -> list[str]:
    states = ", ".join(f"{name} {'no' if capability(name) else 'yes'}" for name in CAPABILITIES)
    return [f"capabilities: {states}"]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.write_line(
            f"{len(skipped)} integration tests were skipped; the header says what is missing"
        )


# -- a real Debian root -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Clones:
    """Makes throw-away copies of a base root, as overlays. Use `clone` inside `enclosed` only."""

    base: Path
    scratch: Path

    @contextlib.contextmanager
    def clone(self, name: str = "clone") -> Iterator[Path]:
        top = self.scratch / name
        top.mkdir(parents=True)
        # A tmpfs takes upper directories whatever holds the test's folder, an overlay itself perhaps.
        with mounts.tmpfs(top):
            for part in ("upper", "work", "root"):
                (top / part).mkdir()
            options = mounts.overlay_options([self.base], top / "upper", top / "work", volatile=True)
            with mounts.mounted("overlay", top / "root", "overlay", data=options):
                yield top / "root"


def debian_root() -> Path:
    """A minimal Debian root, made by mmdebstrap once a week."""
    return kept_root(f"{SUITE}-minbase", "--variant=minbase")


def kept_root(name: str, *options: str) -> Path:
    """A Debian root of this name, made by mmdebstrap with these options once a week."""
    base = cache_dir() / name
    with locks.lock(cache_dir() / f"{name}.lock"):
        if base.is_dir() and time.time() - base.stat().st_mtime < _WEEK:
            return base
        making = base.with_suffix(".making")
        for old in (base, making):
            if old.exists():
                shutil.rmtree(old)
        process.run(
            ["mmdebstrap", *options, "--mode=root", "--format=directory", SUITE, os.fspath(making)],
            limits=process.Limits(600),
        )
        os.utime(making)
        making.rename(base)
    return base


@pytest.fixture
def debian(require: Require, tmp_path: Path) -> Clones:
    """Clones of a real Debian root."""
    require("root", "namespaces", "overlay", "mmdebstrap", "mirror")
    return Clones(base=debian_root(), scratch=tmp_path / "clones")


@pytest.fixture
def private(require: Require) -> Callable[[Callable[[], T]], T]:
    """`private(job)`: run a job inside a build's namespaces."""
    require("root", "namespaces")
    return enclosed


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    """See `repository.make_place`; one for all tests of a file."""
    from tests.integration.repository import make_place  # it needs `debian_root` of this module

    demand("root", "namespaces", "overlay", "mmdebstrap", "mirror", "dpkg-deb", "rsync")
    return make_place(tmp_path_factory.mktemp("place"))


# -- the smallest base ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of busybox and a package tool that stands in for pkgsrc's; see `support.write_base`."""
    demand("root", "namespaces", "overlay", "busybox", "rsync")
    return write_base(tmp_path_factory.mktemp("base") / "base.tar")


@pytest.fixture
def lab(base: Path, tmp_path: Path) -> Lab:
    """A place to build in, with an overlay pool."""
    return Lab(top=tmp_path, base=base)
