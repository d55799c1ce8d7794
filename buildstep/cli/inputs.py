"""What a command line names to build from: an m.json and a proto directory, in any order."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

import click

from buildstep.cli import values

_ENDINGS = (".json", ".j2")


class Inputs(NamedTuple):
    """An m.json (a path, JSON text, or `-`) and a proto directory; None for what was not named."""

    manifest: str | None
    proto: str | None


ARGUMENT = click.argument("words", metavar="[MANIFEST] [PROTO]", nargs=-1, shell_complete=values.FILES)


def find_inputs(words: Sequence[str], manifest: str | None) -> Inputs:
    """Tell manifests from proto directories among the arguments of a command.

    manifest: what an option names. Raises click.UsageError for two of a kind.
    """
    manifests = [word for word in words if _is_manifest(word)]
    protos = [word for word in words if not _is_manifest(word)]
    if manifest is not None:
        manifests.append(manifest)
    for what, found in (("m.json", manifests), ("proto directory", protos)):
        if len(found) > 1:
            shown = " and ".join(text[:60] for text in found)
            raise click.UsageError(f"one {what} is built from, and there are {len(found)}: {shown}")
    return Inputs(next(iter(manifests), None), next(iter(protos), None))


def _is_manifest(word: str) -> bool:
    """Whether an argument is an m.json: JSON text, standard input, or a file that is or would be one."""
    if word == "-" or word.lstrip().startswith("{"):
        return True
    try:
        mode = os.stat(word).st_mode
    except (OSError, ValueError):
        return word.endswith(_ENDINGS)
    if stat.S_ISDIR(mode):
        return False
    if word.endswith(_ENDINGS) or not stat.S_ISREG(mode):
        return True
    try:
        with open(word, "rb") as stream:
            return stream.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    except OSError:
        return False
