"""Jobs on other machines: how they travel, how results come back, and what is refused on the way."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest

from buildstep.components import EXECUTORS, agent, flow, handover, tickets
from buildstep.components.builders import Builder
from buildstep.components.carriers import Carrier, RegistryCarrier, StoreCarrier
from buildstep.components.console import View
from buildstep.components.engine import Dispatch, Orders, Work
from buildstep.components.exact_layout import only_image
from buildstep.components.flow import How, Opened, build, open_components
from buildstep.components.handover import Handover
from buildstep.components.interface import Built, GraphError, Job, Result, State
from buildstep.components.plan import make_plan, select
from buildstep.components.plan_views import plan_lines
from buildstep.components.sender import Sender
from buildstep.components.settings import Flags
from buildstep.components.stage import Stages
from buildstep.components.stock import HandoverStock
from buildstep.components.work import Worker
from buildstep.errors import DiskError, Fault, Interrupted, SpecError, StoreError, ToolMissing, UsageError
from buildstep.files import chunks, layout, open_storage, refs
from buildstep.files.content import ContentStore
from buildstep.files.refs import NoRef, Ref
from buildstep.net.http import Http
from buildstep.report.job_view import Silent
from tests.servers.fixtures import FAST
from tests.servers.layouts import layer, make_layout
from tests.servers.processes import child, ended
from tests.servers.registry import RegistryServer
from tests.unit.components.componentdata import write

pytestmark = pytest.mark.commands("build-pre.sh", "build-post.sh", "find")

LOW = "#!/bin/sh\nset -e\ncat src/low/source > $BUILDSTEP_GENERATED_DIR/product\nrm src/low/old\necho made\n"
HIGH = (
    "#!/bin/sh\ncat $BUILDSTEP_DEPENDENCY_DIR/low/generated/product $BUILDSTEP_DEPENDENCY_DIR/low/sdk/file"
    " $BUILDSTEP_CHANGED_FILES > $BUILDSTEP_GENERATED_DIR/all\n"
)
REPOSITORY = {
    "components.toml": '[hooks]\nsandbox = false\nenvironment = ["TOKEN"]\ntravels = ["COMMIT"]\n',
    "src/low/build/build-pre.sh": LOW,
    "src/low/source": "one\n",
    "src/low/old": "old\n",
    "src/low/sdk/file": "sdk\n",
    "src/low/other": "nobody gets this\n",
    "src/high/build/build-pre.sh": HIGH,
    "src/high/build/build-post.sh": "#!/bin/sh\ntest -s src/high/generated/all\n",
    "src/high/build/component.dep": "low sdk\n",
    "src/high/a": "a",
}


def no_builder() -> Builder:
    raise AssertionError("no image is built here")


class Crew:
    """Other machines, one job at a time: each does it by its ticket, with nothing but the hand-over."""

    far = True

    def __init__(self, top: Path, environ: Mapping[str, str]) -> None:
        self.top, self.environ = top, environ
        self.done: list[str] = []

    def faults(self, orders: Orders) -> list[Fault]:
        return [Fault(where=name, message="is not known") for name in orders.options]

    def start(self, orders: Orders, work: Work, dispatch: Dispatch | None) -> Crew:
        assert dispatch is not None
        self.dispatch = dispatch
        return self

    @property
    def at_once(self) -> int:
        return 1

    def submit(self, job: Job, outputs: Mapping[str, str]) -> Future[Result]:
        future: Future[Result] = Future()
        ticket = self.dispatch.send(job, outputs)
        assert self.dispatch.receive(job, ticket) is None
        with handover.opened(handover.split(self.dispatch.place), environ=self.environ) as opened:
            agent.work(opened, ticket, self.here)
        result = self.dispatch.receive(job, ticket)
        assert result is not None
        self.dispatch.forget(ticket)
        self.done.append(job.name)
        future.set_result(result)
        return future

    @property
    def here(self) -> agent.Here:
        return agent.Here(state=self.top / "far", environ=self.environ, builder=no_builder, worker="far-1")

    def stop(self) -> None:
        pass


class Rig:
    """A repository, a hand-over beside it, and the machines that know it."""

    def __init__(self, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.top, self.root, self.state = top, write(top / "repo", REPOSITORY), top / "state"
        self.url = f"dir:{top}/handover"
        self.environ = {"HOME": "/nowhere", "TOKEN": "s3cret-word", "COMMIT": "abc"}
        self.crew = Crew(top, self.environ)
        monkeypatch.setitem(EXECUTORS._rows, "crew", lambda: self.crew)

    def open(self, url: str = "") -> Opened:
        flags = Flags(handover=(url or self.url,))
        return open_components(self.root, flags, environ=self.environ, state=self.state)

    def build(self, *names: str, executor: str = "crew", url: str = "") -> dict[str, State]:
        opened = self.open(url) if url != "none" else open_components(
            self.root, Flags(), environ=self.environ, state=self.state
        )  # fmt: skip
        with opened.closing:
            self.outcome = build(opened, names, View(Silent()), How(executor=executor, at_once=1))
        return {name: result.state for name, result in self.outcome.results.items()}

    def outputs(self) -> dict[str, str]:
        return {name: result.output for name, result in self.outcome.results.items()}

    def store(self) -> ContentStore:
        return ContentStore(open_storage(self.url))

    def send(self, job: str, outputs: Mapping[str, str] | None = None) -> tuple[Sender, Job, str]:
        opened = self.open()
        far = opened.handover()
        assert far is not None
        sender = Sender(far, Worker(flow._place(opened, How())))
        return sender, opened.graph.jobs[job], sender.send(opened.graph.jobs[job], outputs or {})

    @property
    def far(self) -> Handover:
        store = self.store()
        return Handover(place=self.url, store=store, images=StoreCarrier(store))


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(tmp_path, monkeypatch)


def test_jobs_elsewhere_give_what_they_give_here_and_are_known_the_next_time(rig: Rig) -> None:
    assert set(rig.build().values()) == {State.BUILT}
    assert rig.crew.done == ["low:pre", "high:pre", "high:post"]
    far, log = rig.outputs(), rig.outcome.results["low:pre"].log
    assert log is not None
    assert log.read_text() == "made\n"
    last = rig.open().records.last("high:pre")
    assert isinstance(last, Built)
    assert last.worker == "far-1"
    assert rig.outcome.results["high:pre"].worker == "far-1"
    assert set(rig.build().values()) == {State.REUSED}
    assert list((rig.top / "far").iterdir()) == [rig.top / "far/lock"]
    names = {ref.name.rpartition("/")[0] for ref in refs.every(rig.store().storage)}
    assert names == {handover.PRODUCTS}, "no ticket and no result is left"
    rig.state = rig.top / "other"
    assert set(rig.build(executor="local", url="none").values()) == {State.BUILT}
    assert rig.outputs() == far


def test_a_later_build_here_fetches_what_it_needs_and_only_that(rig: Rig) -> None:
    rig.build()
    assert not (rig.state / "products").exists()
    write(rig.root, {"src/high/a": "b"})
    states = rig.build(executor="local")
    assert states == {"low:pre": State.REUSED, "high:pre": State.BUILT, "high:post": State.BUILT}
    made = rig.state / "products" / rig.outputs()["high:pre"].removeprefix("sha256:")
    assert (made / "generated/all").read_text() == "one\nsdk\na\n"
    assert rig.outcome.results["high:pre"].worker == "local"


def test_without_the_hand_over_it_is_said_where_a_result_is(rig: Rig) -> None:
    rig.build("low")
    reasons: dict[str, str] = {}

    class Watcher(View):
        def phase(self, job: Job, phase: object, why: str) -> None:
            reasons[job.name] = why

    opened = open_components(rig.root, Flags(), environ=rig.environ, state=rig.state)
    build(opened, ("low",), Watcher(Silent()), How(at_once=1))
    assert reasons == {"low:pre": "its result is not here, far-1 has made it"}


def test_a_plan_tells_who_has_built_what_is_reused(rig: Rig) -> None:
    rig.build()
    opened = rig.open()
    with opened.closing:
        plan = make_plan(opened.graph, select(opened.graph, ["low"]), opened.inputs, opened.records)
        assert next(plan_lines(plan)) == "reuse  low:pre  unchanged, built on far-1"
        assert plan.jobs["low:pre"].worker == "far-1"
    opened = open_components(rig.root, Flags(), environ=rig.environ, state=rig.state)
    plan = make_plan(opened.graph, select(opened.graph, ["low"]), opened.inputs, opened.records)
    assert next(plan_lines(plan)) == "run    low:pre  its result is not here, far-1 has made it"


def test_what_other_machines_make_can_be_used_by_others_again(rig: Rig) -> None:
    rig.build("low", executor="local")
    assert not rig.far.has_products(rig.outputs()["low:pre"])
    assert rig.build("high")["high:pre"] is State.BUILT
    assert rig.crew.done == ["high:pre", "high:post"]


def test_a_ticket_comes_back_as_it_went(rig: Rig) -> None:
    sender, job, digest = rig.send("low:pre")
    ticket = tickets.read_ticket(rig.far, digest)
    assert ticket.job == job
    again = tickets.loads(ticket.dumps())
    assert again == ticket
    assert ticket.component.files == (
        "build/build-pre.sh", "old", "other", "sdk/file", "source",
    )  # fmt: skip
    assert ticket.given == {"COMMIT": "abc"}
    assert sender.send(job, {}) != digest, "each try has a ticket of its own"
    with pytest.raises(UsageError, match="is no ticket"):
        tickets.read_ticket(rig.far, "../x")
    with pytest.raises(StoreError):
        tickets.read_ticket(rig.far, "0" * 64)
    with pytest.raises(StoreError, match="another version"):
        tickets.loads(ticket.dumps().replace(b'"format":1', b'"format":99'))


def test_only_what_is_wanted_of_a_provider_travels(rig: Rig) -> None:
    rig.build("low")
    _, _, digest = rig.send("high:pre", rig.outputs())
    ticket = tickets.read_ticket(rig.far, digest)
    paths = [os.fsdecode(path) for path in rig.store().get_list(ticket.source)]
    assert [path for path in paths if path.startswith("src/low/")] == ["src/low/sdk", "src/low/sdk/file"]


def test_no_secret_is_in_a_ticket(rig: Rig) -> None:
    write(rig.root, {"secret": "a word nobody may know"})
    toml = rig.root / "components.toml"
    toml.write_text('[secrets]\nkey = "secret"\n' + toml.read_text())
    _, _, digest = rig.send("low:pre")
    data = rig.store().get(digest)
    assert b'"environment":["TOKEN"]' in data
    assert b'"secrets":["key"]' in data
    for path in (rig.top / "handover").rglob("*"):
        if path.is_file():
            assert b"s3cret-word" not in path.read_bytes()
    assert b"s3cret-word" not in data
    assert b"nobody may know" not in data
    assert os.fsencode(rig.root) not in data


def test_a_machine_says_all_that_it_lacks_before_it_does_anything(rig: Rig) -> None:
    toml = rig.root / "components.toml"
    toml.write_text('[secrets]\nkey = "secret"\n' + toml.read_text())
    _, _, digest = rig.send("low:pre")
    here = replace(rig.crew.here, environ={})
    with pytest.raises(SpecError) as caught:
        agent.work(rig.far, digest, here)
    assert [fault.where for fault in caught.value.faults] == ["TOKEN", "secret key"]
    assert not (rig.top / "far").exists()


def alter_objects(rig: Rig) -> None:
    """Another content, of the same size, under the name of the first one."""
    for path in [*(rig.top / "handover/packs").rglob("*.pack"), *(rig.top / "handover/objects").rglob("*")]:
        if path.is_file():
            data = bytearray(path.read_bytes())
            data[len(data) // 3] ^= 0x55
            path.chmod(0o600)
            path.write_bytes(data)


def test_sources_that_were_altered_are_refused_and_nothing_runs(rig: Rig) -> None:
    sender, job, digest = rig.send("low:pre")
    alter_objects(rig)
    with pytest.raises(StoreError):
        agent.work(rig.far, digest, rig.crew.here)
    assert sender.receive(job, digest) is None


def test_products_that_are_others_are_refused(rig: Rig, tmp_path: Path) -> None:
    rig.build("low")
    output = rig.outputs()["low:pre"]
    stages = Stages(tmp_path / "third", rig.root)
    storage = rig.store().storage
    ref = refs.get(storage, f"{handover.PRODUCTS}/{output.removeprefix('sha256:')}")
    refs.write(storage, replace(ref, notes={**ref.notes, "removed": []}), ref)
    with pytest.raises(GraphError, match="are others"):
        rig.far.get_products(output, stages)
    assert not stages.has(output)


def test_a_failing_job_is_a_result_with_its_log(rig: Rig) -> None:
    write(rig.root, {"src/low/build/build-pre.sh": "#!/bin/sh\necho why it failed; exit 3\n"})
    states = rig.build()
    assert states["low:pre"] is State.FAILED
    result = rig.outcome.results["low:pre"]
    assert "exited with status 3" in result.message
    assert result.log is not None
    assert result.log.read_text() == "why it failed\n"


def test_whoever_is_killed_in_the_middle_leaves_no_result_and_the_next_one_has_it(rig: Rig) -> None:
    write(rig.root, {
        "src/low/build/build-pre.sh": f"#!/bin/sh\ntouch {rig.top}/begun\ntest -e {rig.top}/again || sleep 60\n" + LOW,
    })  # fmt: skip
    sender, job, digest = rig.send("low:pre")
    pid = child(lambda: agent.work(rig.far, digest, rig.crew.here))
    end = time.monotonic() + 10
    while not (rig.top / "begun").exists() and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    assert ended(pid) == -signal.SIGKILL
    assert sender.receive(job, digest) is None
    left = [path for path in (rig.top / "far").iterdir() if path.is_dir()]
    assert len(left) == 1
    (rig.top / "again").touch()
    agent.work(rig.far, digest, rig.crew.here)
    assert not left[0].exists()
    result = sender.receive(job, digest)
    assert result is not None
    assert result.state is State.BUILT


def test_a_job_that_was_stopped_has_no_result(rig: Rig) -> None:
    write(rig.root, {"src/low/build/build-pre.sh": "#!/bin/sh\nsleep 60\n"})
    sender, job, digest = rig.send("low:pre")
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(GraphError, match="was stopped"):
        agent.work(rig.far, digest, replace(rig.crew.here, stopped=stopped))
    assert sender.receive(job, digest) is None


def test_a_signal_to_the_machine_is_no_result_of_the_job(rig: Rig) -> None:
    def signalled(_job: Job, _text: str) -> None:
        raise Interrupted(signal.SIGTERM, "SIGTERM")

    sender, job, digest = rig.send("low:pre")
    with pytest.raises(Interrupted):
        agent.work(rig.far, digest, replace(rig.crew.here, say=signalled))
    assert sender.receive(job, digest) is None


def test_a_machine_that_lacks_what_it_takes_has_no_word_on_the_job(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(rig.root, {"src/web/build/web.dockerfile": "FROM scratch\n"})

    def lacking() -> Builder:
        raise ToolMissing("neither buildah nor docker is installed")

    sender, job, digest = rig.send("web")
    with pytest.raises(ToolMissing):
        agent.work(rig.far, digest, replace(rig.crew.here, builder=lacking))
    assert sender.receive(job, digest) is None

    rig.build("low")
    sender, job, digest = rig.send("high:pre", rig.outputs())
    storage = rig.store().storage
    products = refs.get(storage, f"{handover.PRODUCTS}/{rig.outputs()['low:pre'].removeprefix('sha256:')}")
    refs.remove(storage, products)
    with pytest.raises(NoRef):
        agent.work(rig.far, digest, rig.crew.here)
    assert sender.receive(job, digest) is None

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{rig.top}/far/x")

    monkeypatch.setattr(HandoverStock, "products", lambda *_args: None)
    monkeypatch.setattr(Stages, "stage", full)
    with pytest.raises(DiskError):
        agent.work(rig.far, digest, rig.crew.here)
    assert sender.receive(job, digest) is None


def test_a_result_of_something_else_is_none(rig: Rig) -> None:
    sender, job, digest = rig.send("low:pre")
    lie = Result(job="high:pre", state=State.BUILT, output="sha256:" + "0" * 64, worker="far-2")
    assert tickets.put_result(rig.far, digest, lie)
    with pytest.raises(GraphError, match="is none of it"):
        sender.receive(job, digest)
    other = sender.send(job, {})
    assert tickets.put_result(rig.far, other, replace(lie, job="low:pre"))
    with pytest.raises(GraphError, match="far-2 said that it is built, and put nothing"):
        sender.receive(job, other)
    assert not tickets.put_result(rig.far, other, lie), "the first word counts"


@pytest.mark.parametrize("notes", [
    {"log": "../../x"}, {"output": "sha256:../../x"}, {"output": ""}, {"seconds": "long"}, {"log": None},
], ids=["log", "output", "nothing", "seconds", "no-log"])  # fmt: skip
def test_a_result_that_no_machine_writes_is_refused(rig: Rig, notes: dict[str, object]) -> None:
    rig.build("low")
    output = rig.outputs()["low:pre"]
    sender, job, digest = rig.send("low:pre")
    assert tickets.put_result(rig.far, digest, Result(job="low:pre", state=State.BUILT, output=output))
    assert sender.receive(job, digest) is not None
    storage = rig.store().storage
    ref = refs.get(storage, f"{handover.RESULTS}/{digest}")
    refs.write(storage, replace(ref, notes={**ref.notes, **notes}), ref)
    with pytest.raises(GraphError, match="low:pre"):
        sender.receive(job, digest)


def test_what_another_machine_says_does_not_drive_this_terminal(rig: Rig) -> None:
    sender, job, digest = rig.send("low:pre")
    said = Result(job="low:pre", state=State.FAILED, message="one\x1b[2J\ntwo", worker="far\x1b]0;x\x07")
    assert tickets.put_result(rig.far, digest, said)
    found = sender.receive(job, digest)
    assert found is not None
    assert (found.message, found.worker) == ("one?[2J\ntwo", "far?]0;x?")


@pytest.mark.parametrize(("old", "new"), [
    (b'"files":["build', b'"files":["../../../build'),
    (b'"pre":"build/build-pre.sh"', b'"pre":"/etc/passwd"'),
    (b'"name":"low","path"', b'"name":"..","path"'),
    (b'"component":"low"', b'"component":"high"'),
    (b'"needs":[]', b'"needs":["high:pre"]'),
    (b'"source":"', b'"source":"../'),
    (b'"outputs":{}', b'"outputs":{"x":"sha256:1"}'),
    (b'"outputs":{}', b'"outputs":' + b"[" * 100_000),
], ids=["file", "hook", "name", "job", "need", "source", "output", "deep"])  # fmt: skip
def test_a_ticket_that_no_build_writes_is_refused(rig: Rig, old: bytes, new: bytes) -> None:
    _, _, digest = rig.send("low:pre")
    data = tickets.read_ticket(rig.far, digest).dumps()
    assert old in data
    with pytest.raises(StoreError, match="the ticket cannot be read"):
        tickets.loads(data.replace(old, new))


def test_another_ticket_under_the_name_of_one_is_refused(rig: Rig) -> None:
    _, _, other = rig.send("low:pre")
    store, digest = rig.store(), "0" * 64
    data = chunks.dumps([(other, len(store.get(other)))])
    store.storage.write(layout.object_name(digest, layout.CHUNKS), data)
    refs.write(store.storage, Ref(name=f"{handover.TICKETS}/{digest}"), None)
    with pytest.raises(StoreError, match="is damaged"):
        agent.work(rig.far, digest, rig.crew.here)


def test_nothing_is_done_for_a_ticket_that_nobody_waits_for(rig: Rig) -> None:
    sender, job, digest = rig.send("low:pre")
    ticket = tickets.read_ticket(rig.far, digest)
    sender.forget(digest)
    with pytest.raises(StoreError, match="has no ticket"):
        agent.work(rig.far, digest, rig.crew.here)
    assert not (rig.top / "far").exists()
    late = Result(job=ticket.job.name, state=State.FAILED, worker="far-1")
    assert not tickets.put_result(rig.far, digest, late), "given up while it was done"
    assert sender.receive(job, digest) is None


def test_tickets_of_builds_that_were_killed_long_ago_go(rig: Rig) -> None:
    _, _, digest = rig.send("low:pre")
    name = f"{handover.TICKETS}/{digest}"
    storage = rig.store().storage
    rig.far.sweep()
    ref = refs.get(storage, name)
    refs.write(storage, replace(ref, created=time.time() - handover.FORGOTTEN - 1), ref)
    for odd, data in (("other/one", b"5"), (f"{handover.TICKETS}/damaged", b'{"format": 1}')):
        assert storage.swap(layout.ref_name(odd), data, None)
    rig.far.sweep()
    assert refs.read(storage, name) is None
    assert storage.load(layout.ref_name(f"{handover.TICKETS}/damaged")) is not None
    for odd in ("other/one", f"{handover.TICKETS}/damaged"):
        with pytest.raises(StoreError, match="cannot be read"):
            refs.read(storage, odd)


def test_all_faults_of_the_configuration_are_told_before_anything_is_touched(rig: Rig) -> None:
    opened = open_components(
        rig.root, Flags(handover=("docker://host/name:tag", "https://ann:word@host/x")), environ={},
        state=rig.state,
    )  # fmt: skip
    with pytest.raises(SpecError) as caught:
        build(opened, (), View(Silent()), How(executor="crew", options={"odd": 1}))
    text = caught.value.detail
    for words in ("odd: is not known", "names an image", "has a password in it"):
        assert words in text
    assert "word@" not in text
    assert not rig.state.exists()
    with pytest.raises(SpecError, match="the executor crew") as caught:
        build(
            open_components(rig.root, Flags(), environ={}, state=rig.state),
            (),
            View(Silent()),
            How(executor="crew"),
        )
    assert "needs one" in caught.value.detail
    (odd,) = handover.faults(["s3://b/x?secret_key=word"], "x", {})
    assert "word" not in str(odd)
    assert [fault.message for fault in handover.faults(["http://host/store"], "x", {})] == [
        "http://host/store cannot be written to"
    ]


# -- images -----------------------------------------------------------------------------------------


@pytest.fixture(params=["store", "registry"])
def carrier(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Carrier]:
    if request.param == "store":
        store = ContentStore(open_storage(f"dir:{tmp_path}/store"))
        store.create()
        yield StoreCarrier(store)
        return
    with RegistryServer() as server, Http(environ={}, options=FAST) as http:
        yield RegistryCarrier(f"docker://{server.host}/app", http, {})


def image(path: Path, text: bytes) -> str:
    make_layout(path, [layer({"file": text})])
    return only_image(path)[1].config.digest


def files(top: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (top / "blobs/sha256").iterdir() if path.name[0] != "."}


def test_an_image_travels_under_its_id_and_another_is_not_taken_for_it(
    carrier: Carrier, tmp_path: Path
) -> None:
    one, other = image(tmp_path / "one", b"1"), image(tmp_path / "other", b"2")
    assert not carrier.has(one)
    carrier.put(one, tmp_path / "one")
    carrier.put(one, tmp_path / "one")
    assert carrier.has(one)
    assert not carrier.has(other)
    carrier.get(one, tmp_path / "got")
    assert only_image(tmp_path / "got")[1].config.digest == one
    assert files(tmp_path / "got") == files(tmp_path / "one")
    with pytest.raises(GraphError, match="was wanted"):
        carrier.put(other, tmp_path / "one")
    assert not carrier.has(other)


def test_an_image_in_the_store_with_another_content_is_refused(tmp_path: Path) -> None:
    store = ContentStore(open_storage(f"dir:{tmp_path}/store"))
    store.create()
    carrier = StoreCarrier(store)
    one = image(tmp_path / "one", b"1")
    for path in (tmp_path / "one/blobs/sha256").iterdir():
        if path.stat().st_size and path.read_bytes()[:1] != b"{":
            path.write_bytes(b"x" * path.stat().st_size)
    carrier.put(one, tmp_path / "one")
    with pytest.raises(GraphError, match="is damaged"):
        carrier.get(one, tmp_path / "got")
