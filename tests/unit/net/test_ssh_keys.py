"""Signing with ssh RSA keys by a real ssh-agent."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildstep.errors import SigningError
from buildstep.net.ssh_agent import fingerprints
from buildstep.net.ssh_keys import agent_signer
from tests.unit.trust.keys.pairs import signer_of

pytestmark = pytest.mark.commands  # ssh-keygen, ssh-agent and ssh-add make the keys


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "id_rsa"
    argv = ["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", str(path)]
    subprocess.run(argv, check=True, timeout=30)
    return path


@pytest.fixture(scope="module")
def agent(key: Path) -> Iterator[dict[str, str]]:
    address = key.with_name("agent.sock")
    child = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(address)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 5
        while not address.exists() and time.monotonic() < end:
            time.sleep(0.02)
        environ = {"SSH_AUTH_SOCK": str(address)}
        subprocess.run(["ssh-add", "-q", str(key)], env={**os.environ, **environ}, check=True, timeout=10)
        yield environ
    finally:
        child.terminate()
        child.wait(5)


def test_keys_of_an_agent(key: Path, agent: dict[str, str]) -> None:
    import base64

    blob = base64.b64decode(key.with_suffix(".pub").read_text().split()[1])
    for fingerprint in fingerprints(blob):
        assert agent_signer(agent, fingerprint=fingerprint)(b"x") == signer_of(key).sign(b"x")
    with pytest.raises(SigningError, match="does not have"):
        agent_signer(agent, fingerprint="SHA256:nope")
    with pytest.raises(SigningError, match="SSH_AUTH_SOCK"):
        agent_signer({})
    with pytest.raises(SigningError, match="cannot talk"):
        agent_signer({"SSH_AUTH_SOCK": "/nowhere"})
