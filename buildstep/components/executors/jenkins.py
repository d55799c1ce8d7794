"""Jobs on the agents of a Jenkins server: each is one build of a generic job, which does a ticket.

The job takes the parameters TICKET, HANDOVER and NODE, and runs `buildstep components work` on that node (see
docs/how-to/build-on-agents.md). Whatever way a build ends, only a result in the hand-over counts: without one
the agent was lost, and the job is tried again on another one.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from buildstep.components.engine import Dispatch, Orders, Work
from buildstep.components.executors.jenkins_nodes import Nodes, label_of
from buildstep.components.executors.tries import (
    Holder,
    Lost,
    NoResult,
    Stopped,
    last_line,
    result_of,
    write_log,
)
from buildstep.components.interface import Job, Result
from buildstep.errors import BuildstepError, CIError, Fault, UsageError
from buildstep.net.jenkins import JenkinsBuild, JenkinsServer, ServerError
from buildstep.net.jenkins_agents import offline_nodes
from buildstep.net.jenkins_login import Login, login
from buildstep.spec import schema
from buildstep.spec.schema import Rule, array, integer, record, text

_SECONDS: Final[Rule] = {"type": "number", "minimum": 0.01, "maximum": 86400}
RULE: Final = record(
    {
        "url": text(),
        "user": text(),
        "token_file": text(),
        "job": text(r"[^\x00-\x1f\x7f]+", say="the full name of a job, folders and all"),
        "labels": array(text(r"\S+", say="a label")),
        "tries": integer(1, 20),
        "lost_after": _SECONDS,
        "patience": _SECONDS,
        "queue": _SECONDS,
        "poll": _SECONDS,
    },
    required=["job"],
)
"""What the table `[executors.jenkins]` of components.toml may hold."""

PARAMETERS: Final = ("TICKET", "HANDOVER", "NODE")
"""Of the job: the ticket, where it is, and the node that is to do it."""

_PIPELINE: Final = "[Pipeline]"
"""What lines begin with in which Jenkins itself says which step of a pipeline it is at."""

_FINISHED: Final = "Finished: "
"""What Jenkins's own last line of a log begins with."""

_BACKOFF: Final = 0.5
_STOPPING: Final = 30.0
"""Seconds in which a build that was stopped has to end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How jobs are given to a Jenkins server.

    url, user, token_file: as of `buildstep jenkins`; the environment gives what they leave out. job: does
    tickets. labels: that a node must have. tries: how often a job is begun before it has failed. lost_after:
    seconds that a node may be offline while it has a job; patience: that the server may be; queue: that a
    build may wait in the queue. poll: seconds between two looks at a build.
    """

    job: str
    url: str = ""
    user: str = ""
    token_file: str = ""
    labels: tuple[str, ...] = ()
    tries: int = 3
    lost_after: float = 60.0
    patience: float = 120.0
    queue: float = 3600.0
    poll: float = 1.0

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Options:
        """Return the options of a table that keeps RULE."""
        known = {row.name for row in fields(cls)}
        found = {name: value for name, value in table.items() if name in known}
        return cls(**{**found, "labels": tuple(found.get("labels", ()))})

    def login(self, environ: Mapping[str, str]) -> Login:
        """Return the login. Raises UsageError."""
        token_file = Path(self.token_file) if self.token_file else None
        return login(environ, url=self.url, user=self.user, token_file=token_file)


class Jenkins:
    """See `engine.Engine`."""

    far = True

    def faults(self, orders: Orders) -> list[Fault]:
        found = schema.check(orders.options, RULE, "$.executors.jenkins")
        said = {key: orders.options.get(key, "") for key in ("url", "user", "token_file")}
        if all(isinstance(value, str) for value in said.values()):  # else that was told
            try:
                Options(job="", **said).login(orders.environ)
            except UsageError as error:
                found.append(Fault(where="Jenkins", message=error.message, hint=error.hint))
        return found

    def start(self, orders: Orders, work: Work, dispatch: Dispatch | None) -> JenkinsExecutor:
        del work
        assert dispatch is not None
        return JenkinsExecutor(orders, dispatch)


JENKINS: Final = Jenkins()


@dataclass
class _Try:
    """One build of a job. lines: of its log, as far as they are to be shown."""

    job: Job
    node: str
    ticket: str = ""
    build: JenkinsBuild | None = None
    lines: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.node}, {self.build.url or self.build.number}" if self.build else self.node


