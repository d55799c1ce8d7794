"""A service from places that ask for a password: apt, pip and npm, with a secret in each of six ways, real tools.

The canaries are found nowhere: not in an artifact, a cache, a record, a log, an argv or a core.
"""

from __future__ import annotations

import base64
import ensurepip
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.integration.argv_watch import Watch
from tests.integration.conftest import debian_root, demand
from tests.integration.repository import Repository
from tests.integration.support import Lab, host_state, step
from tests.servers.private_index import PrivateIndex

WORDS = {
    "apt": "apt-Zq81/kk+canary", "netrc": "netrc:Zq82-canary", "npm": "npm_Zq83Canary", "pip": "pip-Zq84@canary",
    "file": "file-Zq85-canary", "env": "env-Zq86-canary",
}  # fmt: skip

PYTHON = "/usr/bin/python3.11"


def libraries(programs: list[str]) -> set[str]:
    done = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False)
    return {word for line in done.stdout.splitlines() for word in line.split() if word.startswith("/lib")}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Debian root with this machine's own python3, pip, node and npm: no package manager has to fetch them."""
    demand("root", "namespaces", "overlay", "mmdebstrap", "mirror", "dpkg-deb", "rsync")
    npm = Path(os.path.realpath(shutil.which("npm") or "/none")).parents[1]
    pip = next(Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl"), None)
    node = os.path.realpath(shutil.which("node") or "/none")
    if not (npm / "bin/npm-cli.js").exists() or pip is None or not Path(PYTHON).exists():
        pytest.skip("node, npm, Debian's python3 and pip's wheel are needed")
    place = tmp_path_factory.mktemp("base") / "base.tar"
    paths = ("etc/apt/sources.list", "etc/apt/sources.list.d/*", "usr/share/locale/*", "usr/share/doc/*")
    kept_out = [f"--exclude=./{path}" for path in paths]
    subprocess.run(["tar", "-cf", place, *kept_out, "-C", debian_root(), "."], check=True)
    modules = sorted(map(str, Path("/usr/lib/python3.11/lib-dynload").glob("*.so")))
    with tarfile.open(place, "a") as tar:
        for name in {*libraries([PYTHON, node, *modules]), PYTHON, "/usr/lib/python3.11"}:
            real = name.replace("/lib", "/usr/lib", 1) if name.startswith("/lib") else name
            tar.add(os.path.realpath(name), real.lstrip("/"), filter=without_tests)
        tar.add(node, "usr/bin/node")
        tar.add(npm, "usr/lib/npm")
        tar.add(pip, "usr/lib/pip.whl")
        for name, target in {
            "usr/bin/python3": "python3.11",
            "usr/bin/npm": "../lib/npm/bin/npm-cli.js",
        }.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
    return place


def without_tests(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    skipped = ("/test/", "/tests/", "/__pycache__/", "/ensurepip/", "/idlelib/", "/lib2to3/")
    return None if any(part in f"/{member.name}/" for part in skipped) else member


@pytest.fixture
def index(tmp_path: Path) -> Iterator[PrivateIndex]:
    made = PrivateIndex()
    made.basic = {f"me:{WORDS['apt']}", f"me:{WORDS['netrc']}", f"me:{WORDS['pip']}"}
    made.bearer = {WORDS["npm"], WORDS["file"], WORDS["env"]}
    repository = Repository(tmp_path / "repository", 0)
    repository.put("greeting", "1.0")
    with made.served():
        made.folder("/apt", repository.folder)
        made.wheel("greet", "1.0")
        made.module("left-of", "1.0.0")
        made.files["/model"] = b"weights\n"
        yield made


def given(lab: Lab, name: str, text: str) -> str:
    path = lab.top / "given" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return os.fspath(path)


def service(lab: Lab, index: PrivateIndex) -> dict[str, Any]:
    """The m.json's `build`: packages, wheels, modules and files of that server."""
    url, host = index.url, f"127.0.0.1:{index.port}"
    (lab.proto / "srv/app").mkdir(parents=True, exist_ok=True)
    (lab.proto / "srv/app/requirements.txt").write_text("greet==1.0\n")
    (lab.proto / "srv/app/package.json").write_text(
        json.dumps({"name": "app", "version": "1.0.0", "dependencies": {"left-of": "1.0.0"}})
    )
    fetch = (
        "import sys, urllib.request as r, netrc, base64\n"
        f"u, kind, word = '{url}/model', *sys.argv[1:]\n"
        "if kind == 'netrc':\n"
        "    a, _, p = netrc.netrc().authenticators('127.0.0.1')\n"
        "    head = 'Basic ' + base64.b64encode(f'{a}:{p}'.encode()).decode()\n"
        "else:\n"
        "    head = 'Bearer ' + (open('/run/secrets/key').read().strip() if kind == 'file' else __import__('os').environ['TOKEN'])\n"
        "print(kind, head)\n"
        "print(r.urlopen(r.Request(u, headers={'Authorization': head})).read().decode(), file=open(word, 'w'))\n"
    )
    secrets = {
        "apt-auth": f"machine http://{host}/apt login me password {WORDS['apt']}\n",
        "netrc": f"machine 127.0.0.1 login me password {WORDS['netrc']}\n",
        "npmrc": f"registry={url}/npm/\n//{host}/npm/:_authToken={WORDS['npm']}\n",
        "pip.conf": f"[global]\nindex-url = http://me:{quote(WORDS['pip'], safe='')}@{host}/simple/\n",
        "key": f"{WORDS['file']}\n",
    }
    inputs = {"network": True, "workdir": "/srv/app"}
    python = ["/usr/bin/python3", "-c", fetch]
    return {
        "order": "packages-first",
        "packages": ["greeting"],
        "installer_options": {"secrets": ["apt-auth"]},
        "secrets": {
            **{name: {"file": given(lab, name, text)} for name, text in secrets.items()},
            "token": {"env": "CI_TOKEN", "variable": "TOKEN"},
        },
        "run": [
            {
                "name": "wheels", "inputs": ["srv/app/requirements.txt"], "secrets": ["pip.conf"], **inputs,
                "script": "python3 /usr/lib/pip.whl/pip install -v --no-compile -t /srv/app/lib -r requirements.txt",
                "cache": ["~/.cache/pip"],
            },
            {
                "name": "modules", "inputs": ["srv/app/package.json"], "secrets": ["npmrc"], **inputs,
                "argv": ["npm", "install", "--loglevel", "http", "--no-audit", "--no-fund"], "cache": ["~/.npm"],
            },
            *(
                {"name": kind, "argv": [*python, kind, f"/srv/app/{kind}"], "secrets": [secret],
                 "inputs": ["srv/app/package.json"], "env": {"MODEL": url}, **inputs}
                for kind, secret in (("netrc", "netrc"), ("file", "key"), ("env", "token"))
            ),
        ],
    }  # fmt: skip


def needles() -> set[bytes]:
    found = set()
    for word in WORDS.values():
        plain = {word, quote(word, safe=""), base64.b64encode(word.encode()).decode().rstrip("=")[:-1]}
        basic = base64.b64encode(f"me:{word}".encode()).decode()
        found |= {text.encode() for text in {*plain, basic}}
    return found


def holders(top: Path) -> dict[str, set[bytes]]:
    """Return the files below a directory that have a canary, but for those that were given."""
    found = {}
    for path in top.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.parent.name != "given":
            data = path.read_bytes()
            if seen := {word for word in needles() if word in data}:
                found[os.fspath(path)] = seen
    return found


def is_core(path: Path) -> bool:
    return path.is_file() and path.read_bytes()[:18][16:] == b"\x04\0"  # e_type of an ELF file


def test_six_canaries_are_found_nowhere_after_a_build_that_needs_each(
    tmp_path: Path, base: Path, index: PrivateIndex
) -> None:
    environ = {"BUILDSTEP_NETWORK_ALLOW": f"127.0.0.1:{index.port}", "CI_TOKEN": WORDS["env"]}
    more = tmp_path / "more.tar"
    shutil.copyfile(base, more)
    sources = tmp_path / "etc/apt/sources.list"
    sources.parent.mkdir(parents=True)
    sources.write_text(f"deb [trusted=yes] {index.url}/apt/ ./\n")
    subprocess.run(["tar", "-rf", more, "-C", tmp_path, "./etc/apt/sources.list"], check=True)
    lab = Lab(top=tmp_path / "lab", base=more, environ=environ)
    build = service(lab, index)
    lab.manifest(build=build)
    before, watch = host_state(lab.top), Watch(needles)
    with watch:
        built = lab.built("-v", "-c", "none")
    assert host_state(lab.top) == before
    assert not watch.seen, "in an argv"
    assert watch.looks > 50
    assert {
        step(built, f"run:{name}")["state"] for name in ("wheels", "modules", "netrc", "file", "env")
    } == {"run"}
    assert not {path for path in index.refused if path not in index.granted}, "asked for, and not given"
    assert holders(lab.top) == {}
    assert WORDS["env"] not in json.dumps(built)
    assert not [path for path in (lab.pool / "state").rglob("*") if is_core(path)]
    record = json.loads(Path(built["record"]).read_text())
    assert "greeting" in {row["name"] for row in record["packages"]}
    # Warm: nothing is asked for, and an edit runs what depends on it alone.
    index.granted.clear()
    (lab.proto / "srv/app/page").write_text("1")
    again = lab.built("-c", "none")
    assert step(again, "run:env")["state"] == "reuse"
    assert not [path for path in index.granted if not path.startswith("/apt")]
    index.wheel("greet", "2.0")
    (lab.proto / "srv/app/requirements.txt").write_text("greet==2.0\n")
    third = lab.built("-c", "none")
    assert step(third, "packages")["state"] == "reuse"
    assert step(third, "run:wheels")["state"] == "run"
    assert holders(lab.top) == {}
    assert lab.leftovers() == []
    # A wrong password ends the build, and is told without it.
    index.basic.clear()
    (lab.proto / "srv/app/requirements.txt").write_text("greet==3.0\n")
    done = lab.refused(4, "-v")
    assert not {word for word in needles() if word.decode() in done.stderr}
    assert "401" in done.stderr
    assert holders(lab.top) == {}
