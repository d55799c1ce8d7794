"""Signatures before the tools of others: cosign 2 and 3, ssh-keygen and minisign accept ours and refuse each
tampering, and we accept theirs."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from buildstep.events import Bus
from buildstep.trust import dsse
from buildstep.trust.keys import signer
from buildstep.trust.keys.generate import TYPES, KeyType, keygen
from buildstep.trust.keys.interface import Signer
from buildstep.trust.keys.public import public_of
from buildstep.trust.signatures import CHECKS, bundle, minisign, sshsig
from buildstep.trust.signatures.content import Content
from buildstep.trust.statements.statement import PAYLOAD_TYPE, Statement, Subject
from tests import tamperings
from tests.servers import judges, signing_tools
from tests.servers.signing_tools import run

pytest.importorskip("cryptography")

DATA = b"what an image is made of\n" * 4000
SIGNED = "good"
"""The name of what was not tampered with."""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two pairs of each kind: KIND and other-KIND."""
    folder = tmp_path_factory.mktemp("keys")
    for kind in TYPES:
        keygen(folder / kind, kind)
        keygen(folder / f"other-{kind}", kind)
    return folder


def key_of(keys: Path, name: str) -> Signer:
    return signer(str(keys / f"{name}.key"), {}, bus=Bus())


def tampered(name: str, data: bytes, make: Callable[[str], bytes], kind: str) -> tamperings.Signed:
    """What an attacker hands out. make: a raw signature of the data by a key of this name."""
    good = tamperings.Signed(data, make(kind))
    if name == SIGNED:
        return good
    return tamperings.DETACHED[name](good, tamperings.Signed(data, make(f"other-{kind}")))


# Of a key of 3072 bits no more than of the small ones is to be seen: each tampering before each judge is enough.
EACH = [("ed25519", name) for name in (SIGNED, *tamperings.DETACHED)]
EACH += [("ecdsa", name) for name in (SIGNED, *tamperings.DETACHED)] + [
    ("rsa", SIGNED),
    ("rsa", "another key"),
]


@pytest.mark.parametrize(("kind", "name"), EACH)
def test_blobs_before_cosign(kind: KeyType, name: str, keys: Path, tmp_path: Path) -> None:
    public = keys / f"{kind}.pub"
    bad = tampered(name, DATA, lambda by: key_of(keys, by).sign(DATA), kind)
    value = json.loads(bundle.make(Content(DATA), key_of(keys, kind)))
    value["messageSignature"]["signature"] = base64.b64encode(bad.signature).decode()
    text = json.dumps(value).encode()
    expected = name == SIGNED
    cosign = signing_tools.cosign_blob
    assert cosign("2", public, bad.data, tmp_path, signature=bad.signature) is expected
    assert cosign("3", public, bad.data, tmp_path, bundle=text) is expected
    if expected:
        assert cosign("2", public, bad.data, tmp_path, bundle=text)
        assert cosign("3", public, bad.data, tmp_path, signature=bad.signature)


def statement(data: bytes) -> bytes:
    import hashlib

    predicate = {
        "buildDefinition": {"buildType": "https://example.com/build", "externalParameters": {}},
        "runDetails": {"builder": {"id": "https://example.com/agent"}},
    }
    subject = Subject("image", {"sha256": hashlib.sha256(data).hexdigest()})
    return Statement((subject,), "https://slsa.dev/provenance/v1", predicate).to_json()


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", [SIGNED, *tamperings.ENVELOPES])
def test_statements_before_cosign(kind: KeyType, name: str, keys: Path, tmp_path: Path) -> None:
    if kind == "rsa" and name not in (SIGNED, "another key"):
        return
    ours, other = key_of(keys, kind), key_of(keys, f"other-{kind}")
    line = dsse.seal(PAYLOAD_TYPE, statement(DATA), [ours])
    of_other = dsse.seal(PAYLOAD_TYPE, statement(DATA), [other])
    bad = line if name == SIGNED else tamperings.envelope(name, line, of_other)
    wrapped = json.loads(bundle.of_envelope(line, ours.public))
    wrapped["dsseEnvelope"] = json.loads(bad)
    expected = name == SIGNED
    for major, evidence in (("2", bad), ("3", json.dumps(wrapped).encode())):
        found = signing_tools.cosign_attestation(
            major, keys / f"{kind}.pub", DATA, evidence, tmp_path, "slsaprovenance1"
        )
        assert found is expected, major
    if expected:  # nor of another file
        assert not signing_tools.cosign_attestation(
            "3", keys / f"{kind}.pub", DATA + b"x", json.dumps(wrapped).encode(), tmp_path, "slsaprovenance1"
        )


