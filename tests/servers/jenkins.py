"""A Jenkins server on loopback: its JSON API, crumbs, queue, folders, growing logs, artifacts, and its faults.

The answers have the form of a real controller's; a test sets up agents, jobs and faults as data.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

AGENTS = "hudson.node_monitors.ArchitectureMonitor"


@dataclass
class Run:
    """A build. log: pieces it grows by, one a call; the whole is there when they are used up."""

    number: int
    result: str | None = "SUCCESS"
    log: list[bytes] = field(default_factory=lambda: [b"Started by user ann\n", b"Finished: SUCCESS\n"])
    artifacts: dict[str, bytes] = field(default_factory=dict)
    parameters: dict[str, list[str]] = field(default_factory=dict)
    seen: bytes = b""
    late: int = 0
    """Calls for which the result is still unknown after the log has ended."""
    rotate_at: int = 0
    """At this many bytes the log is cut and starts anew."""

    def grow(self) -> None:
        """Somebody asks for the log."""
        if self.log:
            self.seen += self.log.pop(0)

    def running(self) -> bool:
        """Somebody asks whether it still runs."""
        running = bool(self.log) or self.late > 0
        self.late -= not self.log and self.late > 0
        return running

    def more(self) -> bool:
        """Whether the log may grow."""
        return bool(self.log)

    def stop(self) -> None:
        """Somebody aborts it."""
        self.log.clear()
        self.result = "ABORTED"


@dataclass
class Item:
    """Something in the queue. waits: calls before it leaves."""

    number: int
    job: str
    parameters: dict[str, list[str]]
    waits: int = 2
    cancelled: bool = False
    build: int = 0
    run: Run | None = None

    def leaves(self) -> bool:
        """Somebody asks whether it has left the queue."""
        self.waits -= self.waits > 0
        return self.waits == 0


@dataclass
class Job:
    runs: dict[int, Run] = field(default_factory=dict)
    parametrized: bool = False
    disabled: bool = False
    next_run: Run | None = None
    queue_waits: int = 2
    queue_cancelled: bool = False
    parameters: tuple[str, ...] = ()
    """Those that it declares."""
    begin: Callable[[int, dict[str, list[str]]], tuple[Run, Item]] | None = None
    """Begins a build that really runs; see `jenkins_agents`."""


def node(name: str, *, labels: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    """An agent as /computer/api/json shows it."""
    return {
        "_class": "hudson.slaves.SlaveComputer",
        "assignedLabels": [{"name": name}, *({"name": label} for label in labels)],
        "description": "",
        "displayName": name,
        "executors": [{"idle": True}, {"idle": False}],
        "monitorData": {AGENTS: "Linux (amd64)", "hudson.node_monitors.ClockMonitor": {"diff": 3}},
        "numExecutors": 2,
        "offline": False,
        "offlineCauseReason": "",
        "temporarilyOffline": False,
        **more,
    }


class FakeJenkins:
    """The controller's state, and what was asked of it."""

    def __init__(self, *, user: str = "ann", token: str = "11aa22bb") -> None:
        self.user, self.token = user, token
        self.crumb = "crumb-1"
        self.want_crumb = True
        self.jobs: dict[str, Job] = {}
        self.nodes: list[dict[str, Any]] = []
        self.configs: dict[str, str] = {}
        self.queue: dict[int, Item] = {}
        self.calls: list[str] = []
        self.counts: Counter[str] = Counter()
        self.faults: list[tuple[str, str]] = []
        """(pattern of a path, fault), each used once: 500, 502, 503, drop, cut, html."""
        self.lock = threading.Lock()
        self.url = ""

    def fault(self, path: str) -> str:
        with self.lock:
            for index, (pattern, kind) in enumerate(self.faults):
                if re.search(pattern, path):
                    del self.faults[index]
                    return kind
        return ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    jenkins: FakeJenkins

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base class
        pass

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    # -- answers

    def _reply(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("X-Jenkins", "2.462.3")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _json(self, value: object) -> None:
        self._reply(200, json.dumps(value).encode())

    def _html(self, status: int, text: str) -> None:
        page = f"<html><head><style>p {{}}</style></head><body><p>{text}</p></body></html>"
        self._reply(status, page.encode(), "text/html;charset=iso-8859-1")

    # -- routing

    def _serve(self, method: str) -> None:
        server = self.jenkins
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        server.calls.append(f"{method} {self.path}")
        server.counts[f"{method} {path}"] += 1
        match server.fault(path):
            case "drop":
                self.close_connection = True
                return
            case "html":
                self._html(200, "Please log in")
                return
            case "cut":
                self._cut(path, parse_qs(parts.query))
                return
            case status if status:
                self._html(
                    int(status),
                    "Oops! A problem occurred while processing the request. token was " + server.token,
                )
                return
        wanted = "Basic " + base64.b64encode(f"{server.user}:{server.token}".encode()).decode()
        if self.headers.get("Authorization") != wanted:
            self._html(401, "Invalid password/token for user: " + server.user)
            return
        if path == "/crumbIssuer/api/json":
            if not server.want_crumb:
                self._html(404, "Not Found")
                return
            self._json(
                {
                    "_class": "hudson.security.csrf.DefaultCrumbIssuer",
                    "crumb": server.crumb,
                    "crumbRequestField": "Jenkins-Crumb",
                }
            )
            return
        if method == "POST" and server.want_crumb and self.headers.get("Jenkins-Crumb") != server.crumb:
            self._html(403, "No valid crumb was included in the request")
            return
        self._route(method, path, parse_qs(parts.query), parse_qs(body.decode()))

    def _route(self, method: str, path: str, query: dict[str, list[str]], form: dict[str, list[str]]) -> None:
        server = self.jenkins
        if path == "/computer/api/json":
            self._json({"_class": "hudson.model.ComputerSet", "computer": server.nodes})
        elif found := re.fullmatch(r"/computer/(.+)/config.xml", path):
            if found[1] in server.configs:
                self._reply(200, server.configs[found[1]].encode(), "application/xml")
            else:
                self._html(403, f"{server.user} is missing the Agent/ExtendedRead permission")
        elif found := re.fullmatch(r"/queue/item/(\d+)/api/json", path):
            self._queue_item(int(found[1]))
        elif path == "/queue/cancelItem" and method == "POST":
            item = server.queue[int(query["id"][0])]
            item.cancelled = True
            if item.run is not None:
                item.run.stop()
            self._reply(204, b"")
        elif found := re.fullmatch(r"((?:/job/[^/]+)+)(?:/(.*))?", path):
            name = "/".join(found[1].split("/job/")[1:])
            if name not in server.jobs:
                self._html(404, "Not Found")
                return
            self._job(method, name, server.jobs[name], found[2] or "", query, form)
        else:
            self._html(404, "Not Found")

    def _queue_item(self, number: int) -> None:
        item = self.jenkins.queue.get(number)
        if item is None:
            self._html(404, "Not Found")
            return
        state: dict[str, Any] = {
            "_class": "hudson.model.Queue$WaitingItem",
            "id": number,
            "stuck": False,
            "cancelled": item.cancelled,
        }
        if not item.cancelled and not item.leaves():
            state["why"] = "Waiting for next available executor on \u2018arch-arm64\u2019"
        elif not item.cancelled:
            url = self.jenkins.url + "".join(f"job/{part}/" for part in item.job.split("/"))
            state |= {"why": None, "executable": {"number": item.build, "url": f"{url}{item.build}/"}}
        self._json(state)

    def _job(
        self,
        method: str,
        name: str,
        job: Job,
        rest: str,
        query: dict[str, list[str]],
        form: dict[str, list[str]],
    ) -> None:
        if method == "POST" and rest in ("build", "buildWithParameters"):
            if job.disabled:
                self._reply(302, b"", Location=".")
            elif job.parametrized != (rest == "buildWithParameters"):
                self._html(
                    400, "Nothing is submitted" if job.parametrized else f"{name} is not parameterized"
                )
            else:
                self._start(name, job, form)
        elif rest == "api/json" and "parameterDefinitions" in query.get("tree", [""])[0]:
            self._json({"property": [{}, {"parameterDefinitions": [{"name": it} for it in job.parameters]}]})
        elif rest == "api/json":
            last = max(job.runs, default=0)
            self._json(
                {"lastBuild": {"number": last, "url": f"{self.jenkins.url}{name}/{last}/"} if last else None}
            )
        elif found := re.fullmatch(r"(\d+)/(.*)", rest):
            run = job.runs.get(int(found[1]))
            if run is None:
                self._html(404, "Not Found")
            elif method == "POST" and found[2] == "stop":
                run.stop()
                self._reply(302, b"", Location=".")
            else:
                self._run(run, found[2], query)
        else:
            self._html(404, "Not Found")

    def _start(self, name: str, job: Job, form: dict[str, list[str]]) -> None:
        server = self.jenkins
        number = max(job.runs, default=0) + 1
        if job.begin is not None:
            run, item = job.begin(len(server.queue) + 25, form)
        else:
            run = job.next_run or Run(number)
            item = Item(len(server.queue) + 25, name, form, waits=job.queue_waits)
        run.number, run.parameters, job.runs[number] = number, form, run
        item.job, item.build, item.cancelled = name, number, job.queue_cancelled
        server.queue[item.number] = item
        self._reply(201, b"", Location=f"{server.url}queue/item/{item.number}/")

    def _run(self, run: Run, rest: str, query: dict[str, list[str]]) -> None:
        if rest == "api/json":
            running = run.running()
            listed = [{"fileName": it.rpartition("/")[2], "relativePath": it} for it in run.artifacts]
            self._json(
                {
                    "building": running,
                    "result": None if running else run.result,
                    "artifacts": listed,
                    "number": run.number,
                }
            )
        elif not rest:
            self._html(200, f"#{run.number}")
        elif rest == "logText/progressiveText":
            self._log(run, int(query.get("start", ["0"])[0]))
        elif rest.startswith("artifact/") and rest.removeprefix("artifact/") in run.artifacts:
            self._reply(200, run.artifacts[rest.removeprefix("artifact/")], "application/octet-stream")
        else:
            self._html(404, "Not Found")

    def _log(self, run: Run, start: int) -> None:
        run.grow()
        if run.rotate_at and len(run.seen) >= run.rotate_at:
            run.seen, run.rotate_at = b"[cut]\n", 0
        start = 0 if start > len(run.seen) else start  # what a controller does when the log has shrunk
        # The raw log has console notes in it that are not served: offsets are not lengths of what came.
        body = re.sub(rb"\x1b\[8mha:[^\x1b]*\x1b\[0m", b"", run.seen[start:])
        more = {"X_More_Data": "true"} if run.more() else {}
        self._reply(200, body, "text/plain;charset=utf-8", X_Text_Size=str(len(run.seen)), **more)

    def _cut(self, path: str, query: dict[str, list[str]]) -> None:
        """A head that promises more than comes."""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("X-Text-Size", "999")
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"half of it")
        self.close_connection = True


@contextmanager
def serving(server: FakeJenkins, *, tls: ssl.SSLContext | None = None) -> Iterator[FakeJenkins]:
    """Run it on loopback for the length of a block."""
    handler = type("Handler", (_Handler,), {"jenkins": server})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    http.daemon_threads = True
    if tls is not None:
        http.socket = tls.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
    server.url = f"http{'s' if tls else ''}://127.0.0.1:{http.server_address[1]}/"
    thread = threading.Thread(target=lambda: http.serve_forever(poll_interval=0.01), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
