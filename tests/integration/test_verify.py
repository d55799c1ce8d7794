"""`buildstep verify` before evidence that others made: ssh-keygen, minisign and cosign, beside files and in a registry."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from buildstep import cli
from tests.integration.support import Lab
from tests.integration.test_registry import bundle, push
from tests.servers import judges
from tests.servers.fixtures import Notes, Registry, bus, registry
from tests.tamperings import flipped

__all__ = ["bus", "registry"]

NAMESPACE = "buildstep@v1"


def tool(*argv: object, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """Run a tool of others, which has to work."""
    done = subprocess.run(
        [os.fspath(word) if isinstance(word, Path) else str(word) for word in argv],
        cwd=cwd, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **(env or {})},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ssh_key(folder: Path, name: str = "release", kind: str = "ed25519") -> Path:
    size = {"rsa": ["-b", "3072"], "ecdsa": ["-b", "256"]}.get(kind, [])
    tool("ssh-keygen", "-q", "-t", kind, *size, "-N", "", "-C", name, "-f", name, cwd=folder)
    return folder / f"{name}.pub"


def ssh_sign(path: Path, name: str = "release", namespace: str = NAMESPACE) -> None:
    path.with_name(f"{path.name}.sig").unlink(missing_ok=True)
    tool("ssh-keygen", "-q", "-Y", "sign", "-f", name, "-n", namespace, path.name, cwd=path.parent)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COSIGN_PASSWORD", "")
    return tmp_path


@pytest.fixture
def image(place: Path) -> Path:
    path = place / "hello-1.0.0.tar.gz"
    path.write_bytes(os.urandom(100_000))
    return path


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    """`verify(...)`: the exit status, and what --json printed."""

    def run(*argv: object) -> tuple[int, dict[str, Any]]:
        status = cli.main(["verify", "--json", *map(str, argv)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        value: dict[str, Any] = json.loads(out) if out else {}
        assert value.get("code", status) == status
        assert bool(status) == bool(err), err
        return status, value

    return run


Verify = Callable[..., tuple[int, dict[str, Any]]]


# -- the five codes, by a policy and real keys


def policy(folder: Path, **rule: object) -> Path:
    rows = "".join(f"{name} = {json.dumps(value)}\n" for name, value in rule.items())
    path = folder / "policy.toml"
    path.write_text(
        "format = 1\n[[key]]\nname = 'release'\nfile = 'release.pub'\n"
        "[[key]]\nname = 'old'\nfile = 'old.pub'\nuntil = 2020-12-31\n"
        "[[key]]\nname = 'future'\nfile = 'future.pub'\nfrom = 2990-01-01\n"
        f"[[rule]]\nmatch = ['hello-*']\n{rows}"
    )
    return path


def test_each_cause_has_its_exit_code(place: Path, image: Path, verify: Verify) -> None:
    for name in ("release", "old", "future", "stranger"):
        ssh_key(place, name)
    rules = policy(place)
    assert verify(image, "--policy", rules)[0] == 30
    for name, code in (("stranger", 31), ("old", 33), ("future", 33), ("release", 0)):
        ssh_sign(image, name)
        status, said = verify(image, "--policy", rules)
        assert (status, said["artifacts"][0]["code"]) == (code, code), (name, said)
        assert said["artifacts"][0]["checked"][0]["fingerprint"].startswith("SHA256:")
    other = place / "other-1.tar.gz"
    image.rename(other)
    ssh_sign(other)
    status, said = verify(other, "--policy", rules)
    assert status == 34
    assert "no rule of" in said["artifacts"][0]["reasons"][0]
    other.rename(image)
    assert verify(image, "--policy", policy(place, require=["signature", "tests"]))[0] == 34
    ssh_sign(image, namespace="git")
    assert verify(image, "--policy", policy(place))[0] == 31
    ssh_sign(image)
    image.write_bytes(flipped(image.read_bytes()))
    assert verify(image, "--policy", policy(place))[0] == 31


def test_what_is_missing_or_wrong_is_told_before_anything_is_judged(
    place: Path, image: Path, verify: Verify
) -> None:
    key = ssh_key(place)
    assert verify(image)[0] == 2
    assert verify(image, "--key", key, "--require", "everything")[0] == 2
    assert verify(place / "nothing.tar", "--key", key)[0] == 2
    (place / "bad.toml").write_text("format = 2\n[[rule]]\n")
    assert verify(image, "--policy", "bad.toml")[0] == 2


def test_all_images_of_a_directory_and_the_worst_is_the_answer(
    place: Path, image: Path, verify: Verify
) -> None:
    key = ssh_key(place)
    second = place / "hello-1.0.0.zfs.gz"
    second.write_bytes(b"a stream")
    for path in (image, second):
        ssh_sign(path)
    status, said = verify(place, "--key", key)
    assert (status, [row["name"] for row in said["artifacts"]]) == (0, [image.name, second.name])
    (place / f"{second.name}.sig").unlink()
    status, said = verify(place, "--key", key)
    assert (status, [row["code"] for row in said["artifacts"]]) == (30, [0, 30])


# -- what others made


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_ssh_keygen(place: Path, image: Path, verify: Verify, kind: str) -> None:
    key = ssh_key(place, kind=kind)
    ssh_sign(image)
    assert verify(image, "--key", key)[0] == 0


def test_minisign(place: Path, image: Path, verify: Verify) -> None:
    program, env = judges.minisign(), judges.minisign_environ()
    tool(program, "-G", "-W", "-p", "m.pub", "-s", "m.key", cwd=place, env=env)
    tool(program, "-S", "-s", "m.key", "-m", image.name, "-t", "timestamp:1700000000", cwd=place, env=env)
    assert verify(image, "--key", "m.pub")[0] == 0
    (place / "policy.toml").write_text(
        "format = 1\n[[key]]\nname = 'm'\nfile = 'm.pub'\n[[rule]]\nmatch = ['*']\nmax_age = '90d'\n"
    )
    status, said = verify(image, "--policy", "policy.toml")
    assert status == 33
    assert "made on 2023-11-14" in said["artifacts"][0]["reasons"][0]
    image.write_bytes(flipped(image.read_bytes()))
    assert verify(image, "--key", "m.pub")[0] == 31


@pytest.fixture(params=["2", "3"])
def cosign(request: pytest.FixtureRequest, place: Path) -> Callable[..., str]:
    """`cosign(...)`, with a key pair in the place; what it needs to be silent about logs is known."""
    program = judges.cosign(request.param)
    quiet = ["--tlog-upload=false"]
    if request.param == "3":
        quiet = ["--signing-config", str(place / "signing.json")]
        tool(program, "signing-config", "create", "--out", "signing.json", cwd=place)
    tool(program, "generate-key-pair", cwd=place)

    def run(command: str, *argv: object) -> str:
        return tool(program, command, "-y", "--key", "cosign.key", *quiet, *argv, cwd=place)

    return run


def test_cosign_on_files(place: Path, image: Path, cosign: Callable[..., str], verify: Verify) -> None:
    side = place / "hello-1.0.0.sigstore.json"
    new = [] if (place / "signing.json").exists() else ["--new-bundle-format"]
    cosign("sign-blob", *new, "--bundle", side, image)
    assert verify(image, "--key", "cosign.pub")[0] == 0
    (place / "tests.json").write_text('{"result": "PASSED", "configuration": []}')
    kind = "https://in-toto.io/attestation/test-result/v0.1"
    cosign("attest-blob", *new, "--type", kind, "--predicate", "tests.json", "--bundle", side, image)
    assert verify(image, "--key", "cosign.pub", "--require", "tests")[0] == 0
    assert verify(image, "--key", "cosign.pub")[0] == 34
    image.write_bytes(flipped(image.read_bytes()))
    assert verify(image, "--key", "cosign.pub", "--require", "tests")[0] == 31


def test_cosigns_bare_signature(place: Path, image: Path, verify: Verify) -> None:
    program = judges.cosign("2")
    tool(program, "generate-key-pair", cwd=place)
    tool(
        program, "sign-blob", "-y", "--key", "cosign.key", "--tlog-upload=false", "--output-signature",
        f"{image.name}.sig", image.name, cwd=place,
    )  # fmt: skip
    assert verify(image, "--key", "cosign.pub")[0] == 0
    image.write_bytes(flipped(image.read_bytes()))
    assert verify(image, "--key", "cosign.pub")[0] == 31


def test_cosign_in_a_registry(
    place: Path, registry: Registry, bus: Notes, cosign: Callable[..., str], verify: Verify,
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """cosign 2 writes its own tags, cosign 3 referrers, which this registry has by the fallback tag."""
    name = f"trust/cosign-{request.node.callspec.params['cosign']}"
    done = push(bundle(place / "image"), f"docker://{registry.host}/{name}:v1", bus)
    pinned = f"{registry.host}/{name}@{done.objects['v1']}"
    monkeypatch.setenv("BUILDSTEP_INSECURE_REGISTRIES", registry.host)
    ref = f"docker://{registry.host}/{name}:v1"
    assert verify(ref, "--key", "cosign.pub")[0] == 30
    insecure = ["--allow-insecure-registry", "--allow-http-registry"]
    cosign("sign", *insecure, pinned)
    status, said = verify(ref, "--key", "cosign.pub")
    assert (status, said["artifacts"][0]["digests"]["oci"]) == (0, done.objects["v1"].removeprefix("sha256:"))
    (place / "stranger").mkdir()
    assert verify(ref, "--key", ssh_key(place / "stranger"))[0] == 31
    (place / "p.json").write_text(
        '{"buildDefinition": {}, "runDetails": {"builder": {"id": "https://ci/main"}}}'
    )
    cosign("attest", *insecure, "--type", "slsaprovenance1", "--predicate", "p.json", pinned)
    (place / "policy.toml").write_text(
        "format = 1\n[[key]]\nname = 'ci'\nfile = 'cosign.pub'\n"
        f"[[rule]]\nmatch = ['docker://{registry.host}/*']\nbuilders = ['https://ci/*']\n"
    )
    assert verify(ref, "--policy", "policy.toml")[0] == 0
    text = (place / "policy.toml").read_text()
    (place / "policy.toml").write_text(text.replace("https://ci/*", "https://other/*"))
    status, said = verify(ref, "--policy", "policy.toml")
    assert status == 34
    assert "does not allow the builder https://ci/main" in said["artifacts"][0]["reasons"][0]


# -- what builds write


@pytest.fixture(scope="module")
def built(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of two builds that are signed, and of one that is not; `release.pub` is beside them."""
    lab = Lab(top=tmp_path_factory.mktemp("built"), base=base)
    assert lab.command("keygen", "release").status == 0
    for name, key in (("hello", "release.key"), ("other", "release.key"), ("bare", None)):
        trust = {"sbom": True, "provenance": "min", "key": key}
        lab.manifest(name=name, build={"trust": trust, "formats": ["oci", "tar", "oci-dir"]})
        (lab.proto / "etc/hello").write_text(name)
        lab.built()
    return lab.top


