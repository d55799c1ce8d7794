"""Plans: what runs, what is reused, and why; what a change in git affects."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from buildstep.components.affected import affected, find_change
from buildstep.components.graph import Graph
from buildstep.components.inputs import Inputs, configured, key_of
from buildstep.components.interface import Built
from buildstep.components.plan import NoHistory, Plan, Verdict, make_plan, select
from buildstep.components.plan_views import plan_dot, plan_json, plan_lines
from buildstep.components.settings import BuildOptions, HookOptions, Settings
from buildstep.errors import BuildstepError, UsageError
from tests.unit.components.repositories import NINE, graph, images, write


@dataclass
class Memory:
    """A history that is filled as if a plan had been carried out."""

    rows: dict[str, list[Built]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    def find(self, job: str, key: str) -> Built | None:
        return next(
            (row for row in self.rows.get(job, ()) if row.key == key and row.output not in self.gone), None
        )

    def last(self, job: str) -> Built | None:
        return self.rows[job][-1] if job in self.rows else None

    def build(self, made: Graph, **outputs: str) -> None:
        """Do every job; outputs: of some jobs, else they follow from the key."""
        inputs, done = Inputs(made), dict[str, str]()
        for name in made.order():
            row = inputs.all(name, done)
            done[name] = outputs.get(name, f"output of {key_of(row)}")
            self.rows.setdefault(name, []).append(
                Built(job=name, key=key_of(row), output=done[name], inputs=row, seconds=2.0)
            )


def plan_of(root: Path, history: Any = None, *names: str, **more: Any) -> Plan:
    made = graph(root)
    return make_plan(made, select(made, names), Inputs(made), history or NoHistory(), **more)


def verdicts(plan: Plan) -> dict[str, str]:
    return {name: str(row.verdict) for name, row in plan.jobs.items()}


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """a is made from nothing of ours, b from a, c from b; d stands alone."""
    images(tmp_path, a="FROM x\nCOPY f /f", b="FROM a", c="FROM b", d="FROM x")
    return write(tmp_path, {"a/f": "1"})


def test_d06_a_second_plan_reuses_everything_and_says_so(three: Path) -> None:
    history = Memory()
    assert {row.reason for row in plan_of(three).jobs.values()} == {"not built before"}
    history.build(graph(three))
    plan = plan_of(three, history)
    assert set(verdicts(plan).values()) == {"reuse"}
    assert list(plan_lines(plan))[-1] == "4 jobs of 4 components: 0 to run, 4 reused"


def test_d06_a_change_runs_one_job_and_the_rest_only_if_its_result_changes(three: Path) -> None:
    history = Memory()
    history.build(graph(three))
    write(three, {"a/f": "2", "a/g": ""})
    plan = plan_of(three, history)
    assert verdicts(plan) == {"a": "run", "d": "reuse", "b": "check", "c": "check"}
    assert plan.jobs["a"].reason == "f changed, g is new"
    assert plan.jobs["b"].reason == "only if the result changes of a"
    assert plan.jobs["a"].seconds == 2.0


def test_d06_an_equal_result_stops_the_wave(three: Path) -> None:
    history = Memory()
    history.build(graph(three), a="same")
    write(three, {"a/build/a.common.dockerfile": "# a comment\nFROM x\nCOPY f /f"})
    made = graph(three)
    a = Inputs(made).all("a", {})
    history.rows["a"].append(Built(job="a", key=key_of(a), output="same", inputs=a))
    assert set(verdicts(plan_of(three, history)).values()) == {"reuse"}
    history.rows["a"][-1] = Built(job="a", key=key_of(a), output="another", inputs=a)
    plan = plan_of(three, history)
    assert verdicts(plan) == {"a": "reuse", "b": "run", "c": "check", "d": "reuse"}
    assert plan.jobs["b"].reason == "a gave another result"


def test_d06_a_job_that_differs_itself_runs_whatever_its_needs_give(three: Path) -> None:
    history = Memory()
    history.build(graph(three))
    write(three, {"a/f": "2", "b/new": ""})
    plan = plan_of(three, history)
    assert (plan.jobs["b"].verdict, plan.jobs["b"].reason) == (Verdict.RUN, "new is new")


def test_d06_a_need_that_gave_another_result_is_reason_enough_while_another_one_runs(tmp_path: Path) -> None:
    images(tmp_path, a="FROM x", b="FROM x\nCOPY f /f", c="FROM a\nCOPY --from=b /f /f")
    write(tmp_path, {"b/f": "1"})
    history = Memory()
    history.build(graph(tmp_path))
    last = history.rows["a"][0]
    history.rows["a"] = [Built(job="a", key=last.key, output="another", inputs=last.inputs)]
    write(tmp_path, {"b/f": "2"})
    assert verdicts(plan_of(tmp_path, history)) == {"a": "reuse", "b": "run", "c": "run"}


def test_a_result_that_is_gone_is_made_again(three: Path) -> None:
    history = Memory()
    history.build(graph(three), b="b's")
    history.gone.add("b's")
    plan = plan_of(three, history)
    assert verdicts(plan) == {"a": "reuse", "b": "run", "c": "check", "d": "reuse"}


def test_going_back_to_an_earlier_state_builds_nothing(three: Path) -> None:
    history = Memory()
    history.build(graph(three))
    write(three, {"a/f": "2"})
    history.build(graph(three))
    write(three, {"a/f": "1"})
    plan = plan_of(three, history)
    assert set(verdicts(plan).values()) == {"reuse"}
    assert plan.jobs["a"].reason == "built before with the same inputs"


def test_what_is_asked_for_runs_again(three: Path) -> None:
    history = Memory()
    history.build(graph(three))
    plan = plan_of(three, history, "b", again=True)
    assert {name: row.reason for name, row in plan.jobs.items()} == {"a": "asked for", "b": "asked for"}


def test_a_mode_bit_counts_and_others_do_not(three: Path) -> None:
    history = Memory()
    history.build(graph(three))
    (three / "src/a/f").chmod(0o600)
    assert verdicts(plan_of(three, history))["a"] == "reuse"
    (three / "src/a/f").chmod(0o755)
    assert plan_of(three, history).jobs["a"].reason == "f changed its mode"


def test_a_link_counts_by_its_text(three: Path) -> None:
    (three / "src/a/link").symlink_to("nowhere")
    history = Memory()
    history.build(graph(three))
    (three / "src/a/link").unlink()
    (three / "src/a/link").symlink_to("elsewhere")
    assert plan_of(three, history).jobs["a"].reason == "link changed"


def test_a_name_that_is_no_text_can_be_printed(three: Path) -> None:
    history = Memory()
    history.build(graph(three))
    Path(os.fsdecode(os.fsencode(three) + b"/src/a/\xff\x1b")).touch()
    plan = plan_of(three, history)
    assert plan.jobs["a"].reason == "?? is new"
    "".join(plan_lines(plan)).encode()
    json.dumps(plan_json(plan)).encode()


def test_the_description_of_a_sister_image_counts_only_for_who_copies_it(tmp_path: Path) -> None:
    texts = {
        "one": "FROM x\nCOPY etc /etc",
        "two": "FROM x\nCOPY . /",
        "three": "FROM x\nCOPY b*/t* /",
        "four": "FROM x",
    }
    write(tmp_path, {f"c/build/{name}.dockerfile": text for name, text in texts.items()})
    history = Memory()
    history.build(graph(tmp_path))
    write(tmp_path, {"c/build/four.dockerfile": "FROM y"})
    assert verdicts(plan_of(tmp_path, history)) == {
        "four": "run",
        "one": "reuse",
        "two": "run",
        "three": "run",
    }


def test_what_a_provider_declares_counts_and_the_rest_of_it_does_not(tmp_path: Path) -> None:
    images(tmp_path, a="FROM x")
    write(tmp_path, {"a/build/component.dep": "sdk lib\n", "sdk/lib/s": "1", "sdk/other": "1"})
    history = Memory()
    history.build(graph(tmp_path))
    write(tmp_path, {"sdk/other": "2"})
    assert verdicts(plan_of(tmp_path, history)) == {"a": "reuse"}
    write(tmp_path, {"sdk/lib/s": "2"})
    assert plan_of(tmp_path, history).jobs["a"].reason == "lib/s of sdk changed"


def test_a_product_counts_for_images_too_and_not_only_for_the_hook(tmp_path: Path) -> None:
    images(tmp_path, a="FROM x\nCOPY dependency/p/generated/f /")
    write(tmp_path, {"a/build/component.dep": "p", "a/build/build-pre.sh": "", "p/build/build-pre.sh": ""})
    made = graph(tmp_path)
    assert made.jobs["a"].needs == ("a:pre", "p:pre")


def test_many_files_count_by_directory(tmp_path: Path) -> None:
    images(tmp_path, a="FROM x")
    write(tmp_path, {f"a/lib/{number}": "" for number in range(600)})
    inputs = Inputs(graph(tmp_path)).own("a")
    assert [name for name in inputs if name.startswith("file:")] == ["file:build/", "file:lib/"]
    write(tmp_path, {"a/lib/7": "x"})
    assert Inputs(graph(tmp_path)).own("a") != inputs


def test_configuration_counts_for_what_it_configures(tmp_path: Path) -> None:
    images(tmp_path, a="FROM x", b="FROM x")
    write(tmp_path, {"c/build/build-pre.sh": ""})
    made = graph(tmp_path)

    def keys(settings: Settings, **environ: str) -> dict[str, str]:
        inputs = Inputs(
            made, settings=configured(settings, environ), digest=lambda image: environ.get(image, "")
        )
        return {name: key_of(inputs.all(name, {})) for name in made.jobs}

    def changed(settings: Settings, **environ: str) -> set[str]:
        before, after = keys(Settings()), keys(settings, **environ)
        return {name for name in before if before[name] != after[name]}

    assert changed(Settings(build=BuildOptions(arguments={"V": "1"}))) == {"a", "b"}
    assert changed(Settings(of={"a": BuildOptions(target="t")})) == {"a"}
    assert changed(Settings(hooks=HookOptions(environment=("TOKEN",))), TOKEN="s") == {"c:pre"}
    assert changed(Settings(), x="sha256:1") == {"a", "b"}
    secret = Inputs(
        made, settings=configured(Settings(hooks=HookOptions(environment=("TOKEN",))), {"TOKEN": "hidden"})
    )
    assert "hidden" not in str(secret.own("c:pre"))


def test_each_file_is_read_once_for_a_plan(three: Path) -> None:
    write(
        three, {"b/build/build-pre.sh": "", "b/build/build-post.sh": "", "c/build/component.dep": "b build\n"}
    )
    made = graph(three)
    make_plan(made, select(made), Inputs(made), NoHistory())
    files = sum(len(part.files) for part in made.repository.components.values())
    assert made.repository.contents.reads == files == 8


def test_a_file_that_is_gone_meanwhile_is_named(three: Path) -> None:
    made = graph(three)
    (three / "src/a/f").unlink()
    with pytest.raises(BuildstepError, match=r"src/a/f cannot be read: No such file or directory"):
        Inputs(made).own("a")


# What is chosen.


def test_a_name_brings_what_it_needs() -> None:
    made = graph(NINE)
    value = plan_json(make_plan(made, select(made, ["end-to-end-test"]), Inputs(made), NoHistory()))
    assert value["levels"] == [["base-image", "hadoop-ai"], ["hadoop-run"], ["end-to-end-test"]]
    assert value["edges"] == [
        ["base-image", "hadoop-run"], ["hadoop-ai", "hadoop-run"], ["hadoop-run", "end-to-end-test"],
    ]  # fmt: skip
    assert [job["name"] for job in value["jobs"]] == [
        "base-image", "hadoop-ai:pre", "hadoop-run:pre", "hadoop-run", "end-to-end-test",
    ]  # fmt: skip
    assert value["needed"] == []


def test_a_single_image_can_be_chosen() -> None:
    made = graph(NINE)
    assert select(made, ["drivers-390.25"]).chosen == {"drivers-390.25"}


def test_d10_unknown_names_are_told_together_with_what_is_likely_meant() -> None:
    with pytest.raises(UsageError) as caught:
        select(graph(NINE), ["Zookeeper", "drivers", "nothing"])
    assert caught.value.message == "no component or image Zookeeper, nothing"
    assert caught.value.hint.startswith('did you mean "zookeeper"?; nothing is no component of ')


def test_the_whole_plan_as_json_has_levels_edges_and_nodes() -> None:
    made = graph(NINE)
    value = json.loads(json.dumps(plan_json(make_plan(made, select(made), Inputs(made), NoHistory()))))
    assert value["levels"] == [list(level) for level in made.levels()]
    assert value["edges"] == [list(edge) for edge in made.edges]
    assert [node["name"] for node in value["nodes"]] == list(made.repository.components)
    assert next(node for node in value["nodes"] if node["name"] == "hadoop-run") == {
        "name": "hadoop-run", "images": ["hadoop-run"], "jobs": ["hadoop-run:pre", "hadoop-run"],
        "needs": ["base-image", "hadoop-ai"], "verdict": "run",
    }  # fmt: skip
    assert value["counts"] == {"run": 14, "reuse": 0, "check": 0}


def test_the_graph_in_dot_has_every_component_and_edge() -> None:
    made = graph(NINE)
    lines = list(plan_dot(make_plan(made, select(made), Inputs(made), NoHistory())))
    assert '  "hadoop-ai" -> "hadoop-run";' in lines
    assert sum("->" in line for line in lines) == 6
    assert sum("tooltip=" in line for line in lines) == 9
    assert lines[0].endswith("{")
    assert lines[-1] == "}"


# What a change affects.


def git(root: Path, *words: str | Path) -> str:
    identity = ("-c", "user.name=x", "-c", "user.email=x@y", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", "-C", root, *identity, *words], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The nine components, below a directory of a git repository; `base` is their commit."""
    top = tmp_path / "repository"
    shutil.copytree(NINE, top / "pai")
    git(tmp_path, "init", "-q", top)
    git(top, "add", "-A")
    git(top, "commit", "-qm", "all")
    git(top, "tag", "base")
    return top / "pai"


