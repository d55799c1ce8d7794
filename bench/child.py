"""Run one command and measure it; a small process of its own, so that its memory is not the child's.

`python -I -S child.py RESULT TIMEOUT ARGV...` writes a JSON object to RESULT. (The kernel counts what a
process was before exec as part of its peak: a large parent would make every child look large.)
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

GRACE = 3.0


def _children(pid: int) -> list[int]:
    found = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as stream:
                found += [int(word) for word in stream.read().split()]
    except OSError:
        pass
    return found


def _anonymous(pid: int) -> int:
    """Bytes of a process that are neither file pages nor shared memory."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as stream:
            for line in stream:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _proportional(pid: int) -> int:
    """Bytes that a process holds, what it shares counted by its share (PSS)."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii", errors="replace") as stream:
            for line in stream:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


class Memory(threading.Thread):
    """Samples what a process and all its descendants hold together, ten times a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.peak = 0
        self.shares = 0
        self.processes = 0
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.1):
            todo, total, shares, count = [self.pid], 0, 0, 0
            while todo:
                pid = todo.pop()
                count += 1
                total += _anonymous(pid)
                shares += _proportional(pid)
                todo += _children(pid)
            self.peak = max(self.peak, total)
            self.shares = max(self.shares, shares)
            self.processes = max(self.processes, count)


def _signal(group: int, signum: int) -> bool:
    try:
        os.killpg(group, signum)
    except ProcessLookupError:
        return False
    return True


def _end(group: int) -> None:
    """Ask a session to end, and make it."""
    _signal(group, signal.SIGTERM)
    end = time.monotonic() + GRACE
    while time.monotonic() < end and _signal(group, 0):
        time.sleep(0.05)
    _signal(group, signal.SIGKILL)


def measure(argv: list[str], limit: float) -> dict[str, object]:
    """Run argv, at most `limit` seconds, in a session of its own that is gone when this returns."""
    begin = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.execvp(argv[0], argv)
        except OSError as error:
            os.write(2, f"{argv[0]}: {error}\n".encode())
        finally:
            os._exit(127)
    memory = Memory(pid)
    memory.start()
    expired = threading.Event()

    def stop() -> None:
        expired.set()
        _end(pid)

    timer = threading.Timer(limit, stop)
    timer.daemon = True
    timer.start()
    try:
        _, status, usage = os.wait4(pid, 0)
    except BaseException:
        _end(pid)
        raise
    finally:
        _signal(pid, signal.SIGKILL)  # what it left running in its session
    seconds = time.monotonic() - begin
    timer.cancel()
    memory.done.set()
    return {
        "seconds": round(seconds, 4),
        "status": os.waitstatus_to_exitcode(status),
        "expired": expired.is_set(),
        "user": round(usage.ru_utime, 3),
        "system": round(usage.ru_stime, 3),
        "rss_largest": usage.ru_maxrss * 1024,
        "anon_total": memory.peak,
        "pss_total": memory.shares,
        "processes": memory.processes,
    }


def main() -> None:
    result, limit, *argv = sys.argv[1:]

    def stop(signum: int, _frame: object) -> None:
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, stop)
    value = measure(argv, float(limit))
    with open(result, "w", encoding="utf-8") as stream:
        json.dump(value, stream)


if __name__ == "__main__":
    main()
