"""`buildstep service`: what its commands print, and that no secret is in it."""

from __future__ import annotations

import json
import os
import pty
import sys
from pathlib import Path

import pytest

from buildstep.services.records import Book, Record
from buildstep.services.states import State
from tests.unit.cli.conftest import Run
from tests.unit.services.repositories import NODE, REDIS, template

CANARY = "canary-4711"


@pytest.fixture
def site(run: Run) -> Path:
    """A repository, which is the current directory, with a node, a redis and a web service that needs it."""
    root = Path.cwd()
    template(root, "node.ssh", NODE)
    template(root, "redis", REDIS)
    template(root, "corp__web", {
        "service.hrd": "description = 'what people see'\ndependencies.node = redis\n",
        "instance.hrd": "param.passwd = @ASK descr:'of the admin'\nparam.n = @ASK type:int default:1\n",
        "actions_node.py": "class Actions:\n    pass\n",
    })  # fmt: skip
    return root


def made(run: Run, *argv: str) -> list[str]:
    status, out, err = run("service", "create", *argv)
    assert (status, err) == (0, "")
    return out.splitlines()


def test_create_lists_what_it_made_itself_last(run: Run, site: Path) -> None:
    assert made(run, "node.ssh", "a") == ["node.ssh!a"]
    secret = ["--data", "param.passwd:secret:env:WEB_PASSWORD"]
    assert made(run, "web!shop", "-p", "!a@node", *secret) == [
        "node.ssh!a:redis!a  (node.ssh!a:web!shop needs it)", "node.ssh!a:web!shop",
    ]  # fmt: skip
    assert made(run, "@node:web", "two", *secret) == ["node.ssh!a:web!two"]
    status, out, _ = run("service", "create", "web", "three", "-n", "--json", *secret)
    value = json.loads(out)
    assert (status, value["created"], [row["key"] for row in value["planned"]]) == (
        0,
        [],
        ["redis!main", "web!three"],
    )
    assert not (site / "services/web!three").exists()


def test_ays_d22_a_question_without_an_answer_in_ci_is_an_error(run: Run, site: Path) -> None:
    status, out, err = run("service", "create", "web", "-D", "param.n=x")
    assert (status, out) == (2, "")
    assert "param.passwd is asked and not answered (-D param.passwd=VALUE: of the admin)" in err
    assert "is 'x', not a whole number" in err
    assert not (site / "services/web!main").exists()


def test_answers_come_from_options_and_files(run: Run, site: Path) -> None:
    (site / "seeds.toml").write_text(
        '[corp.web.shop.param]\nn = 5\npasswd = "secret:env:A"\n[redis.main.param]\nport = 7\n'
    )
    (site / "more.json").write_text('{"param": {"n": 6}}')
    (site / "plain.hrd").write_text("param.n = 9\n")
    made(run, "web", "shop", "--answers", "seeds.toml", "--answers", "more.json")
    made(
        run,
        "web",
        "blog",
        "--answers",
        "plain.hrd",
        "--answers",
        "more.json",
        "-D",
        "param.passwd=secret:env:B",
    )
    made(run, "web", "wiki", "--data", "param.n=8 # param.passwd=secret:env:C", "-D", "param.n=3")
    values = {
        name: json.loads(run("service", "show", name, "--json")[1])["values"]
        for name in ("!shop", "!blog", "!wiki", "redis")
    }
    assert {name: value.get("param.n") or value.get("param.port") for name, value in values.items()} == {
        "!shop": "5", "!blog": "9", "!wiki": "3", "redis": "7",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.toml", "= x", "is not TOML"),
        ("a.json", "[1]", "is no table"),
        ("a.hrd", "k = a#b\n", "#"),
        ("none.toml", None, "No such file"),
    ],
)
def test_answers_that_cannot_be_read(run: Run, site: Path, name: str, text: str | None, reason: str) -> None:
    if text is not None:
        (site / name).write_text(text)
    status, _, err = run("service", "create", "web", "--answers", name)
    assert status == 2
    assert name in err
    assert reason in err


