"""`buildstep build`, which is also bin/build."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from buildstep import __version__


def _defines(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{value!r} is not key=value")
        found[key] = text
    return found


@click.command(
    "build",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 2 usage, 4 a command failed, 5 a tool is missing, 10 dataset, 11 image, "
    "12 install, 13 sandbox, 14 emit, 128+N signal N.",
)
@click.argument("proto_dir", metavar="[PROTO]", required=False)
@click.option(
    "-m",
    "--manifest",
    "manifest_arg",
    metavar="FILE|JSON",
    help="m.json, a template m.json.j2, JSON text, or - for standard input.",
)
@click.option("-d", "--dir", "dir_", metavar="DIR", help="The proto directory (same as PROTO).")
@click.option(
    "-i",
    "--image",
    metavar="REF",
    help="The base image: uuid, name@version, tar:FILE, mmdebstrap:SUITE, scratch.",
)
@click.option("-p", "--packages", multiple=True, metavar="A,B", help="Packages to install.")
@click.option(
    "-P", "--image-prefix", "--image_prefix", metavar="P", help="Name files P-VERSION (default: the name)."
)
@click.option("-M", "--motd", is_flag=True, default=None, help="Write /etc/motd (needs -S).")
@click.option(
    "-S", "--source-repo", "--source_repo", metavar="URL", help="Where the source is, for the motd."
)
@click.option(
    "-u",
    "--upgrade-first",
    "--upgrade_first",
    is_flag=True,
    default=None,
    help="Upgrade the base's packages first.",
)
@click.option(
    "-a", "--pkg-audit", "--pkg_audit", is_flag=True, default=None, help="Report known vulnerabilities."
)
@click.option("-o", "--output-dir", metavar="DIR", help="Where the files go (default: bits/NAME).")
@click.option(
    "-f",
    "--format",
    "formats",
    multiple=True,
    metavar="F",
    help="Format to write; repeat for more (default: oci).",
)
@click.option(
    "-c", "--compression", metavar="C", help="gzip, zstd, xz, bzip2 or none; each format has its own default."
)
@click.option(
    "--pool", metavar="URI", help="Where datasets live, such as overlay:/var/lib/buildstep/overlay."
)
@click.option("--installer", metavar="I", help="apt, pkgsrc, ... (default: what is in the image).")
@click.option("--order", metavar="O", help="proto-first (default) or packages-first.")
@click.option(
    "--owner", metavar="RULE", help="Owner of the proto's files: USER:GROUP or keep (default: root:root)."
)
@click.option(
    "--exclude", multiple=True, metavar="PATTERN", help="Leave out of the proto directory (rsync's patterns)."
)
@click.option("--clean", multiple=True, metavar="NAME", help="Cleaners to run, or -NAME to leave one out.")
@click.option("--full", is_flag=True, default=None, help="A zfs image that does not need its base.")
@click.option("--network/--no-network", default=None, help="Whether package steps may use the network.")
@click.option("--no-cache", is_flag=True, help="Build everything anew, trust nothing from earlier builds.")
@click.option("--dry-run", is_flag=True, help="Show what would be done and why; change nothing.")
@click.option(
    "--keep-on-failure", is_flag=True, default=None, help="Leave the clone of a failed build, and say where."
)
@click.option("--shell-on-failure", is_flag=True, default=None, help="Open a shell in it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
@click.option(
    "--log-json",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write every event to a file, a JSON object a line.",
)
@click.option(
    "-D", "defines", multiple=True, callback=_defines, metavar="KEY=VALUE", help="A value for templates."
)
@click.option("-v", "--verbose", count=True, help="Show the tools' output; twice: debug notes.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors and the result.")
@click.option("--as-buildimage", is_flag=True, hidden=True)
@click.version_option(__version__, prog_name="buildstep")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    proto_dir: str | None,
    manifest_arg: str | None,
    dir_: str | None,
    no_cache: bool,
    dry_run: bool,
    as_json: bool,
    as_buildimage: bool,
    log_json: str | None,
    defines: dict[str, str],
    verbose: int,
    quiet: bool,
    **options: Any,
) -> int:
    """Build an image: the base image, the PROTO directory laid over it, packages installed, cleaned.

    The result is PREFIX-VERSION with an extension per format, its .imgmanifest and its .buildrecord.json
    in the output directory; their paths are printed.
    """
    from buildstep.cli import session
    from buildstep.spec import load as specs
    from buildstep.spec import template

    flags = _flags(options) | {"proto": proto_dir, "dir": dir_, "cache": False if no_cache else None}
    if as_buildimage:
        # That tool always writes a zfs stream, and always into /tmp; scripts made for it look there.
        flags["formats"] = flags["formats"] or ["zfs"]
        flags["output_dir"] = flags["output_dir"] or "/tmp"
    manifest = sys.stdin.read() if manifest_arg == "-" else ""
    spec = specs.load(
        manifest_arg=manifest_arg,
        flags=flags,
        environ=os.environ,
        cwd=Path.cwd(),
        choices=choices(),
        defines=defines,
        git=lambda: template.git_facts(Path.cwd()),
        stdin=manifest,
    )
    if (spec.packages or spec.upgrade_first or spec.pkg_audit) and os.geteuid() != 0 and not dry_run:
        # What was read from standard input is gone: the command that starts again gets the text itself.
        session.enter_user_namespace([manifest if word == "-" else word for word in sys.argv[1:]])
    debug = bool(ctx.obj and ctx.obj.get("debug"))

    def job() -> int:
        return _build(spec, dry_run=dry_run, as_json=as_json, log_json=log_json, verbose=verbose, quiet=quiet)

    return session.enclosed(job, debug=debug)


def _flags(options: Mapping[str, Any]) -> dict[str, object]:
    """click's values as the spec takes them: lists of comma lists become lists, what is not given None."""
    flags: dict[str, object] = {}
    for name, value in options.items():
        if isinstance(value, tuple):
            split = name in ("packages", "formats", "clean")
            words = [word for item in value for word in (item.split(",") if split else [item])]
            flags[name] = words if value else None
        else:
            flags[name] = value
    return flags


