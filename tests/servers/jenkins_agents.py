"""Agents of the Jenkins server on loopback whose builds really run: a script, in a directory of the agent's own.

A build is a process group, as on a real agent; it ends by itself, by an abort (SIGTERM), or is killed by a test.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers.jenkins import FakeJenkins, Item, Job, Run, node


@dataclass
class LiveRun(Run):
    """A build of a script. agent: where it runs; process: as soon as it does."""

    agent: Agent | None = None
    process: subprocess.Popen[bytes] | None = None
    ended: bool = False
    stopped: bool = False

    def grow(self) -> None:
        pass

    def running(self) -> bool:
        return not self.ended

    def more(self) -> bool:
        return not self.ended

    def stop(self) -> None:
        self.stopped = True
        if self.process is None:
            self.ended, self.result = True, "ABORTED"
        elif not self.ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)

    def end(self, status: int) -> None:
        self.result = "ABORTED" if self.stopped else "SUCCESS" if status == 0 else "FAILURE"
        self.seen += f"[Pipeline] End of Pipeline\nFinished: {self.result}\n".encode()
        self.ended = True

    def kill(self) -> None:
        """The agent's machine loses it: no process of it has a chance to do anything."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)


@dataclass
class LiveItem(Item):
    def leaves(self) -> bool:
        assert isinstance(self.run, LiveRun)
        return self.run.process is not None or self.run.ended


@dataclass
class Agent:
    """A node with one executor. environ: of its builds."""

    name: str
    folder: Path
    environ: Mapping[str, str]
    busy: threading.Lock = field(default_factory=threading.Lock)
    runs: list[LiveRun] = field(default_factory=list)

    def perform(self, run: LiveRun, script: str, parameters: Mapping[str, str]) -> None:
        """Run a build to its end, when the agent has time for it."""
        with self.busy:
            if run.stopped:
                return
            workspace = self.folder / "workspace"
            workspace.mkdir(parents=True, exist_ok=True)
            child = subprocess.Popen(
                ["/bin/sh", "-xe", "-c", script],
                cwd=workspace,
                env={**self.environ, **parameters, "NODE_NAME": self.name},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            assert child.stdout is not None
            run.seen += b"[Pipeline] sh\n"
            run.process = child
            self.runs.append(run)
            with child.stdout as stream:
                while data := os.read(stream.fileno(), 1 << 16):
                    run.seen += data
            status = child.wait()
            run.end(status)


class Farm:
    """Agents of a server, and the job that runs its script on the one that the parameter NODE names."""

    def __init__(self, server: FakeJenkins, script: str, agents: list[Agent], job: str) -> None:
        self.server, self.script = server, script
        self.agents = {agent.name: agent for agent in agents}
        self.threads: list[threading.Thread] = []
        server.nodes += [node(name, executors=[{"idle": True}], numExecutors=1) for name in self.agents]
        server.jobs[job] = Job(parametrized=True, parameters=("TICKET", "HANDOVER", "NODE"), begin=self.begin)

    def begin(self, number: int, form: dict[str, list[str]]) -> tuple[Run, Item]:
        parameters = {name: values[0] for name, values in form.items()}
        agent = self.agents[parameters["NODE"]]
        run = LiveRun(0, result=None, log=[], agent=agent)
        thread = threading.Thread(target=agent.perform, args=(run, self.script, parameters), daemon=True)
        self.threads.append(thread)
        thread.start()
        return run, LiveItem(number, "", form, run=run)

    def runs(self) -> list[LiveRun]:
        return [run for agent in self.agents.values() for run in agent.runs]

    def offline(self, name: str, reason: str) -> None:
        """An agent's connection is gone, for the server."""
        for row in self.server.nodes:
            if row["displayName"] == name:
                row |= {"offline": True, "offlineCauseReason": reason}


@contextlib.contextmanager
def farm(server: FakeJenkins, script: str, agents: list[Agent], job: str = "components") -> Iterator[Farm]:
    """Agents for the length of a block; what still runs at its end is killed."""
    found = Farm(server, script, agents, job)
    try:
        yield found
    finally:
        for run in found.runs():
            if not run.ended:
                with contextlib.suppress(ProcessLookupError):
                    run.kill()
        for thread in found.threads:
            thread.join(10)
