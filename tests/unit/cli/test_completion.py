"""What a TAB offers, asked the way the shells' scripts ask click."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import pytest

from buildstep import cli
from buildstep.files import open_storage, refs
from buildstep.images.record import ImageRecord
from tests.unit.cli.conftest import Run

Ask = Callable[..., list[str]]


@pytest.fixture
def ask(run: Run, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """What bash would get for a line that ends at the cursor: type,value of each."""

    def call(line: str, *argv: str, breaks: str = " \t\n\"'@><=;|&(:") -> list[str]:
        monkeypatch.setenv("_BUILDSTEP_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_LINE", line)
        monkeypatch.setenv("COMP_POINT", str(len(line)))
        monkeypatch.setenv("COMP_COMMAND", next(word for word in line.split() if "=" not in word))
        monkeypatch.setenv("COMP_WORDBREAKS", breaks)
        status, out, err = run(*argv)
        assert (status, err) == (0, "")
        return out.split()

    return call


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("buildstep build", "plain,build"),
        ("buildstep ", "plain,heal"),
        ("buildstep lock --upd", "plain,--update"),
        ("buildstep image sh", "plain,show"),
        ("buildstep build --for", "plain,--format"),
        ("buildstep --deb", "plain,--debug"),
        ("buildstep build -f o", "plain,oci"),
        ("buildstep build --format=o", "plain,oci"),
        ("buildstep build --compression z", "plain,zstd"),
        ("buildstep build --installer p", "plain,pkgsrc"),
        ("buildstep build --order packages", "plain,packages-first"),
        ("buildstep build --clean lo", "plain,logs"),
        ("buildstep build --owner k", "plain,keep"),
        ("buildstep build --pool d", "plain,dir:"),
        ("buildstep doctor --pool dir:pl", "plain,place/"),
        ("buildstep build -i mmdebstrap:book", "plain,bookworm"),
        ("buildstep build -i doc", "plain,docker://"),
        ("buildstep build -i tar:ba", "plain,base.tar"),
        ("buildstep build -i tar:place/b", "plain,place/below.tar"),
        ("buildstep build -m ", "file,"),
        ("buildstep build pl", "file,pl"),
        ("buildstep build -d pl", "dir,pl"),
        ("buildstep doctor m", "file,m"),
        ("buildstep why out/", "file,out/"),
        ("buildstep report -f ju", "plain,junit"),
        ("buildstep image import tar:ba", "plain,base.tar"),
        ("buildstep image import pl", "file,pl"),
        ("buildstep image list st", "plain,state="),
        ("buildstep image list --source s", "plain,s3://"),
        ("buildstep image publish x do", "plain,docker://"),
        ("buildstep image publish x ours", "plain,ours"),
        ("buildstep image copy x do", "plain,docker://"),
        ("buildstep jenkins agents --pool z", "plain,zfs:"),
        ("buildstep jenkins agents --for ", "file,"),
        ("buildstep completion f", "plain,fish"),
        ("buildstep sign x --key pl", "file,pl"),
        ("buildstep keygen --type e", "plain,ecdsa"),
        ("buildstep files import --from a", "plain,ays3"),
        ("buildstep files import --objects dir:pl", "plain,place/"),
        ("buildstep files import pl", "file,pl"),
        ("buildstep files export hello dir:pl", "plain,place/"),
        ("buildstep files export hello --to b", "plain,buildstep"),
        ("buildstep hrd f", "plain,fmt"),
        ("buildstep hrd get pl", "file,pl"),
        ("buildstep hrd get s.hrd po", "plain,port"),
        ("buildstep hrd set s.hrd po", "plain,port"),
        ("buildstep hrd convert x --to t", "plain,toml"),
        ("buildstep hrd check --schema pl", "file,pl"),
        ("buildstep map list --register c", "plain,consul://"),
        ("buildstep map list --register file:pl", "plain,place/"),
        ("buildstep map add --register m.toml we", "plain,web-*"),
        ("buildstep map remove --register m.toml x a", "plain,app"),
    ],
)
def test_commands_options_and_values(ask: Ask, line: str, offered: str) -> None:
    Path("place").mkdir()
    Path("base.tar").touch()
    Path("m.toml").write_text('[hosts]\n"web-*" = ["app", "web"]\n')
    Path("s.hrd").write_text("name = web\nport = 80\n")
    Path("place/below.tar").touch()
    Path("buildstep.toml").write_text('[publish]\nours = "dir:/srv/images"\n')
    assert offered in ask(line)


def test_hidden_commands_and_those_of_other_letters_are_not_offered(ask: Ask) -> None:
    names = {item.partition(",")[2] for item in ask("buildstep ")}
    assert names == {name for name, (_, text) in cli.COMMANDS.items() if text}
    assert ask("buildstep b") == ["plain,build"]


def test_images_in_the_store_by_name_and_uuid(ask: Ask, tmp_path: Path) -> None:
    uuid = "aaaaaaaa-0000-4000-8000-000000000001"
    assert ask("buildstep image show ") == [], "there is no pool, and none is made"
    assert not (tmp_path / "pool").exists()
    record = ImageRecord(
        uuid=uuid, key="k", label="tar:x", manifest={"uuid": uuid, "name": "base", "version": "7"}, inputs={}, config={},
        tree_digest="d", fingerprint="f", files=0, size=0, imported=0.0, packages=(), list_digest="",
    )  # fmt: skip
    (tmp_path / "pool/state/images").mkdir(parents=True)
    record.save(tmp_path / f"pool/state/images/{uuid}.json")
    for command in ("image show", "image verify", "image delete", "build -i"):
        assert {"plain,base@7", "plain,base", f"plain,{uuid}"} <= set(ask(f"buildstep {command} ")), command
    # bash puts what is offered in place of what follows the break.
    assert ask("buildstep image show base@") == ["plain,7"]
    assert ask("buildstep image show base@", breaks=" ") == ["plain,base@7"]


def test_refs_of_a_store_on_this_machine_are_bases(ask: Ask, tmp_path: Path) -> None:
    storage = open_storage(f"dir:{tmp_path}/store")
    refs.write(storage, refs.Ref(name="web/1.2"), None)
    assert "plain,files:" in ask("buildstep build -i fi")
    assert "plain,web/1.2" in ask(f"buildstep build --store dir:{tmp_path}/store -i files:w")
    assert ask("buildstep build -i files:w") == []
    Path("buildstep.toml").write_text(f'store = "dir:{tmp_path}/store"')
    assert ask("buildstep build -i files:w") == ["plain,web/1.2"]


def test_services_and_versions_of_a_store_of_assets_on_this_machine(ask: Ask, tmp_path: Path) -> None:
    folder = tmp_path / "assets"
    folder.mkdir()
    for name in ("web-1.tar.gz", "web-2.tar.zst", "db-3.tar.gz"):
        (folder / name).write_bytes(b"x")
    store = f"--store dir:{folder}"
    assert ask(f"buildstep assets show {store} ") == ["plain,db", "plain,web"]
    assert ask(f"buildstep assets delete {store} web ") == ["plain,1", "plain,2"]
    assert ask(f"buildstep assets pull {store} w") == ["plain,web"]
    assert ask(f"buildstep assets push {store} w") == ["plain,web"]
    assert ask(f"buildstep assets push {store} web ") == []
    assert ask(f"buildstep assets push {store} web 3 ") == ["file,"]
    assert ask("buildstep assets show --store s3://bucket ") == [], "no TAB waits for a network"


def test_services_and_versions_that_are_installed(ask: Ask, tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / "srv/web" / version).mkdir(parents=True)
    there = f"--install-dir {tmp_path}/srv"
    assert ask(f"buildstep assets rollback {there} w") == ["plain,web"]
    assert ask(f"buildstep assets rollback {there} web --to ") == ["plain,1", "plain,2"]


def test_components_of_the_repository(ask: Ask, tmp_path: Path) -> None:
    for name in ("there/src/web/build", "there/src/db/build", "there/src/docs"):
        (tmp_path / name).mkdir(parents=True)
    assert ask(f"buildstep components why --root {tmp_path}/there ") == ["plain,db", "plain,web"]
    assert ask(f"buildstep components plan --root {tmp_path}/there -s w") == ["plain,web"]
    assert ask("buildstep components why ") == []
    assert ask(f"buildstep components build --root {tmp_path}/there -s d") == ["plain,db"]
    assert ask(f"buildstep components push --root {tmp_path}/there -i w") == ["plain,web"]
    assert ask("buildstep components build --executor lo") == ["plain,local"]


def test_services_and_templates_of_a_repository(ask: Ask, tmp_path: Path) -> None:
    for name in ("db", "corp__web"):
        (tmp_path / "servicetemplates" / name).mkdir(parents=True)
        (tmp_path / "servicetemplates" / name / "service.hrd").touch()
        assert cli.main(["service", "create", "--root", str(tmp_path), name.partition("__")[2] or name]) == 0
    there = f"buildstep service {{}} --root {tmp_path} "
    assert ask(there.format("show")) == ["plain,db!main", "plain,web!main"]
    assert ask(there.format("create")) == ["plain,db", "plain,corp|web"]
    assert ask(there.format("create") + "web -c d") == ["plain,db!main"]
    assert ask(there.format("list") + "--state n") == ["plain,new"]


def test_bin_build_is_completed_as_the_command_build(ask: Ask) -> None:
    assert "plain,oci" in ask("bin/build --format o", "build")
    assert "plain,oci" in ask("x=1 bin/buildstep build -f o")


def test_a_broken_configuration_offers_less_and_says_nothing(ask: Ask) -> None:
    Path("buildstep.toml").write_text("= no toml")
    assert ask("buildstep image show ") == []
    assert "plain,docker://" in ask("buildstep build -i d")


def test_every_option_with_a_value_has_something_to_offer() -> None:
    """An option of a closed set, a path or a URI that is added later is completed as well."""
    open_words = {
        "A,B", "P", "URL", "DAY", "PATTERN", "KEY=VALUE", "N", "C", "DAYS", "SIZE", "COUNT", "NAME", "ARCH", "RELEASE",
        "KEY=FILE", "UID:GID", "SIZE|PERCENT%", "TEXT", "FLOAT", "SECONDS", "HOURS", "[HOST]", "SPAN",
        "[-- OPTIONS OF PULL]", "[INSTANCE]", "OS/ARCH", "TAG", "HOST[/NAMESPACE]",
        "LABEL", "VALUE", "[-- CMD...]", "[HOST:]PORT[:PORT]", "USER[:GROUP]", "PATH-IN-IMAGE", None,
    }  # fmt: skip

    def walk(command: click.Command, path: str) -> list[str]:
        found = []
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                found += walk(child, f"{path} {name}")
        for param in command.params:
            known = param._custom_shell_complete is not None or isinstance(
                param.type, click.Choice | click.Path
            )
            flag = isinstance(param, click.Option) and (param.is_flag or param.count)
            if not known and not flag and param.metavar not in open_words:
                found.append(f"{path} {param.opts}: {param.metavar}")
        return found

    assert walk(cli.root, "buildstep") == []
