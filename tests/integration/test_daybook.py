"""daybook-push, daybook-pull and daybook-map beside the original, on one bucket and one Consul.

What the original does is done by the model of it: raw calls with its keys and values, and its way to read them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.original_daybook import Fatal, Original, client
from tests.servers.consul import MASTER, Agent, consul, locked_consul
from tests.servers.fixtures import S3Store, weed

__all__ = ["consul", "locked_consul", "weed"]

PROGRAMS = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    """How one of our commands ended. lines: what it logged, without the times."""

    status: int
    lines: list[str]


@dataclass(frozen=True)
class Both:
    """The original and ours, on the same bucket and the same Consul."""

    original: Original
    config: Path
    environ: dict[str, str]
    top: Path

    def ours(self, program: str, *words: str) -> Ended:
        argv = [
            sys.executable,
            "-m",
            "buildstep",
            program,
            "-config-file",
            os.fspath(self.config),
            *words,
        ]
        done = subprocess.run(
            argv, cwd=self.top, env=self.environ, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.stdout == ""
        stamped = re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d ")
        lines = done.stderr.splitlines()
        assert all(map(stamped.match, lines)), done.stderr
        return Ended(done.returncode, [stamped.sub("", line, count=1) for line in lines])

    def archive(self, *names: str, name: str = "x.tar.gz", directories: bool = True) -> Path:
        """An archive as the original's guide has it made: a directory, and below it files."""
        path = self.top / name
        with tarfile.open(path, "w:gz", format=tarfile.USTAR_FORMAT) as archive:
            tree = self.top / f"tree-{name}"
            for file in names:
                (tree / file).parent.mkdir(parents=True, exist_ok=True)
                (tree / file).write_text(f"{name} {file}\n")
            archive.add(tree, ".", recursive=directories)
            if not directories:
                for file in names:
                    archive.add(tree / file, file)
        return path


@pytest.fixture(scope="module")
def s3(weed: S3Store) -> Iterator[Any]:
    made = client(weed.endpoint, weed.environ)
    yield made
    made.close()


@pytest.fixture
def both(weed: S3Store, consul: Agent, s3: Any, tmp_path: Path) -> Both:
    """A bucket of the test's own, and no mappings."""
    bucket = f"daybook-{os.urandom(4).hex()}"
    s3.create_bucket(Bucket=bucket)
    address = f"127.0.0.1:{consul.port}"
    request = urllib.request.Request(f"http://{address}/v1/kv/daybook/?recurse", method="DELETE")
    urllib.request.urlopen(request, timeout=10).close()
    config = tmp_path / "daybook.json"
    config.touch(0o600)
    settings = {
        "hostname": "web-prod-1",
        "install_dir": os.fspath(tmp_path / "services"),
        "bucket_name": bucket,
        "aws_access_key": weed.environ["AWS_ACCESS_KEY_ID"],
        "aws_secret_key": weed.environ["AWS_SECRET_ACCESS_KEY"],
        "endpoint": weed.endpoint,
        "consul_address": address,
    }
    config.write_text(json.dumps(settings))
    environ = {
        "PATH": os.environ["PATH"], "HOME": os.fspath(tmp_path), "PYTHONPATH": os.fspath(PROGRAMS), "TZ": "UTC",
    }  # fmt: skip
    return Both(Original(s3, bucket, f"http://{address}"), config, environ, tmp_path)


def files(top: Path) -> dict[str, str]:
    """The files below a directory that are not our own notes, and what is in them."""
    found = {os.fspath(path.relative_to(top)): path for path in sorted(top.rglob("*")) if path.is_file()}
    return {
        name: path.read_text()
        for name, path in found.items()
        if not name.startswith(".staging/") and not path.name.startswith(".buildstep")
    }


def test_ours_pulls_what_the_original_pushed_and_mapped(both: Both) -> None:
    both.original.push("shop", "1.0", both.archive("run", "conf/settings", name="a.tar.gz"))
    both.original.push("shop", "20141030110933", both.archive("run", name="b.tar.gz"))
    both.original.push("shopping", "7", both.archive("other", name="c.tar.gz"))
    both.original.add("web-*", ["shop"])
    done = both.ours("daybook-pull")
    assert done.status == 0, done.lines
    assert done.lines[1] == "Got 1 service(s) from register!"
    assert files(both.top / "services") == {
        "shop/1.0/conf/settings": "a.tar.gz conf/settings\n",
        "shop/1.0/run": "a.tar.gz run\n",
        "shop/20141030110933/run": "b.tar.gz run\n",
    }
    again = both.ours("daybook-pull")
    assert (again.status, again.lines[2]) == (0, "Service 'shop': 2 there already, 0 pulled")


