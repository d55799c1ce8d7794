"""Start the runtime from its directory, where buildstep itself need not be."""

from __future__ import annotations

import importlib.util
import os
import sys
import types

NAME = "buildstep.services.runtime"


class _Nothing:
    """Finds nothing of buildstep but the runtime: an action that imports more works here, and on no node."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.startswith("buildstep.") and not name.startswith(NAME):
            raise ModuleNotFoundError(f"No module named {name!r}: actions have {NAME} alone", name=name)


def load() -> None:
    """Make this directory the package by which actions import it. Nothing else of buildstep can be."""
    sys.meta_path.insert(0, _Nothing())
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if path and os.path.abspath(path) != here]
    for name in ("buildstep", "buildstep.services"):
        above = types.ModuleType(name)
        above.__path__ = []
        sys.modules[name] = above
    first = os.path.join(here, "__init__.py")
    spec = importlib.util.spec_from_file_location(NAME, first, submodule_search_locations=[here])
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = package
    spec.loader.exec_module(package)


def main() -> int:
    """Do what the word says: `run` a call, `keep` a process, tell what is `done`, `forget` a service, run the
    `calls` of a file, `boot` the processes of one."""
    load()
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    if word == "run":
        from buildstep.services.runtime import runner

        return runner.main(*sys.argv[2:3])
    if word == "keep":
        from buildstep.services.runtime.supervisors import keeper

        return keeper.main()
    if word in ("done", "settled", "forget"):
        from buildstep.services.runtime import questions

        return questions.main(word)
    if word == "calls":
        from buildstep.services.runtime import calls

        return calls.main(sys.argv[2])
    if word == "boot":
        from buildstep.services.runtime import boot

        return boot.main(sys.argv[2])
    sys.stderr.write(f"{word!r} is none of run, keep, done, settled, forget, calls, boot\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
