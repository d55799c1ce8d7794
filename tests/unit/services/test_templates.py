"""Templates: how they are found, and everything that a check tells of them at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildstep.errors import SpecError
from buildstep.services import platforms
from buildstep.services.template_check import check_templates
from buildstep.services.template_keys import Kind, row_of, similar, wrong
from buildstep.services.templates import Templates, find_templates
from tests.unit.services.repositories import NODE, template


def found(root: Path, domain: str = "") -> Templates:
    return find_templates([(domain, root / "servicetemplates")])


def findings(root: Path) -> list[str]:
    """What is wrong, without the path of the repository."""
    return [
        str(row).replace(f"{root}/servicetemplates/", "") for row in check_templates(found(root)) if row.wrong
    ]


def test_directories_are_walked_by_the_rules(tmp_path: Path) -> None:
    template(tmp_path, "redis")
    template(tmp_path, "corp__web.nginx (1.2)", {"instance.hrd": ""}, below="_web")
    template(tmp_path, "_hidden", {"service.hrd": ""})
    template(tmp_path, ".git", {"service.hrd": ""})
    template(tmp_path, "inner", {"actions_mgmt.py": "class Actions:\n    pass\n"}, below="plain/deep")
    template(tmp_path, "empty", {"readme.txt": ""})
    template(tmp_path, "child", {"actions.py": ""}, below="redis")
    (tmp_path / "servicetemplates/loop").symlink_to(tmp_path / "servicetemplates", target_is_directory=True)
    assert [str(one) for one in found(tmp_path)] == ["child", "inner", "redis", "corp|web.nginx (1.2)"]
    assert [one.role for one in found(tmp_path)] == ["child", "inner", "redis", "web"]
    assert found(tmp_path).faults == ()
    assert str(found(tmp_path, "corp").one("redis")) == "corp|redis"


@pytest.mark.parametrize("name", ["a|b", "a b", "-a", "a\nb", "a!b", "a (1) b", "a__"])
def test_a_directory_whose_name_is_none_is_a_fault(tmp_path: Path, name: str) -> None:
    template(tmp_path, name)
    template(tmp_path, "good")
    templates = found(tmp_path)
    assert [str(one) for one in templates] == ["good"]
    [fault] = templates.faults
    assert "cannot be a template" in fault.message
    assert "\n" not in fault.where


def test_two_of_one_name_are_a_fault_and_two_domains_are_not(tmp_path: Path) -> None:
    template(tmp_path, "redis", below="_a")
    template(tmp_path, "redis", below="_b")
    template(tmp_path, "corp__redis")
    templates = found(tmp_path)
    [fault] = templates.faults
    assert "is the template redis a second time: the first is " in fault.message
    with pytest.raises(SpecError) as caught:
        templates.one("redis")
    assert "means 2 templates: redis (" in caught.value.detail
    assert "corp|redis (" in caught.value.detail
    assert str(templates.one("corp|redis")) == "corp|redis"


def test_a_name_that_no_template_has_is_told_with_the_one_that_is_near(tmp_path: Path) -> None:
    template(tmp_path, "redis")
    with pytest.raises(SpecError, match="1 fault") as caught:
        found(tmp_path).one("reddis")
    assert 'did you mean "redis"?' in caught.value.detail


def test_hrd_files_are_inherited_and_actions_are_not(tmp_path: Path) -> None:
    template(
        tmp_path,
        "node",
        {**NODE, "service.hrd": "description = any\n", "actions_node.py": "class Actions:\n    pass\n"},
    )
    template(tmp_path, "node.ssh", {"service.hrd": "description = by ssh\n"})
    template(tmp_path, "node.ssh.old", {"actions_mgmt.py": "class Actions:\n    pass\n"})
    templates = {str(one): one for one in found(tmp_path)}
    assert templates["node.ssh"].service.get("description") == "by ssh"
    assert list(templates["node.ssh"].instance) == ["node.tcp.addr"]
    assert templates["node.ssh.old"].service.get("description") == "by ssh"
    assert list(templates["node.ssh.old"].instance) == ["node.tcp.addr"]
    assert [str(side) for side in templates["node.ssh.old"].actions] == ["mgmt"]


def test_everything_is_told_at_once(tmp_path: Path) -> None:
    template(tmp_path, "web", {
        "service.hrd": (
            "proxess.1 =\n    cmd:x,\n\n"
            "process.1 =\n    cmnd:x,\n    prio:first,\n    ports:'80;x',\n    timeout_start:soon,\n\n"
            "git.export.1 =\n    url:u,\n    dest:base/apps,\n    link:perhaps,\n    branx:x,\n    passwd:hunter2,\n\n"
            "web.export.1 =\n    url:u,\n\n"
            "files.1 =\n    dest:/x,\n\n"
            "env.process.7 =\n    A:b,\n\n"
            "instances.maxnr = many\n"
            "ns.enable = perhaps\n"
            "timeout.sttart = 5\n"
            "recurring.monitor = often\n"
            "dependencies.3 =\n    name:nothing,\n    type:sometimes,\n\n"
            "dependencies.4 =\n    domain:x,\n\n"
            "dependencies.5 =\n    name:wbe,\n\n"
            "dependencies.node = daytabase\n"
            "param.asked = @ASK\n"
        ),
        "instance.hrd": "param.port = @ASK type:int default:x\nparam.passwd = @ASK default:hunter2\nparam.token = hunter2\n",
        "actions.py": "",
        "actions.lua": "",
        "actions_node.py": "class ActionsNode:\n    def start(self):\n        pass\n",
        "actions_mgmt.py": "class Actions:\n    def start(self):\n        run('$(param.port)')\n",
        "actions_tmpl.py": "class Actions:\n  def x(:\n",
        "a|b": "",
        "-x": "",
        "state.json": "",
    })  # fmt: skip
    template(tmp_path, "database")
    told = findings(tmp_path)
    assert not any("hunter2" in text for text in told)
    expected = [
        "web/-x: a name that begins with a dash is taken for an option",
        "web/actions.lua: is of JumpScale 7 and is not read",
        "web/actions.py: is of JumpScale 7 and is not read (move build to actions_tmpl.py",
        "web/a|b: '|' in its name breaks lists of files",
        "web/state.json: an instance has a file of its own with this name",
        "web/actions_tmpl.py:2: is no Python: ",
        "web/actions_mgmt.py:2: start takes no service (def start(self, service):)",
        'web/actions_mgmt.py:3: $(param.port) is no value here (write service.values["param.port"]',
        "web/actions_node.py: has no class Actions (rename ActionsNode)",
        'web/service.hrd: proxess.1: means nothing (did you mean "process.1"?)',
        'web/service.hrd: process.1: cmnd means nothing in it (did you mean "cmd"?)',
        "web/service.hrd: process.1: prio: is 'first', and must be a whole number",
        "web/service.hrd: process.1: ports: is '80;x', and must be port numbers",
        "web/service.hrd: process.1: timeout_start: is 'soon', and must be a number of seconds",
        "web/service.hrd: process.1: has no cmd",
        "web/service.hrd: git.export.1: dest: is 'base/apps', and must be an absolute path (begin it with /",
        "web/service.hrd: git.export.1: link: is 'perhaps', and must be True or False",
        'web/service.hrd: git.export.1: branx means nothing in it (did you mean "branch"?)',
        "web/service.hrd: git.export.1: passwd: passwd is a secret, which must not be written down",
        'web/service.hrd: git.export.1: url: "u" is not the URL of a git repository',
        "web/service.hrd: web.export.1: url: must be http(s)://HOST/PATH",
        "web/service.hrd: web.export.1: nothing says what the download must be",
        "web/service.hrd: web.export.1: has no dest",
        "web/service.hrd: files.1: has not just one of source and text",
        "web/service.hrd: env.process.7: there is no process.7",
        "web/service.hrd: instances.maxnr: is 'many', and must be a whole number",
        "web/service.hrd: ns.enable: is 'perhaps', and must be True or False",
        'web/service.hrd: timeout.sttart: there is no action sttart (did you mean "start"?)',
        "web/service.hrd: recurring.monitor: is 'often', and must be a duration",
        "web/service.hrd: dependencies.3: type 'sometimes' is neither runtime nor build",
        "web/service.hrd: dependencies.4: has no name",
        'web/service.hrd: dependencies.5: wbe: no template has this name (did you mean "web"?)',
        'web/service.hrd: dependencies.node: no template has the role daytabase (did you mean "database"?)',
        "web/service.hrd: param.asked: @ASK is for instance.hrd",
        "web/instance.hrd: param.port: default: is 'x', not a whole number",
        "web/instance.hrd: param.passwd: default: param.passwd is a secret, which must not be written down",
        "web/instance.hrd: param.token: param.token is a secret, which must not be written down",
    ]
    for text in expected:
        assert any(row.startswith(text) for row in told), (text, told)
    assert len(told) == len(expected), [row for row in told if not any(map(row.startswith, expected))]


def test_a_name_that_is_no_utf_8_or_has_a_newline_is_told(tmp_path: Path) -> None:
    folder = template(tmp_path, "web")
    (folder / os.fsdecode(b"\xff")).touch()
    (folder / "a\nb").touch()
    assert sorted(findings(tmp_path)) == [
        "web/\\xff: its name is no UTF-8 (rename it)",
        "web/a?b: '\\n' in its name breaks lists of files (rename it)",
    ]


def test_hrd_that_is_none_is_told_with_its_line_and_the_rest_is_checked(tmp_path: Path) -> None:
    template(tmp_path, "web", {"service.hrd": "a = 1\nno equals sign\n", "instance.hrd": "b = x#y\n"})
    template(tmp_path, "other", {"service.hrd": "recurring.x = 5m\n"})
    told = findings(tmp_path)
    assert any(text.startswith("web/service.hrd:2:") for text in told)
    assert any(text.startswith("web/instance.hrd:1:") for text in told)
    assert any(text.startswith("other/service.hrd: recurring.x: there is no action x") for text in told)


def test_a_key_that_is_used_by_another_is_known(tmp_path: Path) -> None:
    template(tmp_path, "web", {"service.hrd": "proxess = 1\nmine = 2\nparam.a = $(proxess)\n"})
    rows = check_templates(found(tmp_path))
    assert [(row.where.rpartition(" ")[2], row.wrong) for row in rows] == [("mine", False)]


@pytest.mark.parametrize(
    ("key", "pattern"),
    [
        ("process.1", "process.N"), ("process.12", "process.N"), ("processor", ""), ("process.0", ""), ("process.x", ""),
        ("param.a.b", "param.NAME"), ("param", ""), ("dependencies.node", "dependencies.node"), ("dependencies.3", "dependencies.N"),
        ("ubuntu.apt.key.pub.1", "ubuntu.apt.key.pub.N"), ("timeout.start", "timeout.ACTION"),
    ],
)  # fmt: skip
def test_a_key_is_known_with_a_dot_boundary(key: str, pattern: str) -> None:
    row = row_of(key)
    assert (row.pattern if row else "") == pattern


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("proxess.3", "process.3"),
        ("git.expord.2", "git.export.2"),
        ("Packages", "packages"),
        ("my.own.key", ""),
        ("timeout.sttart", "timeout.start"),
    ],
)
def test_the_near_miss_of_a_key(key: str, near: str) -> None:
    assert similar(key) == near


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Kind.NUMBER, ["5", "", "$(param.n)"], ["x", "-1", "1.5"]),
        (Kind.SECONDS, ["5", "2.5"], ["soon", "5s"]),
        (Kind.DURATION, ["30", "30s", "5m", "1h"], ["5 m", "m", "0s"]),
        (Kind.TRUTH, ["True", "false", "1", "no"], ["perhaps"]),
        (Kind.PORTS, ["80", "80;443", "5544,,"], ["0", "70000", "x"]),
        (Kind.PATH, ["/x", "$(system.paths.base)/x"], ["x", "x/$(name)"]),
        (Kind.LIST, ["a", "a, b"], []),
        (Kind.ANY, ["x"], []),
    ],
)
def test_values_fit_their_kinds(kind: Kind, good: list[str], bad: list[str]) -> None:
    assert [value for value in good if wrong(kind, value)] == []
    assert [value for value in bad if not wrong(kind, value)] == []


def test_a_machine_has_names_from_wide_to_narrow() -> None:
    names = platforms.names_of({"ID": "ubuntu", "ID_LIKE": "debian", "VERSION_ID": "22.04"}, "Linux", "64")
    assert names == {
        "generic", "unix", "linux", "linux64", "ubuntu", "ubuntu64", "ubuntu22.04", "debian", "debian64",
    }  # fmt: skip
    assert platforms.shares(["ubuntu64"], names)
    assert platforms.shares([], names)
    assert not platforms.shares(["arch"], names)
    assert platforms.names_of({}, "SunOS", "64") >= {"solaris", "solaris64"}
