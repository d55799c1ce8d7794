"""`buildstep sign`: add signatures to an image, and to the statements beside it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from buildstep.cli import values
from buildstep.cli.options import JSON, show, tell

if TYPE_CHECKING:
    from buildstep.report.record import BuildRecord


@click.command(
    "sign",
    epilog="Exit codes: 0 signed, also where all signatures were there; 2 usage, 5 the package cryptography "
    "is missing, 19 a key or a signature, 32 an archive that is not what its record says.",
)
@click.argument("path", metavar="ARCHIVE|RECORD|DIR", type=click.Path(path_type=Path))
@click.option(
    "-k", "--key", "keys", metavar="KEY", multiple=True, required=True, envvar="BUILDSTEP_SIGN_KEY",
    shell_complete=values.FILES, show_envvar=True,
    help="What signs: a file; agent or agent:SHA256:...; pkcs11:URI; env:NAME. Repeat for several keys.",
)  # fmt: skip
@JSON
def command(path: Path, keys: tuple[str, ...], as_json: bool) -> None:
    """Sign an image file or any other, what a build wrote (its record), or all builds of a directory.

    Beside X.oci.tar come X.sig for ssh-keygen, X.sigstore.json for cosign and, by an Ed25519 key, X.minisig;
    of further files of a build they have the whole file name. Each statement in X.intoto.jsonl is signed, and
    one that says that the image is; the build record has the digests of all that. What is there stays: a
    second key is added to the first. The password of a key comes from BUILDSTEP_KEY_PASSWORD, or is asked for
    at a terminal.
    """
    from buildstep.events import Bus
    from buildstep.report.console import view_for
    from buildstep.trust import keys as key_table
    from buildstep.trust import signing

    bus = Bus(view_for(sys.stderr, verbose=0, quiet=False))
    signers = key_table.signers(keys, os.environ, bus=bus)
    reports = signing.sign(path, signers, _kept_valid)
    for report in reports:
        for text in report.left_out:
            tell(f"note: {text}")
    data = {
        "keys": [{"fingerprint": one.fingerprint, "algorithm": one.algorithm} for one in signers],
        "signed": [report.to_json() for report in reports],
    }
    written = [str(path) for report in reports for path in report.written]
    lines = written or [f"{report.stem.name}: all signatures were there" for report in reports]
    show(data, lines, as_json=as_json, done="the signatures are there")


def _kept_valid(record: BuildRecord, path: Path, before: list[int]) -> None:
    """Let the pool that has built it know that we changed a file: the next build has nothing to do then."""
    from buildstep.cache import outputs

    uri = str(record.inputs.get("pool", ""))
    try:
        if state := _state_of(uri):
            outputs.restamp(state, path, before)
    except OSError as error:
        text = f"the pool {uri} cannot be told of {path.name}: {error.strerror}"
        tell(f"note: {text}; the next build makes it again")


def _state_of(uri: str) -> Path | None:
    """Return the state of the pool that a record names, where that is here. A record may be anybody's: a pool
    that is opened by more than looking into a directory has to be the one of this machine, too."""
    from buildstep import pool
    from buildstep.errors import BuildstepError
    from buildstep.pool.layout import state_of
    from buildstep.spec import config as configs

    if not uri or (found := state_of(uri)) is not None:
        return found if uri else None
    try:
        config = configs.load(os.environ, Path.cwd(), pool=None, sources=())
        ours = pool.choose(config.pool, os.environ, by=config.pool_from)
        return pool.open_pool(uri).state if ours.uri == uri else None
    except BuildstepError:
        return None
