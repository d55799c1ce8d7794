"""Write the pages and tables of docs/ that are made from the code.

`python -m scripts.make_docs` writes them (`make docs`). In a page written by hand, only the text between
`<!-- table: NAME -->` and `<!-- end -->` is replaced. `stale` names the files that are out of date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from buildstep.cli.choices import choices
from scripts import command_pages, m_json_page, numbered_tests, service_tables
from scripts.markdown import table
from scripts.room_tables import room_table
from scripts.rule_words import words

TOP = Path(__file__).parents[1]


# -- tables in pages -----------------------------------------------------------------------------------------


def _cleaners() -> str:
    from buildstep.rootfs.cleaners import CLEANERS

    rows = ((f"`{it.name}`", it.description, "yes" if it.default else "no") for it in CLEANERS.values())
    return table(("cleaner", "what it removes", "by default"), rows)


def _variables() -> str:
    from buildstep.spec.settings import SETTINGS

    rows = (
        (f"`{it.env}`", f"`build.{name}`" if it.in_file else "", f"`{it.flag}`" if it.flag else "", it.about)
        for name, it in SETTINGS.items()
    )
    return table(("variable", "in m.json", "flag", "meaning"), rows)


def _agent_variables() -> str:
    from buildstep.spec.config import ENVIRONMENT

    rows = ((f"`{name}`", f"`{'.'.join(path)}`") for name, path in ENVIRONMENT.items())
    return table(("variable", "in buildstep.toml"), rows)


def _settings() -> str:
    from buildstep.spec.config import RULE

    def rows(rule: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
        for name, inner in rule.get("properties", {}).items():
            at = f"{path}{name}"
            below = inner.get("items", inner)
            if isinstance(inner.get("additionalProperties"), dict):
                below, at = inner["additionalProperties"], f"{at}.NAME"
            if "properties" not in below:
                yield f"`{at}`", words(inner)
                continue
            if "$comment" in below:  # text will do as well
                yield f"`{at}`", f"{below['$comment']}; or a table"
            yield from rows(below, f"{at}{'[]' if 'items' in inner else ''}.")

    return table(("setting", "value"), rows(RULE, ""))


def _installers() -> str:
    from buildstep.rootfs.installers import INSTALLERS

    return table(
        ("installer", "module"), ((f"`{name}`", f"`{it.__module__}`") for name, it in INSTALLERS.items())
    )


def _image_rules() -> str:
    from buildstep.checks import RULES
    from buildstep.spec.check_rules import RULES as SEVERITIES

    return table(
        ("rule", "what holds", "else"), ((f"`{it.name}`", it.about, SEVERITIES[it.name]) for it in RULES)
    )


def _pools() -> str:
    from buildstep.pool import BACKENDS

    rows = ((f"`{name}:`", _first_line(kind)) for name, kind in BACKENDS.items())
    return table(("pool", "what a clone costs"), rows)


def _kept() -> str:
    from buildstep.build.kept import KEPT

    rows = []
    for it in KEPT:
        where = ", ".join(f"`{path}`" for path in it.where)
        rows.append((it.name, where, it.holds, it.checked, it.damaged, "yes" if it.verify else "no"))
    head = ("kind", "where", "holds", "checked before use by", "when it is damaged", "by `cache verify`")
    return table(head, rows)


def _first_line(kind: object) -> str:
    assert kind.__doc__, kind
    return kind.__doc__.strip().partition("\n")[0]


def _stores() -> str:
    from buildstep.files import STORES

    rows = ((f"`{name}`", _first_line(kind)) for name, kind in STORES.items())
    return table(("kind", "URL"), rows)


def _store_layout() -> str:
    from buildstep.files import layout

    return _text(layout.__doc__, "")


def _pack_format() -> str:
    from buildstep.files import pack

    return _text(pack.__doc__, "    ")


def _text(docstring: str | None, indent: str) -> str:
    """Return the second paragraph of a docstring as it is, without this indent."""
    assert docstring
    lines = docstring.split("\n\n")[1].rstrip().splitlines()
    return "\n".join(["```text", *(line.removeprefix(indent) for line in lines), "```"])


def _formats() -> str:
    from buildstep.emit import EMITTERS

    rows = (
        (f"`{name}`", f"`{it().extension(None)}`", ", ".join(f"`{word}`" for word in it.compressions))
        for name, it in EMITTERS.items()
    )
    return table(("format", "extension", "compressions, the default first"), rows)


def _events() -> str:
    import dataclasses

    from buildstep import events

    common = {item.name for item in dataclasses.fields(events.Event)}
    rows = []
    # A class with slots is made twice; the one that counts comes last.
    kinds = {kind.kind: kind for kind in events.Event.__subclasses__()}
    for _, kind in sorted(kinds.items()):
        own = [item.name for item in dataclasses.fields(kind) if item.name not in common and item.repr]
        rows.append((f"`{kind.kind}`", ", ".join(f"`{name}`" for name in own)))
    return table(("`event`", "fields beside `time` and `step`"), rows)


def _walls() -> str:
    from buildstep.build.doctor.walls import WALLS

    return table(("wall", "a script cannot", "made by"), ((it.name, it.keeps, it.by) for it in WALLS))


def _capabilities() -> str:
    from buildstep.system.bubblewrap import CAPABILITIES

    return table(("capability", "why"), ((f"`{name}`", why) for name, why in CAPABILITIES.items()))


def _system_calls() -> str:
    from buildstep.system.seccomp import REFUSED

    rows = ((why, ", ".join(f"`{name}`" for name in names)) for why, names in REFUSED.items())
    return table(("why", "calls"), rows)


def _metrics() -> str:
    from buildstep.assets.status import METRICS

    return table(("metric", "meaning"), ((f"`{name}`", about) for name, about in METRICS.items()))


def _component_hooks() -> str:
    from buildstep.components.hooks import VARIABLES

    return table(("variable", "meaning"), ((f"`{name}`", about) for name, about in VARIABLES.items()))


def _service_keys() -> str:
    from buildstep.services.template_keys import KEYS

    rows = []
    for row in KEYS:
        parts = [row.about + (" (not in AYS)" if row.ours else "")] if row.about else []
        if row.fields:
            parts.append(", ".join(f"`{name}`" for name in row.fields))
        if row.without:
            parts.append(f"no effect: {row.without}")
        rows.append((f"`{row.pattern}`", str(row.kind), "; ".join(parts)))
    return table(("key", "value", "meaning"), rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "cleaners": _cleaners,
    "variables": _variables,
    "agent variables": _agent_variables,
    "settings": _settings,
    "pools": _pools,
    "image rules": _image_rules,
    "stores": _stores,
    "store layout": _store_layout,
    "pack format": _pack_format,
    "kept": _kept,
    "installers": _installers,
    "formats": _formats,
    "events": _events,
    "walls": _walls,
    "capabilities": _capabilities,
    "system calls": _system_calls,
    "metrics": _metrics,
    "component hooks": _component_hooks,
    "service keys": _service_keys,
    "service verbs": service_tables.verbs,
    "service states": service_tables.states,
}


def _table(name: str) -> str:
    if name.startswith("room "):
        return room_table(name.removeprefix("room "))
    first, _, number = name.partition(" ")
    if first in numbered_tests.SETS:
        return numbered_tests.rows(first, int(number))
    return TABLES[name]()


_MARKED = re.compile(r"(<!-- table: ([a-z0-9 ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """Return a page with its tables as the code has them now."""
    return _MARKED.sub(lambda match: f"{match[1]}\n{_table(match[2])}\n\n{match[3]}", text)


# -- all of it -----------------------------------------------------------------------------------------------


def wanted(top: Path) -> dict[Path, str]:
    """Return the right text of each file that has something made from the code."""
    docs = top / "docs"
    found = {docs / "man" / name: text for name, text in command_pages.man_pages().items()}
    found[docs / "reference/commands.md"] = command_pages.reference()
    found[docs / "reference/m.json.md"] = m_json_page.page(choices())
    for page in sorted(docs.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        if _MARKED.search(text):
            found[page] = filled(text)
    return found


def stale(top: Path = TOP) -> list[str]:
    """Return the files, relative to the checkout, that are out of date."""
    right = wanted(top)
    wrong = [
        path for path, text in right.items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    wrong += [path for path in (top / "docs/man").glob("*.1") if path not in right]
    return sorted(str(path.relative_to(top)) for path in wrong)


def main() -> int:
    """Write all of them, and print the names of those that changed."""
    changed = stale()
    right = wanted(TOP)
    for name in changed:
        path = TOP / name
        if path in right:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(right[path], encoding="utf-8")
        else:
            path.unlink()
        click.echo(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