def test_the_original_pulls_what_ours_pushed_and_mapped(both: Both) -> None:
    for version in ("1.0", "1.1"):
        path = both.archive("run", "conf/settings", name=f"{version}.tar.gz")
        done = both.ours("daybook-push", "shop", version, os.fspath(path))
        assert (done.status, done.lines[-1]) == (0, "All done!"), done.lines
    assert both.ours("daybook-map", "add", "web-prod-*", "shop").status == 0
    assert sorted(both.original.assets("shop")) == ["1.0", "1.1"]
    both.original.pull("web-prod-1", both.top / "theirs")
    assert files(both.top / "theirs") == {
        "shop/1.0/conf/settings": "1.0.tar.gz conf/settings\n",
        "shop/1.0/run": "1.0.tar.gz run\n",
        "shop/1.1/conf/settings": "1.1.tar.gz conf/settings\n",
        "shop/1.1/run": "1.1.tar.gz run\n",
    }
    head = both.original.s3.head_object(Bucket=both.original.bucket, Key="shop-1.0.tar.gz")
    assert head["ContentType"] == "application/x-gtar"


def test_what_buildsteps_own_push_packs_the_original_unpacks(both: Both) -> None:
    tree = both.top / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/run").write_text("run\n")
    (tree / "notes").write_text("notes\n")
    settings = json.loads(both.config.read_text())
    keys = {
        "AWS_ACCESS_KEY_ID": settings["aws_access_key"],
        "AWS_SECRET_ACCESS_KEY": settings["aws_secret_key"],
    }
    argv = [
        sys.executable, "-m", "buildstep", "assets", "push", "shop", "2", os.fspath(tree),
        f"--store=s3://{both.original.bucket}", f"--endpoint-url={settings['endpoint']}",
        f"--owner={os.getuid()}:{os.getgid()}",
    ]  # fmt: skip
    subprocess.run(argv, env=both.environ | keys, check=True, capture_output=True, timeout=60)
    both.original.add("web-prod-1", ["shop"])
    both.original.pull("web-prod-1", both.top / "theirs")
    assert files(both.top / "theirs") == {"shop/2/bin/run": "run\n", "shop/2/notes": "notes\n"}


def test_mappings_are_the_same_to_both(both: Both) -> None:
    both.original.add("web-*", ["base", "shop", "api"])
    assert both.ours("daybook-map", "list", "web-*").lines[1] == "Services for 'web-*': api, base, shop"
    assert both.ours("daybook-map", "add", "web-*", "mail").status == 0
    assert both.original.listed("web-*") == ["api", "base", "mail", "shop"]
    both.original.remove("web-*", ["api", "mail"])
    assert both.ours("daybook-map", "remove", "web-*", "base", "nobody").lines[1:3] == [
        "not among them: nobody",
        "Services for 'web-*': shop",
    ]
    assert both.original.listed("web-*") == ["shop"]
    with pytest.raises(Fatal):  # it has done it, and says that it failed
        both.original.remove("web-*", ["shop"])
    gone = both.ours("daybook-map", "list", "web-*")
    assert (gone.status, gone.lines[1]) == (1, "Failed to list the services for 'web-*': it does not exist")


# The examples of how the original resolves a host, and two of its surprises.
EXAMPLES = [
    ({"web-prod-*": ["s1", "s2", "s3"], "web-prod-oneoff-*": ["s1", "s4"]}, ["s1", "s4"]),
    (
        {
            "web-prod-*": ["s1", "s2", "s3"],
            "web-prod-oneoff-*": ["s1", "s4"],
            "web-prod-oneoff-001": ["s5", "s6"],
        },
        ["s5", "s6"],
    ),
    ({"*": ["base"]}, ["base"]),
    ({"web-prod-oneoff-001": ["exact"], "web-prod-oneoff-001*": ["longer"]}, ["longer"]),
    ({"db-*": ["no"]}, []),
]


@pytest.mark.parametrize(("mappings", "wanted"), EXAMPLES, ids=["two", "exact", "all", "longest", "none"])
def test_a_host_gets_the_same_services_from_both(
    both: Both, mappings: dict[str, list[str]], wanted: list[str]
) -> None:
    for pattern, names in mappings.items():
        both.original.add(pattern, names)
    host = "web-prod-oneoff-001"
    settings = json.loads(both.config.read_text()) | {"hostname": host}
    both.config.write_text(json.dumps(settings))
    for name in {name for names in mappings.values() for name in names}:
        both.original.push(name, "1", both.archive("file"))
    assert sorted(both.original.services(host)) == wanted
    done = both.ours("daybook-pull")
    assert (done.status, done.lines[-1]) == (0, "All done!"), done.lines
    assert sorted({name.partition("/")[0] for name in files(both.top / "services")}) == wanted


def test_a_pull_over_what_the_original_pulled_completes_it(both: Both) -> None:
    both.original.push("shop", "1", both.archive("run", "conf/settings"))
    both.original.add("*", ["shop"])
    both.original.pull("web-prod-1", both.top / "services")
    (both.top / "services/shop/1/conf/settings").unlink()  # as if the original had been killed
    done = both.ours("daybook-pull")
    assert done.status == 0, done.lines
    assert sorted(files(both.top / "services")) == ["shop/1/conf/settings", "shop/1/run"]
    assert "Pulled down shop/1" in done.lines


