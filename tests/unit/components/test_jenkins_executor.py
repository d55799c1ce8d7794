"""Jobs on agents of Jenkins: which node gets one, what counts as lost, how often it is tried, and how it ends."""

from __future__ import annotations

import errno
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from buildstep.components import handover
from buildstep.components.engine import Orders
from buildstep.components.executors.jenkins import JENKINS, RULE, JenkinsExecutor, Options
from buildstep.components.executors.jenkins_nodes import Nodes, label_of, needs
from buildstep.components.interface import Action, Image, Job, Result, State
from buildstep.components.settings import BuildOptions, Settings, load
from buildstep.errors import CIError
from buildstep.net.jenkins_agents import Needs
from tests.servers import jenkins as server
from tests.servers.jenkins import FakeJenkins, Item, Run, node, serving
from tests.unit.components.componentdata import write

TOKEN = "11aa22bb"
WEB = Job(name="web", action=Action.PRE, component="web")


@dataclass
class Desk:
    """A dispatch without a hand-over: results are put by a test, by ticket."""

    place: str = "dir:/x docker://host/y"
    sent: list[str] = field(default_factory=list)
    results: dict[str, Result] = field(default_factory=dict)
    forgotten: list[str] = field(default_factory=list)

    def send(self, job: Job, outputs: Mapping[str, str]) -> str:
        self.sent.append(f"ticket-{len(self.sent)}")
        return self.sent[-1]

    def receive(self, job: Job, ticket: str) -> Result | None:
        return self.results.get(ticket)

    def forget(self, ticket: str) -> None:
        self.forgotten.append(ticket)


class Rig:
    """A server whose builds end as a test says: `endings` has one for each build, in their order."""

    def __init__(self, top: Path, jenkins: FakeJenkins) -> None:
        self.top, self.jenkins, self.desk = top, jenkins, Desk()
        self.endings: list[Callable[[Run, dict[str, list[str]]], None]] = []
        self.nodes: list[str] = []
        self.said: list[str] = []
        self.told: list[str] = []
        self.items: list[Item] = []
        jenkins.jobs["job"] = server.Job(
            parametrized=True, parameters=("TICKET", "HANDOVER", "NODE"), begin=self.begin
        )
        jenkins.nodes += [node("a", executors=[]), node("b", executors=[])]

    def begin(self, number: int, form: dict[str, list[str]]) -> tuple[Run, Item]:
        run, item = Run(0), Item(number, "job", form, waits=0)
        self.nodes.append(form["NODE"][0])
        self.items.append(item)
        self.endings.pop(0)(run, form)
        item.cancelled = run.result == "CANCELLED"
        self.jenkins.jobs["job"].queue_cancelled = item.cancelled
        return run, item

    def good(self, run: Run, form: dict[str, list[str]]) -> None:
        assert form["HANDOVER"] == [self.desk.place]
        run.log = [b"[Pipeline] sh\none\ntw", b"o\nFinished: SUCCESS\n"]
        found = Result(job="web", state=State.BUILT, output="sha256:1", worker=form["NODE"][0])
        self.desk.results[form["TICKET"][0]] = found

    def orders(self, **options: Any) -> Orders:
        return Orders(
            root=self.top,
            settings=Settings(build=BuildOptions(platform="linux/amd64")),
            state=self.top,
            environ={"JENKINS_URL": self.jenkins.url, "JENKINS_USER": "ann", "JENKINS_TOKEN": TOKEN},
            jobs={"web": WEB},
            options={"job": "job", "poll": 0.01, "patience": 0.01, "lost_after": 0.1, **options},
            say=lambda _job, text: self.said.append(text),
            tell=self.told.append,
        )

    def executor(self, **options: Any) -> JenkinsExecutor:
        (self.top / "logs").mkdir(exist_ok=True)
        return JenkinsExecutor(self.orders(**options), self.desk)

    def run(self, **options: Any) -> Result:
        executor = self.executor(**options)
        try:
            return executor.submit(WEB, {}).result(20)
        finally:
            executor.stop()