def names(root: Path, *words: str, reach: Any = "all") -> set[str]:
    made = graph(root)
    jobs, _ = affected(made, find_change(root, words, cwd=root), reach)
    return {made.jobs[name].component for name in jobs}


HADOOP_AI = {"hadoop-ai", "hadoop-run", "end-to-end-test", "yarn-frameworklauncher"}


def test_d06_files_that_are_named_choose_the_affected_set_of_the_nine() -> None:
    assert names(NINE, "src/hadoop-ai/ai/gpu.properties") == HADOOP_AI
    assert names(NINE, "src/hadoop-ai/build/build-pre.sh,src/job-exporter/exporter.py") == HADOOP_AI | {
        "job-exporter"
    }
    assert names(NINE, "src/base-image/build/locale.conf") == (HADOOP_AI - {"hadoop-ai"}) | {
        "base-image", "cleaning-image", "zookeeper",
    }  # fmt: skip
    assert names(NINE, "src/hadoop-ai", reach="direct") == {"hadoop-ai", "hadoop-run"}
    assert names(NINE, "src/hadoop-ai/ai", reach="none") == {"hadoop-ai"}
    assert len(names(NINE, "src")) == 9


@pytest.mark.commands("git")
def test_d06_a_commit_chooses_what_changed_since_then(clone: Path) -> None:
    assert names(clone, "base") == set()
    write(clone, {"hadoop-ai/ai/new": "not known to git yet"})
    assert names(clone, "base") == HADOOP_AI
    git(clone, "add", "-A")
    git(clone, "commit", "-qm", "new")
    (clone / "src/zookeeper/zoo.cfg").unlink()
    assert names(clone, "base") == HADOOP_AI | {"zookeeper"}
    assert names(clone, "base..HEAD") == HADOOP_AI
    assert names(clone, "HEAD") == {"zookeeper"}