OUTPUTS = ("hello-1.0.0.oci.tar", "hello-1.0.0.tar.zst", "hello-1.0.0.oci")


@pytest.fixture
def out(built: Path, place: Path) -> Path:
    """A copy of what was built."""
    shutil.copytree(built / "out", place / "out")
    shutil.copy(built / "release.pub", place)
    return place / "out"


def test_a_build_proves_all_its_images(out: Path, verify: Verify) -> None:
    wanted = ["--key", "release.pub", "--require", "signature,sbom,provenance,tests"]
    status, said = verify(out / "hello-1.0.0.buildrecord.json", *wanted)
    assert status == 0, said
    assert sorted(row["name"] for row in said["artifacts"]) == sorted(OUTPUTS)
    for row in said["artifacts"]:
        assert {it["proof"] for it in row["checked"] if it["state"] == "verified"} == {
            "signature", "sbom", "provenance", "tests",
        }  # fmt: skip
    (out / "hello-1.0.0.tar.zst").unlink()
    assert verify(out / "hello-1.0.0.buildrecord.json", *wanted)[0] == 2
    assert verify(out / "bare-1.0.0.oci.tar", *wanted)[0] == 30
    assert verify(out, *wanted)[0] == 30, "one of them is not signed"


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_image_of_a_build_that_was_altered(out: Path, verify: Verify, name: str) -> None:
    path = out / name
    whole = max(path.glob("blobs/sha256/*"), key=lambda blob: blob.stat().st_size) if path.is_dir() else path
    whole.write_bytes(flipped(whole.read_bytes()))
    assert verify(path, "--key", "release.pub")[0] == 31


@pytest.mark.parametrize("name", OUTPUTS)
def test_signatures_of_another_image(out: Path, verify: Verify, name: str) -> None:
    for path in out.glob("hello-1.0.0.*"):
        if path.name not in OUTPUTS:
            path.unlink()
    for path in out.glob("other-1.0.0.*"):
        if path.name.replace("other", "hello") not in OUTPUTS:
            path.rename(out / path.name.replace("other", "hello"))
    assert verify(out / name, "--key", "release.pub")[0] == 32


def test_an_image_that_another_tool_packed_again(out: Path, verify: Verify) -> None:
    """Its manifest is the same, and so what was signed of that counts; a signature of the old file does not."""
    with tarfile.open(out / "again.oci.tar", "w") as tar:
        tar.add(out / "hello-1.0.0.oci", ".")
    shutil.copy(out / "hello-1.0.0.intoto.jsonl", out / "again.intoto.jsonl")
    status, said = verify(out / "again.oci.tar", "--key", "release.pub", "--require", "signature,provenance")
    assert status == 0, said
    shutil.copy(out / "hello-1.0.0.sig", out / "again.sig")
    assert verify(out / "again.oci.tar", "--key", "release.pub")[0] == 31
