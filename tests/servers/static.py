"""A web server of a directory, as an index of packages is: what is in its files may be kept for ever."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOR_EVER = (".whl", ".tgz")


@dataclass
class StaticFiles:
    """A directory that is served on a port of loopback. asked: the paths of all requests, in their order."""

    folder: Path
    port: int = 0
    asked: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """Serve it until the block ends."""
        asked = self.asked

        class Handler(SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                asked.append(self.path)
                super().do_GET()

            def end_headers(self) -> None:
                if self.path.endswith(FOR_EVER):
                    self.send_header("Cache-Control", "max-age=365000000, immutable")
                super().end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Not on the test's output."""

        handler = functools.partial(Handler, directory=str(self.folder))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