@pytest.mark.commands("git")
def test_d06_what_others_did_on_the_main_branch_meanwhile_does_not_count(clone: Path) -> None:
    git(clone, "checkout", "-qb", "main2")
    write(clone, {"job-exporter/exporter.py": "other"})
    git(clone, "commit", "-qam", "theirs")
    git(clone, "checkout", "-qb", "mine", "base")
    write(clone, {"zookeeper/zoo.cfg": "mine"})
    assert names(clone, "main2") == {"zookeeper"}


@pytest.mark.commands("git")
def test_d06_in_a_shallow_clone_everything_counts(clone: Path, tmp_path: Path) -> None:
    write(clone, {"zookeeper/zoo.cfg": "mine"})
    git(clone, "commit", "-qam", "mine")
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{clone.parent}", "shallow")
    change = find_change(tmp_path / "shallow/pai", ["base"], cwd=tmp_path)
    assert change.everything
    assert change.notes == ("base is not in this shallow clone: everything counts as changed",)
    assert len(names(tmp_path / "shallow/pai", "base")) == 9


@pytest.mark.commands("git")
def test_what_is_neither_a_path_nor_a_commit_is_refused(clone: Path, tmp_path: Path) -> None:
    for word in ("no-such", "--output=x", "base..no-such"):
        with pytest.raises(UsageError, match="no commit of that name"):
            find_change(clone, [word], cwd=clone)
    (tmp_path / "plain/src").mkdir(parents=True)
    with pytest.raises(UsageError, match="in no git repository"):
        find_change(tmp_path / "plain", ["main"], cwd=tmp_path)