def choices() -> Any:
    """What is plugged in, for the spec to check names against."""
    from buildstep import emit
    from buildstep.rootfs import cleaners, installers
    from buildstep.spec.load import Choices

    return Choices(
        installers=tuple(installers.INSTALLERS),
        formats=tuple(emit.EMITTERS),
        cleaners=tuple(cleaners.CLEANERS),
    )


def _build(
    spec: Any, *, dry_run: bool, as_json: bool, log_json: str | None, verbose: int, quiet: bool
) -> int:
    import gc

    from buildstep.build.execute import execute
    from buildstep.build.plan import plan
    from buildstep.cli import session
    from buildstep.report.console import JsonView

    # Lists of a hundred thousand paths hold no cycles; looking for some takes a third of the time.
    gc.disable()
    # What a variable says is for the configuration to judge: its files win over the environment.
    pool = spec.pool if spec.origin_of["pool"] != "environment" else None
    opened = session.open_session(pool, verbose=verbose, quiet=quiet or dry_run, healing=not dry_run)
    if log_json:
        stream = open(log_json, "w", encoding="utf-8")  # noqa: SIM115 - closed with the command
        click.get_current_context().call_on_close(stream.close)
        opened.bus.subscribe(JsonView(stream))
    plain = bool(os.environ.get("BUILDSTEP_PLAIN"))
    decided = plan(spec, opened.store, opened.cache, plain=plain, environ=opened.environ)
    if dry_run:
        _show_plan(decided, spec, as_json=as_json, verbose=verbose)
        return 0
    result = execute(decided, store=opened.store, cache=opened.cache, bus=opened.bus, environ=opened.environ)
    if any(opened.bus.counts.get(name) for name in ("layers_made", "layers_kept")):
        from buildstep.cache import prune

        prune.keep_within(opened.cache, opened.limits)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))
    else:
        for path in result.paths:
            click.echo(_short(path))
    return 0


def _short(path: Path) -> str:
    """A path as the user would type it from here."""
    try:
        return os.fspath(path.relative_to(Path.cwd()))
    except ValueError:
        return os.fspath(path)


def _show_plan(decided: Any, spec: Any, *, as_json: bool, verbose: int) -> None:
    from buildstep.spec import load as specs

    if as_json:
        click.echo(json.dumps(decided.to_json(), indent=2))
        return
    for name, value, origin in specs.summary(spec):
        if origin != "default" or verbose or name == "pool":
            # The pool that is used, also where none was named.
            shown = decided.pool if name == "pool" else value
            click.secho(f"  {name:18} {shown}  ({origin})", dim=origin == "default")
    for step in decided.steps:
        click.echo(f"{step.state:6} {step.name:9} {step.reason}")
