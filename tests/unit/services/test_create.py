"""Creating services: whole or not at all, every fault in one error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildstep.errors import SpecError
from buildstep.services.answers import Answers, Source, parse_data
from buildstep.services.hrd import Ask
from buildstep.services.repository import Repository
from tests.unit.services.repositories import NODE, REDIS, create, create_all, template


def refused(root: Path, name: str, instance: str = "main", **more: object) -> list[str]:
    """Return the faults of a service that cannot be created, and see that nothing was written."""
    before = sorted(path.relative_to(root) for path in root.rglob("*"))
    with pytest.raises(SpecError) as caught:
        create(root, name, instance, **more)  # type: ignore[arg-type]
    after = sorted(path.relative_to(root) for path in root.rglob("*"))
    assert [path for path in after if path not in before and path.name not in ("services", ".lock")] == []
    return [str(fault) for fault in caught.value.faults]


def test_all_questions_without_an_answer_are_one_error(tmp_path: Path) -> None:
    template(tmp_path, "web", {
        "service.hrd": "dependencies.node = db\n",
        "instance.hrd": "param.a = @ASK descr:'what a is'\nparam.b = @ASK default:x\nparam.c = @ASK type:int\n",
    })  # fmt: skip
    template(tmp_path, "db", {"instance.hrd": "param.d = @ASK\n"})
    faults = refused(tmp_path, "web")
    assert [text.partition(": ")[2].partition(": ")[2] for text in faults] == [
        "param.d is asked and not answered (-D db.main.param.d=VALUE)",
        "param.a is asked and not answered (-D param.a=VALUE: what a is)",
        "param.c is asked and not answered (-D param.c=VALUE)",
    ]


def test_answers_are_checked_and_all_that_are_wrong_are_told(tmp_path: Path) -> None:
    template(tmp_path, "web", {
        "instance.hrd": "param.port = @ASK type:int minValue:1 maxValue:9\nparam.kind = @ASK type:dropdown dropdownvals:a,b\n"
        "param.flag = @ASK type:bool\nparam.fixed = 1\n",
    })  # fmt: skip
    faults = refused(
        tmp_path,
        "web",
        data={"param.port": "70", "param.kind": "c", "param.flag": "perhaps", "param.prot": "1"},
    )
    assert len(faults) == 4
    assert any(
        "param.prot is no parameter of web" in text and 'did you mean "param.port"' in text for text in faults
    )
    service = create(
        tmp_path, "web", data={"param.port": 7, "param.kind": "b", "param.flag": True, "param.fixed": 2}
    )
    assert service.instance.values == {
        "param.port": "7",
        "param.kind": "b",
        "param.flag": "1",
        "param.fixed": "2",
    }


def test_layout_and_comments_of_the_template_stay(tmp_path: Path) -> None:
    template(
        tmp_path,
        "web",
        {"instance.hrd": "# how it is reached\nparam.port = @ASK default:80  # TCP\n\nparam.x = y\n"},
    )
    service = create(tmp_path, "web")
    assert (
        service.folder / "instance.hrd"
    ).read_text() == "# how it is reached\nparam.port = 80  # TCP\n\nparam.x = y\n"


def test_seeds_answer_for_services_that_are_created_along(tmp_path: Path) -> None:
    template(
        tmp_path,
        "corp__web",
        {"service.hrd": "dependencies.node = db\n", "instance.hrd": "param.port = @ASK\n"},
    )
    template(tmp_path, "db", {"instance.hrd": "param.port = @ASK\n"})
    seeds = Answers(
        [
            Source(
                "seeds.toml",
                {"corp.web.main.param.port": "1", "db.main.param.port": "2", "other.x.y": "3"},
                strict=False,
            )
        ]
    )
    db, web = create_all(tmp_path, "web", answers=seeds)
    assert (db.key, db.instance.get("param.port")) == ("db!main", "2")
    assert (web.key, web.instance.get("param.port")) == ("web!main", "1")
    assert web.producers == {"db": ["db!main"]}


def test_a_person_is_asked_for_what_is_not_given(tmp_path: Path) -> None:
    template(tmp_path, "web", {"instance.hrd": "param.a = @ASK default:x\nparam.b = @ASK\n"})
    asked = []

    def prompt(service: str, key: str, ask: Ask) -> str:
        asked.append((service, key, ask.default))
        return "typed"

    service = create(tmp_path, "web", data={"param.b": "given"}, prompt=prompt)
    assert asked == [("web!main", "param.a", "x")]
    assert service.instance.values == {"param.a": "typed", "param.b": "given"}


def test_what_a_node_needs_is_created_on_it(tmp_path: Path) -> None:
    template(tmp_path, "node.ssh", NODE)
    template(tmp_path, "docker")
    template(tmp_path, "web", {"service.hrd": "dependencies.node = docker\n"})
    create(tmp_path, "node.ssh", "a")
    docker, web = create_all(tmp_path, "web", "shop", parent="!a")
    assert docker.key == "node.ssh!a:docker!a"  # main is the node's name
    assert web.producers == {"node": ["node.ssh!a"], "docker": ["node.ssh!a:docker!a"]}
    [other] = create_all(tmp_path, "web", "blog", parent="!a@node")
    assert other.producers["docker"] == ["node.ssh!a:docker!a"]


def test_every_consumed_role_is_written(tmp_path: Path) -> None:
    """The old tool wrote only the last one into an instance that was there."""
    for name in ("a", "b", "c"):
        template(tmp_path, name)
    for name in ("a", "b"):
        create(tmp_path, name)
        create(tmp_path, name, "two")
    service = create(tmp_path, "c", consume=["a!main", "b!main", "a!two", "a!main"])
    assert service.producers == {"a": ["a!main", "a!two"], "b": ["b!main"]}


@pytest.mark.parametrize("number", [0, 2])
def test_a_global_dependency_must_be_there_exactly_once(tmp_path: Path, number: int) -> None:
    template(tmp_path, "db")
    template(tmp_path, "web", {"service.hrd": "dependencies.global = db\n"})
    for index in range(number):
        create(tmp_path, "db", f"n{index}")
    [fault] = refused(tmp_path, "web")
    assert (
        fault
        == {
            0: "web!main: template web: dependencies.global: no service has the role db (create one first: "
            "buildstep service create db)",
            2: "web!main: template web: dependencies.global: 2 services have the role db: db!n0, db!n1 (name the one "
            "that is meant: --consume db!n0)",
        }[number]
    )
    if number:
        assert create(tmp_path, "web", consume=["db!n1"]).producers == {"db": ["db!n1"]}


def test_templates_that_need_each_other_are_named_member_by_member(tmp_path: Path) -> None:
    for name, need in (("a", "bb"), ("bb", "c"), ("c", "a")):
        template(tmp_path, name, {"service.hrd": f"dependencies.node = {need}\n"})
    [fault] = refused(tmp_path, "a")
    assert "templates need each other in a cycle: a!main -> bb!main -> c!main -> a!main" in fault


def test_two_templates_of_one_role_do_not_share_a_directory(tmp_path: Path) -> None:
    template(tmp_path, "node.ssh", NODE)
    template(tmp_path, "node.local")
    create(tmp_path, "node.ssh", "a")
    [fault] = refused(tmp_path, "node.local", "a")
    assert (
        fault
        == "node.local!a: node.ssh!a has the role node and this instance too (choose another name for the instance)"
    )
    assert create(tmp_path, "node.local", "b").key == "node.local!b"


def test_dependencies_of_jumpscale_7_have_arguments_and_a_type(tmp_path: Path) -> None:
    template(tmp_path, "base", {"instance.hrd": "param.dir = @ASK\nparam.mode = @ASK default:x\n"})
    template(tmp_path, "go")
    template(tmp_path, "corp__web", {"service.hrd": (
        "dependencies.1 =\n    name:base,\n    instance:one,\n    args:'dep.args.base',\n\n"
        "dependencies.2 =\n    name:go,\n    type:build,\n\n"
        "dep.args.base =\n    param.dir:/srv,\n"
    )})  # fmt: skip
    base, web = create_all(tmp_path, "corp|web")
    assert (base.key, base.instance.values) == ("base!one", {"param.dir": "/srv", "param.mode": "x"})
    assert web.producers == {"base": ["base!one"]}


def test_a_node_has_no_more_instances_than_the_template_allows(tmp_path: Path) -> None:
    template(tmp_path, "node", NODE)
    template(tmp_path, "web", {"service.hrd": "instances.maxnr = 1\n"})
    for node in ("a", "b"):
        create(tmp_path, "node", node)
        create(tmp_path, "web", "one", parent=f"!{node}")
    [fault] = refused(tmp_path, "web", "two", parent="!b@node")
    assert fault == "template web: instances.maxnr is 1, and 1 are there (remove one of them)"


def test_a_platform_that_this_machine_is_not_is_refused(tmp_path: Path) -> None:
    template(tmp_path, "web", {"service.hrd": "platform.supported =\n    solaris64,\n    generic,\n"})
    template(tmp_path, "other", {"service.hrd": "platform.supported = solaris64\n"})
    create(tmp_path, "web")
    [fault] = refused(tmp_path, "other")
    assert fault.startswith("template other: platform.supported is solaris64, and this machine is ")


def test_the_one_name_server_is_used_where_it_is_wanted(tmp_path: Path) -> None:
    template(tmp_path, "ns.geo")
    template(tmp_path, "web", {"service.hrd": "ns.enable = True\n"})
    assert create(tmp_path, "web", "before").producers == {}
    create(tmp_path, "ns.geo")
    assert create(tmp_path, "web").producers == {"ns": ["ns.geo!main"]}


def test_a_service_that_is_there_is_not_created_again(tmp_path: Path) -> None:
    template(tmp_path, "web")
    create(tmp_path, "web")
    assert refused(tmp_path, "web") == [
        "web!main: is there already (`buildstep service update` takes a changed template)"
    ]


def test_faults_of_names_parents_and_producers_are_one_error(tmp_path: Path) -> None:
    template(tmp_path, "web")
    assert len(refused(tmp_path, "wbe", parent="!none", consume=["@db"])) == 3
    assert "is no name of an instance" in refused(tmp_path, "web", "a b")[0]


def test_a_create_that_is_killed_leaves_nothing_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template(tmp_path, "db", REDIS)
    template(tmp_path, "web", {"service.hrd": "dependencies.node = db\n"})
    rename = os.rename
    for last in range(2):  # killed before the first, and before the second has its name
        child = os.fork()
        if child == 0:
            left = [last]

            def dying(source: Path, target: Path, left: list[int] = left) -> None:
                if not left[0]:
                    os._exit(9)
                left[0] -= 1
                rename(source, target)

            monkeypatch.setattr(os, "rename", dying)
            create(tmp_path, "web")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        assert [*Repository.open(tmp_path).services] == ["db!main"][:last]
        assert list((tmp_path / "services").glob(".new-*")) != []
    assert [service.key for service in create_all(tmp_path, "web")] == ["web!main"]
    assert [path.name for path in sorted((tmp_path / "services").iterdir())] == [
        ".lock",
        "db!main",
        "web!main",
    ]


def test_an_error_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template(tmp_path, "web")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        create(tmp_path, "web")
    assert [path.name for path in (tmp_path / "services").iterdir()] == [".lock"]


def test_an_instance_that_ays_had_not_finished_is_told(tmp_path: Path) -> None:
    template(tmp_path, "web")
    create(tmp_path, "web")
    (tmp_path / "services/db!main").mkdir()
    (tmp_path / "services/db!main/instance_.hrd").write_text("param.a = 1\n")
    repository = Repository.open(tmp_path, strict=False)
    assert [*repository.services] == ["web!main"]
    assert [fault.message for fault in repository.faults] == ["was not finished by AYS"]
    with pytest.raises(SpecError, match="1 fault"):
        Repository.open(tmp_path)


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("port:6379 name:x", {"port": "6379", "name": "x"}),
        ("port=6379 # name=x y", {"port": "6379", "name": "x y"}),
        ("url:http://h/p?a=b", {"url": "http://h/p?a=b"}),
        ("url=http://h:80/p", {"url": "http://h:80/p"}),
        ("greeting:'hi all' x:", {"greeting": "hi all", "x": ""}),
        ("path:C\\x", {"path": "C\\x"}),
        ("", {}),
        ("param.colour=#fff # b=2", {"param.colour": "#fff", "b": "2"}),
    ],
)
def test_data_has_two_forms(text: str, answers: dict[str, str]) -> None:
    assert parse_data(text) == answers


@pytest.mark.parametrize("text", ["port", "port:1 name", "a:1 a:2", "a:'b", ":1", "a=1 # b"])
def test_data_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        parse_data(text)


def test_two_creates_at_once_do_not_mix(tmp_path: Path) -> None:
    template(tmp_path, "db", REDIS)
    template(tmp_path, "web", {"service.hrd": "dependencies.node = db\n"})
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            create(tmp_path, "web", f"w{number}")
            os._exit(0)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    repository = Repository.open(tmp_path)
    assert [*repository.services] == ["db!main", *(f"web!w{number}" for number in range(4))]
    assert all(one.producers == {"db": ["db!main"]} for one in repository.find("web"))
