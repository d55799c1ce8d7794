"""The executor dask: which workers can do a job, and what becomes of tries without a result. The cluster is a real one,
in this process and without a network; only what a worker runs is another function."""

from __future__ import annotations

import errno
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import buildstep
from buildstep.components.engine import Orders
from buildstep.components.executors import dask
from buildstep.components.executors.dask import DASK, DaskExecutor
from buildstep.components.executors.dask_cluster import Member, reasons
from buildstep.components.interface import Action, Job, Result, State
from buildstep.components.settings import Settings, load
from buildstep.errors import CIError, ExitCode
from buildstep.formats.oci.spec import OciPlatform
from tests.servers import dask_cluster as servers
from tests.servers.dask_cluster import in_place

distributed: Any = pytest.importorskip("distributed")

PAGE = Path(__file__).parents[3] / "docs/how-to/build-on-dask.md"
JOB = Job(name="web", action=Action.IMAGE, component="web")
GOOD = Member(address="tcp://a:1", name="a", machine="x86_64", buildstep=buildstep.__version__)


@pytest.mark.parametrize(
    ("member", "platform", "labels", "expected"),
    [
        (GOOD, "linux/amd64", (), []),
        (GOOD, "linux/arm64", (), ["it is linux/amd64, and the job is for linux/arm64"]),
        (GOOD, "linux/amd64", ("gpu", "big"), ["it does not offer gpu, big"]),
        (
            Member(address="x", name="x", machine="aarch64", resources={"gpu": 2}, buildstep="0.0.1"),
            "linux/arm64",
            ("gpu",),
            [f"it has buildstep 0.0.1, and here is {buildstep.__version__}"],
        ),
        (
            Member(address="x", name="x"),
            "linux/amd64",
            (),
            ["it has no buildstep", "it is a machine that does not say what it is"],
        ),
    ],
)
def test_a_worker_that_cannot_do_a_job_says_all_reasons(
    member: Member, platform: str, labels: tuple[str, ...], expected: list[str]
) -> None:
    assert reasons(member, OciPlatform.parse(platform), labels) == expected


def orders(tmp_path: Path, told: list[str], **options: object) -> Orders:
    return Orders(
        root=tmp_path, settings=Settings(), state=tmp_path, environ={}, jobs={"web": JOB}, options=options,
        say=lambda job, text: told.append(f"{job.name}| {text}"), tell=told.append,
        placed=lambda job, worker: told.append(f"{job.name}: on {worker}"),
    )  # fmt: skip


def test_all_faults_of_its_table_are_told(tmp_path: Path) -> None:
    found = DASK.faults(orders(tmp_path, [], scheduler="host:8786", tries=0, tls_cert="c", speed=1))
    assert {fault.where for fault in found} == {
        "$.executors.dask.scheduler", "$.executors.dask.tries", "$.executors.dask.speed", "$.executors.dask",
        "$.executors.dask.tls_cert",
    }  # fmt: skip
    (lacking,) = DASK.faults(orders(tmp_path, []))
    assert (lacking.where, lacking.message) == ("$.executors.dask.scheduler", "is required")
    files = [tmp_path / name for name in "ck"]
    for file in files:
        file.touch()
    cert, key = map(str, files)
    assert DASK.faults(orders(tmp_path, [], scheduler="tls://h:1", tls_cert=cert, tls_key=key)) == []
    (away,) = DASK.faults(orders(tmp_path, [], scheduler="tls://h:1", tls_ca=f"{cert}a"))
    assert away.where == "$.executors.dask.tls_ca"


def test_what_the_page_says_of_components_toml_is_accepted(tmp_path: Path) -> None:
    found = re.search(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    (tmp_path / "components.toml").write_text(found[1])
    settings = load(tmp_path)
    assert settings.executor == "dask"
    lacking = DASK.faults(orders(tmp_path, [], **settings.executors["dask"]))
    assert [fault.message for fault in lacking] == [
        f"{settings.executors['dask'][key]} cannot be read" for key in ("tls_ca", "tls_cert", "tls_key")
    ]
    rows = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", PAGE.read_text(), re.MULTILINE))))
    assert rows == set(dask.RULE["properties"])


class Desk:
    """A hand-over that is one dictionary. done: results by ticket."""

    place = "dir:/nowhere docker://registry.example/x"

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.done: dict[str, Result] = {}
        self.forgotten: list[str] = []

    def send(self, job: Job, outputs: Mapping[str, str]) -> str:
        self.sent.append(f"{len(self.sent):064}")
        return self.sent[-1]

    def receive(self, job: Job, ticket: str) -> Result | None:
        return self.done.get(ticket)

    def forget(self, ticket: str) -> None:
        self.forgotten.append(ticket)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None, protocol="inproc://",
        resources={"special": 1},
    ) as found:  # fmt: skip
        yield found


class Rig:
    def __init__(self, tmp_path: Path, cluster: Any, **options: object) -> None:
        self.told: list[str] = []
        self.desk = Desk()
        self.executor = DaskExecutor(
            orders(tmp_path, self.told, scheduler=cluster.scheduler_address, patience=10, **options),
            self.desk,
        )

    def result(self) -> Result:
        return self.executor.submit(JOB, {}).result(20)


