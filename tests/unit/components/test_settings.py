"""Settings of components: our own file, and pai's configuration in both generations of its keys."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from buildstep.components.settings import Flags, load
from buildstep.errors import SpecError, UsageError

pytest.importorskip("yaml", reason="PyYAML is not installed (extra `components`)")

NEW = """\
cluster:
  docker-registry:
    namespace: team
    domain: registry.example:5000
    username: robot
    password: "p w; touch x"
    tag: v1.4
"""
OLD = """\
cluster:
  docker-registry-info:
    docker-namespace: team
    docker-registry-domain: public
    docker-tag: latest
    secret-name: unused
"""


def pai(folder: Path, text: str) -> Flags:
    (folder / "services-configuration.yaml").write_text(text)
    return Flags(config=folder)


def test_d02_the_configuration_is_read_by_a_safe_loader(tmp_path: Path) -> None:
    flags = pai(tmp_path, "cluster: !!python/object/apply:os.system ['touch x']\n")
    with pytest.raises(UsageError, match="is not YAML"):
        load(tmp_path, flags)
    assert load(tmp_path, pai(tmp_path, NEW)).registry.tags == ("v1.4",)


def test_both_generations_of_keys_are_read_and_the_older_wins(tmp_path: Path) -> None:
    new = load(tmp_path, pai(tmp_path, NEW)).registry
    assert new.repository("web") == "registry.example:5000/team/web"
    assert new.credentials is not None
    assert (new.credentials.user, new.credentials.password) == ("robot", "p w; touch x")
    old = load(tmp_path, pai(tmp_path, OLD)).registry
    assert (old.repository("web"), old.credentials) == ("docker.io/team/web", None)
    both = load(tmp_path, pai(tmp_path, OLD + NEW.removeprefix("cluster:\n"))).registry
    assert both.host == "docker.io"


def test_d03_no_password_is_in_a_message(tmp_path: Path) -> None:
    text = NEW.replace('"p w; touch x"', "[hunter2]")
    with pytest.raises(SpecError) as caught:
        load(tmp_path, pai(tmp_path, text))
    broken = pai(tmp_path, NEW.replace('"p w; touch x"', "'hunter2"))
    with pytest.raises(UsageError) as torn:
        load(tmp_path, broken)
    told = [caught.value.message, caught.value.detail, torn.value.message, torn.value.detail]
    assert "hunter2" not in "".join(told)
    assert "hunter2" not in repr(load(tmp_path, pai(tmp_path, NEW.replace("p w; touch x", "hunter2"))))


def test_all_faults_of_a_section_come_together_and_a_secret_name_is_not_needed(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load(tmp_path, pai(tmp_path, "cluster: {docker-registry: {tag: 1.10}}\n"))
    places = {fault.where.rpartition(".")[2] for fault in caught.value.faults}
    assert {"domain", "namespace", "tag"} <= {place.rstrip('"]').rpartition('["')[2] for place in places}
    assert 'quote it: tag: "1.10"' in caught.value.detail


@pytest.mark.parametrize("text", ["cluster: {}\n", "[]\n", ""])
def test_a_configuration_without_a_registry_is_a_fault_of_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(SpecError, match="1 fault"):
        load(tmp_path, pai(tmp_path, text))


def test_d01_a_path_of_the_configuration_is_text_and_relative_to_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf").mkdir()
    pai(tmp_path / "conf", NEW)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "repository").mkdir()
    assert load(tmp_path / "repository", Flags(config=Path("conf"))).registry.namespace == "team"


OWN = """\
mode = "yarn"
registry = "localhost:5000/lab"
tags = ["a", "b"]
arguments = {VERSION = "1"}
labels = {team = "x"}
pull = "always"

[images.web]
target = "final"
platform = "linux/arm64"
arguments = {COLOUR = "red"}
secrets = {token = "secret/token"}
no_cache = true
cache_from = ["localhost:5000/lab/web"]

[hooks]
timeout = 5
sandbox = false
"""


def test_d20_an_image_has_its_own_arguments_labels_target_platform_and_secrets(tmp_path: Path) -> None:
    (tmp_path / "components.toml").write_text(OWN)
    found = load(tmp_path, Flags(arguments={"VERSION": "2"}))
    web, other = found.options("web"), found.options("other")
    assert web.arguments == {"VERSION": "2", "COLOUR": "red"}
    assert (web.target, web.platform, web.no_cache, web.pull) == ("final", "linux/arm64", True, "always")
    assert web.secrets == {"token": tmp_path / "secret/token"}
    assert (other.target, other.arguments, other.labels) == ("", {"VERSION": "2"}, {"team": "x"})
    assert (found.mode, found.registry.tags, found.hooks.timeout) == ("yarn", ("a", "b"), 5.0)
    assert found.read_options().prefixes == ("localhost/", "localhost:5000/lab/")
    assert found.read_options().tags == ("latest", "a", "b")


def test_what_goes_into_an_image_is_in_its_inputs_and_a_secret_is_not(tmp_path: Path) -> None:
    (tmp_path / "components.toml").write_text(OWN)
    inputs = load(tmp_path).options("web").inputs()
    assert inputs == {
        "argument:COLOUR": "red", "argument:VERSION": "1", "label:team": "x", "platform": "linux/arm64",
        "target": "final", "secrets": "token",
    }  # fmt: skip


def test_flags_win_over_both_files_and_credentials_stay_with_their_host(tmp_path: Path) -> None:
    flags = pai(tmp_path, NEW)
    (tmp_path / "components.toml").write_text("tags = ['own']\n")
    assert load(tmp_path, flags).registry.tags == ("own",)
    other = load(tmp_path, flags._replace(registry="127.0.0.1:5000/x", tags=("t", "t"))).registry
    assert (other.repository("i"), other.tags, other.credentials) == ("127.0.0.1:5000/x/i", ("t",), None)
    with pytest.raises(SpecError, match="command line"):
        load(tmp_path, flags._replace(tags=("no tag",)))


def test_a_wrong_key_is_refused_with_the_right_one(tmp_path: Path) -> None:
    (tmp_path / "components.toml").write_text(dedent("[images.web]\ntargte = 'x'\n"))
    with pytest.raises(SpecError) as caught:
        load(tmp_path)
    assert "target" in caught.value.detail
