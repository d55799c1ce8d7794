"""`python -m buildstep`, and with the name of one of daybook's commands as first word, that command."""

from __future__ import annotations

import os
import sys

from buildstep.system import bytecode

_DAYBOOK = ("daybook-push", "daybook-pull", "daybook-map")


def main() -> int:
    """Run the command line. What an incomplete environment of Python lacks is told, and ends with 5."""
    try:
        from buildstep import cli
    except ModuleNotFoundError as error:
        if not error.name or error.name.partition(".")[0] == "buildstep":
            raise
        version = ".".join(map(str, sys.version_info[:2]))
        if sys.stderr is not None:
            sys.stderr.write(
                f"error: the environment {sys.prefix} has no module {error.name} for Python {version}\n"
                "hint: install what pyproject.toml asks for there; where bin/setup made it, remove it\n"
            )
        return 5
    if sys.argv[1:2] and sys.argv[1] in _DAYBOOK:
        from buildstep.cli import daybook

        return daybook.main(sys.argv[1], sys.argv[2:])
    return cli.main()


if __name__ == "__main__":
    bytecode.install(os.path.dirname(os.path.abspath(__file__)), os.environ.get(bytecode.VARIABLE))
    sys.exit(main())
