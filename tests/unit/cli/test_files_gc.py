"""`buildstep files gc`, `verify` and `stats` as a person sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from buildstep.errors import ExitCode
from tests.unit.cli.conftest import Run

pytestmark = pytest.mark.commands("find")


@pytest.fixture
def store(run: Run) -> str:
    """A store with two trees, of which one is not needed any more."""
    for name, text in (("kept", "kept"), ("gone", "gone")):
        Path(name).mkdir()
        Path(name, "both").write_text("both")
        Path(name, name).write_text(text)
        status, _, err = run("files", "put", name, "--store", "dir:store", "--ref", name)
        assert status == ExitCode.OK, err
    assert run("files", "remove", "gone", "--store", "dir:store")[0] == ExitCode.OK
    return "dir:store"


def test_gc(run: Run, store: str) -> None:
    status, out, err = run("files", "gc", "--store", store, "--grace", "0", "--dry-run")
    assert (status, err) == (ExitCode.OK, "")
    assert "files would be deleted" in out
    assert ": no ref reaches it\n" in out
    status, out, _ = run("files", "gc", "--store", store, "--json")
    assert json.loads(out)["deleted"] == []  # all is young
    status, out, _ = run("files", "gc", "--store", store, "--grace", "0", "--json")
    found = json.loads(out)
    assert found["bytes"] == sum(row["bytes"] for row in found["deleted"]) > 0
    assert {row["reason"] for row in found["deleted"]} >= {"no ref reaches it"}
    assert run("files", "gc", "--store", store, "--grace", "0")[1] == "0 files deleted, 0 B\n"
    assert run("files", "list", "kept", "--store", store)[0] == ExitCode.OK


def test_gc_of_no_store(run: Run) -> None:
    status, _, err = run("files", "gc", "--store", "dir:nothing")
    assert status == ExitCode.STORE
    assert "there is no store in dir:" in err
    assert not Path("nothing").exists()


def test_verify(run: Run, store: str) -> None:
    assert run("files", "put", "kept", "--store", "dir:copy")[0] == ExitCode.OK
    status, out, err = run("files", "verify", "--store", store)
    assert (status, err) == (ExitCode.OK, "")
    assert out.startswith("3 contents in 2 packs and 0 objects, ")
    assert out.endswith(" B, kept by 1 ref: none damaged\n")
    for pack in Path("store").glob("packs/*/*"):
        pack.chmod(0o600)
        pack.write_bytes(b"damaged")
    status, out, _ = run("files", "verify", "--store", store, "--quick")
    assert status == ExitCode.STORE
    assert "  needed by kept\n    kept: both\n" in out
    status, out, _ = run("files", "verify", "--store", store, "--repair-from", "dir:copy", "--json")
    found = json.loads(out)
    assert status == ExitCode.OK
    assert len(found["quarantined"]) == 2
    assert len(found["fetched"]) == 2
    assert found["left"] == []
    assert {path["path"] for row in found["damaged"] for path in row["paths"]} == {"both", "kept"}
    assert run("files", "verify", "--store", store)[0] == ExitCode.OK


def test_stats(run: Run, store: str) -> None:
    Path("kept", "more").write_text("more")
    assert run("files", "put", "kept", "--store", store, "--ref", "more")[0] == ExitCode.OK
    status, out, err = run("files", "stats", "--store", store)
    assert (status, err) == (ExitCode.OK, "")
    assert "files           20 B  in 2 refs\ncontents        12 B  3 contents, each once\n" in out
    assert "garbage          4 B  1 content that no ref reaches: `buildstep files gc`\n" in out
    assert "more          3        12 B         4 B         8 B\n" in out
    assert "       8 B  2 contents: kept, more\n" in out
    assert "       4 B  kept in kept, and in 1 other ref\n" in out
    status, out, _ = run("files", "stats", "--store", store, "--json")
    found = json.loads(out)
    assert (found["dedupe_ratio"], found["pairs"][0]["size"]) == (1.67, 8)
