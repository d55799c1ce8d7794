"""`buildstep assets pull`: bring the services of this host to its disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.assets_options import HYPHENS, TRUSTED, Work, with_assets
from buildstep.cli.map_options import RegisterOptions, register_options
from buildstep.cli.options import JSON, QUIET, show
from buildstep.system.text import plural, size_text

if TYPE_CHECKING:
    from buildstep.assets.activate import Hooks
    from buildstep.assets.fetch import Opener
    from buildstep.assets.interface import AssetStore, Mappings, Register
    from buildstep.assets.policy import Policy
    from buildstep.assets.pull import Options, Report

_SHOWN = 5

INSTALL_DIR = click.option(
    "--install-dir",
    metavar="DIR",
    shell_complete=values.FOLDERS,
    help="Where services are: DIR/SERVICE/VERSION/.",
)


def hook_options(job: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of hooks: hooks, asset_hooks, hook_timeout."""
    for option in (
        click.option(
            "--hook-timeout", metavar="SECONDS", type=click.FloatRange(0.01), default=60.0, show_default=True,
            help="What each hook may take.",
        ),
        click.option(
            "--asset-hooks", is_flag=True,
            help="Where DIR has none: also run those that a version has in .buildstep/hooks/.",
        ),
        click.option(
            "--hooks", metavar="DIR", shell_complete=values.FOLDERS,
            help="Run DIR/SERVICE/STAGE or DIR/STAGE when the version changes: before, stop, after.",
        ),
    ):  # fmt: skip
        job = option(job)
    return job


def hooks_of(how: dict[str, Any]) -> Hooks:
    """Return what the options of hooks say, which are taken out of `how`. Raises UsageError."""
    from buildstep.assets.activate import Hooks
    from buildstep.errors import UsageError

    folder, own, timeout = how.pop("hooks"), how.pop("asset_hooks"), how.pop("hook_timeout")
    if folder is not None and not os.path.isdir(folder):
        raise UsageError(f"--hooks {folder}: there is no such directory")
    return Hooks(folder=Path(os.path.abspath(folder)) if folder else None, own=own, timeout=timeout)


def install_dir(work: Work, given: str | None) -> Path:
    """Return where services are installed: as the option says, else the configuration, else this user's."""
    from buildstep.assets.places import default_install_dir

    return Path(os.path.abspath(given or work.config.install_dir or default_install_dir(work.environ)))


@click.command("pull")
@click.argument("services", metavar="[SERVICE]...", nargs=-1, shell_complete=values.SERVICES)
@INSTALL_DIR
@click.option("--host", metavar="NAME", help="Whose services: by default this machine's, by its name.")
@click.option("--compat", is_flag=True, help="The longest pattern wins, as with daybook.")
@click.option("--keep", metavar="N", type=click.IntRange(0), help="Only the newest N versions; 0 for all.")
@click.option(
    "--only-version", "versions", metavar="PATTERN", multiple=True, help="Only these, such as '2.*'; repeat."
)
@HYPHENS
@click.option("--prune", is_flag=True, help="Remove installed versions and services that are not wanted.")
@click.option(
    "--max-delete", metavar="N", type=click.IntRange(0), default=20, show_default=True,
    help="Remove nothing at all if it would be more versions than this.",
)  # fmt: skip
@click.option("--activate", is_flag=True, help="Let SERVICE/current name the newest version.")
@hook_options
@TRUSTED
@click.option(
    "--contents", metavar="URL", shell_complete=values.STORES,
    help="A content store nearby (`files put`): archives that it has come from there.",
)  # fmt: skip
@click.option("--links-out", is_flag=True, help="Also install assets with links that lead out of them.")
@click.option("--replace-unmarked", is_flag=True, help="Also replace directories that hold other files.")
@click.option("--watch", is_flag=True, help="Go on for ever: pull when the mappings of this host change.")
@click.option(
    "--every", metavar="SECONDS", type=click.FloatRange(1), default=300.0, show_default=True,
    help="With --watch: pull that often for new versions.",
)  # fmt: skip
@click.option(
    "--splay", metavar="SECONDS", type=click.FloatRange(0), default=0.5, show_default=True,
    help="With --watch: wait for up to that long after a change, as not all hosts shall pull at once.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say what would be done, and why.")
@with_assets
@register_options
@JSON
@QUIET
def command(
    work: Work, services: tuple[str, ...], *, register: RegisterOptions, watch: bool, **how: Any
) -> None:
    """Bring services to DIR/SERVICE/VERSION/: those that the register maps this host to, or SERVICE...

    What is there as it was pushed is left alone. What is missing is fetched in parallel, checked against its
    checksum, unpacked beside its place, and gets its name in one step once all of it is on the disk. An error
    of one asset keeps no other back: the exit status is 22 then, and all errors are told at the end.

    Hooks: `before` of the new version may refuse it; `stop` of the old one is told if it fails, and blocks
    nothing; then `current` changes; if `after` of the new one fails, the old one runs again.
    """
    from buildstep.errors import UsageError

    if watch and (services or how["dry_run"]):
        raise UsageError("--watch follows the mappings of this host: it takes no SERVICE and no --dry-run")
    pulling = _Pulling.of(work, how)
    if services:
        from buildstep.assets.names import checked_service

        pulling.run(tuple(dict.fromkeys(map(checked_service, services))))
        return
    host = _Host.of(work, register, how)
    if watch:
        _watch(work, pulling, host, how)
    else:
        pulling.run(host.services(host.register.read()), {"host": host.name, "pattern": host.pattern})


