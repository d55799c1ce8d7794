"""`buildstep build`, which is also bin/build."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import click

from buildstep import __version__
from buildstep.cli import build_options, inputs, values
from buildstep.cli.choices import choices
from buildstep.cli.options import PROFILES, echo, pairs, print_json, read_stdin, short_path, show, tell
from buildstep.errors import SpecError, UsageError
from buildstep.system import standard_streams

if TYPE_CHECKING:
    from buildstep.build.plan import Plan
    from buildstep.spec.config import Config
    from buildstep.spec.document import Document
    from buildstep.spec.fields import BuildSpec


def _no_cache(_ctx: click.Context, _param: click.Parameter, value: bool) -> bool | None:
    """Return the setting `cache` that --no-cache stands for."""
    return False if value else None


@click.command(
    "build",
    epilog="Exit codes: 0 done, 2 usage, 4 a command failed, 5 a tool is missing, 6 a disk is full or fails, "
    "10 dataset, 11 image, 12 install, 13 sandbox, 14 emit, 19 a key cannot sign, 25 a check failed, "
    "30 to 34 the base is not what its policy wants, 35 known vulnerabilities, 36 no database of these, "
    "128+N signal N.",
)
@inputs.ARGUMENT
@click.option(
    "-m",
    "--manifest",
    "manifest_arg",
    metavar="FILE|JSON",
    shell_complete=values.FILES,
    help="m.json, a template m.json.j2, JSON text, or - for standard input (same as MANIFEST; default: the "
    "m.json or m.json.j2 that is here).",
)
@click.option(
    "-d",
    "--dir",
    "dir",
    metavar="DIR",
    shell_complete=values.FOLDERS,
    help="The proto directory (same as PROTO; default: proto).",
)
@click.option(
    "-i",
    "--image",
    metavar="REF",
    shell_complete=values.REFERENCES,
    help="The base image: uuid, name@version, tar:FILE, mmdebstrap:SUITE, scratch.",
)
@click.option(
    "--platform",
    metavar="OS/ARCH",
    help="What it is for, such as linux/arm64 (default: as the base is).",
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
@click.option(
    "-o",
    "--output-dir",
    metavar="DIR",
    shell_complete=values.FOLDERS,
    help="Where the files go (default: bits/NAME).",
)
@click.option(
    "-f",
    "--format",
    "formats",
    multiple=True,
    metavar="F",
    shell_complete=values.OF_SETTING,
    help="Format to write; repeat for more (default: oci).",
)
@click.option(
    "-c",
    "--compression",
    metavar="C",
    shell_complete=values.OF_SETTING,
    help="gzip, zstd, xz, bzip2 or none; each format has its own default.",
)
@click.option(
    "--pool",
    metavar="URI",
    shell_complete=values.POOLS,
    help="Where datasets live, such as overlay:/var/lib/buildstep/overlay.",
)
@click.option(
    "--installer",
    metavar="I",
    shell_complete=values.OF_SETTING,
    help="apt, pkgsrc, dnf, ... (default: what is in the image).",
)
@click.option(
    "--order", metavar="O", shell_complete=values.OF_SETTING, help="proto-first (default) or packages-first."
)
@click.option(
    "--owner",
    metavar="RULE",
    shell_complete=values.OWNERS,
    help="Owner of the proto's files: USER:GROUP or keep (default: root:root).",
)
@click.option(
    "--exclude", multiple=True, metavar="PATTERN", help="Leave out of the proto directory (rsync's patterns)."
)
@click.option(
    "--replace",
    multiple=True,
    metavar="PATTERN",
    help="Path at which the proto directory may take a directory's place, or a directory a file's.",
)
@click.option(
    "--clean",
    multiple=True,
    metavar="NAME",
    shell_complete=values.OF_SETTING,
    help="Cleaners to run, or -NAME to leave one out.",
)
@click.option("--full", is_flag=True, default=None, help="A zfs or btrfs image that does not need its base.")
@click.option(
    "--base-max-age",
    type=int,
    metavar="SECONDS",
    default=None,
    help="Ask whether a suite has changed since its base was made, if that is longer ago.",
)
@click.option("--pull", is_flag=True, help="Ask for a newer base now; short for --base-max-age 0.")
@click.option("--max-size", metavar="SIZE", default=None, help="How large the image may be, such as 500M.")
@click.option("--max-growth", metavar="SIZE", default=None, help="By how much it may grow: 10M or 5%.")
@click.option(
    "--sparse", is_flag=True, default=None, help="Write files with large holes as GNU sparse files."
)
@click.option(
    "--store",
    metavar="URL",
    shell_complete=values.STORES,
    help="Where the format files records the image, such as dir:/srv/store or s3://BUCKET.",
)
@click.option("--ref", metavar="NAME", help="The name of the image in the store (default: NAME/VERSION).")
@click.option("--network/--no-network", default=None, help="Whether package steps may use the network.")
@click.option(
    "--locked/--no-lock",
    "locked",
    default=None,
    help="Demand a lock that fits (see `buildstep lock`), or build without it.",
)
@click.option(
    "--no-cache",
    "cache",
    is_flag=True,
    callback=_no_cache,
    help="Build everything anew, trust nothing from earlier builds.",
)
@click.option("--paranoid", is_flag=True, default=None, help="Hash every stored layer of the image again.")
@build_options.shared_cache
@build_options.trust
@click.option("--dry-run", is_flag=True, help="Show what would be done and why; change nothing.")
@click.option(
    "--keep-on-failure", is_flag=True, default=None, help="Leave the clone of a failed build, and say where."
)
@click.option(
    "--shell-on-failure", is_flag=True, default=None,
    help="Open a shell where the failed command ran, before anything is undone; on a terminal.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
@click.option(
    "--log-json",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write every event to a file, a JSON object a line.",
)
@click.option(
    "-D", "defines", multiple=True, callback=pairs, metavar="KEY=VALUE", help="A value for templates."
)
@PROFILES
@click.option("-v", "--verbose", count=True, help="Show the tools' output; twice: debug notes.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors and the result.")
@click.option("--as-buildimage", is_flag=True, hidden=True)
@click.version_option(__version__, prog_name="buildstep")
def command(
    words: tuple[str, ...],
    manifest_arg: str | None,
    defines: dict[str, str],
    profiles: tuple[str, ...],
    as_buildimage: bool,
    **options: Any,
) -> int:
    """Build an image: the base image, the PROTO directory copied over it, packages installed, cleaned.

    MANIFEST is a file (or JSON text), PROTO a directory; in the directory of a component neither is needed.

    The result is PREFIX-VERSION with an extension per format, its .imgmanifest and its .buildrecord.json
    in the output directory; their paths are printed.
    """
    from buildstep.cli import session, shared, user_namespace

    run = {name: options.pop(name) for name in ("dry_run", "as_json", "log_json", "verbose", "quiet")}
    if options.pop("pull"):
        options["base_max_age"] = 0
    if as_buildimage:
        # That tool always writes a zfs stream, and always into /tmp; scripts made for it look there.
        options["formats"] = options["formats"] or ["zfs"]
        options["output_dir"] = options["output_dir"] or "/tmp"
    manifest_arg, options["proto"] = inputs.find_inputs(words, manifest_arg)
    text = read_stdin() if manifest_arg == "-" else ""
    notes: list[str] = []
    document = read_here(manifest_arg, defines, text, notes.append, profiles)
    spec = load_spec(document, options)
    if spec.lock_problem:
        notes.append(spec.lock_problem)
    user_namespace.enter(named_pool(spec), packages=spec.runs and not run["dry_run"])
    job = partial(_build, spec, _Read(notes, document.files, defines), **run)
    return shared.uploading(spec, session.enclosed, job)


def read_here(
    manifest_arg: str | None,
    defines: Mapping[str, str],
    stdin: str = "",
    tell: Callable[[str], None] | None = None,
    profiles: Sequence[str] = (),
) -> Document:
    """Return the m.json of a command line, read in the current directory. stdin: for the argument `-`. tell:
    is told what of the environment won over the checkout. profiles: those of the variable where none are
    given."""
    from buildstep.spec import template
    from buildstep.spec.document import PROFILE, read_document

    git = partial(template.git_facts, tell=tell)
    environ = {**os.environ, PROFILE: ",".join(profiles)} if profiles else os.environ
    return read_document(manifest_arg, cwd=Path.cwd(), environ=environ, defines=defines, stdin=stdin, git=git)


def load_spec(document: Document, flags: Mapping[str, object]) -> BuildSpec:
    """Return the checked spec of an m.json and the flags of a command line. Raises SpecError."""
    from buildstep.spec import load as specs

    load = partial(specs.load, document, flags=flags, environ=os.environ, cwd=Path.cwd())
    try:
        return load(choices=choices())
    except SpecError:
        # To know the rows of other packages costs as much as a small build: only where ours will not do.
        return load(choices=choices(plugins=True))


def named_pool(spec: BuildSpec) -> str | None:
    """Return the pool that a flag or the m.json names.

    What a variable says is for the configuration to judge: its files win over the environment.
    """
    return spec.pool if spec.origin_of["pool"] != "environment" else None


def named_store(spec: BuildSpec) -> str | None:
    """Return the store that a flag or the m.json names, as `named_pool` does the pool."""
    return spec.store if spec.origin_of["store"] != "environment" else None


class _Read(NamedTuple):
    """What the reading of the m.json brought up: what to tell, the digests of its files, and the values for
    its template."""

    notes: Sequence[str]
    files: Mapping[str, str]
    defines: Mapping[str, str]


def _build(
    spec: BuildSpec,
    read: _Read,
    *,
    dry_run: bool,
    as_json: bool,
    log_json: str | None,
    verbose: int,
    quiet: bool,
) -> int:
    import gc

    from buildstep.build import private_words
    from buildstep.build.execute import execute
    from buildstep.build.plan import plan
    from buildstep.cli import session, shared
    from buildstep.report.console import JsonView

    # Lists of a hundred thousand paths hold no cycles; looking for some takes a third of the time.
    gc.disable()
    opened = session.open_session(
        named_pool(spec), verbose=verbose, quiet=quiet or dry_run, silent=quiet, healing=not dry_run,
        store=named_store(spec),
    )  # fmt: skip
    if log_json:
        stream = _opened(log_json)
        click.get_current_context().call_on_close(partial(_close, stream))
        opened.bus.subscribe(JsonView(stream))
    if standard_streams.closed(standard_streams.STDOUT):
        opened.bus.announce("standard output is closed: what the build made is only in its record")
    private_words.hide(opened.bus, private_words.named(read.defines))
    for note in read.notes:
        if dry_run:
            tell(f"buildstep: {note}")
        else:
            opened.bus.note(note, level="warning")
    spec = _with_limits(spec, opened.config)
    spec = shared.attach(spec, opened, keep=not dry_run)
    if spec.store or "files" in spec.formats:
        spec = replace(spec, store=opened.environ["BUILDSTEP_STORE"])
    plain = bool(os.environ.get("BUILDSTEP_PLAIN"))
    decided = plan(spec, opened.store, opened.cache, plain=plain, environ=opened.environ)
    if dry_run:
        if as_json:
            print_json(decided.to_json())
        else:
            _show_plan(decided, spec, verbose=verbose)
        return 0
    result = execute(decided, store=opened.store, cache=opened.cache, bus=opened.bus, environ=opened.environ)
    if any(opened.bus.counts.get(name) for name in ("layers_made", "layers_kept")):
        from buildstep.build.context import report_failure
        from buildstep.cache import prune

        with report_failure(opened.bus, "pruning the cache"):
            prune.keep_within(opened.cache, opened.limits)
    facts, done = result.to_json(), f"the image was built: {short_path(result.manifest)}"
    facts["sources"] = dict(read.files)
    show(facts, map(short_path, result.paths), as_json=as_json, done=done)
    shared.upload(result, spec, opened)
    return 0


def _opened(log: str) -> TextIO:
    try:
        return open(log, "w", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"--log-json {log} cannot be written: {error.strerror}",
            hint="name a file in a directory that exists",
        ) from error


def _close(stream: TextIO) -> None:
    """Close a log. That it did not fit on its disk was told before."""
    with contextlib.suppress(OSError):
        stream.close()


def _with_limits(spec: BuildSpec, config: Config) -> BuildSpec:
    """Return the spec with the limits that it leaves to the configuration: its files win over a variable."""
    if spec.origin_of["limits"] == "environment":
        return replace(spec, limits=config.limits.or_else(spec.limits))
    return replace(spec, limits=spec.limits.or_else(config.limits))


def _show_plan(decided: Plan, spec: BuildSpec, *, verbose: int) -> None:
    from buildstep.spec import load as specs

    for name, value, origin in specs.summary(spec):
        if origin != "default" or verbose or name == "pool":
            # The pool that is used, also where none was named.
            shown = decided.pool if name == "pool" else value
            echo(f"  {name:18} {shown}  ({origin})", dim=origin == "default")
    for step in decided.steps:
        echo(f"{step.state:6} {step.name:9} {step.reason}")