class JenkinsExecutor:
    """See `interface.Executor`. Raises CIError where the server cannot be asked, or has no node for a job."""

    def __init__(self, orders: Orders, dispatch: Dispatch) -> None:
        self._orders, self._dispatch = orders, dispatch
        self._options = options = Options.of(orders.options)
        self._login = options.login(orders.environ)
        self._stopped = threading.Event()
        self._making = threading.Lock()
        server = self._server()
        _check(server, options.job)
        self._nodes = Nodes(server, orders, options.labels, options.lost_after)
        self._most = orders.at_once or self._nodes.count
        self._pool = ThreadPoolExecutor(self._most, thread_name_prefix="jenkins")
        self._left: Counter[str] = Counter()

    @property
    def at_once(self) -> int:
        return self._most

    def submit(self, job: Job, outputs: Mapping[str, str]) -> Future[Result]:
        return self._pool.submit(self._do, job, outputs)

    def stop(self) -> None:
        self._stopped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for url in sorted(self._left):
            self._orders.tell(f"it may still run, as the server could not be told to stop it: {url}")
        self._left.clear()

    def _server(
        self, *, patience: float = 0.0, sleep: Callable[[float], object] | None = None
    ) -> JenkinsServer:
        """Return a client for one thread. patience: seconds for which a call is tried again, 0: as in the
        options; sleep: makes a pause, by default one that ends with all jobs."""
        attempts, left = 1, patience or self._options.patience
        while left > 0:
            left -= _BACKOFF * 2.0 ** (attempts - 1)
            attempts += 1
        with self._making:  # the library is made with a changed environment
            return JenkinsServer(self._login, attempts=attempts, backoff=_BACKOFF, sleep=sleep or self._pause)

    def _pause(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise Stopped

    # -- a job --------------------------------------------------------------------------------------

    def _do(self, job: Job, outputs: Mapping[str, str]) -> Result:
        return result_of(job, self._orders, self._stopped, lambda holder: self._try(job, outputs, holder))

    def _try(self, job: Job, outputs: Mapping[str, str], holder: Holder) -> Result:
        happened: list[str] = []
        avoid: list[str] = []
        for _ in range(self._options.tries):
            with self._nodes.taking(job, avoid) as node:
                holder.worker, attempt = node, _Try(job, node)
                try:
                    return self._attempt(attempt, outputs)
                except Lost as why:
                    happened.append(f"{attempt.name}: {why}")
            avoid.append(node)
            write_log(self._orders, job, attempt.lines)
            self._orders.tell(f"{job.name}: no result from {happened[-1]}")
        raise NoResult("\n".join([f"no agent has given a result, {len(happened)} tried", *happened]))

    def _attempt(self, attempt: _Try, outputs: Mapping[str, str]) -> Result:
        """Give a job to a node and return its result. Raises Lost, Stopped, CIError for the server."""
        self._look()
        job = attempt.job
        attempt.ticket = self._dispatch.send(job, outputs)
        self._orders.placed(job, attempt.node)
        try:
            try:
                ending = self._watch(attempt, self._server())
            except Lost:
                # The node may have been quicker than what we heard of it.
                if (result := self._dispatch.receive(job, attempt.ticket)) is None:
                    raise
                return result
            if (result := self._dispatch.receive(job, attempt.ticket)) is not None:
                return result
            raise Lost(f"the build ended as {ending}{last_line(attempt.lines)}")
        finally:
            with contextlib.suppress(BuildstepError):  # the next build's sweep finds it
                self._dispatch.forget(attempt.ticket)

    def _watch(self, attempt: _Try, server: JenkinsServer) -> str:
        """Start the build of a try and follow it to its end; return how it ended. Raises as `_attempt`."""
        node, options = attempt.node, self._options
        parameters = dict(
            zip(PARAMETERS, (attempt.ticket, self._dispatch.place, label_of(node)), strict=True)
        )

        def each() -> None:
            self._look()
            if why := self._nodes.lost(node, server):
                raise Lost(f"the agent is offline: {why}")

        try:
            attempt.build = server.trigger(
                options.job, parameters, timeout=options.queue, poll=options.poll, each=each,
                left=lambda url: self._left.update([url]),
            )  # fmt: skip
            lines = _Lines(lambda line: self._line(attempt, line))
            ending = server.watch(attempt.build, lines.write, poll=options.poll, each=each)
            lines.end()
            return ending
        except BaseException as error:
            # Nobody need wait for the end of a build whose agent is away.
            self._abort(attempt, wait=not isinstance(error, Lost))
            if isinstance(error, CIError):
                raise self._meant(error, attempt, server) from error
            raise

    def _meant(self, error: CIError, attempt: _Try, server: JenkinsServer) -> Exception:
        """Return what a failed call comes to: a try that is lost, or a server that cannot be worked with."""
        if not isinstance(error, ServerError):
            # Somebody took it out of the queue, or it waited too long; or a response is none of Jenkins.
            return Lost(error.message) if attempt.build is None else error
        if attempt.build is not None and error.status == 404:
            return Lost("the server does not know the build any more")
        if attempt.build is None and error.retryable:
            try:
                offline_nodes(server)  # one answer did not come, to what must not be asked twice
            except CIError as away:
                error = away if isinstance(away, ServerError) else error
            else:
                return Lost(error.message)
        return CIError(
            f"the Jenkins server cannot be worked with: {error.message}",
            detail=error.detail,
            hint=error.hint or "what was built is kept; the same command goes on from there",
        )

    def _look(self) -> None:
        if self._stopped.is_set():
            raise Stopped

    def _abort(self, attempt: _Try, *, wait: bool) -> None:
        """End the build of a try at the server; wait: for that. What is left is told at the end."""
        build = attempt.build
        if build is None:
            return
        server = self._server(patience=1.0, sleep=time.sleep)
        end = time.monotonic() + _STOPPING
        try:
            server.stop(build)
            while wait and server.info(build).get("building"):
                if time.monotonic() > end:
                    self._left[build.url] += 1
                    return
                time.sleep(self._options.poll)
        except BuildstepError as error:
            if not (isinstance(error, ServerError) and error.status == 404):
                self._left[build.url] += 1

    # -- its lines ----------------------------------------------------------------------------------

    def _line(self, attempt: _Try, line: str) -> None:
        if not line.startswith((_PIPELINE, _FINISHED)):
            attempt.lines.append(line)
            self._orders.say(attempt.job, line)


def _check(server: JenkinsServer, job: str) -> None:
    """Raise CIError for a job that is not the one that does tickets, before anything is triggered."""
    lacking = [name for name in PARAMETERS if name not in server.parameters(job)]
    if lacking:
        raise CIError(
            f"the Jenkins job {job} has no parameter {', '.join(lacking)}",
            hint="run it once by hand, so that it takes them from its pipeline; or is it another job?",
        )


class _Lines:
    """Cuts pieces of text into lines."""

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take, self._rest = take, ""

    def write(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._take(line.rstrip("\r"))

    def end(self) -> None:
        if self._rest:
            self._take(self._rest)
