"""bin/setup and bin/build with environments of all kinds: made offline, shared, read-only, of another user, outdated."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.checkouts import REPO
from tests.integration.conftest import demand

PROJECT = """[project]
name = "buildstep"
requires-python = ">=3.11"
dependencies = [
  "thing>={thing}",
]

[project.optional-dependencies]
{more}ui = ["other>=1"]
all = ["buildstep[ui]"]
dev = [
  "nothing-that-exists>=9",
]
[tool.lint]
line-length = {length}
"""

PROGRAM = """
import sys
import thing, other
print("thing", thing.VERSION, sys.argv[1:])
"""

NOBODY = 65534


def wheel(folder: Path, name: str, version: str) -> None:
    """A wheel with one module."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(text)}\n")
    files[f"{info}/RECORD"] = "".join([*rows, f"{info}/RECORD,,\n"])
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


@dataclass
class Shop:
    """A small project with our bin/, its wheels, and one environment."""

    top: Path
    python: str

    @property
    def venv(self) -> Path:
        return self.top / "shared"

    def checkout(self, name: str, *, thing: str = "1", more: str = "", length: int = 100) -> Path:
        """A fresh one: all its times are new."""
        path = self.top / name
        for folder in ("bin", "scripts", "buildstep/system"):
            (path / folder).mkdir(parents=True)
        for file in (
            "bin/build", "bin/setup", "bin/wants.sed", "scripts/requirements.py",
            "buildstep/system/bytecode.py",
        ):  # fmt: skip
            shutil.copy(REPO / file, path / file)
        for file in ("buildstep/__init__.py", "buildstep/system/__init__.py"):
            (path / file).touch()
        (path / "buildstep/used.py").write_text(PROGRAM)
        (path / "buildstep/__main__.py").write_text(
            "import os\nfrom buildstep.system import bytecode\n"
            "bytecode.install(os.path.dirname(__file__), os.environ.get(bytecode.VARIABLE))\n"
            "import buildstep.used\n"
        )
        (path / "pyproject.toml").write_text(PROJECT.format(thing=thing, more=more, length=length))
        return path

    def start(
        self, checkout: Path, more: Mapping[str, str], *, user: int | None = None, session: bool = False
    ) -> subprocess.Popen[str]:
        (self.top / f"home{user}").mkdir(exist_ok=True)
        environ = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": f"{self.top}/home{user}", "PYTHON": self.python,
            "BUILDSTEP_VENV": os.fspath(self.venv), "BUILDSTEP_WHEELS": os.fspath(self.top / "wheels"),
            "PIP_CONFIG_FILE": os.devnull, "CI": "true", **more,
        }  # fmt: skip
        if user is not None:
            os.chown(self.top / f"home{user}", user, user)
        return subprocess.Popen(
            [checkout / "bin/build", "an argument"], env=environ, user=user, group=user, cwd="/",
            extra_groups=None if user is None else [], text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=session,
        )  # fmt: skip

    def build(
        self, checkout: Path, *, user: int | None = None, status: int = 0, **more: str
    ) -> tuple[str, str]:
        with self.start(checkout, more, user=user) as child:
            out, err = child.communicate(timeout=120)
        assert child.returncode == status, err
        return out, err

    def state(self) -> list[tuple[str, int, int]]:
        """All of the environment: what was written, even to the same bytes, shows."""
        found = []
        for path in sorted([self.venv, *self.venv.rglob("*")]):
            info = path.lstat()
            found.append((os.fspath(path), info.st_mtime_ns, info.st_ino))
        return found


def open_to_all(folder: Path) -> None:
    """Let other users come in; pytest's directories are closed to them."""
    for path in (folder, *folder.parents):
        if path.is_relative_to(tempfile.gettempdir()) and path != Path(tempfile.gettempdir()):
            path.chmod(0o755)


SAID = "thing {} ['build', 'an argument']\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that bin/setup made without any network, and the wheels."""
    top = tmp_path_factory.mktemp("setup")
    open_to_all(top)
    return top