def test_a_version_is_not_changed_unless_that_is_asked_for(both: Both) -> None:
    both.original.push("shop", "1", both.archive("run", name="a.tar.gz"))
    other = os.fspath(both.archive("other", name="b.tar.gz"))
    refused = both.ours("daybook-push", "shop", "1", other)
    assert refused.status == 1
    assert any("shop-1.tar.gz" in line for line in refused.lines[1:]), refused.lines
    settings = json.loads(both.config.read_text()) | {"replace": True}
    both.config.write_text(json.dumps(settings))
    assert both.ours("daybook-push", "shop", "1", other).status == 0
    both.original.add("*", ["shop"])
    both.original.pull("web-prod-1", both.top / "theirs")
    assert list(files(both.top / "theirs")) == ["shop/1/other"]


def test_one_service_that_fails_is_told_and_the_others_are_pulled(both: Both) -> None:
    both.original.push("good", "1", both.archive("run"))
    broken = both.top / "broken.tar.gz"
    broken.write_bytes(b"no archive")
    both.original.push("bad", "1", broken)
    both.original.add("*", ["bad", "good"])
    done = both.ours("daybook-pull")
    assert done.status == 1
    assert list(files(both.top / "services")) == ["good/1/run"]
    assert any(line.startswith("  bad 1: ") for line in done.lines), done.lines


def test_d14_push_looks_at_everything_before_it_sends(both: Both) -> None:
    path = os.fspath(both.archive("run"))
    assert (
        both.ours("daybook-push", "shop", "1")
        .lines[0]
        .startswith("daybook-push takes three arguments, and not 2")
    )
    assert "is no name of a service" in both.ours("daybook-push", "my-shop", "1", path).lines[0]
    assert "is no version" in both.ours("daybook-push", "shop", "1-rc1", path).lines[0]
    broken = both.top / "broken.tar.gz"
    broken.write_bytes(b"no archive")
    assert both.ours("daybook-push", "shop", "1", os.fspath(broken)).status == 1
    assert both.original.assets("") == []


def test_it_finds_its_file_and_consul_where_the_original_does(both: Both) -> None:
    """Without keys of ours: credentials by the names that its library knew, Consul by Consul's variable."""
    settings = json.loads(both.config.read_text())
    address, endpoint = settings.pop("consul_address"), settings.pop("endpoint")
    around = {
        "AWS_ACCESS_KEY": settings.pop("aws_access_key"),
        "AWS_SECRET_KEY": settings.pop("aws_secret_key"),
        "AWS_ENDPOINT_URL_S3": endpoint,
        "CONSUL_HTTP_ADDR": address,
    }
    both.config.write_text(json.dumps(settings))
    both.original.push("shop", "1", both.archive("run"))
    both.original.add("*", ["shop"])
    both.environ.update(around)
    done = both.ours("daybook-pull")
    assert (done.status, list(files(both.top / "services"))) == (0, ["shop/1/run"]), done.lines


def test_credentials_of_the_shared_file_that_its_library_knew(both: Both) -> None:
    settings = json.loads(both.config.read_text())
    shared = both.top / "credentials"
    shared.write_text(
        f"[default]\naws_access_key_id = {settings.pop('aws_access_key')}\n"
        f"aws_secret_access_key = {settings.pop('aws_secret_key')}\n"
    )
    both.config.write_text(json.dumps(settings))
    both.environ["AWS_CREDENTIAL_FILE"] = os.fspath(shared)
    done = both.ours("daybook-push", "shop", "1", os.fspath(both.archive("run")))
    assert (done.status, both.original.assets("shop")) == (0, ["1"]), done.lines


def test_d08_who_may_not_read_is_told_and_keeps_what_he_has(both: Both, locked_consul: Agent) -> None:
    """An agent with access rules answers a listing with nothing to who may read nothing."""
    both.original.push("shop", "1", both.archive("run"))
    both.original.add("*", ["shop"])
    assert both.ours("daybook-pull").status == 0
    token = both.top / "token"
    token.touch(0o600)
    address = f"127.0.0.1:{locked_consul.port}"
    settings = json.loads(both.config.read_text()) | {
        "consul_address": address,
        "consul_token_file": str(token),
    }
    both.config.write_text(json.dumps(settings))
    token.write_text("3f1c2d6e-0000-4000-8000-000000000000\n")
    denied = both.ours("daybook-pull")
    assert denied.status == 1
    assert list(files(both.top / "services")) == ["shop/1/run"]
    assert any("token" in line for line in denied.lines), denied.lines
    token.write_text(f"{MASTER}\n")
    assert both.ours("daybook-map", "add", "*", "shop").status == 0
    again = both.ours("daybook-pull")
    assert (again.status, again.lines[2]) == (0, "Service 'shop': 1 there already, 0 pulled")