def ending(result: str, text: bytes = b"it broke\n") -> Callable[[Run, dict[str, list[str]]], None]:
    def end(run: Run, _form: dict[str, list[str]]) -> None:
        run.result, run.log = result, [text]

    return end


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with serving(FakeJenkins(token=TOKEN)) as jenkins:
        yield Rig(tmp_path, jenkins)


def test_a_job_is_a_build_whose_lines_are_shown_and_whose_result_counts(rig: Rig) -> None:
    rig.endings = [rig.good]
    result = rig.run()
    assert (result.state, result.output, result.worker) == (State.BUILT, "sha256:1", "a")
    assert rig.said == ["one", "two"]
    assert rig.desk.forgotten == ["ticket-0"]
    posts = [call for call in rig.jenkins.calls if call.startswith("POST /job")]
    assert posts == ["POST /job/job/buildWithParameters"], "nothing of it is in an address"


@pytest.mark.parametrize("result", ["FAILURE", "ABORTED", "SUCCESS", "CANCELLED"])
def test_without_a_result_the_agent_was_lost_and_another_one_has_the_job(rig: Rig, result: str) -> None:
    rig.endings = [ending(result), rig.good]
    found = rig.run()
    assert found.state is State.BUILT
    assert rig.nodes == ["a", "b"]
    assert rig.desk.sent == rig.desk.forgotten == ["ticket-0", "ticket-1"]
    [told] = rig.told
    assert told.startswith("web: no result from a")
    assert {"CANCELLED": "somebody cancelled the build in the queue"}.get(
        result, f"as {result}, after: it broke"
    ) in told


def test_after_so_many_tries_the_job_has_failed_with_what_happened_on_each(rig: Rig) -> None:
    rig.endings = [ending("FAILURE"), ending("ABORTED", b"gone\n")]
    found = rig.run(tries=2)
    assert found.state is State.FAILED
    assert "no agent has given a result, 2 tried" in found.message
    assert "the build ended as FAILURE, after: it broke" in found.message
    assert "the build ended as ABORTED, after: gone" in found.message
    assert found.log is not None
    assert found.log.read_text() == "gone\n"


def test_a_failed_job_is_a_result_and_is_not_tried_again(rig: Rig) -> None:
    def failed(run: Run, form: dict[str, list[str]]) -> None:
        run.result = "FAILURE"
        self_made = Result(job="web", state=State.FAILED, message="exited with status 3", worker="a")
        rig.desk.results[form["TICKET"][0]] = self_made

    rig.endings = [failed]
    assert rig.run().message == "exited with status 3"
    assert rig.nodes == ["a"]


@pytest.mark.parametrize("fault", ["drop", "503"])
def test_a_trigger_without_an_answer_is_tried_again_where_the_server_is_there(rig: Rig, fault: str) -> None:
    rig.endings = [rig.good]
    rig.jenkins.faults = [("buildWithParameters", fault)]
    assert rig.run().state is State.BUILT
    assert rig.nodes == ["b"]


def test_a_queue_item_that_a_restart_has_forgotten_is_a_lost_try(rig: Rig) -> None:
    rig.endings = [ending("SUCCESS"), rig.good]
    rig.jenkins.faults = [("queue/item", "404")]
    assert rig.run().state is State.BUILT
    assert rig.nodes == ["a", "b"]
    assert "does not know the build in the queue any more" in rig.told[0]


def test_what_cannot_be_sent_is_a_failed_job_and_others_go_on(rig: Rig) -> None:
    def full(job: Job, outputs: Mapping[str, str]) -> str:
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/send-x")

    rig.desk.send = full  # type: ignore[method-assign]
    result = rig.run()
    assert result.state is State.FAILED
    assert "No space left on device" in result.message


