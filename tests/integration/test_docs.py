"""What the docs tell to type works as it stands, in an empty directory; and every link leads somewhere.

The blocks of a page that are marked `sh` are run in one shell, in order; any other mark is not run. A page that
needs more than a shell says so: `<!-- needs: mmdebstrap mirror -->`. They are run twice, as root and as an
ordinary user, each with the PATH of a login and `buildstep` of a fresh copy of the checkout at its end. All pages
of one of them share a pool, so that a costly base image is made once.

A page about the code has blocks that are files, or rows for one: `<!-- write: PATH -->` or `<!-- insert: PATH below:
TEXT -->` comes before them. They are applied to a copy first, so that the page's commands see them at work.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Require
from tests.integration.ordinary_user import LOGIN_PATH, usable_python, user

__all__ = ["user"]

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
LIMIT = 600

_FENCE = re.compile(r"^ {0,3}```(\w*)[^\n]*\n(.*?)^ {0,3}```$", re.MULTILINE | re.DOTALL)
_WRITE = re.compile(r"<!-- write: (\S+) -->\n+```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INSERT = re.compile(r"<!-- insert: (\S+) below: (.+?) -->\n+```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NEEDS = re.compile(r"<!-- needs: ([a-z ]+) -->")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def name_of(page: Path) -> str:
    return os.fspath(page.relative_to(REPOSITORY))


def snippets(page: Path) -> list[tuple[int, str]]:
    """Line number and text of each block that is to be run."""
    text = page.read_text()
    return [
        (text.count("\n", 0, match.start()) + 2, match[2])
        for match in _FENCE.finditer(text)
        if match[1] == "sh"
    ]


def apply_edits(page: Path, checkout: Path) -> None:
    """Write the files and insert the rows that a page shows."""
    text = page.read_text()
    for name, content in _WRITE.findall(text):
        assert not (checkout / name).exists(), f"{name} is there already"
        (checkout / name).write_text(content)
    for name, mark, rows in _INSERT.findall(text):
        lines = (checkout / name).read_text().splitlines(keepends=True)
        places = [number for number, line in enumerate(lines) if line.strip().startswith(mark)]
        assert len(places) == 1, f"{mark!r} is in {len(places)} lines of {name}"
        lines.insert(places[0] + 1, rows)
        (checkout / name).write_text("".join(lines))


RUN = [page for page in PAGES if snippets(page)]


def copy_checkout(top: Path) -> Path:
    """The files that git knows of or would take, as a clone would have them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        source, target = REPOSITORY / name, top / name
        if source.is_file() or source.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    # Set-up is not what is tested here: our environment is used, and must not be set up anew from the copy.
    os.utime(top / "pyproject.toml", (0, 0))
    return top


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copy_checkout(tmp_path / "buildstep")


