"""`buildstep completion`."""

from __future__ import annotations

import click


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> int:
    """Print a script that completes commands and options in SHELL.

    \b
    bash: eval "$(buildstep completion bash)"
    zsh:  eval "$(buildstep completion zsh)"
    fish: buildstep completion fish | source
    """
    from click.shell_completion import get_completion_class

    from buildstep.cli import root

    kind = get_completion_class(shell)
    assert kind is not None, shell
    click.echo(kind(root, {}, "buildstep", "_BUILDSTEP_COMPLETE").source())
    return 0
