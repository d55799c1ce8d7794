"""`buildstep keygen`: make a pair of keys to sign with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from buildstep.cli.options import JSON, show

TYPES = ("ed25519", "ecdsa", "rsa")


@click.command(
    "keygen",
    epilog="Exit codes: 0 made, 2 usage, 5 the package cryptography is missing, 19 a file is there already.",
)
@click.argument("prefix", metavar="PREFIX", type=click.Path(path_type=Path))
@click.option(
    "-t", "--type", "kind", type=click.Choice(TYPES), default="ed25519", show_default=True,
    help="ecdsa is on P-256; rsa has 3072 bits.",
)  # fmt: skip
@click.option(
    "--password", "locked", is_flag=True,
    help="Encrypt the private key, with the password in BUILDSTEP_KEY_PASSWORD or one that is asked for.",
)  # fmt: skip
@JSON
def command(prefix: Path, kind: str, locked: bool, as_json: bool) -> None:
    """Make a pair of keys: PREFIX.key, which is private, and its public half for whoever verifies.

    PREFIX.pub is for buildstep, cosign and openssl, PREFIX.ssh.pub for allowed_signers of ssh-keygen, and
    PREFIX.minisign.pub, of an Ed25519 key, for minisign. Nothing is overwritten.
    """
    from buildstep.events import Bus
    from buildstep.report.console import view_for
    from buildstep.trust.keys import generate, passwords
    from buildstep.trust.keys.interface import KeySource

    source = KeySource(environ=os.environ, bus=Bus(view_for(sys.stderr, verbose=0, quiet=False)))
    word = passwords.chosen(f"the key {prefix}.key", source) if locked else b""
    chosen = next(one for one in generate.TYPES if one == kind)
    signer, files = generate.keygen(prefix, chosen, password=word)
    data = {
        "algorithm": signer.algorithm,
        "fingerprint": signer.fingerprint,
        "private": str(files[0]),
        "public": [str(path) for path in files[1:]],
    }
    show(data, [*map(str, files), signer.fingerprint], as_json=as_json, done="the keys are there")