@pytest.mark.parametrize(("kind", "name"), EACH)
def test_ssh_keygen(kind: KeyType, name: str, keys: Path, tmp_path: Path) -> None:
    def raw(by: str) -> bytes:
        return sshsig.parse(sshsig.make(Content(DATA), key_of(keys, by)))[0].signature

    ours = key_of(keys, kind)
    bad = tampered(name, DATA, raw, kind)
    text = sshsig.make(Content(DATA), ours)
    inside = base64.b64decode(b"".join(text.splitlines()[1:-1]))
    good = sshsig.parse(text)[0].signature
    if name in tamperings.DETACHED and bad.signature != good:
        inside = inside.replace(good, bad.signature)
    armour = (
        b"-----BEGIN SSH SIGNATURE-----\n" + base64.encodebytes(inside) + b"-----END SSH SIGNATURE-----\n"
    )
    expected = name == SIGNED
    judged = signing_tools.ssh_keygen(ours.public.openssh, bad.data, text if expected else armour, tmp_path)
    assert judged is expected


def test_ssh_keygen_and_purposes_and_several_keys(keys: Path, tmp_path: Path) -> None:
    ours, other = key_of(keys, "ed25519"), key_of(keys, "ecdsa")
    text = sshsig.make(Content(DATA), ours)
    assert not signing_tools.ssh_keygen(ours.public.openssh, DATA, text, tmp_path, namespace="git")
    both = text + sshsig.make(Content(DATA), other)
    assert signing_tools.ssh_keygen(ours.public.openssh, DATA, both, tmp_path)


@pytest.mark.parametrize("name", [SIGNED, *tamperings.DETACHED])
def test_minisign(name: str, keys: Path, tmp_path: Path) -> None:
    def raw(by: str) -> bytes:
        return minisign.parse(minisign.make(Content(DATA), key_of(keys, by), "today")).signature

    bad = tampered(name, DATA, raw, "ed25519")
    lines = minisign.make(Content(DATA), key_of(keys, "ed25519"), "today").split(b"\n")
    lines[1] = base64.b64encode(base64.b64decode(lines[1])[:10] + bad.signature)
    text = b"\n".join(lines)
    judged = signing_tools.minisign(keys / "ed25519.minisign.pub", bad.data, text, tmp_path)
    assert judged is (name == SIGNED)
    if judged:
        other = text.replace(b"trusted comment: today", b"trusted comment: later")
        assert not signing_tools.minisign(keys / "ed25519.minisign.pub", bad.data, other, tmp_path)