Work = Callable[[str, tuple[str, ...], str], int]


@pytest.fixture
def rig(tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(work: Work, **options: object) -> Rig:
        monkeypatch.setattr(dask, "do", in_place)
        monkeypatch.setattr(servers, "IN_PLACE", [work])
        made.append(Rig(tmp_path, cluster, **options))
        return made[-1]

    yield make
    for one in made:
        one.executor.stop()


def test_a_job_is_one_task_and_its_result_is_what_the_hand_over_has(rig: Callable[..., Rig]) -> None:
    def work(ticket: str, urls: tuple[str, ...], topic: str) -> int:
        worker = distributed.get_worker()
        head = {"ticket": ticket, "name": "far"}
        worker.log_event(topic, {**head, "lines": []})
        worker.log_event(topic, {**head, "lines": [f"at {urls[1]}", "STEP 1"]})
        found.desk.done[ticket] = Result(job="web", state=State.BUILT, output="sha256:1", worker="far")
        return 0

    found = rig(work, labels=["special"])
    assert found.executor.at_once == 2
    assert found.result().output == "sha256:1"
    assert found.told == ["web: on far", "web| at docker://registry.example/x", "web| STEP 1"]
    assert found.desk.forgotten == found.desk.sent


def test_what_cannot_be_sent_is_a_failed_job_and_others_go_on(rig: Callable[..., Rig]) -> None:
    def full(job: Job, outputs: Mapping[str, str]) -> str:
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/send-x")

    found = rig(lambda _ticket, _urls, _topic: 0)
    found.desk.send = full  # type: ignore[method-assign]
    result = found.result()
    assert result.state is State.FAILED
    assert "No space left on device" in result.message


def test_without_a_result_a_job_is_tried_again_a_few_times(rig: Callable[..., Rig], tmp_path: Path) -> None:
    def work(ticket: str, urls: tuple[str, ...], topic: str) -> int:
        distributed.get_worker().log_event(topic, {"ticket": ticket, "name": "far", "lines": ["no disk"]})
        if len(found.desk.sent) == 2:
            raise ImportError("no module named buildstep")
        return 4

    (tmp_path / "logs").mkdir()
    found = rig(work, tries=3)
    result = found.result()
    assert (result.state, result.worker) == (State.FAILED, "far")
    assert result.message.splitlines() == [
        "no worker has given a result, 3 tries",
        "far: it ended with 4, after: no disk",
        "far: ImportError: no module named buildstep",
        "far: it ended with 4, after: no disk",
    ]
    assert result.log is not None
    assert result.log.read_text() == "no disk\n"
    assert len(set(found.desk.sent)) == 3
    assert found.desk.forgotten == found.desk.sent


def test_a_worker_that_dies_each_time_is_given_up_and_another_one_is_asked(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `allowed-failures` of the scheduler, which then gives the task up."""
    asked: list[list[str]] = []

    def work(ticket: str, urls: tuple[str, ...], topic: str) -> int:
        worker = distributed.get_worker()
        asked.append([worker.address])
        if len(asked) == 1:
            state = worker_state(worker.address)
            raise distributed.KilledWorker("web", state, 0)
        found.desk.done[ticket] = Result(job="web", state=State.BUILT, output="sha256:2")
        return 0

    def worker_state(address: str) -> Any:
        from distributed.scheduler import WorkerState

        return WorkerState(address=address, status=distributed.Status.running, pid=1, name="w", nthreads=1, memory_limit=1,
                           local_directory="", nanny="", server_id=address)  # fmt: skip

    found = rig(work)
    assert found.result().output == "sha256:2"
    assert asked[0] != asked[1]
    assert "the worker was lost 1 times" in found.told[-1]


def test_a_build_that_stops_cancels_what_runs(rig: Callable[..., Rig]) -> None:
    begun, ended = threading.Event(), threading.Event()

    def work(ticket: str, urls: tuple[str, ...], topic: str) -> int:
        worker = distributed.get_worker()
        key = worker.get_current_task()
        begun.set()
        end = time.monotonic() + 10
        while worker.state.tasks[key].state == "executing" and time.monotonic() < end:
            time.sleep(0.01)
        ended.set()
        return 0

    found = rig(work)
    future = found.executor.submit(JOB, {})
    assert begun.wait(10)
    found.executor.stop()
    assert future.result(1).state is State.STOPPED
    assert ended.wait(5)


def test_what_no_worker_offers_is_told_with_every_reason(rig: Callable[..., Rig]) -> None:
    with pytest.raises(CIError, match="no worker that can do these jobs") as caught:
        rig(lambda *_: 0, labels=["gpu"])
    assert caught.value.exit_code is ExitCode.CI
    assert caught.value.detail.count("it does not offer gpu") == 2


def test_a_scheduler_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CIError, match=r"the dask scheduler tcp://127.0.0.1:1 cannot be reached"):
        DaskExecutor(orders(tmp_path, [], scheduler="tcp://127.0.0.1:1", patience=0.2), Desk())
