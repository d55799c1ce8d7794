"""A Jenkins server: start a build, wait for it, read its log while it grows, fetch its artifacts.

The only importer of `jenkins` (python-jenkins), which knows Jenkins's addresses, folders and crumbs. What it
leaves out is here: retries with back-off, errors with a status, secrets in a body and not in an address,
and logs and artifacts of any size in flat memory.
"""

from __future__ import annotations

import codecs
import contextlib
import copy
import importlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import quote

from buildstep.errors import CIError, ExitCode, UsageError
from buildstep.events import Bus
from buildstep.net.errors import clean_text, safe_url
from buildstep.net.http import backoff_seconds
from buildstep.net.jenkins_login import Login, without

T = TypeVar("T")
CHUNK: Final = 1 << 18

RESULTS: Final[Mapping[str, int]] = {
    "SUCCESS": ExitCode.OK,
    "UNSTABLE": ExitCode.COMMAND_FAILED,
    "FAILURE": ExitCode.COMMAND_FAILED,
    "NOT_BUILT": ExitCode.NOTHING_TO_DO,
    "ABORTED": 143,
}
"""Exit status of `watch` by a build's result: as if the build had run here, and SIGTERM had aborted it."""

_TEMPORARY: Final = frozenset({0, 408, 425, 429, 500, 502, 503, 504})
_HINTS: Final = {
    401: "check JENKINS_USER and the API token",
    403: "this user has no permission for that, or the server wants a crumb",
    404: "check the job's name, folders and all; a job that this user may not see is not found either",
}
_LAST_ATTEMPTS: Final = 3
"""How often a build that nobody waits for any more is told to end."""

_TIMEOUTS: Final = (10.0, 60.0)
"""To connect, and for each silence of a response; in seconds."""


class ServerError(CIError):
    """A call that failed. status: of the response, 0 if none came."""

    def __init__(self, message: str, *, status: int, hint: str = "", detail: str = "") -> None:
        super().__init__(message, detail=detail, hint=hint, retryable=status in _TEMPORARY)
        self.status = status


@dataclass(frozen=True, kw_only=True, slots=True)
class JenkinsBuild:
    """A build of a job. job: its full name, folders and all, as in team/app/main."""

    job: str
    number: int
    url: str = ""


