"""`buildstep completion`, and what runs on a TAB."""

from __future__ import annotations

import os
from typing import ClassVar

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    get_completion_class,
    shell_complete,
    split_arg_string,
)

from buildstep.cli import COMPLETE, root
from buildstep.cli.options import echo

_BASH = r"""
%(complete_func)s() {
    local response completion type value
    response=$(env COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" COMP_COMMAND="$1" \
        COMP_WORDBREAKS="$COMP_WORDBREAKS" %(complete_var)s=bash_complete "$1")
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                COMPREPLY+=("$value")
                [[ $value == *[:/=] ]] && compopt -o nospace ;;
        esac
    done <<< "$response"
    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class Bash(BashComplete):
    """bash, with words as they are typed: it breaks them at `:`, `=` and `@`, which our values are full of.

    Click takes bash's words, so that `--format=o`, `tar:FILE` and `name@1` would have no completion.
    """

    source_template: ClassVar[str] = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
        words = split_arg_string(line)
        begun = words.pop() if words and not line[-1:].isspace() else ""
        command = os.environ.get("COMP_COMMAND", "")
        at = words.index(command) if command in words else 0
        breaks = os.environ.get("COMP_WORDBREAKS", "")
        end = max((begun.rfind(char) for char in ":=@" if char in breaks), default=-1)
        self._cut = begun[: end + 1]
        return words[at + 1 :], begun

    def format_completion(self, item: CompletionItem) -> str:
        """Return what bash puts in place of the part of the word behind the last break."""
        return f"{item.type},{item.value.removeprefix(self._cut)}"


add_completion_class(Bash)


def run(instruction: str, *, build: bool) -> int:
    """Answer a shell. build: the command line is that of bin/build."""
    from buildstep.cli import build as building

    return shell_complete(building.command if build else root, {}, "buildstep", COMPLETE, instruction)


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.option(
    "--command", "name", default="buildstep", metavar="NAME", show_default=True,
    help="The command to complete: buildstep, or build for bin/build.",
    type=click.Choice(["buildstep", "build"]),
)  # fmt: skip
def command(shell: str, name: str) -> int:
    """Print a script that completes commands, options and their values in SHELL.

    \b
    bash: eval "$(buildstep completion bash)"
    zsh:  eval "$(buildstep completion zsh)"
    fish: buildstep completion fish | source

    It is for buildstep and bin/buildstep; with --command build for bin/build.
    """
    kind = get_completion_class(shell)
    assert kind is not None, shell
    echo(kind(root, {}, name, COMPLETE).source())
    return 0
