"""The doctor: each finding with its place, its fix and its exit code; and that looking changes nothing."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import http.server
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from buildstep import cli
from buildstep.build import forecast
from buildstep.build.doctor import attempts, base_image, machine, network, packages, pool
from buildstep.build.doctor.findings import Examination
from buildstep.cli import user_namespace
from buildstep.errors import CommandFailed, ExitCode, SandboxError
from buildstep.pool import privacy
from buildstep.pool.directory import DirectoryBackend
from buildstep.rootfs import emulation
from buildstep.rootfs.interface import Resolution
from buildstep.system import process, space, userns
from buildstep.tree import proto_limits
from buildstep.trust.vulnerabilities import directory
from tests.servers.layouts import layer, make_layout, make_saved, pack
from tests.servers.registry import RegistryServer
from tests.unit.trust.vulnerabilities import downloads

pytestmark = pytest.mark.commands  # tools are asked for their versions

Doctor = Callable[..., tuple[int, dict[str, Any]]]


def snapshot(top: Path) -> dict[str, tuple[int, float]]:
    return {
        os.path.join(folder, name): (info.st_ino, info.st_mtime)
        for folder, folders, files in os.walk(top)
        for name in [*folders, *files]
        for info in [os.lstat(os.path.join(folder, name))]
    }


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Doctor:
    """Run `doctor --json` as an ordinary user in an empty folder; (exit code, what it printed)."""
    for name in list(os.environ):
        if name.startswith("BUILDSTEP_") or name.endswith(("_proxy", "_PROXY")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", os.fspath(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", os.fspath(tmp_path / "home/data"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    # What root makes in these tests is not that user's.
    monkeypatch.setattr(privacy, "refuse_foreign", lambda *_: None)
    monkeypatch.setattr(userns, "lacks", lambda **_: [("no newuidmap", "apt-get install uidmap")])
    monkeypatch.setattr(user_namespace, "enter", lambda *_, **__: None)
    work = tmp_path / "work"
    (work / "proto").mkdir(parents=True)
    monkeypatch.chdir(work)

    def call(*argv: str) -> tuple[int, dict[str, Any]]:
        capfd.readouterr()
        status = cli.main(["doctor", "--json", *argv])
        return status, json.loads(capfd.readouterr().out)

    return call


def found(told: dict[str, Any], **wanted: str) -> list[dict[str, str]]:
    return [
        row for row in told["findings"] if all(text in row[key] for key, text in wanted.items())
    ]  # fmt: skip


def manifest(**build: object) -> str:
    return json.dumps({"name": "hello", "version": "1.0.0", "build": {"image": "scratch", **build}})


@contextlib.contextmanager
def serve_status(status: int, date: str = "") -> Iterator[str]:
    """A server on this machine that answers everything with one status; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(status)
            if date:
                self.send_header("Date", date)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/x"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# What it says.


def test_an_agent_that_can_is_told_so(doctor: Doctor, tmp_path: Path) -> None:
    status, told = doctor("-m", manifest(), "--pool", f"dir:{tmp_path}/pool", "proto")
    assert (status, told["able"], told["exit_code"]) == (0, True, 0)
    assert (told["name"], told["version"], told["pool"]) == ("hello", "1.0.0", f"dir:{tmp_path}/pool")
    assert not found(told, level="error")
    assert {"privileges", "pool", "image", "tools", "output", "clock"} <= {
        row["area"] for row in told["findings"]
    }
    assert {"level", "area", "where", "what", "fix"} == set(told["findings"][0])


def test_whether_programs_of_another_platform_run_is_told(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulation, "can_run", lambda platform: platform.architecture == "amd64")
    words = ["--pool", f"dir:{tmp_path}/pool", "proto"]
    _, told = doctor("-m", manifest(platform="linux/s390x"), *words)
    (row,) = found(told, area="platform")
    assert (row["level"], row["where"]) == ("ok", "linux/s390x")
    assert "none has to" in row["what"]
    status, told = doctor("-m", manifest(platform="linux/s390x", run=["true"]), *words)
    (row,) = found(told, area="platform")
    assert (row["level"], status) == ("error", 5)
    assert row["what"].startswith("`build.run` runs programs of linux/s390x")
    assert "qemu-user-static" in row["fix"]


