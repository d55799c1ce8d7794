"""Man pages, the command reference and the tables of the docs, made from the code.

`python -m buildstep.cli.docs` writes them. Of pages that are not made as a whole, that is what stands
between `<!-- table: NAME -->` and `<!-- end -->`. `stale` is what the test asks.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from buildstep import __version__

TOP = Path(__file__).parents[2]

_MADE = "Made by buildstep.cli.docs (`make docs`); a test tells when it is out of date."


# -- the commands -------------------------------------------------------------------------------------------


def walk(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """A command and all below it that are not hidden, in the order of the help."""
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from walk(below, _context(below, name, context))


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    settings: dict[str, Any] = {**command.context_settings, "terminal_width": 100, "max_content_width": 100}
    return click.Context(command, info_name=name, parent=parent, **settings)


def commands() -> list[tuple[click.Command, click.Context]]:
    """Every command with the context that its help is made in, the root first."""
    from buildstep.cli import root

    return list(walk(root, _context(root, "buildstep", None)))


def _usage(command: click.Command, context: click.Context) -> str:
    return " ".join([context.command_path, *command.collect_usage_pieces(context)])


def _options(command: click.Command, context: click.Context) -> list[tuple[str, str]]:
    records = (param.get_help_record(context) for param in command.get_params(context))
    rows = [(name, " ".join(text.split())) for name, text in filter(None, records)]
    return [(name, text) for name, text in rows if text or name.startswith("-")]  # arguments are in the usage


def _about(command: click.Command) -> list[str]:
    """The paragraphs of a command's help; one that starts with \\b keeps its lines."""
    text = re.sub(r"\n[ \t]*\n+", "\n\n", command.help or "").strip()
    return [_lines(part) if part.startswith("\b") else " ".join(part.split()) for part in text.split("\n\n")]


def _lines(part: str) -> str:
    return "\b" + "\n".join(line.strip() for line in part.splitlines()[1:])


def _subcommands(command: click.Command, context: click.Context) -> list[tuple[str, str]]:
    if not isinstance(command, click.Group):
        return []
    from buildstep.cli import COMMANDS, root

    if command is root:
        return [(name, about) for name, (_, about) in COMMANDS.items() if about]
    found = ((name, command.get_command(context, name)) for name in command.list_commands(context))
    return [(name, it.get_short_help_str(100)) for name, it in found if it is not None and not it.hidden]


def reference() -> str:
    """docs/reference/commands.md."""
    out = ["# Commands", "", f"<!-- {_MADE} -->", ""]
    out += [
        "From a checkout, `bin/build` is `buildstep build`, and `bin/buildstep` takes every command. `-h`",
        "prints what stands here. Results go to standard output, all else to standard error.",
        "Exit codes: [exit-codes.md](exit-codes.md).",
    ]
    for command, context in commands():
        out += ["", f"## {context.command_path}", "", "```text", _usage(command, context), "```"]
        for part in _about(command):
            out += ["", *(["```text", part[1:], "```"] if part.startswith("\b") else [part])]
        rows = _options(command, context)
        if rows:
            out += ["", "| option | meaning |", "| --- | --- |"]
            out += [f"| `{_cell(name)}` | {_cell(text)} |" for name, text in rows]
        if below := _subcommands(command, context):
            out += ["", "| command | |", "| --- | --- |"]
            for name, text in below:
                anchor = f"{context.command_path} {name}".replace(" ", "-")
                out.append(f"| [`{name}`](#{anchor}) | {_cell(text)} |")
        if command.epilog:
            out += ["", " ".join(command.epilog.split())]
    return "\n".join(out) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# -- man pages -----------------------------------------------------------------------------------------------


def man_pages() -> dict[str, str]:
    """File name to text: one page for buildstep, and one for each of its commands with all below it."""
    every = commands()
    pages: dict[str, str] = {}
    for command, context in every:
        parts = context.command_path.split()
        if len(parts) > 2:
            continue
        below = [row for row in every if row[1].command_path.startswith(f"{context.command_path} ")]
        name = "-".join(parts)
        pages[f"{name}.1"] = _man_page(name, command, context, below if len(parts) == 2 else [])
    return pages


def _man_page(
    name: str,
    command: click.Command,
    context: click.Context,
    below: Iterable[tuple[click.Command, click.Context]],
) -> str:
    first = _about(command)[0].rstrip(".")
    title = first[:1].lower() + first[1:]
    out = [
        f'.\\" {_MADE}',
        f'.TH {_roff(name.upper())} 1 "" "buildstep {__version__}" "User Commands"',
        ".SH NAME",
        f"{_roff(name)} \\- {_roff(title.splitlines()[0])}",
        ".SH SYNOPSIS",
        *_roff_usage(command, context),
        ".SH DESCRIPTION",
        *_roff_about(command),
    ]
    if rows := _options(command, context):
        out += [".SH OPTIONS", *_roff_list(rows)]
    if rows := _subcommands(command, context):
        out += [".SH COMMANDS", *_roff_list(rows)]
    for sub, inner in below:
        out += [f".SS {_roff(inner.command_path)}", *_roff_usage(sub, inner), ".PP", *_roff_about(sub)]
        out += _roff_list(_options(sub, inner))
    if command.epilog:
        out += [".SH EXIT STATUS", _roff(" ".join(command.epilog.split()))]
    else:
        out += [
            ".SH EXIT STATUS",
            "0 when all is done; every other code is told in docs/reference/exit\\-codes.md.",
        ]
    others = sorted({"buildstep"} | {f"buildstep-{row}" for row in _top_level()} - {name})
    out += [
        ".SH SEE ALSO",
        *(f".BR {_roff(other)} (1)," for other in others[:-1]),
        f".BR {_roff(others[-1])} (1)",
    ]
    return "\n".join(out) + "\n"


