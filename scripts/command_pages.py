"""Render the command reference and the man pages from the commands' own help."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import click

from buildstep import __version__
from buildstep.cli import COMMANDS, root
from scripts.markdown import table

MADE = "Made by scripts/make_docs.py (`make docs`); a test fails when it is out of date."


def walk(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """Yield a command and all below it that are not hidden, in the order of the help."""
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
    """Return every command with the context that its help is made in, the root first."""
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
    if command is root:
        return [(name, about) for name, (_, about) in COMMANDS.items() if about]
    found = ((name, command.get_command(context, name)) for name in command.list_commands(context))
    return [(name, it.get_short_help_str(100)) for name, it in found if it is not None and not it.hidden]


def reference() -> str:
    """Return docs/reference/commands.md."""
    out = ["# Commands", "", f"<!-- {MADE} -->", ""]
    out += [
        "From a checkout, `bin/build` is `buildstep build`, and `bin/buildstep` takes every command. `-h`",
        "prints the same text. Results go to standard output, all else to standard error.",
        "Exit codes: [exit-codes.md](exit-codes.md).",
    ]
    for command, context in commands():
        out += ["", f"## {context.command_path}", "", "```text", _usage(command, context), "```"]
        for part in _about(command):
            out += ["", *(["```text", part[1:], "```"] if part.startswith("\b") else [part])]
        rows = _options(command, context)
        if rows:
            out += ["", table(("option", "meaning"), ((f"`{name}`", text) for name, text in rows))]
        if below := _subcommands(command, context):
            at = context.command_path.replace(" ", "-")
            links = ((f"[`{name}`](#{at}-{name})", text) for name, text in below)
            out += ["", table(("command", "what it does"), links)]
        if command.epilog:
            out += ["", " ".join(command.epilog.split())]
    return "\n".join(out) + "\n"


# -- man pages -----------------------------------------------------------------------------------------------


def man_pages() -> dict[str, str]:
    """Return file names and texts: a page for buildstep, and one for each command with its subcommands."""
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
        f'.\\" {MADE}',
        f'.TH {roff(name.upper())} 1 "" "buildstep {__version__}" "User Commands"',
        ".SH NAME",
        f"{roff(name)} \\- {roff(title.splitlines()[0])}",
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
        out += [f".SS {roff(inner.command_path)}", *_roff_usage(sub, inner), ".PP", *_roff_about(sub)]
        out += _roff_list(_options(sub, inner))
    if command.epilog:
        out += [".SH EXIT STATUS", roff(" ".join(command.epilog.split()))]
    else:
        out += [
            ".SH EXIT STATUS",
            "0 when all is done; every other code is explained in docs/reference/exit\\-codes.md.",
        ]
    others = sorted({"buildstep"} | {f"buildstep-{row}" for row in _top_level()} - {name})
    out += [
        ".SH SEE ALSO",
        *(f".BR {roff(other)} (1)," for other in others[:-1]),
        f".BR {roff(others[-1])} (1)",
    ]
    return "\n".join(out) + "\n"


def _top_level() -> list[str]:
    return [name for name, (_, about) in COMMANDS.items() if about]


def _roff_usage(command: click.Command, context: click.Context) -> list[str]:
    pieces = " ".join(command.collect_usage_pieces(context))
    return (
        [f".B {roff(context.command_path)}", roff(pieces)] if pieces else [f".B {roff(context.command_path)}"]
    )


def _roff_about(command: click.Command) -> list[str]:
    out: list[str] = []
    for part in _about(command):
        out += [".PP"] if out else []
        out += [".nf", *map(roff, part[1:].splitlines()), ".fi"] if part.startswith("\b") else [roff(part)]
    return out


def _roff_list(rows: Iterable[tuple[str, str]]) -> list[str]:
    out: list[str] = []
    for name, text in rows:
        out += [".TP", f".B {roff(name)}", roff(text) if text else "\\&"]
    return out


def roff(text: str) -> str:
    """Escape text for roff: backslashes, dashes (to paste them) and lines that look like requests."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)
