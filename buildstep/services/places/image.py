"""Actions in the root of an image that is being built: what of a service can be done before it ever runs.

The root is entered by our sandbox (`rootfs.sandbox`), so this process must be in a build's own namespaces.
The runtime, the action's files and the trees are shown there read-only below /run, which is not the image's.
The call goes in, and its outcome comes out, by named pipes. The records are in the image, where a node has
them, and hold neither times nor secrets: the same inputs make the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from buildstep.errors import CommandFailed, SandboxError, UsageError
from buildstep.events import Bus
from buildstep.rootfs import sandbox
from buildstep.services.interface import Action, Call, Done, Line, Outcome, ServiceError, Side, Where
from buildstep.services.places import talk

ACTIONS = frozenset({
    Action.CHECK_REQUIREMENTS, Action.INSTALL, Action.PREPARE, Action.CONFIGURE, Action.CLEANUP,
    Action.UNINSTALL,
})  # fmt: skip
"""What can be done in an image. Nothing runs there, so that nothing can be started, stopped or asked."""

NETWORK = frozenset({Action.INSTALL, Action.PREPARE})
"""Actions that have the network."""

_SHOWN = "/run/buildstep-service"
_PYTHONS = ("/usr/bin/python3", "/usr/local/bin/python3", "/bin/python3")


class Image:
    """The root of an image. One action runs at a time."""

    name = "image"

    def __init__(self, where: Where) -> None:
        self._path = Path(where.address)
        if not where.address or not self._path.is_dir():
            raise UsageError(f"{where.address!r} is no directory with an image's root")
        self._environ = where.environ or os.environ
        self._state = "" if where.state is None else str(where.state)
        self._stack = contextlib.ExitStack()
        self._entered: sandbox.ChrootSandbox | None = None
        self._guard = threading.Lock()

    def describe(self) -> str:
        return f"the image in {self._path}"

    def close(self) -> None:
        self._entered = None
        self._stack.close()

    def done(self, key: str) -> Mapping[tuple[Side, Action], Done]:
        return talk.dones(self._question("done", key))

    def forget(self, key: str) -> None:
        self._question("forget", key)

    def run(self, call: Call, line: Line, stopped: threading.Event) -> Outcome:
        if call.side is not Side.NODE or call.action not in ACTIONS:
            raise ServiceError(
                f"{call.action} of {call.facts.key} cannot be done in an image",
                hint=f"in an image: {', '.join(sorted(ACTIONS))}, of the node's side",
            )
        with self._guard, contextlib.ExitStack() as stack:
            inside = self._inside()
            moved = self._show(stack, inside, call)
            pipes = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="buildstep-talk-")))
            stack.enter_context(inside.share(pipes, f"{_SHOWN}/talk"))
            place = {"state": self._state, "timeless": True}
            text = talk.call_text(call, place, **moved)
            return self._converse(inside, pipes, text, call, line, stopped)

    def _show(self, stack: contextlib.ExitStack, inside: sandbox.ChrootSandbox, call: Call) -> dict[str, Any]:
        """Show what the action needs in the image; return what has other paths there."""
        facts = call.facts
        stack.enter_context(inside.share(talk.RUNTIME, f"{_SHOWN}/runtime"))
        folder = source = None
        if facts.folder is not None:
            folder = f"{_SHOWN}/folder"
            stack.enter_context(inside.share(facts.folder, folder))
        if call.source is not None:
            stack.enter_context(inside.share(call.source.parent, f"{_SHOWN}/source"))
            source = f"{_SHOWN}/source/{call.source.name}"
        trees = {}
        for number, (target, path) in enumerate(sorted(facts.trees.items())):
            trees[target] = f"{_SHOWN}/tree-{number}"
            stack.enter_context(inside.share(path, trees[target]))
        return {"source": source, "facts": {"folder": folder, "trees": trees}}

    def _converse(
        self, inside: sandbox.ChrootSandbox, pipes: Path, text: str, call: Call, line: Line,
        stopped: threading.Event,
    ) -> Outcome:  # fmt: skip
        os.mkfifo(pipes / "call", 0o600)
        os.mkfifo(pipes / "said", 0o600)
        raised: list[Exception] = []

        def enter() -> None:
            argv = ["python3", "-I", f"{_SHOWN}/runtime", "run", f"{_SHOWN}/talk"]
            env = {talk.MARKER: talk.action_env(self._environ)[talk.MARKER]}
            try:
                what = f"{call.action} of {call.facts.key}"
                inside.run(argv, env=env, network=call.action in NETWORK, answer=False, what=what)
            except (CommandFailed, SandboxError) as error:
                raised.append(error)

        # Opened for both, as it would wait for the other end, which may never come.
        write = os.fdopen(os.open(pipes / "call", os.O_RDWR | os.O_CLOEXEC), "wb", buffering=0)
        read = os.open(pipes / "said", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        worker = threading.Thread(target=enter)
        worker.start()
        try:
            ends = talk.Ends(write.fileno(), read, write.close, worker.is_alive)
            outcome = talk.Talk(ends, call.timeout, line, stopped).outcome(text)
        finally:
            write.close()
            worker.join()
            os.close(read)
        if outcome is not None:
            return outcome
        error = raised[0] if raised else None
        if isinstance(error, SandboxError):
            raise ServiceError(error.message, detail=error.detail, hint=error.hint) from error
        raise talk.broken(self.describe(), error if isinstance(error, CommandFailed) else None) from error

    def _question(self, word: str, key: str) -> list[Any]:
        asked = json.dumps({"key": key, "state": self._state})
        with self._guard, contextlib.ExitStack() as stack:
            inside = self._inside()
            stack.enter_context(inside.share(talk.RUNTIME, f"{_SHOWN}/runtime"))
            argv = ["python3", "-I", f"{_SHOWN}/runtime", word, asked]
            return list(json.loads(inside.run(argv, what=f"{word} of {key}")))

    def _inside(self) -> sandbox.ChrootSandbox:
        """Return the root, entered. Raises ServiceError if there is no Python in it."""
        if self._entered is None:
            inside = self._stack.enter_context(sandbox.enter(self._path, bus=Bus(), environ=self._environ))
            if not any(inside.root.is_program(path) for path in _PYTHONS):
                raise ServiceError(
                    f"{self.describe()} has no python3, which actions need",
                    hint="add its package: python3 (of Debian, python3-minimal is too little)",
                )
            self._entered = inside
        return self._entered
