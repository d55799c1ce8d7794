"""What an action is told: values with references put in and of their types, processes, producers, files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from buildstep.errors import SpecError
from buildstep.services.facts import facts_of, secrets_of, shown_values
from buildstep.services.interface import Facts, Process, ServiceError
from buildstep.services.repository import Repository
from buildstep.services.template_check import check_templates
from tests.unit.services.repositories import REDIS, create, template


def facts(root: Path, key: str) -> Facts:
    repository = Repository.open(root)
    return facts_of(repository, repository.one(key))


def faults(root: Path, key: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        facts(root, key)
    return [str(fault) for fault in caught.value.faults]


def test_values_have_the_types_that_were_asked_for(tmp_path: Path) -> None:
    template(tmp_path, "web", {
        "service.hrd": "param.shared = 5\nparam.copy = $(param.port)\nparam.home = $(system.paths.app)/$(name)\n",
        "instance.hrd": "param.port = @ASK type:int default:80\nparam.on = @ASK type:bool default:true\n"
        "param.hosts = @ASK type:list default:'a, b'\nparam.limit = @ASK type:float default:1.5\nparam.note = @ASK default:''\n"
        "param.plain = 7\n",
    })  # fmt: skip
    create(tmp_path, "web")
    values = facts(tmp_path, "web").values
    assert {key: values[key] for key in values if key.startswith("param.")} == {
        "param.shared": "5", "param.copy": "80", "param.home": "/opt/services/apps/web", "param.port": 80,
        "param.on": True, "param.hosts": ["a", "b"], "param.limit": 1.5, "param.note": "", "param.plain": "7",
    }  # fmt: skip
    assert values["name"] == "web"
    assert values["instance"] == "main"


def test_a_process_is_what_its_keys_say(tmp_path: Path) -> None:
    template(tmp_path, "redis", {
        "service.hrd": (
            "process.2 =\n    cmd:second,\n    prio:5,\n    startupmanager:tmux,\n\n"
            "process.1 =\n    cmd:'bin/redis-server',\n    args:'\"/etc/$(instance).conf\" --port $(param.port)',\n    cwd:'/srv',\n"
            "    env:,\n    ports:'$(param.port);8080',\n    user:redis,\n    timeout_start:'20',\n    timeout_stop:2.5,\n"
            "    filterstr:'x $(param.port)',\n\n"
            "process.3 =\n    cmd:'rm -f /x;export X=C;exec binary',\n    args:,\n    platform:plan9,\n\n"
            "env.process.1 =\n    LANG:C,\n    PORT:$(param.port),\n"
        ),
        "instance.hrd": "param.port = @ASK type:int default:6379\n",
    })  # fmt: skip
    create(tmp_path, "redis", "cache")
    assert facts(tmp_path, "redis").processes == [
        Process(number=2, name="redis.cache.2", argv=["second"], priority=5, manager="process"),
        Process(
            number=1, name="redis.cache", argv=["bin/redis-server", "/etc/cache.conf", "--port", "6379"],
            directory="/srv", environment={"LANG": "C", "PORT": "6379"}, user="redis", ports=(6379, 8080),
            pattern="x 6379", start_seconds=20, stop_seconds=2.5,
        ),
    ]  # fmt: skip


def test_what_only_a_shell_understands_is_given_to_one(tmp_path: Path) -> None:
    template(
        tmp_path,
        "mongo",
        {"service.hrd": "process.1 =\n    cmd:'rm -f /x;export X=C;exec mongod',\n    args:'--a \"b c\"',\n"},
    )
    create(tmp_path, "mongo")
    [process] = facts(tmp_path, "mongo").processes
    assert process.argv == ["/bin/sh", "-c", 'rm -f /x;export X=C;exec mongod --a "b c"']


def test_ays_d15_a_comma_in_a_value_makes_no_second_entry(tmp_path: Path) -> None:
    template(tmp_path, "web", {
        "service.hrd": "process.1 =\n    cmd:serve,\n    args:'$(param.who)',\n",
        "instance.hrd": "param.who = @ASK\n",
    })  # fmt: skip
    create(tmp_path, "web", data={"param.who": "admin, user:root"})
    [process] = facts(tmp_path, "web").processes
    assert process.argv == ["serve", "admin,", "user:root"]
    assert process.user == ""


def test_a_service_has_the_address_of_its_node(tmp_path: Path) -> None:
    template(tmp_path, "node.ssh", {"instance.hrd": "node.tcp.addr = @ASK\n"})
    template(tmp_path, "web", {
        "service.hrd": "param.url = http://$(tcp.addr)/\n".replace("http://$(tcp.addr)/", "'http://$(tcp.addr)/'"),
        "instance.hrd": "tcp.addr =\n",
    })  # fmt: skip
    template(tmp_path, "bare", {"service.hrd": "param.url = '$(tcp.addr)'\n"})
    create(tmp_path, "node.ssh", "a", data={"node.tcp.addr": "10.0.0.4"})
    create(tmp_path, "web", "one", parent="!a")
    create(tmp_path, "web", "two", parent="!a@node", data={"tcp.addr": "10.9.9.9"})
    create(tmp_path, "bare", parent="!a@node")
    found = {name: facts(tmp_path, name).values for name in ("web!one", "web!two", "bare")}
    assert [(values["tcp.addr"], values["param.url"]) for values in found.values()] == [
        ("10.0.0.4", "http://10.0.0.4/"), ("10.9.9.9", "http://10.9.9.9/"), ("10.0.0.4", "10.0.0.4"),
    ]  # fmt: skip


def test_producers_come_with_their_facts_and_can_be_referred_to(tmp_path: Path) -> None:
    template(tmp_path, "redis", REDIS)
    template(tmp_path, "web", {
        "service.hrd": "dependencies.global = redis\nparam.cache = 'redis at $(producer.redis.param.port)'\n",
    })  # fmt: skip
    template(tmp_path, "front", {"service.hrd": "dependencies.global = web\n"})
    create(tmp_path, "redis", data={"param.port": 7001})
    create(tmp_path, "web")
    create(tmp_path, "front")
    web = facts(tmp_path, "web")
    assert web.values["param.cache"] == "redis at 7001"
    [redis] = web.producers["redis"]
    assert (redis.key, redis.values["param.port"], redis.processes[0].ports) == ("redis!main", 7001, (7001,))
    [used] = facts(tmp_path, "front").producers["web"]
    assert used.producers == {}


def test_old_prefixes_name_template_and_instance(tmp_path: Path) -> None:
    template(tmp_path, "corp__web", {
        "service.hrd": "param.a = '$(service.name) $(instance.param.b) $(service.domain) $(service.instance)'\nparam.c = t\n"
        "param.d = $(service.param.c)\n",
        "instance.hrd": "param.b = @ASK\nparam.c = i\n",
    })  # fmt: skip
    create(tmp_path, "web", data={"param.b": "x"})
    values = facts(tmp_path, "web").values
    assert (values["param.a"], values["param.c"], values["param.d"]) == ("web x corp main", "i", "t")
    assert not any(key.startswith(("service.", "instance.")) for key in values)


def test_paths_of_the_system_follow_their_base(tmp_path: Path) -> None:
    template(tmp_path, "web", {"service.hrd": "param.a = '$(system.paths.var)/x'\n"})
    create(tmp_path, "web", data={"system.paths.base": "/srv"})
    assert facts(tmp_path, "web").values["param.a"] == "/srv/var/x"


def test_files_users_and_packages(tmp_path: Path) -> None:
    template(tmp_path, "web", {
        "service.hrd": (
            "files.1 =\n    source:web.conf,\n    dest:'/etc/$(name).conf',\n\n"
            "files.2 =\n    source:raw.sh,\n    dest:/opt/raw.sh,\n    render:false,\n\n"
            "files.3 =\n    source:static,\n    dest:/srv/static,\n\n"
            "files.4 =\n    text:'a, $(param.port)',\n    dest:/opt/text,\n\n"
            "users.1 =\n    name:web,\n    uid:990,\n    groups:'adm;www',\n    home:/srv,\n\n"
            "packages = curl, jq\nubuntu.packages = jq, nginx\n"
        ),
        "instance.hrd": "param.port = @ASK default:80\n",
        "web.conf": "port = $(param.port)\n# $(date -u)\n",
        "raw.sh": "echo $(param.port)\n",
        "static/index.html": "x",
    })  # fmt: skip
    service = create(tmp_path, "web")
    found = facts(tmp_path, "web")
    assert found.files == {
        "/etc/web.conf": "port = 80\n# $(date -u)\n", "/opt/raw.sh": "echo $(param.port)\n", "/opt/text": "a, 80",
    }  # fmt: skip
    assert found.trees == {"/srv/static": service.folder / "static"}
    assert found.users == [{"name": "web", "uid": 990, "groups": ["adm", "www"], "home": "/srv"}]
    assert [*found.packages][:2] == ["curl", "jq"]
    assert found.folder == service.folder


def test_all_that_is_wrong_with_a_service_is_told_with_its_place(tmp_path: Path) -> None:
    template(tmp_path, "web", {"service.hrd": (
        "process.1 =\n    cmd:serve,\n    ports:70000,\n    prio:first,\n\n"
        "files.1 =\n    source:../../x,\n    dest:/etc/x,\n\nfiles.2 =\n    source:none,\n    dest:etc/x,\n\n"
        "users.1 =\n    name:x,\n    uid:many,\n"
    )})  # fmt: skip
    create(tmp_path, "web")
    assert [text.partition(" (")[0] for text in faults(tmp_path, "web")] == [
        "web!main: process.1: prio: is 'first', and must be a whole number",
        "web!main: process.1: ports: is '70000', and must be port numbers, with `;` between them",
        "web!main: users.1: uid: 'many' is no number",
        "web!main: files.1: '../../x' leads out of the template",
        "web!main: files.2: dest is 'etc/x', and must be an absolute path",
    ]


def test_a_name_that_nothing_has_is_told_with_its_line(tmp_path: Path) -> None:
    template(tmp_path, "web", {"service.hrd": "param.a = $(param.prot)\nparam.port = 1\n"})
    create(tmp_path, "web")
    [fault] = faults(tmp_path, "web")
    assert "template.hrd:1:1: nothing has the name param.prot" in fault
    assert "did you mean" in fault


def test_references_in_a_circle_are_named(tmp_path: Path) -> None:
    template(
        tmp_path,
        "web",
        {
            "service.hrd": "param.a = $(service.param.b)\nparam.b = $(param.c)\n",
            "instance.hrd": "param.c = $(param.a)\n",
        },
    )
    create(tmp_path, "web")
    assert "refers to itself: " in " ".join(faults(tmp_path, "web"))


def test_a_producer_that_is_gone_is_told(tmp_path: Path) -> None:
    template(tmp_path, "db")
    template(tmp_path, "web")
    create(tmp_path, "db")
    create(tmp_path, "web", consume=["db"])
    (tmp_path / "services/db!main/template.hrd").unlink()
    repository = Repository.open(tmp_path, strict=False)
    with pytest.raises(SpecError) as caught:
        facts_of(repository, repository.one("web"))
    assert "producer.db: there is no service db!main" in caught.value.detail


def test_services_that_need_each_other_have_no_facts(tmp_path: Path) -> None:
    for name in ("aa", "bb"):
        template(tmp_path, name)
        create(tmp_path, name)
    repository = Repository.open(tmp_path)
    repository.one("aa").set({"producer.bb": ["bb!main"]})
    repository.one("bb").set({"producer.aa": ["aa!main"]})
    with pytest.raises(ServiceError, match="cycle") as caught:
        facts(tmp_path, "aa")
    assert caught.value.detail.splitlines()[0] == "  aa!main -> bb!main -> aa!main"


CANARY = "canary-4711"


def secret_service(root: Path) -> Repository:
    template(
        root,
        "db",
        {
            "instance.hrd": "param.passwd = @ASK descr:'of the admin'\nparam.key = @ASK type:password\nparam.x = 1\n"
        },
    )
    template(root, "web", {"service.hrd": "dependencies.global = db\n"})
    (root / "key.txt").write_text(f"{CANARY}-file\n")
    create(root, "db", data={"param.passwd": "secret:env:DB_PASSWORD", "param.key": "secret:file:key.txt"})
    create(root, "web")
    return Repository.open(root)


def test_ays_d12_a_secret_is_in_no_facts_and_reaches_the_actions_of_those_who_use_it(tmp_path: Path) -> None:
    repository = secret_service(tmp_path)
    db, web = repository.one("db"), repository.one("web")
    environ = {"DB_PASSWORD": CANARY}
    assert secrets_of(repository, db, environ) == {"param.passwd": CANARY, "param.key": f"{CANARY}-file"}
    assert secrets_of(repository, web, environ) == {
        "db.param.passwd": CANARY, "db!main/param.passwd": CANARY,
        "db.param.key": f"{CANARY}-file", "db!main/param.key": f"{CANARY}-file",
    }  # fmt: skip
    for service in (db, web):
        told = json.dumps(dataclasses.asdict(facts_of(repository, service)), default=str)
        assert CANARY not in told
        assert "secret:" not in told
    written = [path.read_text() for path in (tmp_path / "services").rglob("*") if path.is_file()]
    assert not any(CANARY in text for text in written)


def test_secrets_that_are_not_there_are_told_together(tmp_path: Path) -> None:
    repository = secret_service(tmp_path)
    (tmp_path / "key.txt").write_bytes(b"\xff" + CANARY.encode())
    with pytest.raises(SpecError) as caught:
        secrets_of(repository, repository.one("db"), {})
    assert [str(fault) for fault in caught.value.faults] == [
        "db!main: param.passwd: the environment variable DB_PASSWORD is not set",
        f"db!main: param.key: {tmp_path}/key.txt: is no UTF-8 text",
    ]


def test_a_credential_of_systemd_is_a_secret(tmp_path: Path) -> None:
    template(tmp_path, "db", {"instance.hrd": "param.token = @ASK\n"})
    service = create(tmp_path, "db", data={"param.token": "secret:credential:db-token"})
    (tmp_path / "db-token").write_text(CANARY)
    repository = Repository.open(tmp_path)
    assert secrets_of(repository, service, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == {
        "param.token": CANARY
    }
    with pytest.raises(SpecError, match="1 fault") as caught:
        secrets_of(repository, service, {})
    assert "LoadCredential=" in caught.value.detail


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (CANARY, "is a secret, which must not be written down"),
        ("secret:evn:X", "is no reference"),
        ("secret:credential:a/b", "no name"),
    ],
)
def test_ays_d12_a_secret_must_be_given_by_reference(tmp_path: Path, answer: str, reason: str) -> None:
    template(tmp_path, "db", {"instance.hrd": "param.passwd = @ASK\n"})
    with pytest.raises(SpecError) as caught:
        create(tmp_path, "db", data={"param.passwd": answer})
    assert reason in caught.value.detail
    assert CANARY not in caught.value.detail


def test_a_reference_to_a_secret_is_refused_and_says_how_to_get_it(tmp_path: Path) -> None:
    template(
        tmp_path,
        "db",
        {
            "service.hrd": "param.line = 'requirepass $(param.passwd)'\n",
            "instance.hrd": "param.passwd = @ASK\n",
        },
    )
    create(tmp_path, "db", data={"param.passwd": "secret:env:X"})
    assert faults(tmp_path, "db") == [
        "db!main: $(param.passwd) is a secret, which is put into nothing (an action has it by service.secret('param.passwd'))"
    ]


def test_a_secret_that_somebody_wrote_down_is_hidden(tmp_path: Path) -> None:
    template(tmp_path, "db", {"instance.hrd": "param.passwd = @ASK default:''\n"})
    service = create(tmp_path, "db")
    service.set({"param.passwd": CANARY, "param.nested": {"token": CANARY, "user": "x"}})
    service = Repository.open(tmp_path).one("db")
    assert shown_values(service) == {"param.passwd": "***", "param.nested": {"token": "***", "user": "x"}}
    assert facts(tmp_path, "db").values["param.nested"] == {"user": "x"}
    assert CANARY not in str(facts(tmp_path, "db"))
    repository = Repository.open(tmp_path)
    assert secrets_of(repository, service, {}) == {"param.passwd": CANARY, "param.nested.token": CANARY}


@pytest.mark.parametrize(
    "line",
    [
        "env.process.1 = DB:'secret:env:DB', LANG:C",
        "env.process.1 = DB_PASSWORD:abc",
        "files.1 = text:'secret:env:DB', dest:/etc/web",
    ],
)
def test_a_secret_that_nothing_would_get_is_refused(tmp_path: Path, line: str) -> None:
    template(tmp_path, "web", {"service.hrd": f"process.1 = cmd:true,\n{line}\n"})
    repository = Repository.open(tmp_path)
    (finding,) = [one for one in check_templates(repository.templates) if "is a secret" in one.message]
    assert "write service.secret(" in finding.hint
    create(tmp_path, "web")
    (told,) = faults(tmp_path, "web!main")
    assert "is a secret, which is put into no file, account or process by itself" in told