@dataclass(kw_only=True)
class _Host:
    """This host, and what the register says of it. pattern: which matched it last; empty for none."""

    name: str
    register: Register
    compat: bool
    work: Work
    pattern: str = ""

    @classmethod
    def of(cls, work: Work, register: RegisterOptions, how: dict[str, Any]) -> _Host:
        from buildstep.assets.patterns import checked_host
        from buildstep.assets.places import this_host
        from buildstep.spec import config as configs

        config = configs.load(os.environ, Path.cwd())
        return cls(
            name=checked_host(how["host"] or work.config.host or this_host()),
            register=register.open(config, work.environ, work.bus),
            compat=how["compat"] or work.config.compat,
            work=work,
        )

    def services(self, mappings: Mappings) -> tuple[str, ...]:
        """Return the services that this host is mapped to, and tell what the register holds that is none."""
        from buildstep.assets.patterns import resolve

        for fault in mappings.faults:
            self.work.bus.note(f"{self.register.url}: {fault}", level="warning")
        found = resolve(mappings.services, self.name, compat=self.compat)
        self.pattern = found.winner or ""
        if found.winner is None:
            self.work.bus.note(f"no pattern of {self.register.url} matches {self.name}", level="warning")
        return tuple(dict.fromkeys(found.services))


@dataclass(kw_only=True)
class _Pulling:
    """How to pull, and to tell of it."""

    opener: Opener
    install: Path
    policy: Policy
    options: Options
    work: Work
    as_json: bool
    quiet: bool

    @classmethod
    def of(cls, work: Work, how: dict[str, Any]) -> _Pulling:
        from buildstep.assets.policy import Policy
        from buildstep.assets.pull import Options
        from buildstep.assets.retention import Retention

        install = install_dir(work, how["install_dir"])
        trusted = work.trusted(how["trusted"])
        verify = None
        if trusted is not None:
            from buildstep.assets.signatures import check

            verify = partial(check, trusted=trusted)
        keep = work.config.keep if how["keep"] is None else how["keep"]
        return cls(
            opener=_opener(work, how["contents"], install),
            install=install,
            policy=Policy(
                verify=verify,
                keys=trusted.fingerprints if trusted else frozenset(),
                owners=os.geteuid() == 0,
                replace=how["replace_unmarked"],
                links_out=how["links_out"],
            ),
            options=Options(
                retention=Retention(
                    keep=keep, versions=how["versions"], hyphens=work.hyphens(how["hyphens"])
                ),
                prune=how["prune"],
                max_delete=how["max_delete"],
                activate=how["activate"],
                hooks=hooks_of(how),
                dry_run=how["dry_run"],
            ),
            work=work,
            as_json=how["as_json"],
            quiet=how["quiet"],
        )

    def run(self, services: Sequence[str], facts: dict[str, str] | None = None) -> None:
        """Pull services, and print what was done. Raises Incomplete where not all of it could be."""
        from buildstep.assets.pull import pull
        from buildstep.report.progress import progress

        begin = partial(progress, "pull", quiet=self.quiet)
        report = pull(
            self.opener, services, self.install, self.policy, self.options, begin=begin, bus=self.work.bus
        )
        value = {**(facts or {}), "install_dir": os.fspath(self.install), **report.to_json()}
        show(value, _lines(report), as_json=self.as_json, done=_summary(report))
        report.check()


def _opener(work: Work, contents: str | None, install: Path) -> Opener:
    """Return what opens the store. contents: of a content store whose archives come first."""
    if not contents:
        return work.store

    def opened() -> AssetStore:
        from buildstep.assets.install import STAGING
        from buildstep.assets.local_contents import LocalContents
        from buildstep.files import open_storage
        from buildstep.files.content import ContentStore
        from buildstep.files.places import cache_folder

        storage = open_storage(contents, environ=work.environ, bus=work.bus, endpoint=work.endpoint)
        found = ContentStore(storage, bus=work.bus, kept=cache_folder(work.environ))
        return LocalContents(work.store(), found, work.bus, install / STAGING)

    return opened


def _watch(work: Work, pulling: _Pulling, host: _Host, how: dict[str, Any]) -> None:
    from buildstep.assets.watch import Options, Watch

    def pull(services: tuple[str, ...]) -> None:
        pulling.run(services, {"host": host.name, "pattern": host.pattern})

    options = Options(every=how["every"], splay=how["splay"])
    Watch(host.register, host.services, pull, options, work.bus).run()


def _lines(report: Report) -> Iterator[str]:
    """Yield a line for each service of which something is to be told, and one for all."""
    would = "would be " if report.dry_run else ""
    for service, row in sorted(report.services.items()):
        words = []
        if row.installed:
            words.append(f"{would}installed {_some(row.installed)}")
        if row.removed:
            words.append(f"{would}removed {_some(row.removed)}")
        if row.activated:
            words.append(f"runs {row.current}")
        if row.failed:
            words.append("not complete")
        if report.dry_run:
            words += [f"{version} {why}" for version, why in row.planned.items()]
        if words:
            yield f"{service}: {'; '.join(words)}"
    yield _summary(report)


def _some(versions: Sequence[str]) -> str:
    """Return versions in words, the newest first, and of many only the first few."""
    from buildstep.assets.names import order

    newest = sorted(versions, key=order, reverse=True)
    rest = len(newest) - _SHOWN
    return ", ".join(newest[:_SHOWN]) + (f" and {rest:,} more" if rest > 0 else "")


def _summary(report: Report) -> str:
    present = sum(len(row.present) for row in report.services.values())
    removed = sum(len(row.removed) for row in report.services.values())
    installed = plural(report.installed, "version")
    words = [
        plural(len(report.services), "service"),
        f"{installed} {'would be ' if report.dry_run else ''}installed"
        + (f" ({size_text(report.size)})" if report.size else ""),
        f"{present:,} there already",
    ]
    words += [f"{removed:,} removed"] if removed else []
    return ", ".join(words)