def _top_level() -> list[str]:
    from buildstep.cli import COMMANDS

    return [name for name, (_, about) in COMMANDS.items() if about]


def _roff_usage(command: click.Command, context: click.Context) -> list[str]:
    pieces = " ".join(command.collect_usage_pieces(context))
    return (
        [f".B {_roff(context.command_path)}", _roff(pieces)]
        if pieces
        else [f".B {_roff(context.command_path)}"]
    )


def _roff_about(command: click.Command) -> list[str]:
    out: list[str] = []
    for part in _about(command):
        out += [".PP"] if out else []
        out += [".nf", *map(_roff, part[1:].splitlines()), ".fi"] if part.startswith("\b") else [_roff(part)]
    return out


def _roff_list(rows: Iterable[tuple[str, str]]) -> list[str]:
    out: list[str] = []
    for name, text in rows:
        out += [".TP", f".B {_roff(name)}", _roff(text) if text else "\\&"]
    return out


def _roff(text: str) -> str:
    """Text that roff takes as it is: no escapes, dashes that can be pasted, no line that is a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


# -- tables in pages -----------------------------------------------------------------------------------------


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cleaners() -> str:
    from buildstep.rootfs.cleaners import CLEANERS

    rows = ((f"`{it.name}`", it.description, "yes" if it.default else "no") for it in CLEANERS.values())
    return _table(("cleaner", "what it removes", "by default"), rows)


def _variables() -> str:
    from buildstep.spec.fields import SETTINGS

    rows = (
        (f"`{it.env}`", f"`build.{name}`" if it.in_file else "", f"`{it.flag}`" if it.flag else "", it.about)
        for name, it in SETTINGS.items()
    )
    return _table(("variable", "in m.json", "flag", "meaning"), rows)


def _agent_variables() -> str:
    from buildstep.spec.config import ENVIRONMENT

    rows = ((f"`{name}`", f"`{'.'.join(path)}`") for name, path in ENVIRONMENT.items())
    return _table(("variable", "in buildstep.toml"), rows)


def _settings() -> str:
    from buildstep.spec.config import RULE
    from buildstep.spec.schema import words

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

    return _table(("setting", "value"), rows(RULE, ""))


def _installers() -> str:
    from buildstep.rootfs.installers import INSTALLERS

    return _table(
        ("installer", "module"), ((f"`{name}`", f"`{it.__module__}`") for name, it in INSTALLERS.items())
    )


def _pools() -> str:
    from buildstep.pool import BACKENDS

    rows = ((f"`{name}:`", (it.__doc__ or "").strip().partition("\n")[0]) for name, it in BACKENDS.items())
    return _table(("pool", ""), rows)


def _formats() -> str:
    from buildstep.emit import EMITTERS

    rows = (
        (f"`{name}`", f"`{it.extension(None)}`", ", ".join(f"`{word}`" for word in it.compressions))
        for name, it in EMITTERS.items()
    )
    return _table(("format", "extension", "compressions, the default first"), rows)


def _events() -> str:
    import dataclasses

    from buildstep import events

    common = {item.name for item in dataclasses.fields(events.Event)}
    rows = []
    # A class with slots is made twice; the one that counts comes last.
    kinds = {kind.kind: kind for kind in events.Event.__subclasses__()}
    for _, kind in sorted(kinds.items()):
        own = [item.name for item in dataclasses.fields(kind) if item.name not in common]
        rows.append((f"`{kind.kind}`", ", ".join(f"`{name}`" for name in own)))
    return _table(("`event`", "fields beside `time` and `step`"), rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "cleaners": _cleaners,
    "variables": _variables,
    "agent variables": _agent_variables,
    "settings": _settings,
    "pools": _pools,
    "installers": _installers,
    "formats": _formats,
    "events": _events,
}

_MARKED = re.compile(r"(<!-- table: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """A page with its tables as the code has them now."""
    return _MARKED.sub(lambda match: f"{match[1]}\n{TABLES[match[2]]()}\n\n{match[3]}", text)


# -- all of it -----------------------------------------------------------------------------------------------


def wanted(top: Path) -> dict[Path, str]:
    """What each file should say that has something made from the code."""
    docs = top / "docs"
    found = {docs / "man" / name: text for name, text in man_pages().items()}
    found[docs / "reference/commands.md"] = reference()
    for page in sorted(docs.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        if _MARKED.search(text):
            found[page] = filled(text)
    return found


def stale(top: Path = TOP) -> list[str]:
    """The files, relative to the checkout, that do not say what the code says."""
    right = wanted(top)
    wrong = [
        path for path, text in right.items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    wrong += [path for path in (top / "docs/man").glob("*.1") if path not in right]
    return sorted(str(path.relative_to(top)) for path in wrong)


def main() -> int:
    """Write them all, and name those that changed."""
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
