"""A recipe is read whole, and every fault of it is told before anything is done."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from buildstep.build import recipe as recipes
from buildstep.build.recipe import Recipe
from buildstep.build.recipe_sources import Laid, lay
from buildstep.errors import SpecError, UsageError
from buildstep.events import Bus

GOOD: dict[str, Any] = {"name": "app", "image": "scratch", "outputs": ["/opt/app"]}
pytestmark = pytest.mark.commands("cp", "git")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/.gitignore").write_text("*.o\n")
    (tmp_path / "src/run").write_text("run\n")
    return tmp_path


def read(folder: Path, name: str = "r.json", defines: dict[str, str] | None = None, **more: Any) -> Recipe:
    path = folder / name
    if not path.exists():
        path.write_text(json.dumps(GOOD | more))
    return recipes.read(path, environ={}, defines=defines or {})


def faults(folder: Path, **more: Any) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        read(folder, **more)
    return {fault.where: fault.message for fault in caught.value.faults}


def laid(folder: Path, *sources: dict[str, str]) -> tuple[Path, list[Laid]]:
    number = len(list(folder.iterdir()))
    found = read(folder, f"{number}.json", sources=list(sources))
    into, work = folder / f"into{number}", folder / f"work{number}"
    into.mkdir()
    work.mkdir()
    return into, lay(found.sources, into, work, Bus(), os.environ)


def test_json_toml_and_templates_mean_the_same(folder: Path) -> None:
    (folder / "r.toml").write_text(
        'name = "app"\nimage = "scratch"\noutputs = ["/opt/app"]\nrun = ["make"]\n'
    )
    (folder / "r.json.j2").write_text(
        '{"name": "{{ name }}", "image": "scratch", "outputs": ["/opt/app"], "run": ["make"]}'
    )
    found = [read(folder, run=["make"]), read(folder, "r.toml"), read(folder, "r.json.j2", {"name": "app"})]
    assert len({json.dumps(it.document) for it in found}) == 1
    assert found[0].document["build"]["run"] == ["make"]


def test_ays_d22_what_a_template_is_not_told_is_an_error_and_no_question(folder: Path) -> None:
    (folder / "r.json.j2").write_text('{"name": "{{ name }}", "image": "scratch", "outputs": ["/a"]}')
    with pytest.raises(SpecError):
        read(folder, "r.json.j2")


def test_ays_d18_a_relative_destination_is_refused_early(folder: Path) -> None:
    found = faults(
        folder,
        sources=[
            {"path": "src", "dest": "opt/app"}, {"path": "src", "dest": "/opt/../../etc"}, {"path": "src"},
            {"path": "src", "dest": "/a", "source": "../x"}, {"path": "none", "dest": "/b"},
        ],
        outputs=["relative"],
    )  # fmt: skip
    assert "absolute path" in found["$.sources[0].dest"]
    assert found["$.sources[2].dest"] == "is required"
    assert "anchored" in found["$.outputs[0]"]
    (folder / "r.json").unlink()
    found = faults(
        folder,
        sources=[
            {"path": "src", "dest": "/opt/../../etc"}, {"path": "src", "dest": "/a", "source": "../x"},
            {"path": "none", "dest": "/b"}, {"path": "src", "git": "https://h/r", "dest": "/c"}, {"dest": "/d"},
        ],
    )  # fmt: skip
    assert set(found) == {
        "$.sources[0].dest", "$.sources[1].source", "$.sources[2].path", "$.sources[3]", "$.sources[4]",
    }  # fmt: skip


def test_ays_d14_a_git_source_is_pinned(folder: Path) -> None:
    rows = [{"git": "https://h/r.git", "dest": "/a"}]
    assert "needs a commit" in faults(folder, sources=rows)["$.sources[0]"]
    (folder / "r.json").unlink()
    short = [{"git": "https://h/r.git", "commit": "abc123", "dest": "/a"}]
    assert "a whole commit" in faults(folder, sources=short)["$.sources[0].commit"]


@pytest.mark.parametrize(
    "url", ["https://me:pw@host/r.git", "ssh://me:pw@host/r.git", "ext::sh -c id", "--upload-pack=x"]
)
def test_ays_d13_no_password_and_no_command_in_a_url(folder: Path, url: str) -> None:
    found = faults(folder, sources=[{"git": url, "branch": "main", "dest": "/a"}])
    assert "without a password" in found["$.sources[0].git"]


# -- laying sources -----------------------------------------------------------------------------------------


def git(repository: Path, *words: str) -> str:
    who = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    dates = {"GIT_AUTHOR_DATE": "1700000000 +0000", "GIT_COMMITTER_DATE": "1700000000 +0000"}
    argv = ["git", "-C", os.fspath(repository), "-c", "init.defaultBranch=main", *words]
    return subprocess.run(
        argv, env={**os.environ, **who, **dates}, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    top = tmp_path / "repo"
    top.mkdir()
    git(top, "init", "-q")
    (top / ".gitignore").write_text("*.o\n")
    (top / "x.github.io").mkdir()
    (top / "x.github.io/foo.gitx").write_text("main\n")
    git(top, "add", "-A")
    git(top, "commit", "-qm", "one")
    git(top, "checkout", "-qb", "other")
    (top / "x.github.io/foo.gitx").write_text("other\n")
    git(top, "commit", "-qam", "two")
    return top


def test_ays_d14_each_branch_is_its_own_commit(folder: Path, repository: Path) -> None:
    rows = [{"git": os.fspath(repository), "branch": name, "dest": f"/{name}"} for name in ("main", "other")]
    into, found = laid(folder, *rows)
    assert [row.commit for row in found] == [git(repository, "rev-parse", name) for name in ("main", "other")]
    assert (into / "main/x.github.io/foo.gitx").read_text() == "main\n"
    assert (into / "other/x.github.io/foo.gitx").read_text() == "other\n"
    assert (into / "main/x.github.io/foo.gitx").stat().st_mtime == 1700000000, "the time of the commit"
    again, pinned = laid(folder, {"git": os.fspath(repository), "commit": found[0].commit, "dest": "/main"})
    assert pinned[0].digest == found[0].digest
    assert not (again / "main/.git").exists()
    with pytest.raises(UsageError, match="no branch or tag 'gone'"):
        laid(folder, {"git": os.fspath(repository), "branch": "gone", "dest": "/a"})


def test_ays_d17_names_that_look_like_gits_stay(folder: Path, repository: Path) -> None:
    into, _ = laid(
        folder,
        {"git": os.fspath(repository), "branch": "main", "dest": "/a"},
        {"path": "src", "dest": "/b"},
    )
    assert (into / "a/.gitignore").read_text() == "*.o\n"
    assert (into / "a/x.github.io/foo.gitx").exists()
    assert (into / "b/.gitignore").exists()


def test_a_part_of_a_source_each_entry_and_a_file(folder: Path) -> None:
    (folder / "src/bin").mkdir()
    (folder / "src/bin/tool").write_text("t")
    into, found = laid(
        folder,
        {"path": "src", "source": "bin/*", "dest": "/usr/bin"},
        {"path": "src", "source": "run", "dest": "/opt/"},
        {"path": "src/run", "dest": "/opt/renamed"},
        {"link": "../opt/run", "dest": "/usr/sbin/run"},
    )
    assert (into / "usr/bin/tool").read_text() == "t"
    assert (into / "opt/run").read_text() == (into / "opt/renamed").read_text() == "run\n"
    assert os.readlink(into / "usr/sbin/run") == "../opt/run"
    assert len({row.digest for row in found}) == 4
    with pytest.raises(UsageError, match="there is no gone"):
        laid(folder, {"path": "src", "source": "gone", "dest": "/a"})


def test_a_link_of_a_source_leads_nowhere_else(folder: Path) -> None:
    """Neither what is read of a source, nor where the next one is laid."""
    (folder / "secret").write_text("s")
    (folder / "src/out").symlink_to(folder)
    with pytest.raises(UsageError, match="there is no out/secret"):
        laid(folder, {"path": "src", "source": "out/secret", "dest": "/a"})
    (folder / "src/etc").symlink_to("/" + os.fspath(folder / "victim").strip("/"))
    (folder / "victim").mkdir()
    into, _ = laid(folder, {"path": "src", "dest": "/a"}, {"link": "x", "dest": "/a/sub/link"})
    assert os.readlink(into / "a/etc") == os.fspath(folder / "victim")
    with pytest.raises((OSError, UsageError)):
        laid(folder, {"path": "src", "dest": "/a"}, {"path": "src/run", "dest": "/a/etc/owned"})
    assert list((folder / "victim").iterdir()) == []
    (folder / "victim/run").write_text("safe\n")
    (folder / "links").mkdir()
    (folder / "links/run").symlink_to(folder / "victim/run")
    into, _ = laid(folder, {"path": "links", "dest": "/a"}, {"path": "src", "dest": "/a"})
    assert (folder / "victim/run").read_text() == "safe\n"
    assert (into / "a/run").read_text() == "run\n"
    assert not (into / "a/run").is_symlink()
