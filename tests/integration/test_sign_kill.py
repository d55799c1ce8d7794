"""`sign` and `keygen` killed at each call that changes what is on disk: nothing half-written has a name, and the
next run finishes the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from buildstep.trust.keys.generate import keygen
from buildstep.trust.keys.public import public_of
from buildstep.trust.signatures import bundle, minisign, sshsig
from buildstep.trust.signing import sign
from tests.unit.trust.keys.pairs import signer_of
from tests.unit.trust.test_signing import built

pytest.importorskip("cryptography")

_KILLED = """
import os, pathlib, signal, sys
left = int(sys.argv[1])
def counted(real):
    def call(*args, **named):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **named)
    return call
for place, name in ((os, "fsync"), (os, "link"), (os, "write"), (pathlib.Path, "replace")):
    setattr(place, name, counted(getattr(place, name)))
from buildstep.__main__ import main
sys.argv[1:] = sys.argv[2:]
sys.exit(main())
"""


def killed_at(number: int, folder: Path, *argv: str) -> int:
    """Run a command that is killed at its n-th call of this kind; its status."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(number), *argv],
        cwd=folder, env=environ, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode


def test_sign(tmp_path: Path) -> None:
    first, second = (keygen(tmp_path / name, "ed25519")[0] for name in "ab")
    kills = 0
    for number in range(1, 60):
        folder = tmp_path / f"of-{number}"
        folder.mkdir()
        built(folder, "hello-1.oci.tar", "hello-1.zfs")
        sign(folder, [first])
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        (
            folder / "hello-1.sigstore.json"
        ).unlink()  # so that there are files to write in place of others, and new
        status = killed_at(number, folder, "sign", "hello-1.buildrecord.json", "--key", "../b.key")
        for path in folder.iterdir():
            if path.name.endswith((".part", ".lock")):
                continue
            if path.name.endswith(".sig"):
                assert 1 <= len(sshsig.parse(path.read_bytes())) <= 2
            elif path.name.endswith(".sigstore.json"):
                bundle.parse(path.read_bytes())
            elif path.name.endswith(".minisig"):
                minisign.parse(path.read_bytes())
            elif not path.name.endswith(".jsonl"):
                assert path.read_bytes() == before[path.name]
        assert len((folder / "hello-1.intoto.jsonl").read_bytes().splitlines()) == 2, "no statement is lost"
        sign(folder, [second])
        assert sorted(path.name for path in folder.iterdir()) == sorted(before), "nothing is left behind"
        assert len(sshsig.parse((folder / "hello-1.sig").read_bytes())) == 2
        if status == 0:
            break
        kills += 1
    assert kills >= 8


def test_keygen(tmp_path: Path) -> None:
    kills = 0
    for number in range(1, 60):
        folder = tmp_path / f"of-{number}"
        folder.mkdir()
        status = killed_at(number, folder, "keygen", "k")
        names = sorted(path.name for path in folder.iterdir())
        for name in names:
            if name == "k.key":
                assert signer_of(folder / name).public == public_of(folder / "k.pub")
                assert len(names) == 4
            else:
                public_of(folder / name)  # complete
        if status == 0:
            break
        kills += 1
    assert kills >= 8
