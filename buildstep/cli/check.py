"""`buildstep check`: the checks of an m.json on any image, as a build does them before it ships one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.options import JSON, pairs, show, with_session

if TYPE_CHECKING:
    from buildstep.checks.secrets import Looking
    from buildstep.cli.session import Session
    from buildstep.events import Checked
    from buildstep.images.opened import Opened


@click.command(
    "check",
    epilog="Exit codes: 0 all passed, 25 a check failed, 2 usage, 10 dataset, 11 image, 13 sandbox.",
)
@click.argument("image", metavar="IMAGE|RECORD|ARCHIVE", shell_complete=values.IMPORTABLE)
@click.option("-m", "--manifest", metavar="FILE|JSON", shell_complete=values.FILES,
              help="The m.json whose `build.checks` are done; without one --rules is meant.")  # fmt: skip
@click.option(
    "-D", "defines", multiple=True, callback=pairs, metavar="KEY=VALUE", help="A value for templates."
)
@click.option("--rules", is_flag=True, help="Hold the whole image, its base too, to the rules for images.")
@click.option("--write-baseline", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path),
              help="Write which secrets --rules finds, for `secrets_baseline` of `build.trust`.")  # fmt: skip
@with_session()
@JSON
@click.option("-v", "--verbose", count=True, help="Show what passed as well; twice: debug notes.")
def command(
    session: Session,
    image: str,
    manifest: str | None,
    defines: Mapping[str, str],
    rules: bool,
    write_baseline: Path | None,
    as_json: bool,
) -> int:
    """Check an image: one of the store, a reference as for `build -i`, an image file, or a build record.

    The tests of an m.json are done as a build does them, in a copy that is thrown away. A build holds to the
    rules what it adds to its base; --rules looks at all of an image.
    """
    from buildstep.checks.finished import error
    from buildstep.checks.secrets import write_baseline as write_known
    from buildstep.images.opened import opened

    build = _build_part(manifest, defines)
    looking = _looking(build)
    with opened(session.store, image, "check") as found:
        done = _checked(session, found, build, looking=looking if rules or manifest is None else None)
    if write_baseline is not None:
        write_known(write_baseline, looking.found)
    failed = [event for event in done if event.result == "failed"]
    rows = [
        {key: value for key, value in asdict(event).items() if key not in ("time", "step")} for event in done
    ]
    lines = [f"{event.result:8} {event.group:9} {event.check}" for event in done]
    show({"image": found.record.uuid, "checks": rows}, lines, as_json=as_json)
    if failed:
        raise error(failed)
    return 0


def _build_part(manifest: str | None, defines: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the build part of an m.json, of which only the checks matter. Raises SpecError."""
    if manifest is None:
        return {}
    from buildstep.cli.build import read_here
    from buildstep.cli.choices import choices
    from buildstep.errors import SpecError
    from buildstep.spec import check_rules
    from buildstep.spec.load import check_document

    document = read_here(manifest, dict(defines))
    faults = check_document(document.value, choices())
    build: Mapping[str, Any] = {}
    if not faults and isinstance(document.value, dict):
        build = document.value.get("build", {})
        folder = document.folder or Path.cwd()
        faults = list(check_rules.faults(build.get("checks", {}), "$.build.checks", folder))
    if faults:
        raise SpecError(document.source, faults)
    return {**build, "checks": check_rules.with_files(build.get("checks", {}), folder)} if build else build


def _looking(build: Mapping[str, Any]) -> Looking:
    """Return what secrets to look for: with the exceptions that the m.json has. Raises UsageError."""
    from buildstep.checks.secrets import Looking, read_baseline
    from buildstep.spec.trust import AllowedSecret
    from buildstep.trust.secrets.search import Search

    trust = build.get("trust", {})
    said: Mapping[str, Any] = trust if isinstance(trust, dict) else {}
    known = read_baseline(Path(said["secrets_baseline"])) if "secrets_baseline" in said else ()
    allow = (AllowedSecret(**row) for row in said.get("allow_secrets", ()))
    return Looking(search=Search(), allow=(*allow, *known))


def _checked(
    session: Session, found: Opened, build: Mapping[str, Any], *, looking: Looking | None
) -> list[Checked]:
    """Do the checks; return how each ended. looking: None where the rules for images do not matter."""
    from buildstep.checks import asked, in_force
    from buildstep.checks.examine import examine
    from buildstep.checks.finished import image_of
    from buildstep.checks.prove import prove
    from buildstep.events import Checked, Event

    done: list[Checked] = []

    def keep(event: Event) -> None:
        if isinstance(event, Checked):
            done.append(event)

    session.bus.subscribe(keep)
    checks = build.get("checks", {})
    if looking is not None:
        subject = _subject(session, found, checks, looking)
        examine(in_force(checks), subject, build.get("allow", {}), session.bus)
    image = image_of(
        session.backend, found.dataset, found.root, found.config,
        checks=checks, bus=session.bus, within=(session.environ, session.config.limits),
    )  # fmt: skip
    prove(asked(checks), image, session.bus)
    return done


def _subject(session: Session, found: Opened, checks: Mapping[str, Any], looking: Looking) -> Any:
    import os

    from buildstep.checks.image_tree import ImageTree
    from buildstep.checks.interface import Subject
    from buildstep.files.compare_gate import Growth
    from buildstep.system.accounts import TABLES, numbers

    entries = session.store.entries(found.record)
    prefix = os.path.relpath(found.root.path, found.dataset.path)
    folder = b"" if prefix == "." else os.fsencode(prefix)
    tree = ImageTree(entries, folder, volumes=found.config.volumes)
    root = found.root
    known = {
        what: frozenset(numbers(root.read(f"/{path}")).values()) if root.is_file(f"/{path}") else None
        for what, path in TABLES.items()
    }
    budget = checks.get("budget")
    return Subject(
        tree=tree, base={}, added=list(entries.values()), own=lambda _path: True, users=known["user"],
        groups=known["group"], budget=None if budget is None else Growth.parse(budget).size,
        top=found.dataset.path, path=found.config.path, secrets=looking,
    )  # fmt: skip