def test_list_is_a_tree_with_states_and_filters(run: Run, site: Path) -> None:
    made(run, "node.ssh", "a")
    made(run, "web", "shop", "-p", "!a", "-D", "param.passwd=secret:env:X")
    folder = site / "services/node!a/redis!a"
    up = Record(state=State.UP, since=1600000000.0, last="node.check_up")
    Book(lambda _: folder).save("redis", up)
    assert run("service", "list")[1].splitlines() == [
        "node.ssh!a  new",
        "  redis!a   up   2020-09-13 12:26:40 UTC  node.check_up",
        "  web!shop  new",
        "3 services",
    ]
    assert run("service", "list", "--installed")[1].splitlines() == [
        "[node.ssh!a]",
        "  redis!a     up  2020-09-13 12:26:40 UTC  node.check_up",
        "1 service",
    ]
    rows = json.loads(run("service", "list", "@node", "web", "--state", "new", "--json")[1])["services"]
    assert [(row["key"], row["state"], row["installed"], row["parent"]) for row in rows] == [
        ("node.ssh!a", "new", False, None), ("node.ssh!a:web!shop", "new", False, "node.ssh!a"),
    ]  # fmt: skip
    assert run("service", "list", "no-such")[0] == 2


def test_on_a_terminal_the_tree_has_guides(run: Run, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(run, "node.ssh", "a")
    made(run, "redis", "-p", "!a")
    made(run, "web", "shop", "-p", "!a@node", "-D", "param.passwd=secret:env:X")
    main, child = pty.openpty()
    with os.fdopen(child, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        from buildstep import cli

        assert cli.main(["service", "list"]) == 0
        terminal.flush()
        text = ""
        while "3 services" not in text:
            text += os.read(main, 1 << 16).decode(errors="replace")
    os.close(main)
    assert "├─ " in text
    assert "└─ " in text
    assert "\x1b[" in text


def test_show_tells_what_it_uses_and_who_uses_it(run: Run, site: Path) -> None:
    made(run, "web", "shop", "-D", "param.passwd=secret:env:X")
    out = run("service", "show", "redis")[1]
    assert "used by   web!shop" in out
    lines = run("service", "show", "web")[1].splitlines()
    assert "uses      redis: redis!main" in lines
    assert "actions   node: actions_node.py" in lines
    assert "param.passwd = secret:env:X" in lines


def test_consume_writes_every_role_and_refuses_cycles(run: Run, site: Path) -> None:
    made(run, "node.ssh", "a")
    made(run, "web", "shop", "-D", "param.passwd=secret:env:X")
    made(run, "redis", "x")
    status, out, _ = run("service", "consume", "web", "redis!x", "@node", "--json")
    value = json.loads(out)
    assert (status, value["added"]) == (0, {"redis": ["redis!x"], "node": ["node.ssh!a"]})
    assert value["producers"] == {"redis": ["redis!main", "redis!x"], "node": ["node.ssh!a"]}
    assert run("service", "consume", "web", "redis!x")[1] == "web!shop uses them already\n"
    status, _, err = run("service", "consume", "redis!x", "web", "redis!x")
    assert status == 2
    assert "web!shop: makes a cycle: redis!x -> web!shop -> redis!x" in err
    assert "redis!x: makes a cycle: redis!x -> redis!x" in err


def test_remove_leaves_what_others_need_and_what_is_installed(run: Run, site: Path) -> None:
    made(run, "web", "shop", "-D", "param.passwd=secret:env:X")
    Book(lambda _: site / "services/web!shop").save("web", Record(state=State.UP))
    status, _, err = run("service", "remove", "redis", "web!shop")
    assert status == 2
    assert "web!shop: is up (buildstep service uninstall web!shop)" in err
    assert "is needed by web!shop" in run("service", "remove", "redis")[2]
    assert run("service", "remove", "redis", "web", "--force")[1].splitlines() == [
        "removed redis!main",
        "removed web!shop",
    ]
    assert [path.name for path in (site / "services").iterdir()] == [".lock"]


def test_update_tells_what_changes_and_keeps_answers(run: Run, site: Path) -> None:
    made(run, "web", "shop", "-D", "param.passwd=secret:env:X", "-D", "param.n=4")
    folder = site / "servicetemplates/corp__web"
    (folder / "service.hrd").write_text(
        "description = 'new words'\ndependencies.node = redis\npackages = curl\n"
    )
    (folder / "instance.hrd").write_text(
        "param.passwd = @ASK\nparam.n = @ASK type:int default:9\nparam.extra = @ASK default:e\n"
    )
    (folder / "actions_node.py").write_text("class Actions:\n    x = 1\n")
    (folder / "actions_mgmt.py").write_text("class Actions:\n    pass\n")
    lines = [
        "web!shop",
        "  M template description: what people see -> new words",
        "  N template packages = curl",
        "  N instance param.extra = e",
        "  N file actions_mgmt.py",
        "  M file actions_node.py",
        "1 service changed",
    ]
    assert run("service", "update", "-n")[1].splitlines() == lines
    assert run("service", "update")[1].splitlines() == lines
    assert run("service", "update")[1] == "nothing changed\n"
    values = json.loads(run("service", "show", "web", "--json")[1])["values"]
    assert (values["param.n"], values["param.extra"], values["param.passwd"]) == ("4", "e", "secret:env:X")
    (folder / "instance.hrd").write_text(
        "param.passwd = @ASK\nparam.n = @ASK type:int maxValue:3\nparam.must = @ASK\n"
    )
    status, _, err = run("service", "update")
    assert status == 2
    assert "param.n: 4 is more than 3" in err
    assert "param.must is asked and not answered" in err


def test_check_tells_all_and_exits_with_23(run: Run, site: Path) -> None:
    assert run("service", "check") == (0, "3 templates, 0 services: nothing is wrong\n", "")
    template(
        site,
        "bad",
        {"service.hrd": "process.1x =\n    cmd:x,\n", "actions_node.py": "class ActionsNode:\n    pass\n"},
    )
    made(run, "web", "shop", "-D", "param.passwd=secret:env:X")
    (site / "services/web!shop/instance.hrd").write_text("param.n = x\nproducer.redis = redis!gone\n")
    status, out, _ = run("service", "check", "--json")
    value = json.loads(out)
    assert (status, value["wrong"]) == (23, 3)
    assert [row["message"] for row in value["findings"]] == [
        "has no class Actions", "means nothing", "there is no service redis!gone",
    ]  # fmt: skip
    assert run("service", "check", "redis")[0] == 0
    assert run("service", "check", "--templates-only", "bad")[1].endswith(
        "1 template, 0 services: 2 errors\n"
    )


def test_ays_d12_no_command_shows_a_secret(run: Run, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_PASSWORD", CANARY)
    template(
        site, "keys", {"instance.hrd": "param.api_key = @ASK type:password\nparam.x = '$(param.api_key)'\n"}
    )
    shown = [
        run("service", "create", "keys", "-D", f"param.api_key={CANARY}"),
        run("service", "create", "keys", "--data", f"param.api_key:{CANARY}"),
    ]
    assert [status for status, _, _ in shown] == [2, 2]
    shown += [
        run("service", "create", "web", "shop", "-D", "param.passwd=secret:env:WEB_PASSWORD"),
        run("service", "create", "keys", "-D", "param.api_key=secret:env:WEB_PASSWORD"),
    ]
    # Written down by hand, where it must not be.
    with (site / "services/web!shop/instance.hrd").open("a") as stream:
        stream.write(f"\nadmin.password = {CANARY}\n\ndb =\n    passwd:{CANARY},\n")
    for argv in (
        ["list"],
        ["show", "web"],
        ["show", "keys"],
        ["check"],
        ["update"],
        ["templates"],
        ["consume", "keys", "web"],
    ):
        shown += [run("service", *argv, *more) for more in ((), ("--json",))]
    assert all(CANARY not in out + err for _, out, err in shown)
    files = [
        path for path in (site / "services").rglob("*") if path.is_file() and path.name != "instance.hrd"
    ]
    assert not any(CANARY in path.read_text() for path in files)


def test_templates_of_other_directories_have_their_domain(run: Run, site: Path) -> None:
    template(site / "more", "redis", {"service.hrd": "description = other\n"})
    template(site / "third", "mail")
    (site / "buildstep.toml").write_text('[services.templates]\nother = "more/servicetemplates"\n')
    out = run("service", "templates", "--templates", "third/servicetemplates")[1].splitlines()
    assert out == [
        "mail",
        "node.ssh",
        "redis",
        "other|redis  other",
        "corp|web     what people see",
        "5 templates",
    ]
    assert made(run, "other|redis") == ["redis!main"]
    status, _, err = run("service", "create", "redis", "two")
    assert status == 2
    assert "means 2 templates: redis (" in err
    assert run("service", "templates", "--templates", "nowhere")[0] == 2


def test_a_person_at_a_terminal_is_asked_again_for_an_answer_that_is_none(
    run: Run, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The questions are on standard error: standard output has the result alone."""
    from buildstep import cli
    from buildstep.cli import service_options

    monkeypatch.setattr(service_options, "_person", lambda: True)
    main, child = pty.openpty()
    with os.fdopen(child, "r") as terminal:
        os.write(main, b"\nhunter2\nsecret:env:X\nmany\n5\n")
        monkeypatch.setattr(sys, "stdin", terminal)
        assert cli.main(["service", "create", "web"]) == 0
    os.close(main)
    values = json.loads(run("service", "show", "web", "--json")[1])["values"]
    assert (values["param.passwd"], values["param.n"]) == ("secret:env:X", "5")