# -- what they make ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_signatures_and_keys_of_ssh_keygen(kind: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    assert run("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", "id", cwd=tmp_path).returncode == 0
    done = run("ssh-keygen", "-Y", "sign", "-f", "id", "-n", "buildstep@v1", "f", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    public = public_of(tmp_path / "id.pub")
    text = (tmp_path / "f.sig").read_bytes()
    assert CHECKS["sshsig"](text, Content(DATA), [public]).signers == (public,)
    assert CHECKS["sshsig"](text, Content(DATA + b"x"), [public]).signers == ()


@pytest.mark.parametrize("legacy", [False, True])
def test_signatures_and_keys_of_minisign(legacy: bool, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    program, environ = judges.minisign(), judges.minisign_environ()
    assert (
        run(program, "-G", "-W", "-p", "k.pub", "-s", "k.key", cwd=tmp_path, environ=environ).returncode == 0
    )
    words = ["-S", "-s", "k.key", "-m", "f", "-t", "of today", *(["-l"] if legacy else [])]
    done = run(program, *words, cwd=tmp_path, environ=environ)
    assert done.returncode == 0, done.stderr
    public = public_of(tmp_path / "k.pub")
    text = (tmp_path / "f.minisig").read_bytes()
    assert minisign.parse(text).hashed is not legacy
    assert CHECKS["minisign"](text, Content(DATA), [public]).signers == (public,)
    assert CHECKS["minisign"](text, Content(DATA + b"x"), [public]).signers == ()


def test_bundles_and_keys_of_cosign(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    word = {"COSIGN_PASSWORD": "a word of cosign"}
    for major in ("2", "3"):
        done = run(
            judges.cosign(major),
            "generate-key-pair",
            "--output-key-prefix",
            f"c{major}",
            cwd=tmp_path,
            environ=word,
        )
        assert done.returncode == 0, done.stderr
        theirs = signer(str(tmp_path / f"c{major}.key"), word, bus=Bus())
        public = public_of(tmp_path / f"c{major}.pub")
        assert theirs.public == public
        raw = theirs.sign(DATA)
        assert signing_tools.cosign_blob(major, tmp_path / f"c{major}.pub", DATA, tmp_path, signature=raw)
    config = run(judges.cosign("3"), "signing-config", "create", cwd=tmp_path).stdout
    (tmp_path / "config.json").write_bytes(config)
    argv = [
        "sign-blob",
        "--yes",
        "--key",
        "c3.key",
        "--bundle",
        "f.bundle",
        "--signing-config",
        "config.json",
        "f",
    ]
    done = run(judges.cosign("3"), *argv, cwd=tmp_path, environ=word)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "f.bundle").read_bytes()
    public = public_of(tmp_path / "c3.pub")
    found = CHECKS["bundle"](text, Content(DATA), [public])
    assert (found.signers, found.claimed) == ((public,), (public.fingerprint,))
    assert CHECKS["bundle"](text, Content(DATA + b"x"), [public]).signers == ()


# -- tokens --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """A token of SoftHSM with the PIN 4242 and a pair of each kind, each with its label; the end of its URIs, and
    what is to be set for its library."""
    pytest.importorskip("pkcs11")
    folder = tmp_path_factory.mktemp("token")
    program, module = judges.softhsm()
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(
        f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\n"
    )
    environ = {"SOFTHSM2_CONF": f"{folder}/softhsm2.conf"}
    words = ["--init-token", "--free", "--label", "ci", "--so-pin", "12345678", "--pin", "4242"]
    done = run(program, "--module", str(module), *words, cwd=folder, environ=environ)
    assert done.returncode == 0, done.stderr
    done = run(sys.executable, "-c", _PAIRS, str(module), cwd=folder, environ=environ)
    assert done.returncode == 0, done.stderr
    return f"?module-path={module}", environ


_PAIRS = """
import sys, pkcs11
from pkcs11 import KeyType, Attribute
from pkcs11.util.ec import encode_named_curve_parameters
token = pkcs11.lib(sys.argv[1]).get_token(token_label="ci")
with token.open(rw=True, user_pin="4242") as session:
    curve = {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
    session.create_domain_parameters(KeyType.EC, curve, local=True).generate_keypair(store=True, label="ecdsa", id=b"\\1")
    session.generate_keypair(KeyType.RSA, 2048, store=True, label="rsa", id=b"\\2")
"""


def test_keys_of_a_token(token: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    """In a process of its own: the library reads its configuration once."""
    end, environ = token
    (tmp_path / "blob").write_bytes(DATA)
    argv = [sys.executable, "-m", "buildstep", "sign", "blob"]
    environ = environ | {"BUILDSTEP_KEY_PASSWORD": "4242", "PYTHONPATH": os.pathsep.join(sys.path)}
    for words in ("object=ecdsa", "token=ci;object=rsa", "token=ci;id=%01"):
        uri = f"pkcs11:{words}{end}"
        done = run(*argv, "--key", uri, "--json", cwd=tmp_path, environ=environ)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["keys"][0]["algorithm"] == ("rsa" if "rsa" in words else "ecdsa-p256")
    found = sshsig.parse((tmp_path / "blob.sig").read_bytes())
    assert len({one.fingerprint for one in found}) == len(found) == 2, (
        "the one with the id is the first again"
    )
    checked = CHECKS["sshsig"]((tmp_path / "blob.sig").read_bytes(), Content(DATA), [])
    assert checked.why == (), "each is good by the key that it names"


@pytest.mark.parametrize(
    ("words", "pin", "match"),
    [
        (
            "token=ci;object=ecdsa",
            "1111",
            "the password in BUILDSTEP_KEY_PASSWORD does not open the token of",
        ),
        ("token=ci;object=none", "4242", "the token has no such key"),
        ("token=other;object=ecdsa", "4242", "there is no such token"),
        ("token=ci", "4242", "it names no object and no id"),
        ("token=ci;object=ecdsa;color=red", "4242", "color is not known"),
        ("token=ci;object=ecdsa", "", "does not open the token|has a password, and none is given"),
    ],
)
def test_tokens_that_do_not_do(
    words: str, pin: str, match: str, token: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    end, environ = token
    (tmp_path / "blob").write_bytes(DATA)
    argv = [sys.executable, "-m", "buildstep", "sign", "blob", "--key"]
    environ = environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    password = {"BUILDSTEP_KEY_PASSWORD": pin} if pin else {}
    done = run(*argv, f"pkcs11:{words}{end}", cwd=tmp_path, environ=environ | password)
    assert done.returncode == 19, done.stderr
    assert re.search(match, done.stderr.decode())
    assert "4242" not in done.stderr.decode()
    assert [path.name for path in tmp_path.iterdir()] == ["blob"]


def test_a_pin_of_the_uri_is_never_shown(token: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    end, environ = token
    (tmp_path / "blob").write_bytes(DATA)
    (tmp_path / "pin").write_text("4242\n")
    argv = [sys.executable, "-m", "buildstep", "sign", "blob", "--json", "--key"]
    environ = environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for words, status in (
        (f"object=ecdsa{end}&pin-source=file:{tmp_path}/pin", 0),
        (f"object=ecdsa{end}&pin-value=4242", 0),
        (f"object=ecdsa{end}&pin-value=998877", 19),
    ):
        done = run(*argv, f"pkcs11:{words}", cwd=tmp_path, environ=environ)
        assert done.returncode == status, done.stderr
        assert not re.search(rb"4242|998877", done.stdout + done.stderr)


# -- what a build signs --------------------------------------------------------------------------------------


def test_signatures_of_a_build_and_of_a_second_key(keys: Path, tmp_path: Path) -> None:
    """The second key's stay when the build makes its own anew, and those of an image that stands in another place
    go where it is wanted."""
    (tmp_path / "proto").mkdir()
    (tmp_path / "proto/file").write_bytes(DATA)
    (tmp_path / "m.json").write_text('{"name": "hello", "version": "1", "os": "linux", "type": "other"}')
    environ = {"PYTHONPATH": os.pathsep.join(sys.path), "BUILDSTEP_POOL": f"dir:{tmp_path}/pool"}
    argv = [sys.executable, "-m", "buildstep"]
    words = [
        "build",
        "-m",
        "m.json",
        "-i",
        "scratch",
        "-f",
        "oci,tar",
        "--sign-key",
        str(keys / "ed25519.key"),
        "-q",
    ]

    def build(folder: str) -> dict[str, tuple[str, ...]]:
        done = run(*argv, *words, "-o", folder, "proto", cwd=tmp_path, environ=environ)
        assert done.returncode == 0, done.stderr
        found = (tmp_path / folder).glob("*.sig")
        return {
            path.name: tuple(one.fingerprint for one in sshsig.parse(path.read_bytes())) for path in found
        }

    first, second = key_of(keys, "ed25519"), key_of(keys, "ecdsa")
    names = ["hello-1.sig", "hello-1.tar.zst.sig"]
    assert build("out") == dict.fromkeys(names, (first.fingerprint,))
    for command in (["image", "publish", "out", "dir:site"], ["sign", "out", "--key", keys / "ecdsa.key"],
                    ["image", "publish", "out", "dir:site"]):  # fmt: skip
        done = run(*argv, *command, cwd=tmp_path, environ=environ)
        assert done.returncode == 0, done.stderr
    published = (tmp_path / "site/hello/1/hello-1.sig").read_bytes()
    assert published == (tmp_path / "out/hello-1.sig").read_bytes()
    signed = {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir()
    }
    for row in json.loads((tmp_path / "out/hello-1.buildrecord.json").read_bytes())["trust"]["files"]:
        assert hashlib.sha256((tmp_path / "out" / row["name"]).read_bytes()).hexdigest() == row["sha256"]
    both = dict.fromkeys(names, (first.fingerprint, second.fingerprint))
    assert build("out") == both
    assert signed == {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir()
    }, "nothing is made again"
    (tmp_path / "out/hello-1.minisig").unlink()
    assert build("out") == both, "all of them are"
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    words[words.index("--sign-key") + 1] = str(keys / "rsa.key")
    assert build("elsewhere") == dict.fromkeys(names, (key_of(keys, "rsa").fingerprint,))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    for name in ("hello-1.oci.tar", "hello-1.tar.zst"):
        stem = "hello-1" if name == "hello-1.oci.tar" else name
        text = (tmp_path / f"elsewhere/{stem}.sigstore.json").read_bytes()
        data = (tmp_path / "elsewhere" / name).read_bytes()
        assert signing_tools.cosign_blob("3", keys / "rsa.pub", data, tmp_path, bundle=text)