@pytest.fixture(scope="module")
def shop(made: Path) -> Shop:
    demand("root")
    debian = "/usr/bin/python3"
    capable = subprocess.run(
        [debian, "-c", "import ensurepip, sys; assert sys.version_info >= (3, 11)"], check=False
    )
    shop = Shop(made, debian if capable.returncode == 0 else sys.executable)
    for name, version in (("thing", "1.0"), ("thing", "2.0"), ("other", "1.0")):
        wheel(made / "wheels", name, version)
    (made / "wheels/thing-2.0-py3-none-any.whl").rename(made / "thing-2.0-py3-none-any.whl")
    return shop


@pytest.fixture
def own(shop: Shop, tmp_path: Path) -> Shop:
    """A shop with a copy of the ready environment, that a test may spoil."""
    first = shop.top / "first"
    if not first.exists():
        shop.build(shop.checkout("first"))
    top = tmp_path / "own"
    top.mkdir()
    open_to_all(top)
    shutil.copytree(shop.venv, top / "shared", symlinks=True)
    shutil.copytree(shop.top / "wheels", top / "wheels")
    shutil.copy(shop.top / "thing-2.0-py3-none-any.whl", top)
    return Shop(top, shop.python)


def test_several_at_once_make_one_without_a_network(shop: Shop) -> None:
    """Each gets through; the environment is made once."""
    checkouts = [shop.checkout(f"beside{number}") for number in range(3)]
    children = [shop.start(checkout, {}) for checkout in checkouts]
    told = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], told
    assert {out for out, _ in told} == {SAID.format("1.0")}
    assert sum("bin/setup: making" in err for _, err in told) == 1
    assert sum("bin/setup: installing" in err for _, err in told) == 1


def test_a_fresh_checkout_uses_it_and_writes_nothing(own: Shop) -> None:
    before = own.state()
    for name, length in (("one", 100), ("two", 99)):
        checkout = own.checkout(name, length=length)
        out, err = own.build(checkout, BUILDSTEP_WHEELS="/nowhere")
        assert (out, err) == (SAID.format("1.0"), "")
        assert not list((checkout / "buildstep/used.py").parent.glob("__pycache__/used*"))
    assert own.state() == before


def test_a_changed_module_is_compiled_once_for_all_checkouts(own: Shop) -> None:
    """What the environment does not have is kept in the user's cache, not in the environment."""
    before = own.state()
    for name in ("one", "two"):
        checkout = own.checkout(name)
        (checkout / "buildstep/used.py").write_text(PROGRAM + "# changed\n")
        own.build(checkout)
    cache = own.top / "homeNone/.cache/buildstep/bytecode"
    (kept,) = (path for path in cache.rglob("*") if path.is_file())
    assert kept.name.startswith("buildstep.used.")
    assert own.state() == before


def test_what_is_asked_for_decides_and_not_its_time(own: Shop) -> None:
    """More is asked for: installed where that is ours to do, and the others go on with it."""
    shutil.move(own.top / "thing-2.0-py3-none-any.whl", own.top / "wheels")
    old, new = own.checkout("old"), own.checkout("new", thing="2")
    assert own.build(old)[1] == ""
    out, err = own.build(new)
    assert out == SAID.format("2.0")
    assert "bin/setup: installing what buildstep[all] needs" in err
    assert own.build(new)[1] == ""
    out, err = own.build(old)
    assert (out, err) == (SAID.format("2.0"), "")  # it has what the older one asks for


def test_an_environment_of_another_user(own: Shop) -> None:
    """Used, and never written; where it does not fit, it is told what differs and what to do."""
    before = own.state()
    fits = own.checkout("fits")
    assert own.build(fits, user=NOBODY) == (SAID.format("1.0"), "")
    more = own.checkout("more", more='fast = ["thing>=0.5"]\n')
    assert own.build(more, user=NOBODY) == (SAID.format("1.0"), "")  # other words, but nothing is missing
    lacks = own.checkout("lacks", thing="2", more='fast = ["third"]\n')
    (lacks / "pyproject.toml").write_text(
        (lacks / "pyproject.toml").read_text().replace("buildstep[ui]", "buildstep[ui,fast]")
    )
    _, err = own.build(lacks, user=NOBODY, status=5)
    lines = err.splitlines()
    assert lines[0] == f"bin/setup: {own.venv}: thing>=2 is asked for, 1.0 is installed"
    assert lines[1] == f"bin/setup: {own.venv}: third is not installed"
    assert "not ours to change" in lines[2]
    assert "BUILDSTEP_VENV" in lines[2]
    assert own.state() == before


