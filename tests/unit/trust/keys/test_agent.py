"""Keys of a real ssh-agent."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildstep.errors import SigningError
from buildstep.net.ssh_agent import LARGEST
from buildstep.trust.keys.public import public_of
from tests.unit.trust.keys.pairs import signer_of

pytest.importorskip("cryptography")
pytestmark = pytest.mark.commands  # ssh-keygen, ssh-agent and ssh-add make the keys

KINDS = {"ed25519": "ed25519", "ecdsa": "ecdsa-p256", "rsa": "rsa"}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """An agent with a key of each kind, and one on P-384; the folder of their files."""
    folder = tmp_path_factory.mktemp("agent")
    address = folder / "agent.sock"
    child = subprocess.Popen(
        ["ssh-agent", "-D", "-a", address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 5
        while not address.exists() and time.monotonic() < end:
            time.sleep(0.02)
        environ = {"SSH_AUTH_SOCK": str(address)}
        for kind, bits in (("ed25519", "256"), ("ecdsa", "256"), ("rsa", "2048"), ("p384", "384")):
            argv = ["ssh-keygen", "-q", "-t", kind.replace("p384", "ecdsa"), "-b", bits, "-N", ""]
            subprocess.run([*argv, "-f", folder / kind], check=True, timeout=60)
            argv = ["ssh-add", "-q", str(folder / kind)]
            subprocess.run(argv, env=os.environ | environ, check=True, timeout=10)
        yield folder, environ
    finally:
        child.terminate()
        child.wait(5)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_signs(agent: tuple[Path, dict[str, str]], kind: str) -> None:
    folder, environ = agent
    public = public_of(folder / f"{kind}.pub")
    found = signer_of(f"agent:{public.fingerprint}", environ)
    assert (found.public, found.algorithm) == (public, KINDS[kind])
    for _ in range(8):  # numbers of ECDSA are shorter now and then
        assert public.verify(b"message", found.sign(b"message"))


def test_what_an_agent_cannot_do(agent: tuple[Path, dict[str, str]]) -> None:
    folder, environ = agent
    with pytest.raises(SigningError, match="has 3 keys, and none is named") as caught:
        signer_of("agent", environ)
    assert "agent:SHA256:" in caught.value.detail
    with pytest.raises(SigningError, match="does not have the key SHA256:nope"):
        signer_of("agent:SHA256:nope", environ)
    other = subprocess.run(
        ["ssh-keygen", "-lf", folder / "p384"], capture_output=True, check=True, timeout=10
    )
    with pytest.raises(SigningError, match="nistp384, which does not do"):
        signer_of(f"agent:{other.stdout.decode().split()[1]}", environ)
    with pytest.raises(SigningError, match="SSH_AUTH_SOCK is not set"):
        signer_of("agent")
    with pytest.raises(SigningError, match="cannot talk"):
        signer_of("agent", {"SSH_AUTH_SOCK": "/nowhere"})


def test_the_largest_message(agent: tuple[Path, dict[str, str]]) -> None:
    folder, environ = agent
    public = public_of(folder / "ed25519.pub")
    found = signer_of(f"agent:{public.fingerprint}", environ)
    message = bytes(LARGEST)
    assert public.verify(message, found.sign(message)), "so much it does sign"
    with pytest.raises(SigningError, match="signs no more than"):
        found.sign(bytes(LARGEST + 1))
