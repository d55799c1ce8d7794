"""`service build --host`: all of a build on a node, over ssh, by the buildstep that is there.

The template goes there as a tar, into a directory of its own that is removed at the end; the report comes
back. The list is in the store that --store names, or that the node has.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, Final

from buildstep.errors import BuildstepError, CommandFailed, UsageError
from buildstep.events import Bus
from buildstep.files.interface import Access
from buildstep.files.ssh_link import SSH_FAILED, Link, Target
from buildstep.net.request import HttpOptions
from buildstep.services.facts import facts_of
from buildstep.services.interface import ServiceError
from buildstep.services.places import pack
from buildstep.services.repository import Repository
from buildstep.services.repository_view import address_of
from buildstep.system import process

MISSING: Final = 74
"""Status: there is no buildstep."""

_PIPE = -1  # what `subprocess` calls PIPE

BUILD: Final = f"""command -v buildstep >/dev/null 2>&1 || exit {MISSING}
set -e
top=$(mktemp -d); trap 'rm -rf "$top"' EXIT
mkdir -p "$top/servicetemplates/$1"; tar -xf - -C "$top/servicetemplates/$1"
name=$2; shift 2
buildstep service build "$name" --root "$top" --json "$@" </dev/null"""
"""Arguments: the template's directory name, the template's name, options. On standard input: its files."""


def build_there(
    repository: Repository, host: str, name: str, words: Sequence[str], environ: Mapping[str, str]
) -> dict[str, Any]:
    """Build a template on a node; return the report, with `host` in it.

    host: a key of the node; words: options of the command. Raises SpecError for a node that is none,
    ServiceError for one that has no buildstep, or where the build fails; StoreError for one that cannot be
    reached.
    """
    node = repository.one(host)
    if node.id.role != "node" or not node.id.name.endswith(".ssh"):
        raise UsageError(f"{node} is no node that is reached over ssh", hint="its template is node.ssh")
    template = repository.templates.one(name)
    directory = template.directory.name
    link = Link(
        Target.parse_host(address_of("ssh", facts_of(repository, node))),
        Access(environ=environ, bus=Bus(), http=HttpOptions.of(environ)),
    )
    with contextlib.ExitStack() as stack:
        stack.callback(link.close)
        file = stack.enter_context(tempfile.TemporaryFile())
        pack.write_tar(pack.tree_files(template.directory), file)
        file.seek(0)
        argv = link.argv_of(BUILD, directory, name, *words)
        try:
            with process.spawn(argv, env=link.env, stdin=file, stdout=_PIPE) as child:
                assert child.stdout is not None
                answer = child.stdout.read()
        except CommandFailed as error:
            raise _told(error, str(node), link) from error
    try:
        return {**json.loads(answer), "host": node.key}
    except ValueError:
        raise ServiceError(f"{node}: its buildstep did not answer with a report") from None


def _told(error: CommandFailed, node: str, link: Link) -> BuildstepError:
    if error.status == SSH_FAILED:
        return link.explained(error, retryable=True)
    if error.status == MISSING:
        return ServiceError(
            f"{node} has no buildstep, which has to be there for a build",
            hint="install it there, so that `ssh HOST buildstep --version` works; or build without --host",
        )
    return ServiceError(f"{node}: the build failed there", detail=error.detail)