def test_root_does_not_write_what_is_a_users(own: Shop) -> None:
    for path in (own.venv, *own.venv.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    before = own.state()
    assert own.build(own.checkout("fits"))[0] == SAID.format("1.0")
    _, err = own.build(own.checkout("lacks", thing="2"), status=5)
    assert "not ours to change" in err
    assert own.state() == before


def test_an_environment_on_a_read_only_file_system(own: Shop) -> None:
    demand("namespaces")
    checkouts = [own.checkout("fits"), own.checkout("lacks", thing="2")]
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$2/bin/build"'
    environ = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "BUILDSTEP_VENV": os.fspath(own.venv), "PYTHON": own.python,
    }  # fmt: skip
    done = [
        subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, "sh", own.venv, checkout],
            env=environ, capture_output=True, text=True, check=False,
        )
        for checkout in checkouts
    ]  # fmt: skip
    assert (done[0].returncode, done[0].stderr) == (0, "")
    assert done[1].returncode == 5
    assert "thing>=2 is asked for, 1.0 is installed" in done[1].stderr


def test_one_whose_python_has_gone(own: Shop) -> None:
    """As after an upgrade of the distribution: made anew where it is ours, told where it is not."""
    for path in own.venv.glob("bin/python*"):
        path.unlink()
    (own.venv / "bin/python").symlink_to("/usr/bin/python3.0")
    _, err = own.build(own.checkout("theirs"), user=NOBODY, status=5)
    assert f"{own.venv}: bin/python is missing, or cannot be run" in err
    out, err = own.build(own.checkout("ours"))
    assert out == SAID.format("1.0")
    assert "bin/setup: making" in err


def test_a_set_up_that_was_killed_is_done_again(own: Shop) -> None:
    """Killed while pip installs: what it left looks whole to pip."""
    (own.venv / "bin/pip").unlink()
    pip = next(own.venv.glob("lib/python3*/site-packages")) / "pip/__main__.py"
    shutil.rmtree(next(own.venv.glob("lib/python3*/site-packages/other-1.0.dist-info")))
    text = pip.read_text()
    pip.write_text(f"import os, signal\nos.killpg(0, signal.SIGKILL)\n{text}")
    with own.start(own.checkout("killed", thing="1.0"), {}, session=True) as child:
        assert child.wait(timeout=60) == -signal.SIGKILL
    pip.write_text(text)
    (pip.parent.parent / "thing.py").unlink()
    out, err = own.build(own.checkout("next", thing="1.0"))
    assert out == SAID.format("1.0")
    assert "bin/setup: making" in err
    assert not (own.venv / ".buildstep-unfinished").exists()


def test_one_that_somebody_else_sees_to(own: Shop) -> None:
    (own.venv / ".buildstep-ready").write_text("as it is\n")
    assert own.build(own.checkout("other", thing="7")) == (SAID.format("1.0"), "")


def test_a_directory_that_is_no_environment_is_left_alone(own: Shop) -> None:
    (own.top / "usr/bin").mkdir(parents=True)
    (own.top / "usr/bin/tool").touch()
    _, err = own.build(own.checkout("next"), status=5, BUILDSTEP_VENV=f"{own.top}/usr")
    assert "is no virtual environment" in err
    assert [path.name for path in (own.top / "usr").rglob("*")] == ["bin", "tool"]


def test_it_works_where_there_is_no_flock(own: Shop) -> None:
    tools = own.top / "tools"
    tools.mkdir()
    for name in ("sh", "sed", "cat", "mkdir", "mv", "rm", "env", "dirname", "basename", "readlink"):
        (tools / name).symlink_to(shutil.which(name) or "")
    shutil.move(own.top / "thing-2.0-py3-none-any.whl", own.top / "wheels")
    out, err = own.build(own.checkout("next", thing="2"), PATH=os.fspath(tools))
    assert out == SAID.format("2.0")
    assert "installing" in err
