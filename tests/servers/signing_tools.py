"""cosign, minisign and ssh-keygen as judges: each says whether a signature is good, without any network."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.servers import judges

_NO_LOG = "--insecure-ignore-tlog"
_EMPTY_ROOT = '{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}'


def run(
    *argv: str | os.PathLike[str], cwd: Path, stdin: bytes = b"", environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a tool that must not need anything of the user, nor of the network."""
    base = {"PATH": os.environ["PATH"], "HOME": str(cwd), "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        list(argv),
        cwd=cwd,
        input=stdin,
        env=base | dict(environ or {}),
        capture_output=True,
        timeout=60,
        check=False,
    )


def cosign_blob(major: str, public: Path, data: bytes, folder: Path, **how: bytes) -> bool:
    """Whether cosign accepts a signature of a file. how: signature (raw), or bundle (its text)."""
    (folder / "judged").write_bytes(data)
    options: list[str] = []
    if "bundle" in how:
        (folder / "judged.bundle").write_bytes(how["bundle"])
        options = ["--bundle", "judged.bundle"]
        if major == "2":
            (folder / "root.json").write_text(_EMPTY_ROOT)
            options += ["--new-bundle-format", "--trusted-root", "root.json"]
    else:
        (folder / "judged.raw").write_bytes(base64.b64encode(how["signature"]))
        options = ["--signature", "judged.raw"]
    done = run(judges.cosign(major), "verify-blob", "--key", public, *options, _NO_LOG, "judged", cwd=folder)
    return done.returncode == 0


def cosign_attestation(
    major: str, public: Path, data: bytes, evidence: bytes, folder: Path, kind: str
) -> bool:
    """Whether cosign accepts a statement about a file. evidence: an envelope for cosign 2, a bundle for 3; kind:
    of the predicate, as cosign calls it."""
    (folder / "judged").write_bytes(data)
    (folder / "judged.att").write_bytes(evidence)
    option = "--signature" if major == "2" else "--bundle"
    argv = ["verify-blob-attestation", "--key", str(public), option, "judged.att", "--type", kind, _NO_LOG]
    return run(judges.cosign(major), *argv, "judged", cwd=folder).returncode == 0


def ssh_keygen(
    openssh: str, data: bytes, signature: bytes, folder: Path, namespace: str = "buildstep@v1"
) -> bool:
    """Whether ssh-keygen accepts an armoured signature. openssh: the line of the public key."""
    (folder / "allowed").write_text(f'ci namespaces="{namespace}" {openssh}\n')
    (folder / "judged.sig").write_bytes(signature)
    argv = ["ssh-keygen", "-Y", "verify", "-f", "allowed", "-I", "ci", "-n", namespace, "-s", "judged.sig"]
    return run(*argv, cwd=folder, stdin=data).returncode == 0


def minisign(public: Path, data: bytes, signature: bytes, folder: Path) -> bool:
    """Whether minisign accepts a .minisig."""
    (folder / "judged").write_bytes(data)
    (folder / "judged.minisig").write_bytes(signature)
    argv = ["-V", "-q", "-p", str(public), "-m", "judged"]
    return run(judges.minisign(), *argv, cwd=folder, environ=judges.minisign_environ()).returncode == 0
