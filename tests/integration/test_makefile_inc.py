"""Makefile.inc with real make and a bin/build that writes down its calls (docs/explanation/defects.md for the numbers)."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.checkouts import Checkout, checkout

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs GNU make")

HEAD = "NAME = hello\nVERSION = 1.0\nBASE_IMAGE = scratch\n"


class Component:
    """A component's directory beside a checkout."""

    def __init__(self, path: Path, inc: Checkout) -> None:
        self.path, self.inc = path, inc
        (path / "proto/etc").mkdir(parents=True)
        (path / "proto/etc/conf").write_text("1\n")
        self.write(HEAD)

    def write(self, head: str, tail: str = "") -> None:
        include = str(self.inc.path / "Makefile.inc").replace(" ", "\\ ")
        (self.path / "Makefile").write_text(f"{head}\ninclude {include}\n{tail}")

    def make(self, *argv: str, status: int = 0, **env: str) -> str:
        clean = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        done = subprocess.run(
            ["make", *argv], cwd=self.path, env={**clean, **env}, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def git(self, *argv: str) -> None:
        name = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-c", "init.defaultBranch=main"]
        subprocess.run(["git", *name, *argv], cwd=self.path, check=True, capture_output=True)

    def commit(self) -> None:
        (self.path / ".gitignore").write_text("/bits/\n")
        self.git("add", ".")
        self.git("commit", "-m", "one")


@pytest.fixture
def component(tmp_path: Path) -> Component:
    """With blanks, an apostrophe and a comma in every path."""
    top = tmp_path / "Ann's work, here"
    return Component(top / "my component", checkout(top / "build step"))


NOTHING = "Nothing to be done for 'image'"


# -- once is enough ------------------------------------------------------------------------------------------


def test_a_component_of_twelve_lines(component: Component) -> None:
    shutil.rmtree(component.path)
    shutil.copytree(component.inc.path / "fixtures/component", component.path)
    makefile = (component.path / "Makefile").read_text()
    assert len(makefile.splitlines()) == 12
    up = str(component.inc.path).replace(" ", "\\ ")
    out = component.make("image", f"BUILDSTEP={up}/")
    assert "bits/hello/hello-1.0.0.oci.tar\n" in out
    assert component.inc.manifests() == [
        {
            "name": "hello",
            "version": "1.0.0",
            "description": 'Ann\'s hello, and "friends"',
            "os": "linux",
            "type": "other",
            "build": {"image": "scratch", "packages": []},
        }
    ]
    assert (component.path / "proto/usr/share/hello/greeting").read_text() == "Hello from hello.\n"
    assert NOTHING in component.make("image", f"BUILDSTEP={up}/")


def test_nothing_changed_nothing_done(component: Component) -> None:
    assert "exec" in component.make("-n", "image")
    assert not (component.path / "bits").exists()
    assert component.inc.calls() == component.inc.calls("buildstep") == []
    component.make("image")
    assert len(component.inc.calls()) == 1
    for argv in (["image"], ["-n", "image"], ["buildimage"]):
        assert "Nothing to be done" in component.make(*argv)
    assert len(component.inc.calls()) == 1


@pytest.mark.parametrize(
    "what", ["content", "mode", "new", "gone", "renamed", "link", "odd", "output", "old mtime"]
)
def test_any_change_of_the_proto_directory_is_seen(component: Component, what: str) -> None:
    proto = component.path / "proto"
    odd = proto / "a\nb $(x) %*'"
    odd.write_text("1")
    (proto / "link").symlink_to("etc")
    component.make("image")
    time.sleep(0.02)
    match what:
        case "content":
            (proto / "etc/conf").write_text("2\n")
        case "mode":
            (proto / "etc/conf").chmod(0o600)
        case "new":
            (proto / "new").touch()
        case "gone":
            (proto / "etc/conf").unlink()
        case "renamed":
            (proto / "etc/conf").rename(proto / "etc/conf2")
        case "link":
            (proto / "link").unlink()
            (proto / "link").symlink_to("etc/conf")
        case "odd":
            odd.write_text("2")
        case "output":
            (component.path / "bits/hello/hello-1.0.oci.tar").unlink()
        case "old mtime":
            (proto / "etc/conf").write_text("2\n")
            os.utime(proto / "etc/conf", (0, 0))
    component.make("image")
    assert len(component.inc.calls()) == 2
    assert NOTHING in component.make("image")


def test_a_changed_variable_is_seen_and_told(component: Component) -> None:
    component.make("image")
    assert "variables have changed" in component.make("image", "PACKAGES=nginx-light curl")
    assert component.inc.manifests()[-1]["build"]["packages"] == ["nginx-light", "curl"]
    assert NOTHING in component.make("image", "PACKAGES=nginx-light curl")
    assert "variables have changed" in component.make("image", "DESCRIPTION=it's $$HOME `id`")
    assert component.inc.manifests()[-1]["description"] == "it's $HOME `id`"


def test_what_a_service_needs_is_said_in_variables(component: Component) -> None:
    (component.path / "more parts.json").write_text('{"tags": {"team": "web"}}')
    component.write(
        """NAME = hello
VERSION = 1.0
BASE_IMAGE = scratch
IMAGE_INCLUDE = 'more parts.json'
IMAGE_ORDER = packages-first
IMAGE_USERS = app:990:/srv/app:www-data,adm other
IMAGE_CMD = /bin/serve --greeting "it's here"
IMAGE_ENTRYPOINT = ["/bin/tini", "--"]
IMAGE_ENV = MODE=fast 'WORDS=a b=c' EMPTY=
IMAGE_PORTS = 80 443/tcp
IMAGE_CHECKS = 8080/health 9090
define IMAGE_RUN
echo "one"

echo two; true
endef
"""
    )
    component.make("image")
    built = component.inc.manifests()[-1]
    assert built["include"] == [str(component.path / "more parts.json")]
    assert built["build"] == {
        "image": "scratch",
        "packages": [],
        "order": "packages-first",
        "users": [
            {"name": "app", "uid": 990, "home": "/srv/app", "groups": ["www-data", "adm"]},
            {"name": "other"},
        ],
        "run": ['echo "one"', "echo two; true"],
        "checks": {"listen": [{"port": 8080, "path": "/health"}, {"port": 9090}]},
        "oci": {
            "cmd": ["/bin/serve", "--greeting", "it's here"],
            "entrypoint": ["/bin/tini", "--"],
            "expose": ["80", "443/tcp"],
            "env": {"MODE": "fast", "WORDS": "a b=c", "EMPTY": ""},
        },
    }
    assert "variables have changed" in component.make("image", "IMAGE_PORTS=80")
    (component.path / "m.json").write_text('{"name": "hello", "version": "1"}')
    out = component.make("image", "MANIFEST=m.json", "KEEP=2x", status=2)
    assert "IMAGE_RUN has no place beside MANIFEST: m.json says it" in out
    assert "KEEP is 2x and not a number of versions" in out


def test_the_newest_version_has_links_and_old_ones_go(component: Component) -> None:
    bits = component.path / "bits/hello"
    for version in ("1.0", "1.0.1", "1.1"):
        component.make("image", f"VERSION={version}", "KEEP=2")
        assert (bits / "hello-latest.oci.tar").resolve() == bits / f"hello-{version}.oci.tar"
    assert {path.name for path in bits.glob("*.oci.tar")} == {
        "hello-1.0.1.oci.tar", "hello-1.1.oci.tar", "hello-latest.oci.tar"
    }  # fmt: skip
    assert (bits / "hello-latest.imgmanifest").is_symlink()
    component.make("image", "VERSION=1.2", "KEEP=1")
    assert {path.name.split(".oci")[0] for path in bits.glob("*.oci.tar")} == {"hello-1.2", "hello-latest"}
    component.make("image-clean")
    assert not (component.path / "bits").exists()


def test_other_goals_ask_nothing(component: Component) -> None:
    component.write("", "clean:\n\t@echo cleaned\n")  # not even a NAME
    assert component.make("clean") == "cleaned\n"
    assert component.inc.calls("buildstep") == []


def test_image_as_a_prerequisite_of_the_components_own_target(component: Component) -> None:
    component.write("all: image\n" + HEAD)
    component.make()
    assert len(component.inc.calls()) == 1
    component.write("all: image\nNAME = hello")
    assert "BASE_IMAGE is not set" in component.make(status=2)


def test_proto_deps_are_made_first_and_an_unchanged_result_is_not_built(component: Component) -> None:
    rules = "proto/bin:\n\tmkdir -p $@\ngen: | proto/bin\n\tcmp -s in proto/bin/x || cp in proto/bin/x\n.PHONY: gen\n"
    (component.path / "in").write_text("1")
    component.write(HEAD + "PROTO_DEPS = gen", rules)
    component.make("-j8", "image")
    assert "nothing has changed" in component.make("image")
    assert len(component.inc.calls()) == 1
    time.sleep(0.02)
    (component.path / "in").write_text("2")
    component.make("image")
    assert len(component.inc.calls()) == 2


def test_a_manifest_with_overrides_from_make(component: Component) -> None:
    (component.path / "my m.json.j2").write_text(
        '{"name": "x", "version": "{{ version }}", "build": {"image": "scratch"}}'
    )
    component.write(
        "MANIFEST = my m.json.j2\nVERSION = 2\nBASE_IMAGE = tar:a b.tar\nFORMATS = oci,tar\nOUTPUT_DIR = my out\nNAME = n"
    )
    component.make("image")
    (call,) = component.inc.calls()
    assert call[:2] == ["--manifest", "my m.json.j2"]
    assert call[call.index("--image") + 1] == "tar:a b.tar"
    assert call[call.index("--output-dir") + 1] == "my out/n"
    assert [call[at + 1] for at, word in enumerate(call) if word == "--format"] == ["oci", "tar"]
    assert component.inc.manifests()[0]["version"] == "2"
    assert NOTHING in component.make("image")
    (component.path / "my m.json.j2").touch()
    assert NOTHING in component.make("image")  # the same content
    (component.path / "my m.json.j2").write_text('{"name": "x", "version": "{{ version }}.1"}')
    assert "my m.json.j2 has changed" in component.make("image")


def test_a_manifest_alone_is_enough(component: Component) -> None:
    (component.path / "m.json").write_text('{"name": "alone", "version": "1"}')
    component.write("MANIFEST = m.json")
    assert "bits/alone/alone-1.oci.tar" in component.make("image")
    assert "out/alone/alone-1.oci.tar" in component.make("image", "OUTPUT_DIR=out")


# -- defects of the makefiles that this replaces -------------------------------------------------------------


def test_d39_the_guard_comes_before_the_expensive_work(component: Component) -> None:
    rules = "expensive:\n\ttouch $@\n"
    component.write("NAME = hello\nPROTO_DEPS = expensive", rules)
    out = component.make("-j8", "image", status=2)
    assert "BASE_IMAGE is not set" in out
    component.write(HEAD + "PROTO_DEPS = expensive", rules)
    assert "not true" in component.make("image", "ENGBLD_USE_BUILDIMAGE=false", status=2)
    component.make("-j8", "image", status=2, FAKE_DOCTOR="5")
    assert not (component.path / "expensive").exists()
    assert component.inc.calls() == []
    component.make("image", "ENGBLD_USE_BUILDIMAGE=true")
    assert (component.path / "expensive").exists()


def test_d39_a_failed_build_fails_and_takes_no_earlier_file_for_its_own(component: Component) -> None:
    component.make("image")
    time.sleep(0.02)
    (component.path / "proto/etc/conf").write_text("2\n")
    assert "Error 14" in component.make("image", status=2, FAKE_BUILD="14")
    assert "Error 14" in component.make("publish-image", "PUBLISH_TO=dir:x", status=2, FAKE_BUILD="14")
    assert ["image", "publish"] not in [call[:2] for call in component.inc.calls("buildstep")]
    component.make("image")
    assert len(component.inc.calls()) == 4


def test_d39_quotes_in_the_description(component: Component) -> None:
    text = 'Ann\'s "best" \\ one; `id` $(id) ü # %s\tend'
    component.write(HEAD, "")
    component.make("image", "DESCRIPTION=" + text.replace("$", "$$"))
    assert component.inc.manifests()[0]["description"] == text


def test_d39_description_of_several_lines(component: Component) -> None:
    component.write(HEAD + "define DESCRIPTION\none's\n\ntwo\nendef")
    component.make("image")
    assert component.inc.manifests()[0]["description"] == "one's\n\ntwo"
    assert NOTHING in component.make("image")


def test_d39_nothing_is_left_and_clean_takes_only_our_files(component: Component) -> None:
    component.make("image")
    (component.path / "bits/hello/notes").write_text("mine")
    component.make("image-clean")
    assert [path.name for path in (component.path / "bits").rglob("*")] == ["hello", "notes"]
    component.make("image-clean")
    (component.path / "bits/hello/notes").unlink()
    component.make("image")
    component.make("image-clean")
    assert not (component.path / "bits").exists()


def test_d40_branches_with_slashes_and_detached_heads(component: Component) -> None:
    component.write("NAME = hello\nBASE_IMAGE = scratch")
    component.git("init", "-q")
    component.commit()
    component.git("checkout", "-q", "-b", "feature/x")
    stamp = component.make("print-STAMP").strip()
    assert stamp.startswith("STAMP=feature-x-20")
    assert "-dirty" not in stamp
    named = component.make("print-STAMP", BRANCH_NAME="feature/y")
    assert "STAMP=feature-y-" in named
    assert "is feature/y, as BRANCH_NAME says; feature/x is checked out" in named
    component.make("image")
    version = component.inc.manifests()[-1]["version"]
    assert version.startswith("feature-x-")
    time.sleep(1.1)  # the time in a stamp is no change
    assert NOTHING in component.make("image")
    component.git("checkout", "-q", "--detach")
    detached = component.make("print-STAMP").strip()
    assert "=-" not in detached
    assert detached.startswith("STAMP=detached-")
    assert component.make("print-STAMP", BRANCH_NAME="feature/y").startswith("STAMP=feature-y-")
    (component.path / "Makefile").write_text((component.path / "Makefile").read_text() + "\n# changed\n")
    assert component.make("print-STAMP").strip().endswith("-dirty")
    assert "the checkout has changed" in component.make("image")


@pytest.mark.parametrize(
    "how",
    ["VERSION = 1.0-$(STAMP)", "MINE = 1.0-$(STAMP)\nVERSION = $(MINE)", "BUILDIMAGE_VERSION = 1.0-$(STAMP)"],
)
def test_d40_a_version_made_of_the_stamp(component: Component, how: str) -> None:
    component.write(f"NAME = hello\n{how}\nBASE_IMAGE = scratch", "clean:\n\t@echo cleaned\n")
    component.git("init", "-q")
    component.commit()
    component.make("image")
    assert component.inc.manifests()[-1]["version"].startswith("1.0-main-20")
    time.sleep(1.1)
    assert NOTHING in component.make("image")
    component.inc.forget()
    component.make("clean")
    assert component.inc.calls("buildstep") == []


def test_d40_no_commit_is_said(component: Component) -> None:
    component.write("NAME = hello\nBASE_IMAGE = scratch")
    out = component.make("image", status=2, GIT_CEILING_DIRECTORIES=str(component.path.parent))
    assert "set VERSION" in out


def test_d41_publish_refuses_dirt_and_never_skips_in_silence(component: Component) -> None:
    component.make("image")
    assert "PUBLISH_TO is not set" in component.make("publish-image", status=2)
    component.make("publish-image", "PUBLISH_TO=dir:/a dir:/b")
    manifest = str(component.path / "bits/hello/hello-1.0.imgmanifest")
    assert component.inc.calls("buildstep")[-1] == [
        "image",
        "publish",
        "--to",
        "dir:/a",
        "--to",
        "dir:/b",
        manifest,
    ]
    component.inc.forget()
    out = component.make("publish-image", "PUBLISH_TO=dir:/a", "VERSION=main-g1-dirty", status=2)
    assert "uncommitted changes" in out
    assert "image" not in [call[0] for call in component.inc.calls("buildstep")]
    component.make(
        "publish-image", "PUBLISH_TO=dir:/a", "VERSION=main-g1-dirty", "ENGBLD_BITS_UPLOAD_ALLOW_DIRTY=true"
    )
    assert component.inc.calls("buildstep")[-1][:2] == ["image", "publish"]
    component.make("publish-image", "PUBLISH_TO=dir:/a", status=2, FAKE_IMAGE="17")


def test_d42_the_agent_is_asked_and_no_table(component: Component) -> None:
    component.make("validate-buildenv")
    call = component.inc.calls("buildstep")[-1]
    assert call[:2] == ["doctor", "--manifest"]
    component.make("validate-buildenv", status=2, FAKE_DOCTOR="5")
    component.inc.forget()
    component.make("image", "ENGBLD_SKIP_VALIDATE_BUILDENV=true")
    assert "doctor" not in [call[0] for call in component.inc.calls("buildstep")]


# -- the variables of eng ------------------------------------------------------------------------------------


def test_the_variables_of_eng(component: Component) -> None:
    (component.path / "stage/root").mkdir(parents=True)
    component.write(
        "NAME = moray\nBASE_IMAGE_UUID = c2c31b00-1d60-11e9-9a77-ff9f06554b0f\nBUILDIMAGE_NAME = mantav2-moray\n"
        "BUILDIMAGE_DESC = Triton's moray\nBUILDIMAGE_PKGSRC = a-1.0 b\nBUILDIMAGE_VERSION = 7\n"
        "BUILDIMAGE_STAGEDIR = stage\nENGBLD_BITS_DIR = no\nBITS_DIR = yes\nBUILDIMAGE_DO_PKGSRC_UPGRADE = true"
    )
    component.make("buildimage")
    (manifest,) = component.inc.manifests()
    assert manifest["name"] == "mantav2-moray"
    assert manifest["version"] == "7"
    assert manifest["description"] == "Triton's moray"
    assert manifest["build"] == {"image": "c2c31b00-1d60-11e9-9a77-ff9f06554b0f", "packages": ["a-1.0", "b"]}
    (call,) = component.inc.calls()
    assert call[call.index("--output-dir") + 1] == "yes/moray"
    assert "--upgrade-first" in call
    assert call[-1] == "stage/root"


def test_a_release_tarball_of_eng(component: Component) -> None:
    (component.path / "root/opt").mkdir(parents=True)
    (component.path / "root/opt/x").write_text("1")
    tar = ["tar", "-czf", "moray pkg.tar.gz", "./root"]
    subprocess.run(tar, cwd=component.path, check=True)
    component.write(HEAD + "BUILDIMAGE_PKG = moray pkg.tar.gz")
    component.make("image")
    proto = component.inc.calls()[0][-1]
    assert (component.path / proto / "opt/x").read_text() == "1"
    assert "Nothing to be done" in component.make("image")
    component.make("image-clean")
    assert not (component.path / "bits").exists()


def test_agents_of_eng_are_not_left_out_in_silence(component: Component) -> None:
    assert "AGENTS" in component.make("image", "AGENTS=amon config", status=2)


# -- small things --------------------------------------------------------------------------------------------


def test_print_and_show(component: Component) -> None:
    assert component.make("print-NAME", "print-PROTO_DIR") == "NAME=hello\nPROTO_DIR=proto\n"
    assert "BASE_IMAGE = scratch  (file)" in component.make("show-buildenv")


def test_plan_builds_nothing(component: Component) -> None:
    component.make("image-plan")
    assert "--dry-run" in component.inc.calls()[0]
    assert not (component.path / "bits").exists()