def test_a_file_that_is_ignored_or_outside_affects_nothing(three: Path) -> None:
    write(three, {"a/node_modules/x": "", "a/generated/y": "", "../README": ""})
    assert names(three, "src/a/node_modules/x,src/a/generated/y,README") == set()
    made = graph(three)
    _, notes = affected(made, find_change(three, ["README"], cwd=three))
    assert notes == ["1 changed file of no component"]


def test_the_description_of_an_image_affects_that_image_only() -> None:
    made = graph(NINE)
    change = find_change(NINE, ["src/drivers/build/drivers-390.25.common.dockerfile"], cwd=NINE)
    assert affected(made, change)[0] == {"drivers-390.25"}


def test_configuration_affects_everything(three: Path) -> None:
    assert names(three, "components.toml") == {"a", "b", "c", "d"}


def test_files_that_others_are_given_affect_them(tmp_path: Path) -> None:
    images(tmp_path, a="FROM x", b="FROM a")
    write(tmp_path, {"a/build/component.dep": "sdk lib\n", "sdk/lib/s": "1", "sdk/other": "1"})
    assert names(tmp_path, "src/sdk/lib/s") == {"a", "b"}
    assert names(tmp_path, "src/sdk/other") == set()


def test_what_the_affected_need_is_in_the_plan_and_told_apart() -> None:
    made = graph(NINE)
    jobs, _ = affected(made, find_change(NINE, ["src/hadoop-ai/ai"], cwd=NINE))
    plan = make_plan(made, select(made, affected=jobs), Inputs(made), NoHistory())
    value = plan_json(plan)
    assert {node["name"] for node in value["nodes"]} == HADOOP_AI
    assert value["levels"] == [["hadoop-ai"], ["hadoop-run"], ["end-to-end-test", "yarn-frameworklauncher"]]
    assert [node["name"] for node in value["needed"]] == ["base-image"]
    assert "run    base-image                  not built before (needed)" in list(plan_lines(plan))
