"""Secrets that a build would put into its image: found, told without their value, and let pass where that is said."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import demand
from tests.integration.support import Lab, write_base
from tests.unit.trust.secrets.planted import HARMLESS, PASSWORD, PLANTED, letters

STRICT = {"BUILDSTEP_CHECKS": ""}
FAIL = {"trust": {"secrets": "fail"}}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    demand("root", "namespaces", "overlay", "busybox", "rsync")
    top = tmp_path_factory.mktemp("lab")
    return Lab(top=top, base=write_base(top / "base.tar"), environ=STRICT)


@pytest.fixture
def lab(shared: Lab) -> Lab:
    for folder in (shared.proto, shared.out):
        shutil.rmtree(folder, ignore_errors=True)
    put(shared, "srv/fine", "fine\n")
    return shared


def put(lab: Lab, name: str, content: object) -> Path:
    path = lab.proto / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else str(content).encode())
    return path


def results(lab: Lab, **more: Any) -> dict[str, Any]:
    """Build, and return how the rule ended."""
    lab.manifest(build=more)
    record = json.loads(Path(lab.built()["record"]).read_text())
    (row,) = [row for row in record["checks"] if row["check"] == "secret"]
    return dict(row)


def test_every_planted_secret_is_told_and_no_value_of_one(lab: Lab) -> None:
    for path, (content, _) in PLANTED.items():
        put(lab, path, content)
    lab.manifest(build=FAIL)
    done = lab.refused(25)
    for path, (_, rule) in PLANTED.items():
        (line,) = {line for line in done.stderr.splitlines() if line.startswith(f"secret: /{path} has")}
        assert line.endswith(f"({rule})")
    assert PASSWORD not in done.stderr
    assert lab.outputs() == {}


def test_nothing_is_found_where_nothing_is(lab: Lab) -> None:
    for path, content in HARMLESS.items():
        put(lab, path, content)
    assert results(lab, **FAIL)["result"] == "passed"


def test_a_warning_is_the_default_and_the_rule_can_be_off(lab: Lab) -> None:
    put(lab, "srv/key", f"gl{'pat-'}{letters(20)}")
    row = results(lab)
    assert row["result"] == "warned"
    assert row["message"].startswith("/srv/key has a token of GitLab in line 1: glpa... (26 characters)")
    lab.manifest(build={"trust": {"secrets": "off"}})
    record = json.loads(Path(lab.built()["record"]).read_text())
    assert "secret" not in [row["check"] for row in record["checks"]]
    lab.manifest(build={"trust": {"secrets": "fail"}})
    lab.refused(25)


def test_what_is_allowed_passes_until_its_day_is_over(lab: Lab) -> None:
    content = f"gl{'pat-'}{letters(20)}\n".encode()
    put(lab, "srv/test/key", content)
    digest = hashlib.sha256(content).hexdigest()
    for row in (
        {"path": "/srv/test/*", "reason": "of a test"},
        {"path": "/srv/test", "rule": "gitlab-token", "reason": "of a test", "until": "2999-01-01"},
        {"digest": digest, "reason": "of a test"},
    ):
        found = results(lab, trust={"secrets": "fail", "allow_secrets": [row]})
        assert found["result"] == "passed", row
    for row in (
        {"path": "/srv/test/*", "rule": "private-key", "reason": "another rule"},
        {"digest": digest[::-1], "reason": "another file"},
    ):
        lab.manifest(build={"trust": {"secrets": "fail", "allow_secrets": [row]}})
        lab.refused(25)
    over = {"path": "/srv/test/*", "reason": "of a test", "until": "2020-01-31"}
    lab.manifest(build={"trust": {"secrets": "fail", "allow_secrets": [over]}})
    assert "; it was allowed until 2020-01-31: of a test" in lab.refused(25).stderr


def test_the_configuration_of_the_image_is_looked_through(lab: Lab) -> None:
    said = {"oci": {"env": {"API_TOKEN": f"gl{'pat-'}{letters(20)}", "DB_PASSWORD": PASSWORD}}}
    lab.manifest(build={**FAIL, **said})
    done = lab.refused(25)
    assert "secret: the configuration of the image has a token of GitLab: glpa..." in done.stderr
    assert "secret: the configuration of the image has a secret setting: t7K..." in done.stderr
    assert PASSWORD not in done.stderr
    allow = {"path": "m.json", "reason": "of a test"}
    assert results(lab, trust={"secrets": "fail", "allow_secrets": [allow]}, **said)["result"] == "passed"


def test_a_key_in_the_tests_of_others_is_a_warning(lab: Lab) -> None:
    put(lab, "srv/app/node_modules/a/test/key.pem", PLANTED["etc/ssl/key.pem"][0])
    assert results(lab, **FAIL)["result"] == "warned"


def test_a_secret_of_the_build_is_found_in_what_it_adds(lab: Lab) -> None:
    """Also where the command that was shown it has nothing to do with the file."""
    put(lab, "srv/conf", f"login {PASSWORD.encode().hex()}\n")
    lab.manifest(build={**FAIL, "secrets": {"key": {"env": "THE_SECRET"}}})
    done = lab.refused(25, env={"THE_SECRET": PASSWORD})
    assert "secret: /srv/conf has a secret of this build in line 1" in done.stderr
    assert PASSWORD not in done.stderr


def test_what_was_clean_is_not_read_again(lab: Lab) -> None:
    """The digests of clean files are kept; a file whose name says more is looked at each time."""
    for number in range(1200):
        put(lab, f"srv/f{number}", f"file {number}\n{letters(30)}\n")
    put(lab, "srv/.env", f"DB_PASSWORD={PASSWORD}\n")
    assert results(lab)["lines"] == [
        "/srv/.env has a secret setting in line 1: t7K... (12 characters) (entropy)"
    ]
    put(lab, "srv/f7", f"gl{'pat-'}{letters(20)}\n")
    lines = results(lab)["lines"]
    assert [line.split()[0] for line in lines] == ["/srv/.env", "/srv/f7"]


def test_a_baseline_lets_pass_what_was_there_before(lab: Lab, tmp_path: Path) -> None:
    put(lab, "srv/key", f"gl{'pat-'}{letters(20)}\n")
    lab.manifest()
    archive = lab.built()["files"][0]["path"]
    baseline = tmp_path / "baseline.json"
    done = lab.command(
        "check", archive, "--pool", lab.uri, "--rules", "--json", "--write-baseline", str(baseline)
    )
    assert done.status == 25, "the base has what other rules are against"
    (row,) = json.loads(baseline.read_text())["findings"]
    assert (row["path"], row["rule"]) == ("srv/key", "gitlab-token")
    said = {"secrets": "fail", "secrets_baseline": str(baseline)}
    assert results(lab, trust=said)["result"] == "passed"
    put(lab, "srv/key", f"gl{'pat-'}{letters(20)}\n")
    lab.manifest(build={"trust": said})
    lab.refused(25)
    baseline.write_text('{"format": 2, "findings": []}')
    lab.manifest(build={"trust": said})
    assert "is no baseline of secrets: its format is 2" in lab.refused(2).stderr