class JenkinsServer:
    """Calls to one Jenkins server.

    attempts: how often a call that may be repeated is made. backoff: the first pause between two, in seconds.
    sleep: makes a pause; what it raises ends the call that waits.
    """

    def __init__(
        self,
        login: Login,
        *,
        bus: Bus | None = None,
        attempts: int = 5,
        backoff: float = 0.5,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.login = login
        self.bus = bus or Bus()
        self.attempts = attempts
        self.backoff = backoff
        self.sleep = sleep
        # python-jenkins logs the headers of the first variable, and by the second trusts anybody.
        with without("JENKINS_API_EXTRA_HEADERS", "PYTHONHTTPSVERIFY"):
            self._api = _library().Jenkins(
                login.url, login.user or None, login.token or None, timeout=_TIMEOUTS
            )
        session = self._api._session
        session.verify = login.ca_bundle or True

    # -- calls -------------------------------------------------------------------------------------------

    def call(self, what: str, act: Callable[[], T], *, repeat: bool = True) -> T:
        """Make a call and return its result; repeat it after a pause if its failure may be temporary.

        what: names the call in errors. repeat: whether the call may be made again although the first one may
        have had its effect. A refused crumb is replaced once: that response says that nothing was done.
        Raises ServerError, and CIError for a response that is not JSON or a certificate that is not trusted.
        """
        attempt, fresh_crumb = 1, False
        while True:
            try:
                return self._once(what, act)
            except ServerError as error:
                if error.status == 403 and "crumb" in error.detail.lower() and not fresh_crumb:
                    fresh_crumb, self._api.crumb = True, None
                    continue
                if not (repeat and error.retryable) or attempt >= self.attempts:
                    raise
                pause = backoff_seconds(self.backoff, attempt)
                self.bus.note(f"{error.message}; trying again in {pause:.1f} s", level="warning")
                self.sleep(pause)
                attempt += 1

    def _once(self, what: str, act: Callable[[], T]) -> T:
        import requests

        try:
            return act()
        except _library().JenkinsException as error:
            # python-jenkins puts the status into a sentence; the response is with the exception's context.
            response = getattr(error.__context__, "response", None)
            raise self._error(what, error, response) from error
        except requests.HTTPError as error:
            raise self._error(what, error, error.response) from error
        except requests.JSONDecodeError as error:
            hint = "is this the right address, and no log-in page of a proxy?"
            raise CIError(f"{what}: the response is not JSON", hint=hint) from error
        except (requests.RequestException, OSError) as error:
            if isinstance(error, requests.exceptions.SSLError):
                hint = "set REQUESTS_CA_BUNDLE to the file of your certificate authority"
                raise CIError(f"{what}: the server's certificate is not trusted", hint=hint) from error
            raise self._error(what, error, None) from error

    def _error(self, what: str, cause: Exception, response: Any) -> ServerError:
        if response is None:
            message = f"{what}: no response from {safe_url(self.login.url)}"
            return ServerError(message, status=0, detail=self._clean(str(cause)))
        status: int = response.status_code
        detail = "" if status == 401 else self._clean(_visible(response.text[:4000]))
        message = f"{what}: {status} {response.reason}"
        return ServerError(message, status=status, hint=_HINTS.get(status, ""), detail=detail)

    def _clean(self, text: str) -> str:
        """Return a server's text as it may be shown, without our token."""
        return clean_text(text.replace(self.login.token, "***") if self.login.token else text)

    def get(self, what: str, path: str) -> Any:
        """Return the JSON at a path below the server."""
        return self.call(what, lambda: self._json(path))

    def _json(self, path: str) -> Any:
        with self._open("GET", path) as response:
            return response.json()

    @contextlib.contextmanager
    def _open(self, method: str, path: str, **more: Any) -> Iterator[Any]:
        """Make one attempt at a call whose body is then read piece by piece."""
        import requests

        request = requests.Request(method, self._api.server + path, **more)
        # Only what changes something needs a crumb.
        with self._api.jenkins_request(request, add_crumb=method != "GET", stream=True) as response:
            yield response

    def node_config(self, name: str) -> str:
        """Return the config.xml of a node; empty if this user may not read it."""
        path = "(built-in)" if name in ("Built-In Node", "master") else name
        try:
            text: str = self.call(f"the configuration of {name}", lambda: self._api.get_node_config(path))
        except ServerError as error:
            if error.status in (401, 403, 404, 405):
                return ""  # most users may not, and need not
            raise
        return text

    # -- builds ------------------------------------------------------------------------------------------

    def trigger(
        self,
        job: str,
        parameters: Mapping[str, str],
        *,
        timeout: float = 3600.0,
        poll: float = 2.0,
        each: Callable[[], None] = lambda: None,
        left: Callable[[str], None] = lambda _url: None,
    ) -> JenkinsBuild:
        """Start a build and return it when it has left the queue; cancel it if the wait ends early.

        timeout, poll: seconds in the queue, and between two looks at it. each: called at each look; what it
        raises ends the wait. left: is given the address of what could not be cancelled.
        """
        import requests

        what = f"triggering {job}"
        address = self._api.build_job_url(job).removeprefix(self._api.server)

        def post(name: str) -> Mapping[str, str]:
            # In the body: addresses end up in the access logs of every proxy.
            with self._open("POST", address + name, data=dict(parameters)) as response:
                headers: Mapping[str, str] = response.headers
                return headers

        # By itself, as this may be repeated, and a trigger may not.
        self.call(what, lambda: self._api.maybe_add_crumb(requests.Request("POST", self._api.server)))
        try:
            headers = self.call(what, lambda: post("WithParameters" if parameters else ""), repeat=False)
        except ServerError as error:
            if error.status == 0:
                error.hint = "the build may have been queued all the same; look before trying again"
            if error.status != 400 or parameters:
                raise
            headers = self.call(what, lambda: post("WithParameters"), repeat=False)  # takes the defaults
        found = re.search(r"/queue/item/(\d+)/?$", headers.get("Location", ""))
        if not found:
            raise CIError(
                f"{what}: the server did not queue it", hint="is the job disabled, or no job at all?"
            )
        item = int(found[1])
        try:
            return self._queued(job, item, each, timeout=timeout, poll=poll)
        except BaseException:
            try:
                self._cancel(job, item)
            except (CIError, UsageError):
                left(f"{self._api.server}queue/item/{item}/")
            raise

    def _queued(
        self, job: str, item: int, each: Callable[[], None], *, timeout: float, poll: float
    ) -> JenkinsBuild:
        deadline, why = time.monotonic() + timeout, ""
        while True:
            if (state := self._item(item)) is None:
                raise CIError(
                    f"{job}: the server does not know the build in the queue any more (item {item})",
                    hint="it may run all the same; look before trying again",
                )
            if state.get("cancelled"):
                raise CIError(f"{job}: somebody cancelled the build in the queue (item {item})")
            if started := state.get("executable"):
                return _build(job, started)
            if (now := str(state.get("why") or "")) and now != why:
                why = now
                self.bus.note(f"{job} waits in the queue: {self._clean(why)}")
            if time.monotonic() > deadline:
                raise CIError(f"{job} did not leave the queue within {timeout:g} s", detail=why)
            each()
            self.sleep(poll)

    def _cancel(self, job: str, item: int) -> None:
        """Take a build out of the queue; stop it, if it has left it at this moment. What ended the wait does
        not end this, and a server that is away does not hold it up for long. Raises CIError."""
        hurried = copy.copy(self)
        hurried.attempts, hurried.sleep = min(self.attempts, _LAST_ATTEMPTS), time.sleep
        hurried.call(f"cancelling queue item {item}", lambda: self._api.cancel_queue(item))
        if started := (hurried._item(item) or {}).get("executable"):
            hurried.stop(_build(job, started))

    def _item(self, item: int) -> Any:
        """Return what the server knows of a build in the queue. None where it has forgotten that: a while
        after it left the queue, and at once in a restart."""
        try:
            return self.get(f"queue item {item}", f"queue/item/{item}/api/json")
        except ServerError as error:
            if error.status != 404:
                raise
            return None

    def stop(self, build: JenkinsBuild) -> None:
        """Abort a build, as the button does; one that has ended stays as it is. Raises ServerError."""

        def post() -> None:
            with self._open("POST", f"{self._path(build)}/stop"):
                pass

        self.call(f"stopping {build.job} {build.number}", post)

    def info(self, build: JenkinsBuild) -> Any:
        """Return what the server knows of a build: result, building, artifacts, url."""
        path = f"{self._path(build)}/api/json?tree=result,building,url,artifacts[relativePath,fileName]"
        return self.get(f"{build.job} {build.number}", path)

    def parameters(self, job: str) -> list[str]:
        """Return the names of the parameters that a job declares. Raises ServerError."""
        path = f"{self._job_path(job)}/api/json?tree=property[parameterDefinitions[name]]"
        rows = self.get(job, path).get("property") or ()
        return [str(it.get("name")) for row in rows for it in row.get("parameterDefinitions") or ()]

    def latest(self, job: str) -> JenkinsBuild:
        """Return a job's last build. Raises CIError if there is none."""
        found = self.get(job, f"{self._job_path(job)}/api/json?tree=lastBuild[number,url]").get("lastBuild")
        if not found:
            raise CIError(f"{job} has not been built yet")
        return _build(job, found)

    def watch(
        self,
        build: JenkinsBuild,
        write: Callable[[str], None],
        *,
        timeout: float = 0.0,
        poll: float = 1.0,
        each: Callable[[], None] = lambda: None,
    ) -> str:
        """Write a build's log while it grows; return its result, such as SUCCESS.

        timeout: 0 for none; each: called at each look, what it raises ends the watch.
        """
        deadline = time.monotonic() + timeout if timeout else float("inf")
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        start, pause = 0, poll
        while True:
            end, more = self._log(build, start, lambda raw: write(decoder.decode(raw)))
            if end < start:
                self.bus.note(
                    "the log was cut on the server; what follows is from its new start", level="warning"
                )
            pause = poll if end != start else min(pause * 1.5, 10 * poll)
            start = end
            if not more:
                state = self.info(build)
                # The log may end a moment before the result is known.
                if not state.get("building") and state.get("result"):
                    write(decoder.decode(b"", final=True))
                    return str(state["result"])
            if time.monotonic() > deadline:
                raise CIError(f"{build.job} {build.number} did not end within {timeout:g} s", hint=build.url)
            each()
            self.sleep(pause)

    def _log(self, build: JenkinsBuild, start: int, write: Callable[[bytes], None]) -> tuple[int, bool]:
        """Write the log from an offset; return where it ends now, and whether more may come.

        Offsets count bytes of the raw log, and what we get is shorter, so a piece that was cut off cannot be
        resumed: it is written only when it is complete, and waits on disk if it is large.
        """

        def once() -> tuple[int, bool]:
            kept.seek(0)
            kept.truncate()
            with self._open("GET", f"{self._path(build)}/logText/progressiveText?start={start}") as response:
                size = response.headers.get("X-Text-Size", "")
                if not size.isdigit():
                    raise ServerError(f"the log of {build.job}: the response is no log", status=0)
                for piece in response.iter_content(CHUNK):
                    kept.write(piece)
                return int(size), response.headers.get("X-More-Data", "") == "true"

        with tempfile.SpooledTemporaryFile(max_size=4 * CHUNK) as kept:
            end, more = self.call(f"the log of {build.job} {build.number}", once)
            kept.seek(0)
            while piece := kept.read(CHUNK):
                write(piece)
        return end, more

    def download(
        self, build: JenkinsBuild, relative: str, begin: Callable[[], Callable[[bytes], object]]
    ) -> None:
        """Download an artifact. begin: called for each attempt; returns what takes the bytes."""
        path = f"{self._path(build)}/artifact/{quote(relative)}"

        def once() -> None:
            take = begin()
            with self._open("GET", path, headers={"Accept-Encoding": "identity"}) as response:
                for piece in response.iter_content(CHUNK):
                    take(piece)

        self.call(f"the artifact {relative}", once)

    def _job_path(self, job: str) -> str:
        return "/".join(f"job/{quote(part, safe='')}" for part in job.strip("/").split("/"))

    def _path(self, build: JenkinsBuild) -> str:
        return f"{self._job_path(build.job)}/{build.number}"


def _build(job: str, found: Mapping[str, Any]) -> JenkinsBuild:
    return JenkinsBuild(job=job, number=int(found["number"]), url=str(found.get("url", "")))


def _library() -> Any:
    """Import python-jenkins by name: a checker would take the checkout's directory jenkins/ for it."""
    return importlib.import_module("jenkins")


def _visible(text: str) -> str:
    """Return what a person would read of an HTML page."""
    text = re.sub(r"(?s)<(script|style)\b.*?</\1>|<[^>]*>", " ", text)
    return " ".join(text.split())[:400]
