"""Pushing: what is refused before anything is sent, digests first, tags last, and what the result says."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildstep.components import push as pushing
from buildstep.components.builders import Recipe, Run
from buildstep.components.interface import Built
from buildstep.components.push import Access, NotAllPushed, Pushed, check, chosen, push, result
from buildstep.components.settings import Registry
from buildstep.errors import DeniedError, ExitCode, PublishError, UnsignedError, UsageError
from buildstep.events import Bus
from buildstep.formats.oci.layout import Layout, open_layout
from buildstep.formats.oci.layout_writer import LayoutWriter
from buildstep.images.attestations import inside
from buildstep.images.attestations.local import Papers, Signing
from buildstep.images.attestations.required import Demand
from buildstep.images.attestations.wrap import Signed
from buildstep.images.publishers.registry import push_image
from buildstep.trust import dsse
from buildstep.trust.keys.generate import keygen
from buildstep.trust.policy import load as load_policy
from buildstep.trust.statements.statement import PAYLOAD_TYPE, Statement, Subject
from tests.servers.layouts import layer, make_layout
from tests.servers.registry import RegistryServer


def built(name: str) -> Built:
    return Built(job=name, key="k", output="sha256:" + hashlib.sha256(name.encode()).hexdigest())


class Shelf:
    """A builder that only has images: each a layer with its own id in it."""

    name = "shelf"

    def images(self) -> frozenset[str]:
        return frozenset()

    def build(self, recipe: Recipe, run: Run) -> str:
        raise AssertionError

    def load(self, file: Path, name: str, run: Run) -> str:
        raise AssertionError

    def take(self, layout: Path, name: str, run: Run) -> str:
        raise AssertionError

    def tag(self, image: str, name: str, run: Run) -> None:
        raise AssertionError

    def name_of(self, image: str) -> str:
        raise AssertionError

    def resolve(self, text: str, platform: str) -> str:
        raise AssertionError

    def fetch(self, text: str, platform: str, run: Run) -> None:
        raise AssertionError

    def save(self, image: str, layout: Path, run: Run) -> None:
        make_layout(layout, [layer({"id": image.encode()})])


class Proved(Shelf):
    """One that has a statement in the layout of each image. kind: its type."""

    kind = "https://example.com/kind"

    def save(self, image: str, layout: Path, run: Run) -> None:
        super().save(image, layout, run)
        entry = open_layout(layout, "it").find("")
        stated = Statement((Subject("it", {"sha256": entry.hex}),), self.kind, {})
        papers = Papers(signed=(Signed(data=dsse.seal(PAYLOAD_TYPE, stated.to_json(), ())),))
        inside.put(LayoutWriter(layout), entry, papers)


def no_run(argv: object, env: object, what: str) -> None:
    raise AssertionError


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RegistryServer]:
    """A registry that has one repository, whatever the name: so one image at a time."""
    monkeypatch.setattr(pushing, "AT_ONCE", 1)
    with RegistryServer() as running:
        yield running


# Without the limits of tests of faults: a call that was given up on a busy machine, and is answered after all,
# would set a tag of the one repository back to another image.
ACCESS = Access(builder=Shelf(), run=no_run, environ={}, bus=Bus())
IMAGES: Mapping[str, Built] = {name: built(name) for name in ("web", "db")}


def send(server: RegistryServer, *tags: str) -> tuple[list[Pushed], list[str]]:
    told: list[str] = []
    rows = push(IMAGES, Registry(host=server.host, tags=tags or ("v1",)), ACCESS, told.append)
    return rows, told


def test_d17_only_images_of_the_plan_that_are_built_are_pushed() -> None:
    plan = {"web": built("web"), "db": None, "cache": built("cache")}
    assert list(chosen((), {"web": built("web"), "cache": built("cache")})) == ["cache", "web"]
    assert list(chosen(("web", "web"), plan)) == ["web"]
    with pytest.raises(PublishError, match="not built from the sources as they are now: db"):
        chosen((), plan)
    with pytest.raises(UsageError, match="no such image in this plan: wbe, other") as caught:
        chosen(("web", "wbe", "other"), plan)
    assert caught.value.hint == "did you mean web?"


def test_d17_every_tag_names_the_digest_that_the_result_has(server: RegistryServer) -> None:
    rows, told = send(server, "v1", "latest")
    check(rows)
    assert [(row.image, row.tags) for row in rows] == [("db", ("v1", "latest")), ("web", ("v1", "latest"))]
    written = result(rows)
    assert written["ok"] is True
    first = written["images"][0]
    assert first["reference"] == f"{server.host}/db@{first['digest']}"
    stored = server.content["manifests/v1"][0]
    assert "sha256:" + hashlib.sha256(stored).hexdigest() in {row["digest"] for row in written["images"]}
    assert json.loads(json.dumps(written)) == written
    assert len(told) == 6


def test_d17_no_tag_is_set_before_all_content_is_there(server: RegistryServer) -> None:
    send(server)
    puts = [path for method, path in server.calls if method == "PUT" and path.startswith("manifests/")]
    assert [path.startswith("manifests/sha256:") for path in puts] == [True, True, False, False]


def test_what_proves_an_image_is_pushed_and_signed_before_its_tag(
    server: RegistryServer, tmp_path: Path
) -> None:
    """Statements are in the layout that the pipeline made; a key signs them, and the image."""
    signer, _ = keygen(tmp_path / "key", "ed25519")

    access = replace(ACCESS, builder=Proved(), demand=Demand(signing=Signing(signers=(signer,))))
    (row,) = push({"web": built("web")}, Registry(host=server.host, tags=("v1",)), access, lambda _: None)
    assert row.error is None
    assert server.writes("manifests/")[-1] == "manifests/v1"
    listed = json.loads(server.content[f"manifests/{row.digest.replace(':', '-')}"][0])["manifests"]
    kinds = {it["annotations"]["dev.sigstore.bundle.predicateType"] for it in listed}
    assert kinds == {"https://example.com/kind", "https://sigstore.dev/cosign/sign/v1"}
    (signed,) = json.loads(server.content[f"manifests/{row.digest.replace(':', '-')}.sig"][0])["layers"]
    payload = server.content[f"blobs/{signed['digest']}"][0]
    assert json.loads(payload)["critical"]["identity"]["docker-reference"] == f"{server.host}/web"
    text = signed["annotations"]["dev.cosignproject.cosign/signature"]
    assert signer.public.verify(payload, base64.b64decode(text))


def test_nothing_is_sent_where_an_image_is_not_proved_as_it_is_required(
    server: RegistryServer, tmp_path: Path
) -> None:
    target = Registry(host=server.host, tags=("v1", "v2"))
    signer, _ = keygen(tmp_path / "key", "ed25519")
    signing = Signing(signers=(signer,))

    def pushed(demand: Demand, shelf: Shelf) -> list[Pushed]:
        return push(IMAGES, target, replace(ACCESS, builder=shelf, demand=demand), lambda _: None)

    with pytest.raises(UnsignedError, match="2 images are not proved") as caught:
        pushed(Demand(require=("signature",)), Shelf())
    assert all(
        f"{name} for docker://{server.host}/{name}:v1 is not signed" in caught.value.detail for name in IMAGES
    )
    with pytest.raises(DeniedError, match="2 images are not proved"):
        pushed(Demand(require=("sbom",), signing=signing), Proved())
    rule = '[[rule]]\nmatch = ["docker://*:v1"]\nkeys = ["us"]\nrequire = ["signature"]\n'
    key = f'[[key]]\nname = "us"\nfile = "{tmp_path}/key.pub"\n'
    (tmp_path / "policy.toml").write_text(f"format = 1\n{key}{rule}")
    policy = load_policy(tmp_path / "policy.toml")
    with pytest.raises(DeniedError):  # of one of its tags nobody says anything
        pushed(Demand(policy=policy, signing=signing), Shelf())
    assert server.calls == []
    (tmp_path / "policy.toml").write_text(f"format = 1\n{key}{rule.replace(':v1', '')}")
    check(pushed(Demand(policy=load_policy(tmp_path / "policy.toml"), signing=signing), Shelf()))
    bill = Proved()
    bill.kind = "https://spdx.dev/Document"
    check(pushed(Demand(require=("sbom", "signature"), signing=signing), bill))
    assert server.writes("manifests/")[-1] == "manifests/v2"


def test_d17_an_image_that_fails_leaves_all_tags_as_they_were(
    server: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(layout: Layout, *more: Any) -> None:
        if "web" in layout.label:
            raise PublishError("the disk of the registry is full")
        push_image(layout, *more)

    monkeypatch.setattr(pushing, "push_image", refuse)
    rows, _ = send(server)
    assert [path for path in server.content if path.startswith("manifests/v")] == []
    with pytest.raises(NotAllPushed, match="1 of 2 images not pushed; no tag was set") as caught:
        check(rows)
    assert "web: the disk of the registry is full" in caught.value.detail
    assert caught.value.exit_code is ExitCode.PUBLISH
    assert [row["error"] != "" for row in result(rows)["images"]] == [False, True]


def test_a_second_push_sends_nothing(server: RegistryServer) -> None:
    target = Registry(host=server.host, tags=("v1",))
    only = {"web": built("web")}
    push(only, target, ACCESS, lambda _: None)
    server.calls.clear()
    check(push(only, target, ACCESS, lambda _: None))
    assert [
        call for call in server.calls if call[0] == "POST" or (call[0] == "PUT" and "sha256" not in call[1])
    ] == []


def test_a_push_without_a_registry_says_how_to_name_one() -> None:
    with pytest.raises(UsageError, match="no registry is named"):
        push(IMAGES, Registry(), ACCESS, print)
