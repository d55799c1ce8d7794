"""What the docs tell to type works as it stands, in a fresh copy of the checkout; and every link leads somewhere.

The blocks of a page that are marked `sh` are run in one shell, in order; any other mark is not run. A page that
needs more than a shell says so: `<!-- needs: root mmdebstrap mirror -->`. All pages share a pool, so that a costly
base image is made once.

A page about the code has blocks that are files, or rows for one: `<!-- write: PATH -->` or `<!-- insert: PATH below:
TEXT -->` comes before them. They are applied to the copy first, so that the page's commands see them at work.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.conftest import Require

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


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that git knows of or would take, as a clone would have them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    top = tmp_path / "buildstep"
    for name in filter(None, listed.split("\0")):
        source, target = REPOSITORY / name, top / name
        if source.is_file() or source.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    # Set-up is not what is tested here: our environment is used, and must not be set up anew from the copy.
    os.utime(top / "pyproject.toml", (0, 0))
    return top


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> str:
    scheme = "overlay" if os.geteuid() == 0 else "dir"
    return f"{scheme}:{tmp_path_factory.mktemp('docs')}/pool"


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_what_a_page_tells_to_type_works(
    page: Path, checkout: Path, pool: str, tmp_path: Path, require: Require
) -> None:
    venv = REPOSITORY / ".venv"
    if not (venv / ".buildstep-ready").exists():
        pytest.skip("bin/build has not been set up here")
    if needs := _NEEDS.search(page.read_text()):
        require(*needs[1].split())
    apply_edits(page, checkout)
    script = ["set -eu"]
    for number, text in snippets(page):
        script += [f"echo {shlex.quote(f'>>> {name_of(page)}:{number}')}", text]
    keep = {
        key: value for key, value in os.environ.items() if not key.startswith(("BUILDSTEP_", "SOURCE_DATE"))
    }
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        ["sh", "-c", "\n".join(script)], cwd=checkout, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", timeout=LIMIT, check=False,
        env={**keep, "HOME": os.fspath(home), "BUILDSTEP_POOL": pool, "BUILDSTEP_VENV": os.fspath(venv)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    assert "Traceback" not in done.stdout


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
