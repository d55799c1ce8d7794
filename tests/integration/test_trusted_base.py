"""A base image that a policy refuses is not touched: nothing is imported, mounted or kept. One that it lets through is
the one that was judged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.integration.support import Lab, host_state, none_left, step
from tests.integration.test_registry import bundle
from tests.integration.test_verify import ssh_key, ssh_sign, tool
from tests.servers import judges
from tests.servers.fixtures import LIMITS, Notes, Registry, bus, registry, start_registry
from tests.servers.layouts import layer

__all__ = ["bus", "registry"]


def policy(folder: Path, *rules: str, key: str = "release") -> Path:
    """A policy with one key; rules: lines of each rule, by default one for everything."""
    path = folder / "policy.toml"
    text = f"format = 1\n[[key]]\nname = 'release'\nfile = '{key}.pub'\n"
    path.write_text(text + "".join(f"[[rule]]\n{rule}\n" for rule in rules or ("match = ['*']",)))
    return path


@pytest.fixture
def signed(lab: Lab) -> Lab:
    """A place whose base is a file of its own, beside a key."""
    own = lab.top / "base.tar"
    shutil.copyfile(lab.base, own)
    ssh_key(lab.top)
    return Lab(top=lab.top, base=own)


def files(top: Path) -> set[str]:
    """What is there, but for notes of what tags and files were when they were asked for."""
    return {
        str(path.relative_to(top))
        for path in top.rglob("*")
        if path.is_file() and path.suffix != ".tag" and path.name not in ("filehash.json", ".private")
    }


def refused(lab: Lab, status: int, *arguments: str, said: str = "") -> None:
    """A build that is refused because of its base, and has not touched anything."""
    before, there = host_state(lab.top), files(lab.top)
    done = lab.refused(status, *arguments)
    assert "the base image" in done.stderr
    assert said in done.stderr
    assert host_state(lab.top) == before
    assert none_left(str(lab.pool)) == []
    assert files(lab.top) == there


def test_a_base_file_that_nobody_signed_is_not_touched(signed: Lab) -> None:
    rules = policy(signed.top)
    refused(signed, 30, "--base-policy", str(rules), said="there is no signature")
    assert not (signed.pool / "images").exists()
    signed.manifest(build={"trust": {"base": rules.name}})
    refused(signed, 30)
    ssh_sign(signed.base)
    found = step(signed.built(), "import")["reason"]
    assert "verified, signed by release (SHA256:" in found


def test_a_base_that_was_imported_before_is_judged_again(signed: Lab) -> None:
    """Also where the outputs of the last build are still valid."""
    signed.built()
    rules = str(policy(signed.top))
    refused(signed, 30, "--base-policy", rules)
    uuid = json.loads(signed.command("image", "list", "--pool", signed.uri, "--json").stdout)["images"][0][
        "uuid"
    ]
    refused(signed, 30, "-i", uuid, "--base-policy", rules)
    ssh_sign(signed.base)
    assert "signed by release" in step(signed.built("--base-policy", rules), "import")["reason"]
    assert "signed by release" in step(signed.built("--base-policy", rules, "-i", uuid), "import")["reason"]
    ssh_key(signed.top, "other")
    refused(signed, 31, "--base-policy", str(policy(signed.top, key="other")))


def test_a_base_that_was_altered(signed: Lab) -> None:
    rules = str(policy(signed.top))
    ssh_sign(signed.base)
    with signed.base.open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"x")
    refused(signed, 31, "--base-policy", rules, said="altered")


def test_a_machine_has_a_policy_that_no_project_weakens(signed: Lab) -> None:
    machine = signed.top / "machine"
    machine.mkdir()
    ssh_key(machine, "release")
    policy(machine)
    (signed.top / "buildstep.toml").write_text('[trust]\nbase = "machine/policy.toml"\n')
    ssh_sign(signed.base)
    refused(signed, 31, "--base-policy", str(policy(signed.top)))
    (machine / "policy.toml").write_text(
        "format = 1\n[[except]]\nmatch = ['tar:*']\nreason = 'a trial'\nuntil = 2099-12-31\n"
    )
    found = step(signed.built("--base-policy", str(policy(signed.top))), "import")["reason"]
    assert "let through by an exception: a trial (until 2099-12-31)" in found


def test_an_exception_that_has_ended_and_a_rule_that_does_not_match(signed: Lab) -> None:
    text = "match = ['tar:*']\nreason = 'a trial'\nuntil = 2020-12-31\n"
    path = signed.top / "policy.toml"
    path.write_text(f"format = 1\n[[except]]\n{text}")
    refused(signed, 33, "--base-policy", str(path), said="has expired")
    refused(signed, 34, "--base-policy", str(policy(signed.top, "match = ['docker://*']")), said="no rule of")
    path.write_text("format = 7\n[[rule]]\n")
    done = signed.refused(2, "--base-policy", str(path))
    assert done.stderr.count("$.") == 3, done.stderr


def test_bases_of_suites_are_signed_by_the_archive(signed: Lab) -> None:
    rules = str(policy(signed.top, "match = ['mmdebstrap:*']\nrequire = ['archive']"))
    plan = signed.build("--dry-run", "-i", "mmdebstrap:bookworm", "--base-policy", rules)
    assert plan.status == 0, plan.stderr
    assert "verified: apt compares its packages" in step(plan.json, "import")["reason"]
    refused(signed, 34, "--base-policy", rules)
    trusted = {"BUILDSTEP_APT_MIRROR": "deb [trusted=yes] http://127.0.0.1:1/debian bookworm main"}
    done = signed.build("--dry-run", "-i", "mmdebstrap:bookworm", "--base-policy", rules, env=trusted)
    assert done.status == 34, done.stderr


def test_an_empty_base_has_nothing_to_prove(signed: Lab) -> None:
    rules = str(policy(signed.top, "match = ['docker://*']"))
    assert "it is empty" in step(signed.built("-i", "scratch", "--base-policy", rules), "import")["reason"]


def test_a_policy_for_an_import(signed: Lab) -> None:
    command = [
        "image",
        "import",
        f"tar:{signed.base}",
        "--pool",
        signed.uri,
        "--policy",
        str(policy(signed.top)),
    ]
    done = signed.command(*command)
    assert done.status == 30, done.stderr
    assert signed.command("image", "list", "--pool", signed.uri).stdout == ""
    ssh_sign(signed.base)
    assert signed.command(*command).status == 0


# -- registries


@pytest.fixture
def pushed(signed: Lab, registry: Registry, bus: Notes) -> tuple[Lab, str, str]:
    """A place, the reference of a base in a registry, and its digest."""
    ref = f"docker://{registry.host}/bases/{signed.top.name}:v1".lower().replace("_", "-")
    digest = push_image(signed.top / "image", ref, bus, "one")
    signed.environ["BUILDSTEP_INSECURE_REGISTRIES"] = registry.host
    return signed, ref, digest


def push_image(folder: Path, ref: str, bus: Notes, content: str) -> str:
    from buildstep.images.publishers import PublishOptions, publish

    shutil.rmtree(folder, ignore_errors=True)
    made = bundle(folder, [layer({"etc/": b"", "etc/which": content.encode()})])
    options = PublishOptions(environ={}, limits=LIMITS, replace=True)
    return publish(made, ref, options=options, bus=bus).objects["v1"]


def cosign_sign(folder: Path, ref: str, digest: str) -> None:
    program = judges.cosign("2")
    env = {"COSIGN_PASSWORD": ""}
    if not (folder / "cosign.key").exists():
        tool(program, "generate-key-pair", cwd=folder, env=env)
    pinned = f"{ref.removeprefix('docker://').rpartition(':')[0]}@{digest}"
    tool(
        program, "sign", "-y", "--key", "cosign.key", "--tlog-upload=false", "--allow-insecure-registry",
        "--allow-http-registry", pinned, cwd=folder, env=env,
    )  # fmt: skip


def test_a_base_in_a_registry(pushed: tuple[Lab, str, str], bus: Notes) -> None:
    lab, ref, digest = pushed
    lab.manifest(build={"checks": {}})
    cosign_sign(
        lab.top,
        ref.replace(":v1", "-other:v1"),
        push_image(lab.top / "x", ref.replace(":v1", "-other:v1"), bus, "x"),
    )
    arguments = ["--base-policy", str(policy(lab.top, key="cosign")), "-i", ref]
    refused(lab, 30, *arguments)
    cosign_sign(lab.top, ref, digest)
    found = lab.built(*arguments)
    assert "verified, signed by release" in step(found, "import")["reason"]
    # The tag is moved: what it is now is judged, and what was signed is not touched.
    push_image(lab.top / "image", ref, bus, "two")
    refused(lab, 30, *arguments)
    pinned = f"{ref.rpartition(':')[0]}@{digest}"
    again = step(lab.built(*arguments[:2], "-i", pinned), "import")
    assert (again["state"], "signed by release" in again["reason"]) == ("reuse", True)


def test_a_locked_base_is_the_one_that_was_locked(pushed: tuple[Lab, str, str], bus: Notes) -> None:
    """Its tag may have been moved since: what is judged and fetched is the digest of the lock."""
    lab, ref, digest = pushed
    cosign_sign(lab.top, ref, digest)
    rules = policy(lab.top, key="cosign")
    lab.manifest(build={"image": ref, "trust": {"base": rules.name}})
    done = lab.command("lock", "m.json", str(lab.proto), "--pool", lab.uri)
    assert done.status == 0, done.stderr
    push_image(lab.top / "image", ref, bus, "two")
    shutil.rmtree(lab.pool)
    assert "signed by release" in step(lab.built("-i", ref, "--locked"), "import")["reason"]
    refused(lab, 30, "-i", ref, "--no-lock")


def test_a_pinned_base_that_nobody_signs(pushed: tuple[Lab, str, str]) -> None:
    lab, ref, digest = pushed
    rule = "match = ['docker://*']\nrequire = ['pinned']\nkeys = []\ndigests = ['{}']"
    refused(lab, 32, "-i", ref, "--base-policy", str(policy(lab.top, rule.format(f"sha256:{'0' * 64}"))))
    found = lab.built("-i", ref, "--base-policy", str(policy(lab.top, rule.format(digest))))
    assert "pinned by the policy" in step(found, "import")["reason"]


def test_while_a_registry_does_not_answer_what_it_had_is_judged(
    signed: Lab, bus: Notes, tmp_path_factory: Any
) -> None:
    server = start_registry(tmp_path_factory.mktemp("registry"))
    host = next(server).host
    signed.environ |= {"BUILDSTEP_INSECURE_REGISTRIES": host, "BUILDSTEP_HTTP": "attempts=1 connect=2"}
    ref = f"docker://{host}/bases/tiny:v1"
    cosign_sign(signed.top, ref, push_image(signed.top / "image", ref, bus, "one"))
    arguments = ["-i", ref, "--base-policy", str(policy(signed.top, key="cosign"))]
    signed.built(*arguments)
    next(server, None)  # it ends
    done = signed.build(*arguments)
    assert done.status == 0, done.stderr
    assert "judging" in done.stderr
    assert "signed by release" in step(done.json, "import")["reason"]
    text = Path(arguments[-1]).read_text().replace("file = ", "until = 2020-01-01\nfile = ")
    Path(arguments[-1]).write_text(text)
    refused(signed, 33, *arguments)