def test_a_server_that_is_away_ends_all_and_not_the_job(rig: Rig) -> None:
    rig.endings = [lambda run, _form: run.log.extend([b"x\n"] * 10_000)]
    executor = rig.executor(patience=0.5)
    future = executor.submit(WEB, {})
    while "x" not in rig.said:
        time.sleep(0.01)
    rig.jenkins.faults = [(".", "drop")] * 100
    with pytest.raises(CIError, match="cannot be worked with"):
        future.result(20)
    executor.stop()
    assert any("it may still run" in text and "/job/job/1/" in text for text in rig.told)


def test_stopping_aborts_the_builds_and_takes_the_others_out_of_the_queue(rig: Rig) -> None:
    begun = threading.Event()

    def long(run: Run, _form: dict[str, list[str]]) -> None:
        run.log = [b"x\n"] * 100_000
        begun.set()

    rig.endings = [long, long]
    executor = rig.executor(poll=0.05)
    first = executor.submit(WEB, {})
    begun.wait(10)
    while "x" not in rig.said:
        time.sleep(0.01)
    executor.stop()
    assert first.result(0).state is State.STOPPED
    assert rig.jenkins.jobs["job"].runs[1].result == "ABORTED"
    assert rig.told == []
    again = rig.executor(poll=0.05)
    begun.clear()

    def waiting(number: int, form: dict[str, list[str]]) -> tuple[Run, Item]:
        run, item = rig.begin(number, form)
        item.waits = 1_000_000
        return run, item

    rig.jenkins.jobs["job"].begin = waiting
    second = again.submit(WEB, {})
    begun.wait(10)
    time.sleep(0.1)
    again.stop()
    assert second.result(0).state is State.STOPPED
    assert rig.items[-1].cancelled


def in_the_queue(rig: Rig, fault: str, times: int) -> None:
    """Stop a job whose build waits in the queue, when the server fails to cancel it so many times."""
    begun = threading.Event()

    def waiting(number: int, form: dict[str, list[str]]) -> tuple[Run, Item]:
        item = Item(number, "job", form, waits=1_000_000)
        rig.items.append(item)
        begun.set()
        return Run(0), item

    rig.jenkins.jobs["job"].begin = waiting
    executor = rig.executor(poll=0.02)
    future = executor.submit(WEB, {})
    assert begun.wait(10)
    rig.jenkins.faults = [("queue/cancelItem", fault)] * times
    executor.stop()
    assert future.result(0).state is State.STOPPED


def test_what_ends_the_wait_does_not_end_the_cancelling(rig: Rig) -> None:
    in_the_queue(rig, "503", 1)
    assert rig.items[-1].cancelled
    assert rig.told == []


def test_what_stays_in_the_queue_is_told(rig: Rig) -> None:
    in_the_queue(rig, "503", 100)
    assert not rig.items[-1].cancelled
    assert [text for text in rig.told if "queue/item/" in text] == rig.told != []


def test_jobs_go_to_the_least_busy_node_that_has_not_lost_them(rig: Rig) -> None:
    from buildstep.net.jenkins import JenkinsServer

    orders = rig.orders()
    client = JenkinsServer(Options.of(orders.options).login(orders.environ))
    nodes = Nodes(client, orders, (), 60.0)
    assert nodes.count == 2
    with nodes.taking(WEB, []) as first, nodes.taking(WEB, []) as second, nodes.taking(WEB, []) as third:
        assert (first, second, third) == ("a", "b", "a")
    with nodes.taking(WEB, ["a"]) as other:
        assert other == "b"
    with nodes.taking(WEB, ["a", "b"]) as last_but_one:
        assert last_but_one == "a"
    assert nodes.lost("a", client) == ""


