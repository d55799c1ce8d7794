"""Our IMGAPI client beside Triton's own, our signatures before the library that servers use, our Groovy before a
linter: tools of the npm registry."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from buildstep.net.http import Http
from buildstep.net.imgapi import Account, ImgapiClient
from buildstep.net.ssh_keys import http_signature
from tests.checkouts import REPO
from tests.integration.conftest import cache_dir, demand
from tests.npm import installed, node
from tests.servers.imgapi import ImgapiServer
from tests.unit.trust.keys.pairs import signer_of


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, rsa.RSAPublicKey]:
    """A private key's file, the public one's as ssh has it, and as an object."""
    folder = tmp_path_factory.mktemp("keys")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private, public = folder / "id_rsa", folder / "id_rsa.pub"
    form = serialization.PrivateFormat.TraditionalOpenSSL
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    ssh = serialization.PublicFormat.OpenSSH
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.OpenSSH, ssh))
    return private, public, key.public_key()


def tool(name: str) -> Path:
    demand("npm")
    return installed(name, cache_dir())


# -- IMGAPI ---------------------------------------------------------------------------------------------------

OURS_ALONE = {"accept-encoding", "x-request-id", "connection", "host", "user-agent", "date", "authorization"}
"""Headers that two good clients may differ in; the last two are judged apart."""


def comparable(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "call": (row["method"], row["route"]),
            "query": {name: value for name, value in row["query"].items() if name != "limit"},
            "body": json.loads(row["body"]) if row["headers"].get("content-type") == "application/json" else row["body"],
            "type": row["headers"].get("content-type", "") if row["body"] else "",
            "version": row["headers"].get("accept-version"),
            "accept": row["headers"].get("accept", "application/json"),
        }
        for row in requests
    ]  # fmt: skip


def test_our_client_makes_the_calls_that_tritons_makes(
    keys: tuple[Path, Path, rsa.RSAPublicKey], tmp_path: Path
) -> None:
    modules = tool("sdc-clients")
    private, _, public = keys
    content = b"an image's file" * 1000
    file, manifest_file = tmp_path / "image.zfs", tmp_path / "image.imgmanifest"
    file.write_bytes(content)
    sha1 = hashlib.sha1(content).hexdigest()
    uuid = "01b2c898-945f-11e1-a523-af1afbe22822"
    manifest: dict[str, Any] = {
        "v": 2, "uuid": uuid, "name": "hello", "version": "1.0.0",
        "owner": "00000000-0000-0000-0000-000000000000", "type": "other", "os": "linux",
        "published_at": "2026-01-01T00:00:00.000Z",
        "files": [{"size": len(content), "sha1": sha1, "compression": "none"}],
    }  # fmt: skip
    manifest_file.write_text(json.dumps(manifest))
    with ImgapiServer(users={"ann": public}) as server:
        done = node("imgapi.js", server.url, private, manifest_file, file, modules=modules)
        assert done.returncode == 0, done.stderr
        theirs, server.requests = server.requests, []
        told = json.loads(done.stdout)
        account = Account(user="ann", signer=signer_of(private).sign)
        with Http(environ={}) as http:
            client = ImgapiClient(server.url, http=http, account=account)
            mine: dict[str, Any] = {"ping": client.ping(), "imported": client.import_image(manifest)}
            mine["added"] = client.add_file(uuid, file, compression="none", sha1=sha1)
            mine["activated"] = client.activate(uuid)
            mine["listed"] = list(client.images(name="hello"))
            mine["got"] = client.get(uuid)
            client.fetch_file(mine["got"], tmp_path / "fetched")
            client.delete(uuid)
            gone = client.get(uuid)
        ours = server.requests
    assert comparable(ours) == comparable(theirs)
    times = ("published_at", "ping")

    def same(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: same(part) for name, part in value.items() if name not in times}
        return [same(part) for part in value] if isinstance(value, list) else value

    names = ("imported", "added", "activated", "listed", "got")
    assert same({name: mine[name] for name in names}) == same({name: told[name] for name in names})
    assert (tmp_path / "fetched").read_bytes() == base64.b64decode(told["file"]) == content
    assert (gone, told["gone"]) == (None, "ResourceNotFound")


def request_of(headers: Mapping[str, str]) -> str:
    lower = {name.lower(): value for name, value in headers.items()}
    return json.dumps({"method": "GET", "url": "/images", "headers": lower})


def test_servers_accept_our_signatures_and_no_changed_one(keys: tuple[Path, Path, rsa.RSAPublicKey]) -> None:
    modules = tool("http-signature")
    private, public, _ = keys
    headers = http_signature("ann", signer_of(private).sign)
    done = node("signature.js", public, modules=modules, stdin=request_of(headers))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "good": True, "keyId": "ann", "algorithm": "RSA-SHA256", "signed": ["date"]
    }  # fmt: skip
    later = http_signature("ann", signer_of(private).sign, now=lambda: "Thu, 01 Jan 2099 00:00:00 GMT")
    changed = {**headers, "Authorization": later["Authorization"]}
    assert node("signature.js", public, modules=modules, stdin=request_of(changed)).returncode == 1
    assert node("signature.js", public, modules=modules, stdin=request_of(later)).returncode == 1, "skewed"


# -- Groovy ---------------------------------------------------------------------------------------------------


def test_groovy_is_as_a_linter_wants_it() -> None:
    """By its rules for Jenkinsfiles but two (jenkins/.groovylintrc.json): a literal that comes twice is no fault in
    a file of commands, and whether a parameter is a list or a map cannot be asked without `instanceof`."""
    modules = tool("npm-groovy-lint")
    demand("java")
    files = [str(REPO / "Jenkinsfile"), str(REPO / "jenkins/vars/buildImage.groovy")]
    argv = [str(modules / ".bin/npm-groovy-lint"), "--noserver", "--failon", "info", "--output", "json"]
    argv += ["--config", str(REPO / "jenkins"), *files]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)["files"]
    assert found.keys() == set(files)
    rows = [
        f"{name}:{row['line']} {row['rule']}: {row['msg']}" for name in files for row in found[name]["errors"]
    ]
    assert rows == []
    assert done.returncode == 0, done.stderr