@pytest.fixture(scope="module")
def top() -> Iterator[Path]:
    """A place that every user may enter, which pytest's are not."""
    made = Path(tempfile.mkdtemp(prefix="buildstep-docs-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def clone(top: Path) -> Path:
    """A checkout that no page changes."""
    return copy_checkout(top / "buildstep")


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Who types what a page says. path: of a login; environ: what else is set there."""

    home: Path
    path: str
    environ: dict[str, str]
    popen: dict[str, Any]

    def own(self, path: Path) -> Path:
        """Make a directory of the reader's."""
        path.mkdir(parents=True)
        if "user" in self.popen:
            os.chown(path, self.popen["user"], self.popen["group"])
        return path

    def type(self, script: str, *, cwd: Path, checkout: Path, temporary: Path) -> tuple[int, str]:
        """Run a script; its exit status and output."""
        done = subprocess.run(
            ["sh", "-c", script], cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", timeout=LIMIT, check=False, umask=0o022,
            env={"HOME": os.fspath(self.home), "TMPDIR": os.fspath(temporary), **self.environ,
                 "PATH": f"{self.path}:{checkout}/bin"},
            **self.popen,
        )  # fmt: skip
        return done.returncode, done.stdout


# What a machine may need to reach the world.
_NETWORK = re.compile("(https?|no|all)_proxy|(SSL|REQUESTS|CURL)_.*|BUILDSTEP_APT_MIRROR", re.IGNORECASE)


def login(who: str) -> dict[str, str]:
    network = {name: value for name, value in os.environ.items() if _NETWORK.fullmatch(name)}
    return {"USER": who, "LOGNAME": who, "SHELL": "/bin/sh", "LANG": "C.UTF-8", **network}


@pytest.fixture(scope="module")
def root_reader(top: Path) -> Reader:
    """root, whose pool is not the machine's."""
    home = top / "root"
    home.mkdir()
    environ = {"BUILDSTEP_POOL": f"overlay:{top}/pool", "BUILDSTEP_VENV": os.fspath(REPOSITORY / ".venv")}
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return Reader(home=home, path=path, environ={**login("root"), **environ}, popen={})


@pytest.fixture(scope="module")
def user_reader(top: Path, user: pwd.struct_passwd) -> Reader:
    """A user who has ids to hand out, and the pool that such a user has by default."""
    python, modules = usable_python()
    program = top / "venv/bin/python"
    program.parent.mkdir(parents=True)
    packages = modules.partition(":")[2]
    program.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{packages}" exec {python} "$@"\n')
    program.chmod(0o755)
    (top / "venv/.buildstep-ready").write_text("as it is\n")
    home = top / "home"
    environ = {"BUILDSTEP_VENV": os.fspath(top / "venv")}
    popen = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    reader = Reader(home=home, path=LOGIN_PATH, environ={**login(user.pw_name), **environ}, popen=popen)
    reader.own(home)
    return reader


@pytest.mark.parametrize("who", ["root", "user"])
@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_what_a_page_tells_to_type_works(
    page: Path, who: str, clone: Path, top: Path, request: pytest.FixtureRequest, require: Require
) -> None:
    if not (REPOSITORY / ".venv/.buildstep-ready").exists():
        pytest.skip("bin/build has not been set up here")
    needs = _NEEDS.search(page.read_text())
    if needs and who == "user" and not os.environ.get("BUILDSTEP_FULL"):
        pytest.skip("a Debian base of the user's own takes long: `make check-full` makes one")
    require("root", "namespaces", "overlay", *(needs[1].split() if needs else ()))
    reader: Reader = request.getfixturevalue(f"{who}_reader")
    place = Path(tempfile.mkdtemp(dir=top))
    place.chmod(0o755)
    checkout = clone
    if _WRITE.search(page.read_text()):
        checkout = place / "buildstep"
        shutil.copytree(clone, checkout, symlinks=True)
        apply_edits(page, checkout)
    before = names(checkout)
    script = ["set -eu"]
    for number, text in snippets(page):
        script += [f"echo {shlex.quote(f'>>> {name_of(page)}:{number}')}", text]
    cwd = reader.own(place / "empty")
    status, output = reader.type(
        "\n".join(script), cwd=cwd, checkout=checkout, temporary=reader.own(place / "tmp")
    )
    assert status == 0, output[-6000:]
    assert "Traceback" not in output
    # Nothing stays in the reader's directory, nor in the checkout.
    assert os.listdir(cwd) == []
    assert names(checkout) == before


def names(checkout: Path) -> set[str]:
    """The files of a checkout, without what Python keeps."""
    found = {os.fspath(path.relative_to(checkout)) for path in checkout.rglob("*")}
    return {name for name in found if "__pycache__" not in name}


def test_blocks_are_found_and_told_apart(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n\n```sh\necho one\n```\n\n```console\n# no\n```\n\n```text\nno\n```\n\n```sh\ntwo\n```\n"
    )
    assert snippets(page) == [(4, "echo one\n"), (16, "two\n")]
    assert RUN, "no page has anything to run"


@pytest.mark.parametrize("what", ["cleaner", "report", "step"])
def test_an_addition_is_one_new_file_and_one_table(what: str, checkout: Path) -> None:
    page = REPOSITORY / f"docs/how-to/add-a-{what}.md"
    text = page.read_text()
    assert len(_WRITE.findall(text)) == 1
    assert len({name for name, _, _ in _INSERT.findall(text)}) == 1
    # What is added keeps to the rules that hold for the package.
    apply_edits(page, checkout)
    for argv in (
        ["ruff", "check", "buildstep"],
        ["ruff", "format", "--check", "buildstep"],
        ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/test_layering.py"],
    ):
        done = subprocess.run(
            [REPOSITORY / ".venv/bin" / argv[0], *argv[1:]], cwd=checkout, capture_output=True, text=True,
            check=False, env={**os.environ, "PYTHONPATH": os.fspath(checkout)},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", [*PAGES, REPOSITORY / "CONTRIBUTING.md"], ids=name_of)
def test_every_link_between_docs_leads_somewhere(page: Path) -> None:
    text = _FENCE.sub("", page.read_text())
    broken = []
    for target in _LINK.findall(text):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            broken.append(target)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    heads = re.findall(r"^#+ (.*)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def test_every_page_can_be_reached_from_the_index() -> None:
    seen: set[Path] = set()
    todo = [REPOSITORY / "README.md", REPOSITORY / "docs/README.md"]
    while todo:
        page = todo.pop()
        if page in seen or not page.exists():
            continue
        seen.add(page)
        if page.suffix == ".md":
            targets = _LINK.findall(_FENCE.sub("", page.read_text()))
            todo += [
                (page.parent / target.partition("#")[0]).resolve() for target in targets if ":" not in target
            ]
    assert [name_of(page) for page in PAGES if page not in seen] == []