def test_every_problem_has_a_fix(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "find", lambda *_, **__: None)
    monkeypatch.setenv("BUILDSTEP_APT_MIRROR", "http://127.0.0.1:9/debian")
    _, told = doctor(
        "-m", manifest(image="mmdebstrap:bookworm", packages=["a"]), "--pool", f"dir:{tmp_path}/p", "proto"
    )
    bad = [row for row in told["findings"] if row["level"] != "ok"]
    assert len(bad) > 4
    assert all(row["fix"] for row in bad)


def test_looking_changes_nothing(doctor: Doctor, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    assert doctor("-m", manifest(), "proto")[0] == 0
    assert doctor("proto")[0] == 0
    assert doctor("-m", manifest(), "--pool", f"dir:{tmp_path}/new/pool", "proto")[0] == 0
    assert snapshot(tmp_path) == before


def test_a_person_reads_a_line_for_each_and_a_verdict(
    doctor: Doctor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", "-m", manifest(), "--pool", f"dir:{tmp_path}/pool", "proto"]) == 0
    out = capfd.readouterr().out
    assert out.splitlines()[-1].startswith("this machine can build hello 1.0.0")
    assert cli.main(["doctor", "-q", "-m", manifest(image="tar:none.tar"), "proto"]) == ExitCode.IMAGE
    out = capfd.readouterr().out
    assert out.splitlines()[-1].startswith("this machine cannot build hello 1.0.0: 1 error")
    assert not [row for row in out.splitlines() if row.startswith("ok ")]


# The manifest.


def test_all_faults_of_a_manifest_are_told_and_the_agent_is_looked_at_all_the_same(doctor: Doctor) -> None:
    status, told = doctor("-m", '{"name": "-x", "build": {"image": "scratch", "packagess": []}}', "proto")
    assert status == ExitCode.USAGE
    wheres = {row["where"].partition(": ")[2] for row in found(told, area="manifest", level="error")}
    assert wheres == {"$.version", "$.build.packagess"}
    assert found(told, area="tools")


def test_a_proto_directory_that_nobody_named_is_no_fault(doctor: Doctor) -> None:
    Path("proto").rmdir()  # it would be the default
    status, told = doctor("-m", manifest())
    assert status == 0
    assert found(told, area="manifest")[0]["level"] == "ok"


def test_a_proto_directory_that_is_yet_to_be_made_is_a_warning(doctor: Doctor) -> None:
    for argv in (["later"], ["-d", "later"]):
        status, told = doctor("-m", manifest(), *argv)
        assert status == 0
        assert "later does not exist" in found(told, area="manifest", level="warning")[0]["what"]


def test_a_configuration_that_is_none_is_usage(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDSTEP_HTTP", "attempts=no")
    status, told = doctor("-m", manifest(), "proto")
    assert status == ExitCode.USAGE
    assert found(told, level="error", where="BUILDSTEP_HTTP")


# Privileges, tools, kernel.


def test_packages_without_root_need_a_user_namespace(doctor: Doctor) -> None:
    status, told = doctor("-m", manifest(packages=["a"]), "proto")
    assert status == ExitCode.TOOL_MISSING
    row = found(told, area="privileges", level="error")[0]
    assert row["what"] == "no newuidmap"
    assert "apt-get install uidmap" in row["fix"]
    assert "run as root" in row["fix"]
    assert doctor("-m", manifest(), "proto")[0] == 0, "without packages nobody asks"


@pytest.mark.parametrize(
    ("build", "missing", "status"),
    [
        ({"exclude": ["[[:alpha:]]"]}, "rsync", ExitCode.TOOL_MISSING),
        ({}, "rsync", ExitCode.OK),
        ({"image": "mmdebstrap:bookworm"}, "mmdebstrap", ExitCode.TOOL_MISSING),
        ({"image": "scratch"}, "mmdebstrap", ExitCode.OK),
    ],
)
def test_only_the_tools_of_this_build_are_needed(
    doctor: Doctor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    build: dict[str, object],
    missing: str,
    status: ExitCode,
) -> None:
    real = process.find
    monkeypatch.setattr(process, "find", lambda tool, **kw: None if tool == missing else real(tool, **kw))
    monkeypatch.setattr(userns, "lacks", lambda **_: [])
    monkeypatch.setattr(base_image, "reach", lambda url, *_, **__: network.Answered(url=url, shown=url))
    code, told = doctor("-m", manifest(**build), "--pool", f"dir:{tmp_path}/pool", "proto")
    assert code == status, told
    if status:
        assert f"apt-get install {missing}" in found(told, area="tools", where=missing)[0]["fix"]


def test_an_rsync_without_acls_is_a_warning(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "rsync  version 3.2.7  protocol version 31\n    64-bit files, no ACLs, xattrs, hardlinks"
    monkeypatch.setattr(process, "query", lambda *_, **__: process.Result(0, said, ""))
    _, told = doctor("-m", manifest(), "proto")
    first, second = found(told, area="tools", where="rsync")
    assert first["what"].startswith("3.2.7 at ")
    assert (second["level"], second["what"]) == ("warning", "was built without ACLs: they are lost")


def test_a_tool_that_does_not_tell_its_version_in_time_is_no_fault(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine."""

    def late(argv: list[str], **_: object) -> object:
        raise CommandFailed(f"{argv[0]} did not end in time", 1)

    monkeypatch.setattr(process, "query", late)
    status, told = doctor("-m", manifest(), "proto")
    assert status == 0
    assert found(told, area="tools", where="rsync")[0]["what"].startswith("a version it does not tell at ")


def test_a_codec_without_its_library_is_a_missing_tool(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "zstandard", None)
    status, told = doctor("-m", manifest(formats=["tar"]), "--pool", f"dir:{tmp_path}/pool", "proto")
    assert status == ExitCode.TOOL_MISSING
    assert "pip install" in found(told, where="codec zstd")[0]["fix"]
    assert doctor("-m", manifest(formats=["tar"]), "-c", "gzip", "proto")[0] == 0


def test_namespaces_that_the_kernel_refuses_end_the_build_before_its_pool(
    examination: Callable[..., Examination], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(_job: object) -> str:
        raise SandboxError("Operation not permitted", hint="")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(userns, "may_mount", lambda: True)
    monkeypatch.setattr(attempts, "apart", refused)
    seen = examination(pool=f"overlay:{tmp_path}/pool")
    machine.kernel(seen)
    pool.opened(seen)
    assert [row.where for row in seen.findings] == ["namespaces"]
    assert seen.exit_code == ExitCode.SANDBOX
    assert "CAP_SYS_ADMIN" in seen.findings[0].fix


# The pool and its room.


@pytest.fixture
def examination(tmp_path: Path) -> Callable[..., Examination]:
    """An examination of a scratch build of `tmp_path/proto`."""
    from buildstep.cli.choices import choices
    from buildstep.spec import load as specs
    from buildstep.spec.config import Config
    from buildstep.spec.document import read_document

    def make(*, pool: str | None = None, text: str = "", **build: object) -> Examination:
        (tmp_path / "proto").mkdir(exist_ok=True)
        document = read_document(text or manifest(**build), cwd=tmp_path, environ={})
        spec = specs.load(document, flags={"proto": "proto"}, environ={}, cwd=tmp_path, choices=choices())
        return Examination(
            spec=spec, proto=tmp_path / "proto", config=Config(), pool=pool, environ=dict(os.environ)
        )

    return make


@pytest.mark.parametrize(
    ("uri", "status"),
    [("zip:/x", ExitCode.USAGE), ("nonsense", ExitCode.USAGE), ("dir:{}/mine", ExitCode.DATASET)],
)
def test_a_pool_that_cannot_be_opened(doctor: Doctor, tmp_path: Path, uri: str, status: ExitCode) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/precious").touch()
    assert doctor("--pool", uri.format(tmp_path))[0] == status


def test_the_pool_is_the_one_of_a_build_and_the_reason_is_told(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*argv: str) -> tuple[str, str]:
        found_here = doctor("-m", manifest(), *argv, "proto")[1]
        row = found(found_here, area="pool")[0]
        assert row["where"] == found_here["pool"]
        return row["where"].removeprefix(f"dir:{tmp_path}/"), row["what"].partition(";")[0]

    assert told() == ("home/data/buildstep/dir", "this user has no user namespace: no newuidmap")
    monkeypatch.setenv("BUILDSTEP_POOL", f"dir:{tmp_path}/variable")
    assert told() == ("variable", "named by BUILDSTEP_POOL")
    # As for a build: a file wins over the variable, and a flag over both.
    Path("buildstep.toml").write_text('pool = "dir:../file"\n')
    assert told() == ("file", f"named by {tmp_path}/work/buildstep.toml")
    assert told("--pool", f"dir:{tmp_path}/flag") == ("flag", "named by --pool")


def test_a_pool_that_others_may_enter_is_told_and_left_as_it_is(
    examination: Callable[..., Examination], tmp_path: Path
) -> None:
    DirectoryBackend(os.fspath(tmp_path / "pool")).make_pool()
    (tmp_path / "pool").chmod(0o755)
    seen = examination(pool=f"dir:{tmp_path}/pool")
    pool.opened(seen)
    (row,) = [row for row in seen.findings if row.level == "warning"]
    assert row.what == "others may enter it (mode 0755)"
    assert row.fix == "the next build closes it"
    assert (tmp_path / "pool").stat().st_mode & 0o777 == 0o755


def test_a_format_that_the_pool_cannot_send(examination: Callable[..., Examination], tmp_path: Path) -> None:
    try:
        seen = examination(pool=f"dir:{tmp_path}/pool", formats=["zfs"])
    except Exception:  # noqa: BLE001
        pytest.skip("there is no format zfs")
    pool.opened(seen)
    assert seen.exit_code == ExitCode.DATASET
    assert "zfs" in seen.findings[-1].what


def test_too_little_room_is_an_error_and_scarce_room_a_warning(
    examination: Callable[..., Examination], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "big").open("wb") as stream:
        stream.truncate(100 << 20)
    seen = examination(pool=f"dir:{tmp_path}/pool", exclude=["[[:alpha:]]"])
    (tmp_path / "big").rename(tmp_path / "proto/big")
    pool.opened(seen)
    folder = tmp_path

    def with_room(free: int, inodes: int | None) -> Examination:
        room = space.Room(folder=folder, free=free, inodes=inodes)
        monkeypatch.setattr(forecast, "together", lambda needs: [(room, needs[0][1] + needs[1][1])])
        seen.findings.clear()
        pool.space(seen)
        return seen

    assert with_room(1 << 40, None).exit_code == 0
    assert with_room(10 << 20, None).exit_code == ExitCode.DISK
    assert "10.0 MiB free, about" in seen.findings[-1].what
    assert seen.forecast is not None
    assert seen.forecast.proto == 100 << 20
    likely = seen.forecast.pool.likely + seen.forecast.output.likely
    assert with_room(likely - 1, None).exit_code == 0
    assert seen.findings[-1].level == "warning"
    assert with_room(1 << 40, 0).exit_code == ExitCode.DISK
    assert "0 inodes free" in seen.findings[-1].what


def test_a_forecast_knows_the_base_and_what_is_copied(
    examination: Callable[..., Examination], tmp_path: Path
) -> None:
    archive = tmp_path / "base.tar"
    with archive.open("wb") as stream:
        stream.truncate(50 << 20)
    seen = examination(image=f"tar:{archive}")
    assert seen.spec is not None
    told = forecast.forecast(seen.spec, backend=None, image=None, proto=seen.scan)
    assert told.base == 50 << 20
    assert told.pool.least == 25 << 20
    many = examination(
        image=f"tar:{archive}", packages=["a", "b"], formats=["oci", "tar"], compression="none"
    )
    assert many.spec is not None
    more = forecast.forecast(many.spec, backend=None, image=None, proto=seen.scan)
    assert more.pool.likely > told.pool.likely
    assert more.output.least == 2 * (25 << 20), "what is not compressed has its own size"


def test_needs_on_one_file_system_add_up(tmp_path: Path) -> None:
    need = forecast.Need(least=1, likely=2, inodes=3)
    rows = forecast.together([(tmp_path / "a/b", need), (tmp_path / "c", need)])
    assert [(room.folder, total.least, total.likely, total.inodes) for room, total in rows] == [
        (tmp_path, 2, 4, 6)
    ]


def test_leftovers_and_a_held_package_cache_are_warnings(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"dir:{tmp_path}/pool"
    assert cli.main(["build", "-q", "-m", manifest(), "--pool", uri, "proto"]) == 0
    dead = tmp_path / "pool/build/20260101T000000-abcdef01-1"
    dead.mkdir(parents=True)
    lock = tmp_path / "pool/state/packages/apt/lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    with lock.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        status, told = doctor("-m", manifest(), "--pool", uri, "proto")
    assert status == 0
    rows = found(told, area="leftovers", level="warning")
    assert len(rows) == 2
    assert "buildstep heal" in rows[0]["fix"]
    assert "apt" in rows[1]["where"]
    assert dead.is_dir(), "telling is not healing"


def test_an_output_directory_that_cannot_be_written_to(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "work/file").touch()
    status, told = doctor("-m", manifest(), "-o", "file/out", "--pool", f"dir:{tmp_path}/pool", "proto")
    assert status == ExitCode.EMIT, told


# The base image and the servers.


def test_a_base_that_is_in_the_store_is_found_without_reading_it(doctor: Doctor, tmp_path: Path) -> None:
    import tarfile

    archive = tmp_path / "base.tar"
    with tarfile.open(archive, "w"):
        pass
    text = manifest(image=f"tar:{archive}")
    uri = f"dir:{tmp_path}/pool"
    assert "can be imported" in found(doctor("-m", text, "--pool", uri, "proto")[1], area="image")[0]["what"]
    assert cli.main(["build", "-q", "-m", text, "--pool", uri, "proto"]) == 0
    before = snapshot(tmp_path / "pool")
    assert "is in the store" in found(doctor("-m", text, "--pool", uri, "proto")[1], area="image")[0]["what"]
    assert snapshot(tmp_path / "pool") == before


def test_what_a_proto_directory_may_not_have_is_told_once(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/name").touch()
    monkeypatch.setattr(proto_limits, "NAME_MAX", 3)
    status, told = doctor("-m", manifest(image="scratch"), "--pool", f"dir:{tmp_path}/pool", os.fspath(tmp_path / "other"))  # fmt: skip
    assert status == ExitCode.USAGE
    assert [row["what"] for row in told["findings"] if "name that an image cannot have" in row["what"]]
    assert len(found(told, level="error")) == 1


def test_a_proto_directory_that_does_not_fit_on_the_base(doctor: Doctor, tmp_path: Path) -> None:
    import tarfile

    archive, proto, uri = tmp_path / "base.tar", tmp_path / "other", f"dir:{tmp_path}/pool"
    with tarfile.open(archive, "w") as tar:
        for name in ("srv/app/old", "etc/conf"):
            tar.addfile(tarfile.TarInfo(name))
    (proto / "etc/conf/part").mkdir(parents=True)
    (proto / "srv").mkdir()
    (proto / "srv/app").touch()
    text = manifest(image=f"tar:{archive}")
    told = doctor("-m", text, "--pool", uri, os.fspath(proto))[1]
    assert not found(told, area="proto")  # what the base has shows once it is imported
    assert cli.main(["build", "-q", "-m", text, "--pool", uri, os.fspath(proto)]) == ExitCode.USAGE
    status, told = doctor("-m", text, "--pool", uri, os.fspath(proto))
    assert status == ExitCode.USAGE
    rows = {row["where"]: row["what"] for row in found(told, area="proto", level="error")}
    assert rows.keys() == {"/etc/conf", "/srv/app"}
    assert "--replace '/srv/app'" in rows["/srv/app"]
    told = doctor("-m", manifest(image=f"tar:{archive}", replace=["/**"]), "--pool", uri, os.fspath(proto))[1]
    assert "takes the place of 2 paths" in found(told, area="proto")[0]["what"]


@pytest.mark.parametrize(
    ("ref", "status"),
    [
        ("tar:none.tar", ExitCode.IMAGE),
        ("oci:none", ExitCode.IMAGE),
        ("tarr:x.tar", ExitCode.USAGE),
        ("nonsense", ExitCode.IMAGE),
        ("tar:" + "x" * 300, ExitCode.IMAGE),
        ("hello@1", ExitCode.IMAGE),
    ],
)
def test_a_base_that_cannot_be_had(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, ref: str, status: ExitCode
) -> None:
    monkeypatch.setenv("BUILDSTEP_SOURCES", "none")
    assert doctor("-m", manifest(), "-i", ref, "proto")[0] == status


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("scheme", ["oci", "docker-archive"])
def test_an_image_of_several_in_a_file(
    doctor: Doctor, tmp_path: Path, capfd: pytest.CaptureFixture[str], scheme: str, packed: bool
) -> None:
    """The one that was imported is in the store, the other can be, and one that is not there fails."""
    path = tmp_path / "images.tar"
    if scheme == "oci":
        make_layout(tmp_path / "layout", [layer({"etc/x": b"1"})], tag="v1")
        index = json.loads((tmp_path / "layout/index.json").read_text())
        make_layout(tmp_path / "layout", [layer({"etc/x": b"2"})], tag="v2")
        index["manifests"] += json.loads((tmp_path / "layout/index.json").read_text())["manifests"]
        (tmp_path / "layout/index.json").write_text(json.dumps(index))
        pack(tmp_path / "layout", path)
    else:
        make_saved(path, {"one:v1": [layer({"etc/x": b"1"})], "one:v2": [layer({"etc/x": b"2"})]})
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    name = f"{scheme}:{path}:" + ("one:" if scheme == "docker-archive" else "")
    pool = ("--pool", f"dir:{tmp_path}/pool")
    assert cli.main(["image", "import", f"{name}v1", *pool]) == 0
    capfd.readouterr()
    expected = [(f"{name}v1", 0, "is in the store as"), (f"{name}v2", 0, "can be imported from")]
    if not packed:  # else the names are known only when all of it is expanded
        expected += [
            (f"{name}v3", ExitCode.IMAGE, "has no image"),
            (f"{scheme}:{path}", ExitCode.IMAGE, "none was named"),
        ]
    for ref, status, what in expected:
        found_status, told = doctor("-m", manifest(), "-i", ref, *pool, "proto")
        assert what in found(told, area="image")[0]["what"]
        assert found_status == status


@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_a_file_may_have_a_name_that_is_in_every_key(
    doctor: Doctor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    packed: Callable[[bytes], bytes],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "proto").mkdir(exist_ok=True)
    path = make_saved(tmp_path / "docker", {"one:v1": [layer({"x": b"1"})], "one:v2": [layer({"x": b"2"})]})
    path.write_bytes(packed(path.read_bytes()))
    pool = ("--pool", f"dir:{tmp_path}/pool")
    assert cli.main(["image", "import", "docker-archive:docker:one:v1", *pool]) == 0
    capfd.readouterr()
    for name, what in (("one:v1", "is in the store as"), ("one:v2", "can be imported from")):
        told = doctor("-m", manifest(), "-i", f"docker-archive:docker:{name}", *pool, "proto")[1]
        assert what in found(told, area="image")[0]["what"]


@pytest.mark.parametrize("packed", [bytes, gzip.compress])
@pytest.mark.parametrize("scheme", ["tar", "oci"])
def test_a_file_under_the_scheme_of_another_kind(
    doctor: Doctor, tmp_path: Path, scheme: str, packed: Callable[[bytes], bytes]
) -> None:
    path = make_saved(tmp_path / "saved.tar", {"a:1": [layer({"x": b""})]}, style="skopeo")
    path.write_bytes(packed(path.read_bytes()))
    status, told = doctor("-m", manifest(), "-i", f"{scheme}:{path}", "proto")
    assert status == ExitCode.IMAGE
    assert found(told, area="image")[0]["fix"] == f"write docker-archive:{path}"


def test_a_mirror_that_does_not_answer_keeps_a_new_base_from_being_made(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(userns, "lacks", lambda **_: [])
    real = process.find
    monkeypatch.setattr(process, "find", lambda tool, **kw: real(tool, **kw) or "/usr/bin/true")
    monkeypatch.setenv("BUILDSTEP_APT_MIRROR", "http://127.0.0.1:9/debian")
    begin = time.monotonic()
    status, told = doctor(
        "-m", manifest(), "-i", "mmdebstrap:bookworm", "--pool", f"dir:{tmp_path}/p", "proto"
    )
    assert status == ExitCode.IMAGE
    assert time.monotonic() - begin < 10
    assert "127.0.0.1:9" in found(told, area="network", level="error")[0]["where"]
    assert "BUILDSTEP_APT_MIRROR" in found(told, area="network", level="error")[0]["fix"]


def test_an_answer_tells_how_far_the_clock_is_off(examination: Callable[..., Examination]) -> None:
    with serve_status(200, "Thu, 01 Jan 2026 00:00:00 GMT") as url:
        answer = network.reach(url, {}, ok=range(200, 300))
    assert answer.problem == ""
    assert answer.skew == pytest.approx(time.time() - 1767225600, abs=5)
    seen = examination()
    seen.skews.append(3600.0)
    base_image.clock(seen)
    assert seen.findings[-1].level == "warning"
    assert "3600 s ahead of" in seen.findings[-1].what
    with serve_status(404) as url:
        assert "404" in network.reach(url, {}, ok=range(200, 300)).problem


@pytest.mark.parametrize("status", [405, 501])
def test_a_server_without_head_is_asked_with_get(status: int) -> None:
    with RegistryServer(no_head=status) as server:
        server.content["there"] = (b"x", "text/plain")
        assert network.reach(f"http://{server.host}/v2/x/there", {}, ok=range(200, 300)).problem == ""
        assert "404" in network.reach(f"http://{server.host}/v2/x/not", {}, ok=range(200, 300)).problem


def test_a_clock_from_before_this_program(
    examination: Callable[..., Examination], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = examination()
    monkeypatch.setattr(time, "time", lambda: 86400.0)
    base_image.clock(seen)
    assert seen.exit_code == ExitCode.TOOL_MISSING
    assert "1970-01-02" in seen.findings[-1].what


def test_a_mirror_of_files(tmp_path: Path) -> None:
    assert network.reach(f"file://{tmp_path}", {}, ok=range(1)).problem == ""
    assert network.reach(f"file://{tmp_path}/none", {}, ok=range(1)).problem == "is not there"


# Packages.


def test_packages_of_a_base_that_is_not_here_are_told_to_be_open(
    examination: Callable[..., Examination], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = examination(pool=f"dir:{tmp_path}/pool", image="mmdebstrap:bookworm", packages=["a", "b=1"])
    packages.resolved(seen)
    assert seen.findings == [], "there is no pool"
    pool.opened(seen)
    seen.findings.clear()
    packages.resolved(seen)
    (row,) = seen.findings
    assert (row.level, row.where) == ("warning", "a, b=1")
    assert row.what.endswith("is not in the store")
    assert "buildstep image import mmdebstrap:bookworm" in row.fix
    seen.findings.clear()
    seen.fail("tools", "bwrap", "is not installed", "", ExitCode.TOOL_MISSING)
    packages.resolved(seen)
    assert len(seen.findings) == 1, "the build ends before it asks for packages"


def answered(resolution: Resolution, *names: str, known: bool = True) -> list[tuple[str, str, str, int]]:
    asked = SimpleNamespace(spec=SimpleNamespace(packages=names), installer=SimpleNamespace(name="pkgsrc"))
    rows = packages._of_answer(asked, resolution, known=known)  # type: ignore[arg-type]
    return [(row["level"], row["where"], row["what"], row["code"]) for row in rows]


def test_an_installer_of_another_package_may_name_no_repositories(
    examination: Callable[..., Examination], tmp_path: Path
) -> None:
    (tmp_path / "Release").touch()
    url = (tmp_path / "Release").as_uri()

    def told(installer: object) -> list[dict[str, Any]]:
        asked = SimpleNamespace(installer=installer, job=None)
        return packages._of_repositories(examination(), asked)  # type: ignore[arg-type]

    assert told(SimpleNamespace(name="xbps")) == []
    naming = SimpleNamespace(name="xbps", repositories=lambda _job: [(url,), ("http://127.0.0.1:9/x",)])
    assert [row["level"] for row in told(naming)] == ["warning"], "only servers are asked"


def test_what_packages_resolve_to() -> None:
    found = Resolution(versions={"a": "1", "lib": "2", "old": ""}, exact=True)
    assert answered(found, "a=1", "here") == [
        ("ok", "a=1", "1 can be had", 0),
        ("ok", "here", "is in the base image", 0),
        ("warning", "resolving", "1 package would be removed: old", 0),
        ("ok", "resolving", "2 packages would be installed or upgraded", 0),
    ]
    asked_only = Resolution(versions={"a": "1"}, exact=False)
    names = ("a", "a-1", "b", "c>=1")
    assert [row[:3] for row in answered(asked_only, *names)] == [
        ("ok", "a", "1 can be had"),
        ("ok", "a-1", "1 can be had"),
        ("error", "b", "pkgsrc has no package of that name"),
        ("ok", "c>=1", "pkgsrc cannot be asked for a pattern or a file: only the build can tell"),
    ]
    assert answered(asked_only, "b")[0][3] == ExitCode.INSTALL
    no_index = answered(Resolution(versions={}, exact=False), "b", known=False)
    assert no_index == [("ok", "b", "pkgsrc has no index here: only the build can tell", 0)]


def test_the_policy_of_the_base_is_read_and_its_keys_are_looked_at(
    tmp_path: Path, examination: Callable[..., Examination]
) -> None:
    from buildstep.build.doctor import base_policy
    from tests.unit.trust.verify import signed

    line = signed.key().public.openssh
    (tmp_path / "policy.toml").write_text(
        f"format = 1\n[[key]]\nname = 'old'\npublic = '{line}'\nuntil = 2020-01-01\n[[rule]]\nmatch = ['*']\n"
    )
    seen = examination(trust={"base": "policy.toml"})
    base_policy.readable(seen)
    (found,) = seen.findings
    assert (found.level, found.code) == ("error", ExitCode.EXPIRED)
    assert "old has expired at the end of 2020-01-01" in found.what


def test_databases_of_vulnerabilities_are_looked_at_where_a_build_needs_them(
    doctor: Doctor, tmp_path: Path
) -> None:
    folder = tmp_path / "known"
    given = manifest(image="scratch", trust={"vulnerabilities": {"db": os.fspath(folder), "max_age": "30d"}})
    status, told = doctor("-m", given)
    assert found(told, area="vulnerabilities", level="error", what="no database of vulnerabilities")
    assert status != 0
    feed = downloads.tracker(tmp_path / "debian.json")
    for age, level in ((1, "ok"), (9, "warning"), (31, "error")):
        directory.import_files([feed], folder, updated=time.time() - age * 86400 - 60, note=print)
        _, told = doctor("-m", given)
        assert found(told, area="vulnerabilities", level=level, what=f"{age} day"), told
