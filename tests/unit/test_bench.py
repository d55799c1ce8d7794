"""The benchmark's inputs are the same every time, its changes are undone, its arithmetic is right."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from bench import assets, chart, machine, repository, results, scaling, table, walls_cost
from bench.changes import one_directory, one_file, one_mebibyte, thousand_files
from bench.checkouts import check_out
from bench.engines import ENGINES
from bench.engines.buildah import containerfile
from bench.measure import Budget, Run, RunFailed, TooSlow, repeat, run_once
from bench.model import Case, Change, Checkout, Command, Input, Workload
from bench.runner import Settings, run_workload
from bench.trees import CHUNK, MTIME_NS, Content, Item, Tree, many_files
from bench.workloads import EXTRAS, FIFTY, WORKLOADS


def digest(root: Path) -> str:
    """Names, modes, times, link targets, content."""
    rows = []
    for path in sorted([root, *root.rglob("*")]):
        info = path.lstat()
        if path.is_symlink():
            content = os.readlink(path)
        else:
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        rows.append((os.fspath(path.relative_to(root)), info.st_mode, info.st_mtime_ns, content))
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def small(folder: Path) -> Tree:
    items = many_files(3000, mean=300)
    items.append(Item("sparse/disk.img", 8 * CHUNK, data_at=5 * CHUNK, data_size=CHUNK))
    items.append(Item("large/part.bin", 3 * CHUNK))
    tree = Tree(folder / "tree", items)
    tree.ensure()
    return tree


def test_the_same_seed_makes_the_same_tree(tmp_path: Path) -> None:
    first, second = small(tmp_path / "a"), small(tmp_path / "b")
    assert digest(first.root) == digest(second.root)
    assert {path.lstat().st_mtime_ns for path in first.root.rglob("*")} == {MTIME_NS}
    assert not first.ensure(), "a tree that is there is not made again"


def test_content_never_changes() -> None:
    """Kept results stay comparable only while the inputs are these very bytes."""
    chunk = Content().chunk("some/path", 0, 200_000)
    assert len(chunk) == 200_000
    assert hashlib.sha256(chunk).hexdigest() == CHUNK_SHA256
    rows = repr([(item.path, item.size) for item in many_files(2000)])
    assert hashlib.sha256(rows.encode()).hexdigest() == FILES_SHA256


CHUNK_SHA256 = "c445a81acb48636d8ec38dbc0ff5511abec0dc1014b2710717735d7cd607cbbd"
FILES_SHA256 = "53384d0d873462da6344c145b1e690a3750d3bdc2f2eec1f709d6da54f101480"


@pytest.mark.parametrize("length", [0, 1, 2, 65_535, 65_536, 65_537, CHUNK])
def test_chunks_are_as_long_as_asked(length: int) -> None:
    assert len(Content().chunk("p", 0, length)) == length


def test_files_are_about_as_large_as_meant() -> None:
    items = [item for item in many_files(20_000) if not item.target]
    assert 5500 < sum(item.size for item in items) / len(items) < 6700


def test_the_sparse_file_has_holes(tmp_path: Path) -> None:
    info = (small(tmp_path).root / "sparse/disk.img").stat()
    assert info.st_size == 8 * CHUNK
    assert info.st_blocks * 512 < 2 * CHUNK


@pytest.mark.parametrize("change", [one_file, thousand_files, one_directory, one_mebibyte])
def test_a_change_is_undone_exactly(tmp_path: Path, change: Change) -> None:
    tree = small(tmp_path)
    before = digest(tree.root)
    states = {before}
    for number in (1, 2):
        change(tree, number)
        states.add(digest(tree.root))
        assert not tree.ready.exists(), "a run that dies now must not leave this for the next"
    assert len(states) == 3
    tree.restore()
    assert digest(tree.root) == before
    assert tree.ready.exists()


def test_changes_on_changes_are_undone(tmp_path: Path) -> None:
    tree = small(tmp_path)
    before = digest(tree.root)
    for number, change in enumerate([one_directory, one_file, thousand_files, one_directory, one_file], 1):
        change(tree, number)
    tree.restore()
    assert digest(tree.root) == before


def test_changes_are_as_large_as_they_say(tmp_path: Path) -> None:
    tree = small(tmp_path)
    before = {path: path.read_bytes() for path in tree.root.rglob("*") if path.is_file()}
    one_mebibyte(tree, 1)
    ((path, old),) = [(path, old) for path, old in before.items() if path.read_bytes() != old]
    assert path.name == "part.bin"
    assert [old[at : at + CHUNK] == path.read_bytes()[at : at + CHUNK] for at in (0, CHUNK, 2 * CHUNK)] == [
        True,
        False,
        True,
    ]


def test_a_tree_left_changed_is_made_again(tmp_path: Path) -> None:
    tree = small(tmp_path)
    before = digest(tree.root)
    one_directory(tree, 1)
    again = Tree(tree.root, tree.items)
    assert again.ensure()
    assert digest(tree.root) == before


# -- measuring ------------------------------------------------------------------------------------------


def command(folder: Path, text: str) -> Command:
    return Command(argv=(sys.executable, "-S", "-c", text), env=dict(os.environ), cwd=folder)


@pytest.mark.commands
def test_a_run_is_measured_with_its_memory(tmp_path: Path) -> None:
    run = run_once(command(tmp_path, "import time; x = b'x' * 90_000_000; time.sleep(0.4)"), limit=20)
    assert run.seconds > 0.4
    assert 90e6 < run.rss_largest < 200e6
    assert 90e6 < run.anon_total < 200e6


@pytest.mark.commands
def test_a_small_process_is_not_given_its_parents_memory(tmp_path: Path) -> None:
    ballast = bytearray(os.urandom(1)) * 150_000_000
    assert run_once(command(tmp_path, "pass"), limit=20).rss_largest < 60e6
    del ballast


@pytest.mark.commands
def test_a_failing_command_says_why(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"(?s)status 3.*broken"):
        run_once(command(tmp_path, "import sys; print('broken'); sys.exit(3)"), limit=20)


@pytest.mark.commands
def test_a_command_past_its_limit_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(TooSlow):
        run_once(command(tmp_path, "import time; time.sleep(60)"), limit=0.2)


def run(seconds: float) -> Run:
    return Run(
        seconds=seconds, user=0.1, system=0.1, rss_largest=50_000_000, anon_total=4, processes=1, told={}
    )


def test_runs_stop_at_the_budget() -> None:
    assert len(repeat(lambda _: run(1), Budget(least=3, most=7, seconds=2))) == 3
    assert len(repeat(lambda _: run(1), Budget(least=1, most=7, seconds=4.5))) == 5
    assert len(repeat(lambda _: run(0.1), Budget(least=1, most=7, seconds=9))) == 7


def test_a_cell_has_median_and_spread() -> None:
    cell = results.summary([run(3), run(1), run(2), run(9)])
    assert (cell["median"], cell["least"], cell["most"], cell["count"]) == (2.5, 1, 9, 4)


# -- showing --------------------------------------------------------------------------------------------


def example() -> dict[str, Any]:
    engines = {
        "ours": results.summary([run(0.5), run(0.6), run(0.7)]),
        "buildah": results.summary([run(30)]),
        "podman": results.left_out("stopped after 240 s"),
    }
    case = {"name": "cold", "title": "cold <&>", "bar": 0.4, "engines": engines}
    return {
        "date": "2026-01-01T00:00:00Z",
        "page_cache": "warm",
        "host": {"cpu": "CPU", "cores": 2, "memory": 8e9, "filesystem": "ext4", "kernel": "6"},
        "versions": {"buildah": "1.28"},
        "workloads": [
            {"name": "files", "title": "files", "facts": {"files": 1, "data_bytes": 2e6}, "cases": [case]},
            {"name": "big", "title": "big", "left_out": "needs 40 GB"},
        ],
    }


def test_the_table_tells_medians_ratios_verdicts_and_what_was_left_out() -> None:
    text = table.render(json.loads(json.dumps(example())))
    assert "0.60 (3, 0.50-0.70)" in text
    assert "50.0x" in text
    assert "missed, 1.5x" in text
    assert "podman, stopped after 240 s" in text
    assert "needs 40 GB" in text


def test_the_chart_is_xml_with_a_bar_per_engine_and_a_mark() -> None:
    root = ET.fromstring(chart.render(example()))
    tag = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in root.iter(f"{tag}text")]
    assert "files: cold <&>" in texts
    assert {"0.60", "30.00"} <= set(texts)
    assert chart.render({**example(), "workloads": []}).startswith("<svg")


# -- the table of cases ---------------------------------------------------------------------------------


def test_workloads_name_engines_that_exist() -> None:
    for workload in WORKLOADS:
        assert set(workload.engines) <= set(ENGINES)
        assert workload.engines[0] == "ours"
        assert workload.cases[0].cold, "the first case leaves a warm state for the others"
        for case in workload.cases:
            assert set(case.skip) <= set(workload.engines)


def test_every_bar_is_there() -> None:
    bars = {f"{w.name}/{c.name}": c.bar for w in WORKLOADS for c in w.cases if c.bar is not None}
    assert bars == {
        "tiny/unchanged": 0.4,
        "tiny/program": 0.5,
        "tiny/one-file": 0.4,
        "web/unchanged": 0.9,
        "web/proto": 0.9,
        "web/shared": 4.0,
        "packages/one-more": 3.0,
        "packages/one-less": 7.0,
        "packages/bumped": 7.0,
        "packages/shared": 6.0,
        "files/cold": 4.0,
        "files/unchanged": 0.9,
        "files/fresh": 0.9,
        "files/checkout": 1.6,
        "files/checkout-git": 1.1,
        "files/checkout-one-file": 2.4,
        "files/one-file": 1.5,
        "files/one-file-oci-dir": 0.9,
        "files/directory": 2.0,
        "files/thousand": 3.0,
        "big/cold": 16.0,
        "big/one-mib": 4.0,
    }


def test_fifty_packages_are_fifty() -> None:
    assert len(set(FIFTY)) == 50
    assert not set(FIFTY) & set(EXTRAS)


def test_a_containerfile_installs_before_it_copies(tmp_path: Path) -> None:
    source = Input(name="x", tree=Tree(tmp_path / "t", []), base=tmp_path / "b", packages=("a", "b", "c"))
    first, install, copy = containerfile(source).splitlines()
    assert first == "FROM localhost/bench-base"
    assert install.startswith("RUN ")
    assert install.endswith(" a b c")
    assert copy == "COPY . /"
    assert containerfile(Input(name="x", tree=source.tree)) == "FROM scratch\nCOPY . /\n"


# -- the runner, with an engine of its own --------------------------------------------------------------


class Fake:
    name = "script"
    title = "writes down what it is given"

    def __init__(self) -> None:
        self.seen: list[tuple[str, tuple[str, ...]]] = []
        self.inodes: list[int] = []

    def missing(self) -> str:
        return ""

    def versions(self) -> dict[str, str]:
        return {}

    def forget(self, source: Input, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "state").write_text("")
        self.seen.append(("forget", ()))

    def lacks(self, case: Case) -> str:
        return "has no such thing" if case.formats else ""

    def command(self, source: Input, folder: Path) -> Command:
        self.seen.append((digest(source.proto)[:8], source.packages))
        self.inodes.append(source.proto.stat().st_ino)
        return command(folder, "pass")

    def empty(self, folder: Path) -> None:
        self.seen.append(("empty", ()))

    def told(self, source: Input, folder: Path) -> dict[str, Any]:
        return {"bytes": 1}


def workload(tree: Tree, *cases: Case) -> Workload:
    def prepare(folder: Path, quick: bool) -> Input:
        tree.ensure()
        return Input(name="fake", tree=tree, packages=("a", "b", "c"), extras=("x", "y", "z"))

    return Workload(
        name="fake", title="fake", cases=cases, engines=("script",), prepare=prepare, space=1, slow=()
    )


@pytest.mark.commands
def test_each_run_sees_its_own_change_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "settle", lambda *, drop=False: None)
    tree = Tree(tmp_path / "inputs" / "t", many_files(100, mean=100))
    cases = (
        Case(name="cold", title="cold", cold=True),
        Case(name="same", title="same"),
        Case(name="one", title="one", change=one_file),
        Case(name="more", title="more", packages="one more"),
        Case(name="less", title="less", packages="one less"),
        Case(name="other", title="other", formats=("x",)),
    )
    fake = Fake()
    found = run_workload(workload(tree, *cases), [fake], Settings(folder=tmp_path))
    cells = [case["engines"]["script"] for case in found["cases"]]
    assert [cell.get("count") for cell in cells] == [3, 3, 3, 3, 3, None]
    assert cells[-1]["left_out"] == "has no such thing"
    kinds = [kind for kind, _ in fake.seen]
    assert kinds.count("forget") == 3
    assert len({kind for kind in kinds if kind != "forget"}) == 4, "the tree as it was, and three changes"
    assert [packages[3:] for _, packages in fake.seen[-6:-3]] == [("x",), ("y",), ("z",)]
    assert [packages for _, packages in fake.seen[-3:]] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert tree.ready.exists()
    assert not any((tmp_path / "work").iterdir())


@pytest.mark.commands
@pytest.mark.parametrize("kind", ["copy", "git"])
def test_a_checkout_is_made_anew_for_each_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Checkout
) -> None:
    monkeypatch.setattr(machine, "settle", lambda *, drop=False: None)
    tree = Tree(tmp_path / "inputs" / "t", many_files(100, mean=100))
    cases = (
        Case(name="cold", title="cold", cold=True),
        Case(name="anew", title="anew", checkout=kind),
        Case(name="one", title="one", checkout=kind, change=one_file),
        Case(name="same", title="same"),
    )
    fake = Fake()
    settings = Settings(folder=tmp_path, quick=True)
    found = run_workload(workload(tree, *cases), [fake], settings)
    counts = [case["engines"]["script"]["count"] for case in found["cases"]]
    own = [inode == fake.inodes[0] for inode in fake.inodes]
    # Where the place is another one than in the case before, it is built there once first.
    cold, anew, one, same = counts
    assert own == [True] * cold + [False] * (1 + anew + one) + [True] * (1 + same)
    assert tree.ready.exists()
    assert not any((tmp_path / "work").iterdir())


@pytest.mark.commands
def test_a_checkout_has_content_and_modes_and_new_times(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "t", many_files(60, mean=100))
    tree.ensure()
    kinds: tuple[Checkout, ...] = ("copy", "git")
    for kind in kinds:
        place = check_out(tree, kind, tmp_path / kind)
        rows = []
        for root in (tree.root, place):
            found = sorted(path for path in root.rglob("*") if not path.is_dir())
            rows.append(
                [
                    (
                        str(path.relative_to(root)),
                        path.is_symlink() or path.read_bytes(),
                        path.lstat().st_mode,
                    )
                    for path in found
                ]
            )
        assert rows[0] == rows[1]
        assert all(path.lstat().st_mtime_ns != MTIME_NS for path in place.rglob("*"))
        assert check_out(tree, kind, tmp_path / kind) == place


@pytest.mark.commands
def test_each_version_of_the_package_is_the_only_one(tmp_path: Path) -> None:
    assert repository.publish(tmp_path / "packages", 1) == "bench-tool=1.1"
    assert repository.publish(tmp_path / "packages", 2) == "bench-tool=1.2"
    names = sorted(path.name for path in (tmp_path / "packages").iterdir())
    assert names == ["Packages", "Release", "bench-tool_1.2_all.deb"]


@pytest.mark.commands
def test_one_case_alone_gets_a_warm_state_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "settle", lambda *, drop=False: None)
    tree = Tree(tmp_path / "inputs" / "t", many_files(60, mean=100))
    fake = Fake()
    settings = Settings(folder=tmp_path, only=frozenset({"fake/one"}), quick=True)
    cases = (Case(name="cold", title="cold", cold=True), Case(name="one", title="one", change=one_file))
    found = run_workload(workload(tree, *cases), [fake], settings)
    assert [case["name"] for case in found["cases"]] == ["one"]
    assert fake.seen[0][0] == "forget"
    assert len(fake.seen) == 2 + found["cases"][0]["engines"]["script"]["count"]


def test_peers_sit_out_what_is_left_at_the_deadline(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "inputs" / "t", many_files(60, mean=100))
    settings = Settings(folder=tmp_path, deadline=0.0)
    found = run_workload(workload(tree, Case(name="same", title="same")), [Fake()], settings)
    assert "out of time" in found["cases"][0]["engines"]["script"]["left_out"]


def test_reading_a_tree_passes_over_holes(tmp_path: Path) -> None:
    machine.read_all(small(tmp_path).root)


@pytest.mark.commands
def test_the_cost_of_clones_is_compared_from_smallest_to_largest(tmp_path: Path) -> None:
    from bench import clone_cost

    # The smallest pool there can be, for real: its clones are copies, so a larger base does cost more.
    found = clone_cost.measure(f"dir:{tmp_path}/pool", [2, 1], 5)
    assert [(row["mib"], row["files"]) for row in found["bases"]] == [(2, 32), (1, 16)]
    assert found["runs"] == clone_cost.FEW
    assert all(len(row["clone"]["seconds"]) == found["runs"] for row in found["bases"])
    small, large = (row["clone"]["median"] for row in reversed(found["bases"]))
    assert clone_cost.ratio(found) == large / small
    assert not list((tmp_path / "pool/build").iterdir())
    assert not list((tmp_path / "pool/image").iterdir())


def test_the_cost_of_walls_is_held_to_its_bars() -> None:
    """Milliseconds for small builds, a share for the one of many files."""

    def row(more: float, ratio: float) -> dict[str, Any]:
        return {"more": more, "ratio": ratio}

    assert walls_cost.failures({"tiny": row(0.039, 1.3), "files": row(2.0, 1.029)}) == []
    wrong = walls_cost.failures({"tiny": row(0.041, 1.3), "files": row(0.1, 1.031)})
    assert [line.partition(":")[0] for line in wrong] == ["tiny", "files"]


def test_a_comparison_of_lists_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    from bench import files_diff

    assert files_diff.main(["--entries", "220", "--changes", "8", "--runs", "1"]) == 0
    assert [row.split()[0] for row in capsys.readouterr().out.splitlines()] == ["compare", "with", "parse"]


def test_bills_of_materials_are_measured(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from bench import sbom

    with tarfile.open(tmp_path / "base.tar", "w") as archive:
        archive.add(__file__, "etc/file")
    assert sbom.main([str(tmp_path / "base.tar"), "--files", "9", "--runs", "1"]) == 0
    assert [row.split()[0] for row in capsys.readouterr().out.splitlines()] == [
        "list", "inventory", "spdx", "cyclonedx", "spdx3", "all", "9",
    ]  # fmt: skip


def test_assets_are_the_same_every_time_and_of_their_sizes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        total = assets.make_assets(folder, 20)
        sizes = sorted(path.stat().st_size for path in folder.iterdir())
        assert sum(sizes) == total
        assert [sum(low <= size < low * 1.2 for size in sizes) for _, low in assets.SIZES] == [14, 5, 1]
    names = sorted(path.name for path in one.iterdir())
    assert names[-1] == "service001-1.9.tar.gz"
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


@pytest.mark.parametrize(("workers", "expected"), [(1, 10.0), (2, 7.0), (3, 5.0), (16, 4.0)])
def test_layers_go_in_order_to_the_first_worker_that_is_free(workers: int, expected: float) -> None:
    assert scaling.makespan([3.0, 2.0, 1.0, 4.0], workers) == expected
