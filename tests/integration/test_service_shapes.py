"""The seven shapes of templates, for real: installed, running, answering, and gone again."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.service_cli import TOP, ServiceCli
from tests.servers.processes import free_port

CANARY = "canary-4711"
DESK = ["memo!main", "paper!main", "ground!main", "gate!main", "courier!main", "desk!main"]
OTHERS = ["keyring.ssh!main", "shelf.ssh!main", "shelf_client.ssh!main", "sandbox_build!main"]

EXPORTED = {
    "binaries/memo": ["memo/notes"],
    "binaries/gate": ["notes"],
    "sources/desk": ["apps/desk/page", "apps/desk/more/page", "apps/shared/style", "lib/words"],
}
"""Repositories that recipes of the fixtures name, and what is in them; its name is the content of each."""


def _repository(folder: Path, paths: list[str]) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(f"{path}\n")
    git = ["git", "-C", str(folder), "-c", "user.name=T", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ServiceCli]:
    """A repository with the fixtures as its templates; what runs of it ends with the test."""
    root = tmp_path / "site"
    shutil.copytree(TOP / "fixtures/services/servicetemplates", root / "servicetemplates")
    for file in (root / "servicetemplates").rglob("service.hrd"):
        file.write_text(file.read_text().replace("https://git.example", f"file://{tmp_path}/git"))
    for name, paths in EXPORTED.items():
        _repository(tmp_path / "git" / name, paths)
    cli = ServiceCli(root, {}, DESK_PASSWORD=CANARY, XDG_CACHE_HOME=str(tmp_path / "cache"))
    yield cli
    cli.run("uninstall", "*")
    cli.run("purge", "*")


def create(site: ServiceCli, name: str, *words: str) -> None:
    base = f"system.paths.base={site.top}/base"
    along = [word for one in ("ground", "gate", "courier") for word in ("-D", f"{one}.main.{base}")]
    site.done("create", name, "-D", base, *(along if name == "desk" else ()), *words)


def test_a_service_that_needs_five_others_answers_and_goes_away(site: ServiceCli) -> None:
    ports = {name: free_port() for name in ("memo", "paper", "status", "courier", "desk")}
    create(site, "memo", "-D", f"param.port={ports['memo']}")
    create(
        site,
        "paper",
        "-D",
        f"tcp.port.service={ports['paper']}",
        "-D",
        f"param.port.status={ports['status']}",
    )
    courier = f"courier.main.param.port={ports['courier']}"
    create(site, "desk", "-D", f"param.port={ports['desk']}", "-D", courier)
    site.done("install", "desk")
    assert site.states() == dict.fromkeys(DESK, "up")
    with urllib.request.urlopen(f"http://127.0.0.1:{ports['desk']}/", timeout=5) as page:
        assert json.load(page) == {"memo": "PONG", "paper": "main", "greeting": "hi, all: ok"}
    assert (site.top / "base/apps/desk/users.main").read_text() == f"admin:{CANARY}\n"
    apps = site.top / "base/apps"
    assert (apps / "memo").is_symlink()
    assert (apps / "desk/page").is_symlink()
    laid = (
        "memo/notes",
        "desk/page",
        "desk/more/page",
        "desk/shared/style",
        "desk/lib/words",
        "../gate/notes",
    )
    assert all((apps / path).is_file() for path in laid)
    assert site.json("show", "desk")["values"]["param.title"] == "portal main"
    kept = [path for path in (site.top / "services").rglob("*") if path.is_file()]
    assert not any(CANARY in path.read_text(errors="replace") for path in kept)
    again = site.ran("install", "desk")
    assert {name for names in again.values() for name in names} == {"check_up"}, "nothing changed"
    site.done("uninstall", "*")
    assert set(site.states().values()) == {"uninstalled"}
    assert subprocess.run(["pgrep", "-f", f"{site.top}/base"], check=False, capture_output=True).stdout == b""


def test_infrastructure_makes_keys_and_takes_values_from_what_it_uses(site: ServiceCli) -> None:
    for name in ("keyring.ssh", "shelf.ssh", "shelf_client.ssh", "sandbox_build"):
        create(site, name)
    site.done("install", "*")
    assert set(site.states()) == set(OTHERS)
    key = site.json("show", "keyring.ssh")["values"]
    assert key["key.pub"].startswith("ssh-ed25519 ")
    assert key["key.priv"] == f"secret:file:{site.top}/services/keyring!main/main.key"
    client = site.json("show", "shelf_client.ssh")["values"]
    assert (client["root"], client["login"]) == (f"{site.top}/base/var/shelf.main", "shelf-read")
    assert site.json("show", "sandbox_build")["values"]["ssh.port"] == "2222"
