"""How long does a host take to find its services among many patterns, and a change to reach all who wait?

`python -m bench.register [--patterns N] [--hosts N] [--watchers N] [--changes N] [--register KIND]`

Resolved are hosts among patterns of four kinds: as a fleet has them (site and role, a few exceptions), all
with a star in front, all with stars around a word, and all with a class. Watchers are `Register.wait` in
threads of a few processes, each with a connection of its own, on one real Consul agent or one file; a change
is made by `map add`'s function, and each watcher's clock is read when it has the new mappings.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.files_store import say
from bench.machine import host
from buildstep.assets import mapping, open_register
from buildstep.assets.interface import Register, RegisterAccess
from buildstep.assets.patterns import Patterns, resolve
from buildstep.events import Bus

PROCESSES = 4
PATTERN = "web-*"


# -- resolving ---------------------------------------------------------------------------------------------


def mixes(count: int) -> dict[str, list[str]]:
    """Return lists of so many patterns, by kind."""
    rng = random.Random(1)
    roles = ["web", "db", "app", "mq", "cache", "batch"]
    fleet = {"*", "*-canary"} | {f"{role}-*" for role in roles}
    while len(fleet) < count:
        name = f"{rng.choice(roles)}-s{rng.randrange(40):02}-{rng.randrange(1000):03}"
        fleet.add(name if rng.random() < 0.3 else f"{name[: rng.choice((7, 8, 9, 10))]}*")
        fleet.add(f"{name[:-1]}?" if rng.random() < 0.1 else f"{name}.*")
    return {
        "fleet": sorted(fleet)[:count],
        "star in front": [f"*-{number}" for number in range(count)],
        "stars around": [f"*{number:05}*" for number in range(count)],
        "class": [f"[a-z]*-{number}[0-9]" for number in range(count)],
    }


def names(count: int) -> list[str]:
    """Return names of hosts."""
    rng = random.Random(2)
    roles = ["web", "db", "app", "mq", "cache", "batch"]
    return [
        f"{rng.choice(roles)}-s{rng.randrange(40):02}-{rng.randrange(1000):03}.dc{number % 3}.example.com"
        if number % 2
        else f"{rng.choice(roles)}-s{rng.randrange(40):02}-{rng.randrange(1000):03}"
        for number in range(count)
    ]


def resolving(patterns: int, hosts: int) -> dict[str, dict[str, float]]:
    """Return milliseconds of a core by kind of pattern: to read in all, then of one resolve.

    alone: of a host for which all this is done once, and nothing is kept.
    """
    found = {}
    for kind, texts in mixes(patterns).items():
        services = {text: (f"s{number % 50}",) for number, text in enumerate(texts)}
        began = time.thread_time()
        known = Patterns(services)
        read = time.thread_time() - began
        began = time.thread_time()
        resolve(services, names(1)[0])
        alone = time.thread_time() - began
        times = []
        for name in names(hosts):
            began = time.thread_time()
            known.resolve(name)
            times.append(time.thread_time() - began)
        times_ms = sorted(1000 * each for each in times)
        found[kind] = {
            "read": 1000 * read,
            "alone": 1000 * alone,
            "first": 1000 * times[0],
            "median": statistics.median(times_ms),
            "p99": times_ms[int(len(times_ms) * 0.99)],
            "max": times_ms[-1],
            "looked at": known.looked_at / hosts,
        }
        told = ", ".join(f"{what} {value:.2f}" for what, value in found[kind].items())
        say(f"{kind}: {told} (ms, but the last)")
    return found


# -- watching ----------------------------------------------------------------------------------------------


def _open(url: str) -> Register:
    return open_register(url, RegisterAccess(environ={}, bus=Bus()))


def _watch(url: str, count: int, rounds: int, ready: Any, results: Any) -> None:
    """Wait in so many threads for so many changes; send when each thread had each."""

    def one() -> None:
        register = _open(url)
        index = register.read().index
        ready.release()
        for number in range(rounds):
            mappings = register.wait(index, 60)
            while f"round{number}" not in mappings.services.get(PATTERN, ()):
                mappings = register.wait(mappings.index, 60)
            results.put((number, time.monotonic()))
            index = mappings.index

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def watching(url: str, watchers: int, changes: int) -> dict[str, list[float]]:
    """Return the seconds after which the first, half and all of the watchers had each change."""
    context = multiprocessing.get_context("spawn")
    ready, results = context.Semaphore(0), context.Queue()
    register = _open(url)
    mapping.add(register, PATTERN, ["base"])
    shares = [watchers // PROCESSES + (number < watchers % PROCESSES) for number in range(PROCESSES)]
    children = [
        context.Process(target=_watch, args=(url, share, changes, ready, results)) for share in shares
    ]
    for child in children:
        child.start()
    found: dict[str, list[float]] = {"first": [], "half": [], "all": []}
    try:
        for _ in range(watchers):
            assert ready.acquire(timeout=60), "not all watchers got ready"
        for number in range(changes):
            time.sleep(1)  # all wait again
            began = time.monotonic()
            mapping.add(register, PATTERN, [f"round{number}"])
            ended = sorted(results.get(timeout=60)[1] - began for _ in range(watchers))
            found["first"].append(ended[0])
            found["half"].append(ended[len(ended) // 2])
            found["all"].append(ended[-1])
            say(f"change {number + 1}: {ended[0]:.3f} s to the first, {ended[-1]:.3f} s to all {watchers}")
    finally:
        for child in children:
            child.join(5)
            if child.is_alive():
                child.terminate()
    return found


@contextmanager
def place(kind: str, folder: Path) -> Iterator[str]:
    """Yield the URL of a new register."""
    if kind == "file":
        yield f"file:{folder}/mappings.toml"
        return
    from tests.servers.consul import agent

    # An agent has one host as its client; here it has all, and by default takes 200 connections of one.
    with agent(folder / "consul", config={"limits": {"http_max_conns_per_client": 2000}}) as found:
        yield found.url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patterns", type=int, default=10_000)
    parser.add_argument("--hosts", type=int, default=1_000)
    parser.add_argument("--watchers", type=int, default=200)
    parser.add_argument("--changes", type=int, default=5)
    parser.add_argument("--register", choices=["consul", "file"], default="consul")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = {"resolve_ms": resolving(options.patterns, options.hosts)}
    with tempfile.TemporaryDirectory(prefix="register-") as name:
        found["host"] = host(Path(name))
        with place(options.register, Path(name)) as url:
            found["watch_s"] = watching(url, options.watchers, options.changes)
    if options.out:
        options.out.write_text(json.dumps(found, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()
