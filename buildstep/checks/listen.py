"""`listen`: start what the image runs, wait for its port, read the answer to a request, and stop it."""

from __future__ import annotations

import contextlib
import http.client
import re
import shlex
import socket
import threading
import time
from collections.abc import Iterator

from buildstep.checks.expressions import shown
from buildstep.checks.image import Image, Test
from buildstep.errors import BuildstepError
from buildstep.rootfs.run_image import How
from buildstep.system.netns import NetworkNamespace

_TIMEOUT = 10
"""Seconds in which the port has to open and the answer has to come, if the test does not say."""

_NAP = 0.02
"""Seconds between two tries."""

_PATIENCE = 5.0
"""Seconds that one request may take: a service that is still starting may take one and not answer it."""

_MOST = 1 << 20
"""Bytes of an answer that are read."""

_LINES = 15
"""Lines of the service's output that are told where it failed."""


def run(test: Test, image: Image) -> Iterator[str]:
    """Yield why the service does not answer as it has to. When this is over nothing of it is left."""
    argv = tuple(test.get("command") or image.config.argv)
    if not argv:
        yield "the image has no command: give it build.oci.cmd, or the test a command"
        return
    with image.enter() as inside:
        assert inside.namespace is not None
        probe = _Probe(test, inside.namespace)
        how = How(env={**image.env, **test.get("env", {})}, user=test.get("user"))
        try:
            done = inside.call(argv, how, until=probe.is_over)
        finally:
            probe.stop()
        if done.status is not None or done.problem:
            told = done.problem or f"it exited with status {done.status}"
            # What answered and ended at once did answer.
            probe.problems = probe.problems and [f"{told} before it answered ({probe.problems[0]})"]
            if not probe.answered and not probe.problems:
                probe.problems = [f"{told} before it answered"]
        yield from probe.problems
        if probe.problems:
            yield f"the command was {shlex.join(argv)}"
            yield from (f"  {line}" for line in inside.tail[-_LINES:])


class _Probe:
    """Asks, from a thread that is in the image's network, until there is an answer or no time is left."""

    def __init__(self, test: Test, namespace: NetworkNamespace) -> None:
        self.problems: list[str] = []
        self.answered = False
        self._test = test
        self._namespace = namespace
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="probe", daemon=True)
        self._thread.start()

    def is_over(self) -> bool:
        """Return whether it is known how the service answers."""
        return not self._thread.is_alive()

    def stop(self) -> None:
        """The service is gone: ask no more."""
        self._stopped.set()
        self._thread.join()

    def _ask(self) -> None:
        seconds = self._test.get("timeout", _TIMEOUT)
        end = time.monotonic() + seconds
        port, why = self._test["port"], "nothing listens there"
        try:
            self._namespace.join()
            while not self._stopped.is_set() and time.monotonic() < end:
                with contextlib.suppress(_NotYet):
                    try:
                        self.problems = self._once(min(_PATIENCE, max(0.1, end - time.monotonic())))
                        self.answered = True
                    except (OSError, http.client.HTTPException) as error:
                        why = _reason(error)
                        raise _NotYet from error
                    if not self.problems:
                        return
                    why = self.problems[0]
                self._stopped.wait(_NAP)
        except BuildstepError as error:
            self.problems = [error.message]
            return
        if not self.answered:
            ended = self._stopped.is_set()  # the service did, before the time was over
            self.problems = [
                f"port {port}: {why}" if ended else f"port {port} did not answer within {seconds} s: {why}"
            ]

    def _once(self, patience: float) -> list[str]:
        """Ask once; return what is wrong with the answer."""
        test, port = self._test, self._test["port"]
        if not {"path", "status", "body", "headers"} & set(test):
            _connected(port, patience).close()
            return []
        path = test.get("path", "/")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience)
        with contextlib.closing(connection):
            connection.sock = _connected(port, patience)
            connection.request("GET", path, headers={"Host": f"localhost:{port}", **test.get("headers", {})})
            answer = connection.getresponse()
            body = answer.read(_MOST).decode(errors="replace")
        wanted = test.get("status", 200)
        if answer.status != wanted:
            return [
                f"GET {path} on port {port} answers {answer.status}, and {wanted} is expected: {shown(body)}"
            ]
        if "body" in test and not re.search(test["body"], body, re.MULTILINE):
            return [
                f"the answer to GET {path} on port {port} has no match of {test['body']!r}: {shown(body)}"
            ]
        return []


class _NotYet(Exception):
    """The service is not there yet, or not ready."""


def _connected(port: int, patience: float) -> socket.socket:
    """Return a connection to a port of the loopback, of either family. Raises OSError."""
    try:
        return socket.create_connection(("127.0.0.1", port), patience)
    except ConnectionRefusedError:
        return socket.create_connection(("::1", port), patience)


def _reason(error: Exception) -> str:
    match error:
        case ConnectionRefusedError():
            return "nothing listens there"
        case TimeoutError():
            return "it took the connection and said nothing"
        case http.client.HTTPException():
            return f"what listens there does not speak HTTP ({type(error).__name__})"
    return str(error)