def test_a_node_that_is_offline_for_too_long_is_lost(rig: Rig) -> None:
    from buildstep.net.jenkins import JenkinsServer

    orders = rig.orders()
    client = JenkinsServer(Options.of(orders.options).login(orders.environ))
    nodes = Nodes(client, orders, (), 0.2)
    rig.jenkins.nodes[0] |= {"offline": True, "offlineCauseReason": "Connection was broken"}
    assert nodes.lost("a", client) == "", "it may come back"
    time.sleep(0.25)
    assert nodes.lost("a", client) == "Connection was broken"
    assert nodes.lost("b", client) == ""
    with nodes.taking(WEB, []) as node_name:
        assert node_name == "b"


def test_a_job_without_a_node_is_told_with_the_reasons_before_anything_is_begun(rig: Rig) -> None:
    with pytest.raises(CIError, match="no node that can do these jobs") as caught:
        rig.executor(labels=["gpu"])
    assert "a: does not have the label gpu" in caught.value.detail
    rig.jenkins.jobs["job"].parameters = ("TICKET", "NODE")
    with pytest.raises(CIError, match="has no parameter HANDOVER"):
        rig.executor()
    assert not any("buildWithParameters" in call for call in rig.jenkins.calls)


def test_what_a_job_needs_of_a_node(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"src/os/build/os.image.json": '{"name": "os", "os": "smartos", "build": {"pool": "zfs:x"}}'},
    )
    settings = Settings(
        of={"arm": BuildOptions(platform="linux/arm64/v8")}, build=BuildOptions(platform="linux/amd64")
    )
    orders = Orders(root=tmp_path, settings=settings, state=tmp_path, environ={})
    assert needs(WEB, orders, ("fast",)) == Needs(os="linux", arch="amd64", labels=("fast",))
    assert needs(Job(name="arm", action=Action.IMAGE, component="arm"), orders, ()).arch == "arm64"
    image = Image(name="os", component="os", kind="image", file="build/os.image.json")
    found = needs(Job(name="os", action=Action.IMAGE, component="os", image=image), orders, ())
    assert found == Needs(os="sunos", arch="amd64", pool="zfs:x")


def test_a_node_is_named_by_a_label_that_means_it_alone() -> None:
    assert [label_of(name) for name in ("arm-1.x", "Built-In Node", 'agent "one"')] == [
        "arm-1.x", "built-in", '"agent \\"one\\""',
    ]  # fmt: skip


def test_all_faults_of_the_options_are_told(rig: Rig) -> None:
    orders = Orders(
        root=rig.top,
        settings=Settings(),
        state=rig.top,
        environ={},
        options={"tries": 0, "odd": 1, "poll": "x"},
    )
    where = sorted(fault.where for fault in JENKINS.faults(orders))
    wrong = replace(orders, options={"job": "x", "url": 5, "labels": 5})
    assert sorted(fault.where for fault in JENKINS.faults(wrong)) == [
        "$.executors.jenkins.labels",
        "$.executors.jenkins.url",
    ]
    assert where == [
        "$.executors.jenkins.job", "$.executors.jenkins.odd", "$.executors.jenkins.poll", "$.executors.jenkins.tries",
        "Jenkins",
    ]  # fmt: skip
    found = JENKINS.faults(
        Orders(root=rig.top, settings=Settings(), state=rig.top, environ={}, options={"job": "x"})
    )
    assert [(fault.where, fault.message) for fault in found] == [("Jenkins", "no Jenkins server is given")]


def test_what_the_page_says_of_components_toml_is_taken(rig: Rig, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs/how-to/build-on-agents.md").read_text()
    table, hooks = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "components.toml").write_text(f"{table}\n{hooks}")
    settings = load(tmp_path)
    assert settings.executor == "jenkins"
    assert settings.hooks.variables == ("MIRROR_TOKEN", "GIT_COMMIT")
    assert handover.faults(settings.handover, "handover", {}) == []
    options = settings.executors["jenkins"]
    assert JENKINS.faults(replace(rig.orders(), options=options)) == []
    told = set(re.findall(r"^\| `([a-z_`, ]+)` \|", page, re.MULTILINE))
    keys = {name for row in told for name in re.findall(r"[a-z_]+", row)}
    assert keys == set(RULE["properties"])
