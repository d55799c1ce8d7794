"""`buildstep cache warm` and `cache doctor`: fill a shared cache, and measure it."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.options import JSON, POOL, PROFILES, pairs, show
from buildstep.system.text import plural, size_text

if TYPE_CHECKING:
    from buildstep.spec.fields import BuildSpec

SHARED_URL = click.option(
    "--shared-cache",
    metavar="URL",
    shell_complete=values.STORES,
    help="The cache (default: the configured one).",
)
_WARM_SECONDS = 3600.0


@click.command("warm")
@click.argument("manifests", nargs=-1, required=True, metavar="M.JSON...", shell_complete=values.FILES)
@SHARED_URL
@POOL
@click.option("-D", "defines", multiple=True, callback=pairs, metavar="KEY=VALUE", help="For templates.")
@PROFILES
@click.option("-v", "--verbose", count=True, help="Show the tools' output.")
@JSON
def warm(
    manifests: tuple[str, ...],
    shared_cache: str | None,
    pool: str | None,
    defines: dict[str, str],
    profiles: tuple[str, ...],
    verbose: int,
    as_json: bool,
) -> int:
    """Make the base images and the layers with packages of m.json files, and put them into the shared cache.

    For a job that runs by itself, as by night: builds find there what they need, and put little there
    themselves. The proto directories are not looked at, and no image is kept.
    """
    from buildstep.cli import session, user_namespace
    from buildstep.cli.build import load_spec, named_pool, read_here

    with tempfile.TemporaryDirectory(prefix="buildstep-warm-") as work:
        proto = Path(work, "proto")
        proto.mkdir()
        flags: dict[str, object] = {
            "proto": str(proto), "shared_cache": shared_cache, "pool": pool, "motd": False,
        }  # fmt: skip
        specs = [
            load_spec(
                read_here(name, defines, profiles=profiles), {**flags, "output_dir": f"{work}/{number}"}
            )
            for number, name in enumerate(manifests)
        ]
        for spec in specs[:1]:
            user_namespace.enter(named_pool(spec), packages=any(spec.runs for spec in specs))
        return session.enclosed(lambda: _warm(specs, manifests, verbose=verbose, as_json=as_json))


def _warm(specs: list[BuildSpec], names: tuple[str, ...], *, verbose: int, as_json: bool) -> int:
    from buildstep.build import shared_put
    from buildstep.build.execute import execute
    from buildstep.build.plan import plan
    from buildstep.cli import session, shared
    from buildstep.cli.build import named_pool
    from buildstep.errors import UsageError

    rows: list[dict[str, Any]] = []
    for spec, name in zip(specs, names, strict=True):
        opened = session.open_session(named_pool(spec), verbose=verbose)
        wanted = shared.attach(replace(spec, **_PLAIN), opened)
        if wanted.sharing is None:
            raise UsageError(
                f"{name} has no shared cache",
                hint="name one: --shared-cache URL, or cache.shared in the file",
            )
        settings = replace(wanted.sharing, upload=True, budget=_WARM_SECONDS)
        assert opened.store.shared is not None
        opened.store.shared.settings, opened.store.shared.thorough = settings, True
        decided = plan(wanted, opened.store, opened.cache, environ=opened.environ)
        result = execute(
            decided.full(), store=opened.store, cache=opened.cache, bus=opened.bus, environ=opened.environ
        )
        sent = shared_put.Sent()
        if result.uploads is not None:
            sent = shared_put.upload(
                result.uploads, settings, opened.backend.state, opened.environ, opened.bus
            )
        rows.append({"manifest": name, "records": sent.records, "bytes": sent.size, "left_out": sent.left})
    lines = [
        f"{row['manifest']}: {plural(row['records'], 'record')}, {size_text(row['bytes'])} uploaded"
        + (f"; {row['left_out']} not" if row["left_out"] else "")
        for row in rows
    ]
    show({"warmed": rows}, lines, as_json=as_json, done="; ".join(lines))
    return 0


_PLAIN: dict[str, Any] = {
    "run": (), "checks": {}, "over_size": "warn", "formats": ("oci",), "keep_on_failure": False,
    "shell_on_failure": False, "exclude": (), "replace": (), "modes": {}, "store": None, "ref": None,
    # What is put there has to be good now.
    "base_max_age": 0, "index_max_age": 0,
}  # fmt: skip
"""What of a spec decides nothing of its base and of its layer with packages, and would need its proto
directory."""


@click.command("doctor")
@SHARED_URL
@POOL
@click.option("--write", "writes", is_flag=True, help="Put a test record there, and fetch it: 4 MiB.")
@JSON
def doctor(shared_cache: str | None, pool: str | None, writes: bool, as_json: bool) -> int:
    """Measure the shared cache: how quickly it answers, how much comes in a second, who may read and write,
    whether the clocks agree, which key signs and which the policy allows.

    Exit code 26 where builds could not use it.
    """
    from buildstep.cli import guard
    from buildstep.cli.shared_doctor import examine
    from buildstep.errors import ExitCode

    def job() -> int:
        rows = examine(shared_cache, pool, writes=writes)
        lines = [f"{row['result']:5} {row['check']:10} {row['text']}" for row in rows]
        show({"checks": rows}, lines, as_json=as_json)
        return ExitCode.SHARED_CACHE if any(row["result"] == "bad" for row in rows) else ExitCode.OK

    return guard.guarded(job)
