"""What nobody else may read: found by where it is or what it is called, hidden, and refused in what is published."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import quote

import pytest

from buildstep.build import private_words
from buildstep.errors import EmitError
from buildstep.events import Bus, Event, Note
from buildstep.spec.fields import BuildSpec, InstallerOptions, RunCommand, RunOptions, Secret
from buildstep.spec.shared_cache import SharedCache
from buildstep.spec.trust import Trust


def spec(**fields: object) -> BuildSpec:
    given = {"name": "a", "version": "1", "source": "m", "manifest": {}, "origin_of": {}, "image": "scratch"}
    paths = {"proto": Path("/p"), "image_prefix": "a", "output_dir": Path("/o")}
    return BuildSpec(**{**given, **paths, **fields})  # type: ignore[arg-type]


def test_every_place_of_a_secret_is_known(tmp_path: Path) -> None:
    for name in ("file", "key", "cache"):
        (tmp_path / name).write_text(f"-----BEGIN X-----\nin-{name}-0123\n")
    made = spec(
        secrets={"a": Secret(file=f"{tmp_path}/file"), "b": Secret(env="MINE"), "c": Secret(file="/gone")},
        installer_options=InstallerOptions(mirror="http://me:of-mirror@h/d", env={"NPM_TOKEN": "of-env-1"}),
        run_options=RunOptions(env={"A_PASSWORD": "of-run-1", "PLAIN": "not-one-1"}),
        run=(RunCommand(script="x", env={"API_KEY": "of-command"}),),
        sharing=SharedCache(url="dir:/c", key=f"{tmp_path}/cache"),
        proof=Trust(keys=(f"{tmp_path}/key", "agent", "env:SIGNER")),
    )
    environ = {
        "MINE": "of-variable", "https_proxy": "http://p:of-proxy-1@h:1", "SIGNER": "-----B\nof-signer\n",
        "BUILDSTEP_KEY_PASSWORD": "of-password", "OTHER": "not-one-2", "GIT_URL": "https://of-git-1@h/r",
    }  # fmt: skip
    found = set(private_words.given(made, environ))
    assert found >= {
        "in-file-0123", "in-key-0123", "in-cache-0123", "of-variable", "of-mirror", "of-env-1", "of-run-1",
        "of-command", "of-proxy-1", "of-signer", "of-password", "of-git-1",
    }  # fmt: skip
    assert not any("not-one" in word for word in found)


def test_a_value_with_the_name_of_a_secret_is_one_unless_it_is_a_path() -> None:
    values = {
        "token": "abcdef",
        "DB_PASSWORD": "first-line\nsecond-line",
        "secret": "/run/secrets/a",
        "kind": "abcdef2",
    }
    assert private_words.named(values | {"PASSWORD": "short"}) == ["abcdef", "first-line", "second-line"]


def test_no_event_has_one_in_any_form() -> None:
    events: list[Event] = []
    bus = Bus(events.append)
    private_words.hide(bus, ["hunter2/é", "no"])
    encoded = base64.b64encode(b"x:hunter2/\xc3\xa9").decode()
    bus.note(f"hunter2/é {encoded} {quote('hunter2/é', safe='')} no")
    (note,) = (event for event in events if isinstance(event, Note))
    assert "hunter2" not in note.text
    assert encoded not in note.text
    assert note.text.endswith(" no")
    assert private_words.masked({"hunter2/é": ["hunter2/é", 3, None]}, bus) == {"***": ["***", 3, None]}


def test_a_file_with_one_is_not_written() -> None:
    bus = Bus()
    private_words.refuse({Path("a.json"): b"hunter2-long"}, bus)
    private_words.hide(bus, ["hunter2-long"])
    private_words.refuse({Path("a.json"): b"nothing"}, bus)
    with pytest.raises(EmitError, match=r"^a\.json would have a secret"):
        private_words.refuse({Path("b.json"): b"", Path("a.json"): base64.b64encode(b"yyhunter2-long")}, bus)
