"""Actions on another host, through the system's OpenSSH: one connection for all calls, nothing asked.

In the directory of records there, beside the services', is `.runtime/DIGEST/`, and in each service's
`sent/DIGEST/`: its action files, and the trees that `install` lays. Only Python is needed there.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Mapping
from typing import IO, Any

from buildstep.errors import CommandFailed, StoreError
from buildstep.events import Bus
from buildstep.files.interface import Access
from buildstep.files.ssh_link import SSH_FAILED, Link, Target
from buildstep.net.request import HttpOptions
from buildstep.services.interface import Action, Call, Done, Line, Outcome, ServiceError, Side, Where
from buildstep.services.places import far, pack, talk
from buildstep.services.runtime.records import folder_name

_OLD = "services need Python 3.9 or newer there"


class Ssh:
    """A host. May be used by several threads, for different services."""

    name = "ssh"

    def __init__(self, where: Where) -> None:
        self._target = Target.parse_host(where.address)
        environ = where.environ or os.environ
        self._link = Link(self._target, Access(environ=environ, bus=Bus(), http=HttpOptions.of(environ)))
        self._state = "" if where.state is None else str(where.state)
        self._owner = where.owner
        self._guard = threading.Lock()
        self._root = ""
        self._there: dict[str, set[str]] = {}

    def describe(self) -> str:
        return self._target.url.removeprefix("ssh://")

    def done(self, key: str) -> Mapping[tuple[Side, Action], Done]:
        return talk.dones(self._question("done", key))

    def forget(self, key: str) -> None:
        self._question("forget", key)
        self._there.pop(key, None)

    def close(self) -> None:
        self._link.close()

    def run(self, call: Call, line: Line, stopped: threading.Event) -> Outcome:
        root = self._ready()
        moved = self._send_files(call)
        place = {"state": root, "owner": self._owner(), "heartbeat": talk.SILENCE}
        text = talk.call_text(call, place, **moved)
        script = f'export {talk.MARKER}=$2; {far.PYTHON} "$1" run'
        env = talk.action_env(self._link.env)
        failed: CommandFailed | None = None
        try:
            argv = self._link.argv_of(script, self._runtime(), env[talk.MARKER])
            outcome = talk.run(argv, self._link.env, text, call, line, stopped)
            if outcome is not None:
                return outcome
        except StoreError as error:
            raise self._told(error) from error
        except CommandFailed as error:
            failed = error
        return self._after_a_break(call, failed)

    def _after_a_break(self, call: Call, failed: CommandFailed | None) -> Outcome:
        """Find out how an action ended whose runtime, or the way to it, was lost."""
        self._link.close()
        try:
            # Answered once what the action had started is ended.
            known = talk.dones(self._question("settled", call.facts.key))
        except ServiceError as error:
            why = failed.message if failed is not None else "the connection was lost"
            raise ServiceError(
                f"{self.describe()}: {why}, and then {error.message}",
                detail=error.detail,
                hint="the host ends the action by itself; the next run asks it what completed",
                retryable=True,
            ) from error
        outcome = talk.completed(known, call)
        if outcome is None:
            if failed is not None and failed.status == SSH_FAILED:
                raise self._told(self._link.explained(failed, retryable=True)) from failed
            raise talk.broken(self.describe(), failed) from failed
        return outcome

    # -- what is there ----------------------------------------------------------------------------------

    def _ready(self) -> str:
        """Have the runtime there; return the directory of records there. Once for a place: one call, and one
        more where it has to be sent."""
        with self._guard:
            if not self._root:
                digest, data = pack.runtime_zip()
                found = talk.last_line(self._python(far.LOOK, self._state, digest))
                if not found["there"]:
                    above = os.path.join(found["root"], ".runtime")
                    self._python(far.RECEIVE, "zip", above, digest, data=data)
                self._root = found["root"]
            return self._root

    def _runtime(self) -> str:
        return os.path.join(self._root, ".runtime", pack.runtime_zip()[0])

    def _send_files(self, call: Call) -> dict[str, Any]:
        """Have the action's files there, and for `install` the trees; return what has other paths there."""
        facts = call.facts
        above = os.path.join(self._root, folder_name(facts.key), "sent")
        wanted = [("folder", pack.action_files(facts.folder, call.source))]
        if call.action is Action.INSTALL:
            wanted += [(target, pack.tree_files(source)) for target, source in sorted(facts.trees.items())]
        paths, digests = {}, []
        for name, items in wanted:
            with tempfile.TemporaryFile() as file:
                digest = pack.write_tar(items, file)
                digests.append(digest)
                if not self._has(facts.key, above, digest):
                    file.seek(0)
                    self._python(far.RECEIVE, "tar", above, digest, *digests, data=file)
                    # Whatever else was sent before is no longer there.
                    self._there[facts.key] = set(digests)
            paths[name] = os.path.join(above, digest)
        folder = paths.pop("folder")
        source = None if call.source is None else os.path.join(folder, call.source.name)
        return {"source": source, "facts": {"folder": folder, "trees": paths}}

    def _has(self, key: str, above: str, digest: str) -> bool:
        known = self._there.get(key)
        if known is None:
            found = talk.last_line(self._python(far.HAVE, above, digest))
            known = self._there.setdefault(key, set(found))
        return digest in known

    def _question(self, word: str, key: str) -> list[Any]:
        asked = {"key": key, "state": self._ready(), "owner": self._owner()}
        data = json.dumps(asked).encode() + b"\n"
        answer = talk.last_line(self._call(far.PYTHON + '"$1" "$2"', self._runtime(), word, data=data))
        return list(answer)

    def _python(self, code: str, *args: str, data: bytes | IO[bytes] = b"") -> bytes:
        return self._call(far.PYTHON + '-c "$@"', code, *args, data=data)

    def _call(self, script: str, *args: str, data: bytes | IO[bytes] = b"") -> bytes:
        known = (0, far.NO_PYTHON, far.OLD_PYTHON, far.DAMAGED)
        try:
            status, output = self._link.call(script, *args, data=data, ok=known)
        except StoreError as error:
            raise self._told(error) from error
        if status == far.NO_PYTHON:
            raise ServiceError(
                f"{self.describe()} has no python3", hint="install it there: apt-get install python3"
            )
        if status == far.OLD_PYTHON:
            raise ServiceError(f"{self.describe()}: its python3 is too old", hint=_OLD)
        if status == far.DAMAGED:
            raise ServiceError(f"{self.describe()}: what was sent did not arrive whole", retryable=True)
        return output

    def _told(self, error: StoreError) -> ServiceError:
        return ServiceError(error.message, detail=error.detail, hint=error.hint, retryable=error.retryable)
