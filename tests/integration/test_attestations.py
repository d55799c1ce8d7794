"""Images in registries with what proves them: cosign 2 and 3 accept what we push, and refuse what was altered."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import ExitCode
from buildstep.trust import dsse
from buildstep.trust.keys.generate import keygen
from buildstep.trust.statements import STATEMENTS
from buildstep.trust.statements.statement import PAYLOAD_TYPE, Statement, Subject
from tests.integration.test_registry import LAYERS, bundle
from tests.servers import judges
from tests.servers.fixtures import Registry, locked_registry, registry
from tests.servers.layouts import layer
from tests.servers.registry import RegistryServer

__all__ = ["locked_registry", "registry"]

PREDICATES: dict[str, dict[str, Any]] = {
    "provenance": {
        "buildDefinition": {"buildType": "https://example.com/build", "externalParameters": {}},
        "runDetails": {"builder": {"id": "https://example.com/builder"}},
    },
    "spdx": {"spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT", "name": "hello"},
    "cyclonedx": {"bomFormat": "CycloneDX", "specVersion": "1.6"},
    "tests": {"result": "PASSED", "configuration": [{"name": "checks"}], "passedTests": ["a"]},
}
TYPES = {"provenance": "slsaprovenance1", "spdx": "spdxjson", "cyclonedx": "cyclonedx"}
"""Statements, and what `verify-attestation --type` calls them."""


@dataclass(frozen=True)
class Keys:
    """A key pair, and the public half of another one, which nobody trusts."""

    private: Path
    public: Path
    other: Path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "other"):
        keygen(folder / name, "ecdsa")
    return Keys(folder / "ours.key", folder / "ours.pub", folder / "other.pub")


def buildstep(folder: Path, *argv: str, code: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {name: text for name, text in os.environ.items() if not name.startswith(("BUILDSTEP", "COSIGN"))}
    done = subprocess.run(
        [sys.executable, "-m", "buildstep", *argv], capture_output=True, text=True, check=False, timeout=120,
        cwd=Path(__file__).parents[2],
        env={**env, "HOME": str(folder), "BUILDSTEP_POOL": f"dir:{folder}/pool", **environ},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done


def built(folder: Path, *names: str, layers: list[bytes] = LAYERS) -> tuple[Path, str]:
    """Return the manifest of an image with statements beside it that nobody signed, and the image's digest."""
    made = bundle(folder, layers)
    digest = made.oci.entry.digest
    lines = []
    for name in names or PREDICATES:
        kind = STATEMENTS[name].predicate_types[0]
        stated = Statement(
            (Subject("hello", {"sha256": digest.removeprefix("sha256:")}),), kind, PREDICATES[name]
        )
        lines.append(dsse.seal(PAYLOAD_TYPE, stated.to_json(), ()))
    (folder / "hello-1.0.0.intoto.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    return made.manifest, digest


def cosign(major: str, keys: Keys, verb: str, image: str, *more: str, key: Path | None = None) -> int:
    """Return the status of cosign, which has no network and no root of trust but ours."""
    flags = ("--insecure-ignore-tlog", "--allow-http-registry")
    done = subprocess.run(
        [judges.cosign(major), verb, "--key", key or keys.public, *flags, *more, image], capture_output=True, text=True, check=False, timeout=60,
        env={"HOME": str(keys.private.parent), "PATH": os.environ["PATH"], "TUF_ROOT": f"{keys.private.parent}/tuf"},
    )  # fmt: skip
    return done.returncode


def publish(
    folder: Path, manifest: Path, target: str, *argv: str, code: int = 0
) -> subprocess.CompletedProcess[str]:
    return buildstep(folder, "image", "publish", str(manifest), target, *argv, code=code)


@pytest.fixture(scope="module")
def api() -> Iterator[RegistryServer]:
    """A registry that knows the call for referrers."""
    with RegistryServer(referrers=True, page=100) as server:
        yield server


@pytest.fixture(scope="module", params=["tag", "api"])
def published(
    request: pytest.FixtureRequest, keys: Keys, registry: Registry, api: RegistryServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> str:  # fmt: skip
    """An image with everything, in Debian's registry, which has no referrers, and in one that has."""
    folder = tmp_path_factory.mktemp("published")
    manifest, digest = built(folder)
    host = registry.host if request.param == "tag" else api.host
    done = publish(folder, manifest, f"docker://{host}/hello:v1", "--sign-key", str(keys.private))
    assert "published" in done.stdout
    again = publish(folder, manifest, f"docker://{host}/hello:v1", "--sign-key", str(keys.private), "--json")
    assert json.loads(again.stdout)["published"][0]["state"] == "already"
    return f"{host}/hello@{digest}"


@pytest.mark.parametrize("major", ["2", "3"])
def test_cosign_accepts_what_was_published(published: str, keys: Keys, major: str) -> None:
    assert cosign(major, keys, "verify", published) == 0
    for kind in TYPES.values():
        assert cosign(major, keys, "verify-attestation", published, "--type", kind) == 0
    assert cosign(major, keys, "verify", published, key=keys.other) != 0
    assert (
        cosign(major, keys, "verify-attestation", published, "--type", "slsaprovenance1", key=keys.other) != 0
    )


def test_we_accept_it_too(published: str, keys: Keys, tmp_path: Path) -> None:
    words = "signature,sbom,provenance,tests"
    done = buildstep(
        tmp_path, "verify", f"docker://{published}", "--key", str(keys.public), "--require", words
    )
    assert published.partition("@")[2] in done.stdout
    buildstep(tmp_path, "verify", f"docker://{published}", "--key", str(keys.other), code=31)


def test_what_a_build_signs(registry: Registry, tmp_path: Path) -> None:
    """From an m.json to cosign: the build writes and signs, and what it wrote is what is published."""
    signer, files = keygen(tmp_path / "key", "ed25519")
    keys = Keys(files[0], files[1], files[1])
    (tmp_path / "proto").mkdir()
    (tmp_path / "proto/hello").write_text("hello")
    trust = {"sbom": True, "provenance": "min", "key": str(keys.private)}
    manifest = {"name": "tiny", "version": "1", "os": "linux", "build": {"image": "scratch", "trust": trust}}
    (tmp_path / "m.json").write_text(json.dumps(manifest))
    buildstep(
        tmp_path,
        "build",
        "-m",
        str(tmp_path / "m.json"),
        "-o",
        str(tmp_path / "out"),
        str(tmp_path / "proto"),
    )
    image = f"{registry.host}/built/tiny"
    words = "tests,signature,sbom,provenance"
    argv = ("--require", words, "--sign-key", str(keys.private))
    publish(tmp_path, tmp_path / "out", f"docker://{image}", f"dir:{tmp_path}/site", *argv)
    judged(f"{image}:1", keys, tmp_path)
    assert (
        signer.fingerprint
        in buildstep(tmp_path, "verify", f"docker://{image}:1", "--key", str(keys.public)).stdout
    )


@pytest.mark.parametrize(
    ("forms", "referrers", "tags"), [("referrers", 6, 0), ("tags", 0, 2), ("none", 0, 0)]
)
def test_one_form_alone(forms: str, referrers: int, tags: int, keys: Keys, tmp_path: Path) -> None:
    manifest, digest = built(tmp_path)
    (tmp_path / "hello-1.0.0.spdx.json").write_text(json.dumps(PREDICATES["spdx"]))
    with RegistryServer(referrers=True) as server:
        argv = ("--sign-key", str(keys.private), "--attestations", forms)
        publish(tmp_path, manifest, f"docker://{server.host}/hello:v1", *argv)
        assert len(server.referring(digest, "")) == referrers
        assert len([path for path in server.content if path.endswith((".sig", ".att"))]) == tags
        assert "manifests/v1" in server.content
    publish(
        tmp_path, manifest, "docker://127.0.0.1:1/x", "--attestations", "none", "--require", "sbom", code=2
    )


# -- altered ----------------------------------------------------------------------------------------------


class Altered:
    """The content of a registry, to be altered."""

    def __init__(self, content: dict[str, tuple[bytes, str]]) -> None:
        self.content = dict(content)

    def documents(self, suffix: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for path, (data, _) in list(self.content.items()):
            if path.startswith("manifests/") and path.endswith(suffix):
                yield path, json.loads(data)

    def put(self, path: str, value: object, kind: str = "application/vnd.oci.image.manifest.v1+json") -> None:
        data = json.dumps(value).encode()
        for place in (path, f"manifests/{digest_of(data)}"):
            if place:
                self.content[place] = (data, kind)

    def layer(self, row: dict[str, Any], data: bytes) -> None:
        row |= {"digest": digest_of(data), "size": len(data)}
        self.content[f"blobs/{row['digest']}"] = (data, "")

    def bundles(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Alter the bundles of all referrers, whose digests are right again then."""
        for path, value in self.documents(""):
            if "subject" not in value:
                continue
            del self.content[path]
            data = json.loads(self.content[f"blobs/{value['layers'][0]['digest']}"][0])
            change(data)
            self.layer(value["layers"][0], json.dumps(data).encode())
            self.put("", value)
        self.without(".sig", ".att")

    def statements(self, change: Callable[[dict[str, Any]], None]) -> None:
        def changed(data: dict[str, Any]) -> None:
            envelope = data["dsseEnvelope"]
            stated = json.loads(base64.b64decode(envelope["payload"]))
            change(stated)
            envelope["payload"] = base64.b64encode(json.dumps(stated).encode()).decode()

        self.bundles(changed)

    def tagged(self, suffix: str, change: Callable[[dict[str, Any], bytes], bytes]) -> None:
        """Alter the layers of a tag of cosign's; there are no referrers then."""
        for path, value in self.documents(suffix):
            for row in value["layers"]:
                self.layer(row, change(row, self.content[f"blobs/{row['digest']}"][0]))
            self.put(path, value)
        self.without_referrers()

    def without(self, *suffixes: str) -> None:
        for path in [path for path in self.content if path.endswith(suffixes)]:
            del self.content[path]

    def without_referrers(self) -> None:
        for path, value in self.documents(""):
            if "subject" in value:
                del self.content[path]


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def flipped(text: str) -> str:
    raw = bytearray(base64.b64decode(text))
    raw[len(raw) // 2] ^= 1
    return base64.b64encode(raw).decode()


def signature_flipped(it: Altered) -> None:
    def change(data: dict[str, Any]) -> None:
        row = data["dsseEnvelope"]["signatures"][0]
        row["sig"] = flipped(row["sig"])

    it.bundles(change)


def signature_removed(it: Altered) -> None:
    it.bundles(lambda data: data["dsseEnvelope"].update(signatures=[]))


def another_payload_type(it: Altered) -> None:
    it.bundles(lambda data: data["dsseEnvelope"].update(payloadType="application/vnd.in-toto+JSON"))


def predicate_altered(it: Altered) -> None:
    it.statements(lambda stated: stated["predicate"].update(added=True))


def predicate_type_altered(it: Altered) -> None:
    def change(stated: dict[str, Any]) -> None:
        old = {"https://sigstore.dev/cosign/sign/v1", "https://slsa.dev/provenance/v1"}
        (stated["predicateType"],) = old - {stated["predicateType"]}

    it.statements(change)


def subject_added(it: Altered) -> None:
    """What was stated of another image is said to be of this one too."""
    it.statements(lambda stated: stated["subject"].append({"name": "x", "digest": {"sha256": "0" * 64}}))


def moved_to_another_image(it: Altered) -> None:
    """Good bundles and tags of one image are hung on another, which then has the tag."""
    other = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "annotations": {"a": "b"},
    }
    image = json.loads(it.content["manifests/v1"][0])
    old = digest_of(it.content["manifests/v1"][0])
    it.put("manifests/v1", image | other)
    new = digest_of(it.content["manifests/v1"][0])
    size = len(it.content["manifests/v1"][0])
    for path, value in it.documents(""):
        if "subject" in value:
            del it.content[path]
            value["subject"] |= {"digest": new, "size": size}
            it.put("", value)
    for suffix in (".sig", ".att"):
        there = it.content.pop(f"manifests/{old.replace(':', '-')}{suffix}")
        it.content[f"manifests/{new.replace(':', '-')}{suffix}"] = there


def payload_of_the_signature_altered(it: Altered) -> None:
    it.tagged(".sig", lambda _, data: data.replace(b'"sha256:', b'"sha256:0')[:-1] + b" }")
    it.without(".att")


def payload_about_another_repository(it: Altered) -> None:
    it.tagged(".sig", lambda _, data: data.replace(b"/hello", b"/other"))
    it.without(".att")


def signature_of_the_payload_flipped(it: Altered) -> None:
    def change(row: dict[str, Any], data: bytes) -> bytes:
        name = "dev.cosignproject.cosign/signature"
        if row["annotations"][name]:
            row["annotations"][name] = flipped(row["annotations"][name])
            return data
        envelope = json.loads(data)
        envelope["signatures"][0]["sig"] = flipped(envelope["signatures"][0]["sig"])
        return json.dumps(envelope).encode()

    it.tagged(".sig", change)
    it.tagged(".att", change)


def attestation_altered(it: Altered) -> None:
    def change(_: dict[str, Any], data: bytes) -> bytes:
        envelope = json.loads(data)
        stated = json.loads(base64.b64decode(envelope["payload"]))
        stated["predicate"]["runDetails"]["builder"]["id"] = "https://example.com/evil"
        envelope["payload"] = base64.b64encode(json.dumps(stated).encode()).decode()
        return json.dumps(envelope).encode()

    it.tagged(".att", change)
    it.without(".sig")


def all_taken_away(it: Altered) -> None:
    it.without_referrers()
    it.without(".sig", ".att")


def image_altered(it: Altered) -> None:
    """The tag names another image, with the same layers and an environment more."""
    image = json.loads(it.content["manifests/v1"][0])
    it.put("manifests/v1", image | {"annotations": {"a": "b"}})


BOTH = "signature,provenance"
TAMPERINGS: dict[Callable[[Altered], None], tuple[str, int]] = {
    signature_flipped: (BOTH, 31),
    signature_removed: (BOTH, 30),
    another_payload_type: (BOTH, 31),
    predicate_altered: (BOTH, 31),
    predicate_type_altered: (BOTH, 31),
    subject_added: (BOTH, 31),
    moved_to_another_image: (BOTH, 32),
    payload_of_the_signature_altered: ("signature", 31),
    payload_about_another_repository: ("signature", 31),
    signature_of_the_payload_flipped: (BOTH, 31),
    attestation_altered: ("provenance", 31),
    all_taken_away: (BOTH, 30),
    image_altered: (BOTH, 30),
}
"""With what `buildstep verify` is to prove, and its exit code."""


@pytest.fixture(scope="module")
def good(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, str]]:
    """The content of a registry with an image that is signed, with its provenance."""
    folder = tmp_path_factory.mktemp("good")
    manifest, _ = built(folder, "provenance")
    with RegistryServer(referrers=True, page=100) as server:
        publish(folder, manifest, f"docker://{server.host}/hello:v1", "--sign-key", str(keys.private))
        return server.content


@pytest.mark.parametrize("alter", TAMPERINGS, ids=lambda alter: alter.__name__)
def test_what_was_altered_is_refused(
    alter: Callable[[Altered], None], good: dict[str, tuple[bytes, str]], keys: Keys, tmp_path: Path
) -> None:
    it = Altered(good)
    alter(it)
    with RegistryServer(referrers=True, page=100) as server:
        server.content = it.content
        image = f"{server.host}/hello:v1"
        for major in ("2", "3"):
            assert cosign(major, keys, "verify", image) != 0
            assert cosign(major, keys, "verify-attestation", image, "--type", "slsaprovenance1") != 0
        require, code = TAMPERINGS[alter]
        argv = ("verify", f"docker://{image}", "--key", str(keys.public), "--require", require)
        buildstep(tmp_path, *argv, code=code)


def test_the_same_content_is_accepted_as_it_was(
    good: dict[str, tuple[bytes, str]], keys: Keys, tmp_path: Path
) -> None:
    """What the test above has altered is good, in each of its forms."""
    bundles, tags = Altered(good), Altered(good)
    bundles.without(".sig", ".att")
    tags.without_referrers()
    with RegistryServer(referrers=True, page=100) as server:
        image = f"{server.host}/hello:v1"
        server.content = bundles.content
        assert cosign("3", keys, "verify", image) == 0
        assert cosign("3", keys, "verify-attestation", image, "--type", "slsaprovenance1") == 0
        buildstep(tmp_path, "verify", f"docker://{image}", "--key", str(keys.public))
        server.content = tags.content
        for major in ("2", "3"):
            assert cosign(major, keys, "verify", image) == 0
            assert cosign(major, keys, "verify-attestation", image, "--type", "slsaprovenance1") == 0
        buildstep(tmp_path, "verify", f"docker://{image}", "--key", str(keys.public))


# -- what is required -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "require", "signed", "code"),
    [
        (("provenance",), "signature", False, 30),
        (("provenance",), "tests", False, 30),
        (("provenance",), "tests,signature", True, 34),
        (("tests", "provenance", "spdx"), "tests,signature,sbom,provenance", True, 0),
        (("tests", "provenance", "spdx"), "tests,sbom", False, 30),
    ],
)
def test_nothing_is_sent_without_what_is_required(
    names: tuple[str, ...], require: str, signed: bool, code: int, keys: Keys, tmp_path: Path
) -> None:
    manifest, _ = built(tmp_path, *names)
    more = ("--sign-key", str(keys.private)) if signed else ()
    with RegistryServer(referrers=True) as server:
        target = f"docker://{server.host}/hello:v1"
        # The files for the directory are signed by nobody.
        both = (target, f"dir:{tmp_path}/site")
        done = publish(tmp_path, manifest, *both, "--require", require, *more, code=code or 30)
        assert server.calls == []
        assert not (tmp_path / "site").exists()
        assert "nothing was published" in done.stderr
        publish(tmp_path, manifest, target, "--require", require, *more, code=code)
        assert bool(server.calls) == (code == 0)


def test_tests_that_failed(keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        PREDICATES, "tests", {"result": "FAILED", "failedTests": ["boots"], "configuration": []}
    )
    manifest, _ = built(tmp_path)
    with RegistryServer(referrers=True) as server:
        target = f"docker://{server.host}/hello:v1"
        done = publish(
            tmp_path, manifest, target, "--require", "tests", "--sign-key", str(keys.private), code=34
        )
        assert "failed" in done.stderr.lower()
        assert server.calls == []


def test_statements_about_another_image_do_not_count(keys: Keys, tmp_path: Path) -> None:
    built(tmp_path)
    statements = (tmp_path / "hello-1.0.0.intoto.jsonl").read_bytes()
    manifest, _ = built(tmp_path / "other", layers=[layer({"x": b"y"})])
    (tmp_path / "other/hello-1.0.0.intoto.jsonl").write_bytes(statements)
    with RegistryServer(referrers=True) as server:
        target = f"docker://{server.host}/hello:v1"
        more = ("--require", "provenance", "--sign-key", str(keys.private))
        publish(tmp_path, manifest, target, *more, code=34)
        assert server.calls == []
        publish(tmp_path, manifest, target)
        assert server.referring(digest_of(server.content["manifests/v1"][0]), "") == []


# -- copies -----------------------------------------------------------------------------------------------


def judged(image: str, keys: Keys, folder: Path) -> None:
    """All of it is there, for cosign and for us."""
    for major in ("2", "3"):
        assert cosign(major, keys, "verify", image) == 0
        assert cosign(major, keys, "verify-attestation", image, "--type", "slsaprovenance1") == 0
    require = "signature,sbom,provenance,tests"
    buildstep(folder, "verify", f"docker://{image}", "--key", str(keys.public), "--require", require)


def test_copies_have_all_of_it(published: str, registry: Registry, keys: Keys, tmp_path: Path) -> None:
    """From a registry to a layout and an archive, from a layout to another registry, and within one."""
    name, _, digest = published.partition("@")
    media = tmp_path / "media"
    done = buildstep(tmp_path, "image", "copy", f"docker://{name}:v1", f"oci:{media}", "--json")
    copied = json.loads(done.stdout)
    assert copied["digest"] == digest
    assert copied["attestations"] >= 7
    again = buildstep(tmp_path, "image", "copy", f"docker://{name}:v1", f"oci:{media}", "--json")
    assert json.loads(again.stdout)["new_attestations"] == 0
    for argv in (["skopeo", "inspect", f"oci:{media}"], ["skopeo", "inspect", f"oci:{media}:v1"]):
        seen = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
        assert json.loads(seen.stdout)["Digest"] == digest
    flags = ["--local-image", "--insecure-ignore-tlog", "--key", str(keys.public)]
    local = [str(judges.cosign("3")), "verify", *flags, str(media)]
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    assert subprocess.run(local, capture_output=True, check=False, timeout=60, env=env).returncode == 0

    require = "signature,sbom,provenance,tests"
    file = tmp_path / "copy.oci.tar"
    buildstep(tmp_path, "image", "copy", f"docker://{name}:v1", f"oci-archive:{file}")
    argv = ["skopeo", "inspect", f"oci-archive:{file}:v1"]
    seen = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(seen.stdout)["Digest"] == digest
    data = file.read_bytes()
    buildstep(tmp_path, "image", "copy", f"oci:{media}", f"{file}")
    assert file.read_bytes() == data
    for place in (f"oci:{media}", str(file)):
        buildstep(tmp_path, "verify", place, "--key", str(keys.public), "--require", require)

    for known in (True, False):
        with RegistryServer(referrers=known, page=100) as server:
            target = f"docker://{server.host}/copied"
            buildstep(tmp_path, "image", "copy", f"oci:{media}", target)
            judged(f"{server.host}/copied:v1", keys, tmp_path)
            server.calls.clear()
            buildstep(tmp_path, "image", "copy", f"oci:{media}:v1", target)
            assert [path for path in server.writes("manifests/") if "sha256-" in path] == []
    other = f"{registry.host}/{tmp_path.name.lower().replace('_', '-')}"
    buildstep(tmp_path, "image", "copy", f"docker://{published}", f"docker://{other}:v2")
    judged(f"{other}:v2", keys, tmp_path)


def test_only_what_is_proved_is_copied(keys: Keys, tmp_path: Path) -> None:
    manifest, digest = built(tmp_path, "provenance")
    (tmp_path / "policy.toml").write_text(
        f'format = 1\n[[key]]\nname = "release"\nfile = "{keys.public}"\n'
        '[[rule]]\nmatch = ["docker://127.0.0.1*"]\nrequire = ["signature", "provenance"]\n'
    )
    with RegistryServer(referrers=True, page=100) as source, RegistryServer(referrers=True) as target:
        here, there = f"docker://{source.host}/hello:v1", f"docker://{target.host}/hello"
        publish(tmp_path, manifest, here)
        argv = ("image", "copy", here, there, "--policy", str(tmp_path / "policy.toml"))
        buildstep(tmp_path, *argv, code=30)
        assert target.calls == []
        publish(tmp_path, manifest, here, "--sign-key", str(keys.private))
        buildstep(tmp_path, *argv)
        assert digest_of(target.content["manifests/v1"][0]) == digest


def test_files_beside_an_archive_are_copied(keys: Keys, tmp_path: Path) -> None:
    built(tmp_path, "provenance", "spdx")
    with RegistryServer(referrers=True, page=100) as server:
        done = buildstep(
            tmp_path,
            "image",
            "copy",
            f"oci:{tmp_path}/hello-1.0.0.oci.tar",
            f"docker://{server.host}/hello:v3",
            "--json",
        )
        rows = server.referring(json.loads(done.stdout)["digest"], "")
        assert {row["annotations"]["in-toto.io/predicate-type"] for row in rows} == {
            "https://slsa.dev/provenance/v1", "https://spdx.dev/Document",
        }  # fmt: skip


# -- elsewhere --------------------------------------------------------------------------------------------


def test_sidecars_in_a_directory(keys: Keys, tmp_path: Path) -> None:
    """They are published with the image, and who signs it later publishes that too."""
    manifest, _ = built(tmp_path, "provenance")
    site = tmp_path / "site/hello/1.0.0+b1"
    publish(tmp_path, manifest, f"dir:{tmp_path}/site")
    assert (site / "hello-1.0.0.intoto.jsonl").is_file()
    with RegistryServer() as server:
        # A registry first: its place is noted in the record, which is not the one that is published.
        both = (f"docker://{server.host}/hello", f"dir:{tmp_path}/site")
        assert "already" in publish(tmp_path, manifest, *both).stdout
    (tmp_path / "hello-1.0.0.sig").write_text("a signature")
    assert "published" in publish(tmp_path, manifest, f"dir:{tmp_path}/site").stdout
    rows = {row["name"]: row for row in json.loads((site / "index.json").read_bytes())["files"]}
    assert rows["hello-1.0.0.sig"]["sha256"] == hashlib.sha256(b"a signature").hexdigest()
    assert (site / "hello-1.0.0.sig").read_text() == "a signature"
    (tmp_path / "hello-1.0.0.sig").unlink()
    assert "already" in publish(tmp_path, manifest, f"dir:{tmp_path}/site").stdout
    assert (site / "hello-1.0.0.sig").is_file()


def test_an_index_and_its_platforms(keys: Keys, tmp_path: Path) -> None:
    one, _ = built(tmp_path / "one", "provenance")
    other = tmp_path / "two/hello-1.0.0.oci.tar"
    bundle(tmp_path / "two", platforms=["linux/arm64"])
    with RegistryServer(referrers=True, page=100) as server:
        argv = ("--index", f"docker://{server.host}/multi:v1", "--sign-key", str(keys.private))
        done = buildstep(
            tmp_path,
            "image",
            "publish",
            str(one),
            str(other.with_name("hello-1.0.0.imgmanifest")),
            *argv,
            "--json",
        )
        (row,) = json.loads(done.stdout)["published"]
        digests = [text for name, text in row["objects"].items() if name == "v1" or name.startswith("linux/")]
        assert len(digests) == 3
        for digest in digests:
            assert cosign("3", keys, "verify", f"{server.host}/multi@{digest}") == 0
            assert cosign("2", keys, "verify", f"{server.host}/multi@{digest}") == 0
        buildstep(tmp_path, "verify", f"docker://{server.host}/multi:v1", "--key", str(keys.public))
        again = buildstep(
            tmp_path,
            "image",
            "publish",
            str(one),
            str(other.with_name("hello-1.0.0.imgmanifest")),
            *argv,
            "--json",
        )
        assert json.loads(again.stdout)["published"][0]["state"] == "already"


@pytest.mark.parametrize("status", [400, 412])
def test_tags_that_are_immutable(status: int, keys: Keys, tmp_path: Path) -> None:
    """All of a publication comes into the list at once; later there is no more, and the error says so."""
    manifest, _ = built(tmp_path)
    with RegistryServer(immutable=status) as server:
        target = f"docker://{server.host}/hello:v1"
        publish(tmp_path, manifest, target, "--sign-key", str(keys.private))
        publish(tmp_path, manifest, target, "--sign-key", str(keys.private))
        judged(f"{server.host}/hello:v1", keys, tmp_path)
    with RegistryServer(immutable=status) as server:
        target = f"docker://{server.host}/hello:v1"
        publish(tmp_path, manifest, target)
        done = publish(tmp_path, manifest, target, "--sign-key", str(keys.private), code=17)
        assert "immutable" in done.stderr


def test_where_a_password_is_wanted(locked_registry: Registry, keys: Keys, tmp_path: Path) -> None:
    manifest, _ = built(tmp_path)
    who = {
        "BUILDSTEP_REGISTRY_USER": locked_registry.user,
        "BUILDSTEP_REGISTRY_PASSWORD": locked_registry.password,
    }
    image = f"docker://{locked_registry.host}/hello:v1"
    argv = ("image", "publish", str(manifest), image, "--sign-key", str(keys.private))
    buildstep(tmp_path, *argv, code=0, **who)
    buildstep(tmp_path, "verify", image, "--key", str(keys.public), code=0, **who)
    done = buildstep(tmp_path, "verify", image, "--key", str(keys.public), code=int(ExitCode.IMAGE))
    assert "unauthorized" in done.stderr


def test_a_tag_names_nothing_that_is_not_attested(keys: Keys, tmp_path: Path) -> None:
    """A publication that breaks off at any write leaves no tag without what proves the image."""
    manifest, _ = built(tmp_path)
    with RegistryServer(referrers=True, page=100) as server:
        publish(tmp_path, manifest, f"docker://{server.host}/hello:v1", "--sign-key", str(keys.private))
        order = server.writes("manifests/")
    assert order[-1] == "manifests/v1"
    assert len(order) > 7
