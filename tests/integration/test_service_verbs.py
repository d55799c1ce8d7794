"""The commands around the life of services: switched off and on, saved and brought back, logs, and the end."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.integration.service_cli import ServiceCli

BASE, TOP = "base!verbs", "top!verbs"

TEMPLATES = {
    "base/service.hrd": "data.dirs = '$(param.data)',\n",
    "base/instance.hrd": "param.data = @ASK\n",
    "base/actions_node.py": """\
import os


class Actions:
    def configure(self, service):
        os.makedirs(str(service.values["param.data"]), exist_ok=True)
        print("made", service.values["param.data"])

    def check_up(self, service):
        if os.path.exists(f"{service.values['param.data']}/broken"):
            print("it is broken")
            return False

    def test(self, service):
        return os.path.isdir(str(service.values["param.data"]))
""",
    "top/service.hrd": "dependencies.global = base\n",
}


@pytest.fixture
def cli(tmp_path: Path) -> ServiceCli:
    found = ServiceCli(tmp_path, TEMPLATES)
    found.done("create", "base", "verbs", "-D", f"param.data={tmp_path}/data/base")
    found.done("create", "top", "verbs")
    found.done("install", "top")
    return found


def test_what_is_disabled_stays_down_with_all_that_needs_it(cli: ServiceCli) -> None:
    assert cli.states() == {BASE: "up", TOP: "up"}
    cli.done("disable", "base")
    assert cli.states() == {BASE: "down", TOP: "down"}
    assert cli.ran("apply") == {}
    refused = cli.run("start", "top")
    assert refused.returncode == 23
    assert f"it needs {BASE}, which is disabled" in refused.stderr
    cli.done("disable", "top")
    refused = cli.run("enable", "top")
    assert refused.returncode == 23
    assert f"it needs {BASE}, which is disabled" in refused.stderr
    cli.done("enable", "base", "top")
    cli.done("apply")
    assert cli.states() == {BASE: "up", TOP: "up"}


def test_data_is_saved_and_brought_back_and_removed_at_the_end(cli: ServiceCli, tmp_path: Path) -> None:
    data = tmp_path / "data/base"
    (data / "row").write_text("one")
    ident = cli.done("export", "base").split()[-1]
    (data / "row").write_text("two")
    cli.done("import", "base", ident)
    assert (data / "row").read_text() == "one"
    cli.done("test", "base")
    printed = cli.done("log", "base", "configure")
    assert f"made {data}" in printed
    assert cli.json("log", "base", "configure", "--run", "1")["run"] == 1
    assert cli.run("log", "base", "configure", "--run", "7").returncode == 2
    assert ["action", "node.configure", "ok"] in [
        row.split()[:3] for row in cli.done("status", "base").splitlines()
    ]
    (data / "broken").touch()
    assert cli.states()[BASE] == "up", "as last seen"
    refused = cli.run("status", "--ask", "--check")
    assert refused.returncode == 23
    assert "node.check_up failed: it is broken" in refused.stdout
    (data / "broken").unlink()
    cli.done("status", "--ask", "--check")
    assert cli.ran("cleanup") == {BASE: ["cleanup"], TOP: ["cleanup"]}
    refused = cli.run("plan", "stop", "base")
    assert refused.returncode == 2
    assert "service plan --for stop base" in refused.stderr
    refused = cli.run("purge", "--data", "base")
    assert refused.returncode == 23
    assert f"{TOP} needs {BASE}; nothing was done" in refused.stderr
    assert cli.states() == {BASE: "up", TOP: "up"}
    assert data.is_dir()
    cli.done("purge", "--data", "--consumers", "base")
    assert not data.exists()
    assert cli.json("status")["services"] == []
    assert cli.run("status", "base").returncode == 2


def test_two_repositories_on_one_machine_do_not_touch_each_others_services(tmp_path: Path) -> None:
    key, own = "shared!main", "class Actions:\n    def init(self, service):\n        print('init')\n"
    templates = {"shared/service.hrd": "description = 'x'\n", "shared/actions_mgmt.py": own}
    first, second = (ServiceCli(tmp_path / name, templates) for name in ("one", "two"))
    second.environ["BUILDSTEP_SERVICES_RECORDS"] = str(first.records)
    for cli in (first, second):
        cli.done("create", "shared")
    assert first.ran("install", "shared")[key][0] == "init"
    refused = second.run("install", "shared")
    assert refused.returncode == 23
    assert f"for another repository: {socket.gethostname()}:{first.top}." in refused.stderr
    assert f"remove {first.records / key / 'owner'}" in refused.stderr
    # Each has run its own action of the management side, and recorded it beside its services.
    for cli in (first, second):
        assert (cli.top / ".buildstep/records" / key / "done/mgmt.init.json").exists()
    first.done("purge", "shared")
    assert not (first.records / key).exists()
    second.done("install", "shared")
