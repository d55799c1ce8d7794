"""The Jenkins client against a server on loopback that speaks Jenkins's protocol, with its faults."""

from __future__ import annotations

import hashlib
import json
import logging
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from buildstep.cli import jenkins as cli
from buildstep.errors import CIError, UsageError
from buildstep.events import Bus, Event, Note
from buildstep.net.jenkins import JenkinsBuild, JenkinsServer, Login, login
from buildstep.net.jenkins_agents import JenkinsNode, Needs, judge, list_nodes, needs_of
from buildstep.net.jenkins_fetch import fetch
from tests.servers.jenkins import FakeJenkins, Job, Run, node, serving

TOKEN = "11aa22bb"
CONFIG = """<?xml version='1.1' encoding='UTF-8'?>
<slave><name>zfs1</name><nodeProperties><hudson.slaves.EnvironmentVariablesNodeProperty>
<envVars serialization="custom"><unserializable-parents/><tree-map><default>
<comparator class="java.lang.String$CaseInsensitiveComparator"/></default><int>2</int>
<string>BUILDSTEP_POOL</string><string>zfs:zones/one/data</string><string>SECRET</string><string>x</string>
</tree-map></envVars></hudson.slaves.EnvironmentVariablesNodeProperty></nodeProperties></slave>"""


@pytest.fixture
def jenkins() -> Iterator[FakeJenkins]:
    with serving(FakeJenkins(token=TOKEN)) as server:
        yield server


def client(jenkins: FakeJenkins, notes: list[str] | None = None, **options: float) -> JenkinsServer:
    def note(event: Event) -> None:
        if notes is not None and isinstance(event, Note):
            notes.append(event.text)

    who = Login(url=jenkins.url, user=jenkins.user, token=TOKEN)
    return JenkinsServer(who, bus=Bus(note), backoff=0.001, **options)  # type: ignore[arg-type]


# -- who we are ----------------------------------------------------------------------------------------------


def test_login_takes_the_token_from_a_file_or_the_environment_and_never_shows_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")
    found = login({"JENKINS_URL": "https://ci/", "JENKINS_USER": "ann"}, token_file=tmp_path / "token")
    assert (found.url, found.user, found.token) == ("https://ci/", "ann", "abc")
    assert "abc" not in repr(found)
    assert login({"JENKINS_URL": "https://ci", "JENKINS_USER": "a", "JENKINS_TOKEN": "t"}).token == "t"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "no Jenkins server"),
        ({"JENKINS_URL": "ci.example.org"}, "not the address"),
        ({"JENKINS_URL": "https://ann:pw@ci/"}, "holds a password"),
        ({"JENKINS_URL": "https://ci/", "JENKINS_USER": "ann"}, "belong together"),
        ({"JENKINS_URL": "https://ci/", "JENKINS_TOKEN_FILE": "/nowhere"}, "cannot be read"),
        ({"JENKINS_URL": "http://ci/", "JENKINS_USER": "a", "JENKINS_TOKEN": "t"}, "not sent over http"),
    ],
)
def test_login_refuses(environ: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        login(environ)
    assert "pw" not in str(caught.value.message)


def test_certificates_are_checked_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PYTHONHTTPSVERIFY", "0")
    monkeypatch.setenv("JENKINS_API_EXTRA_HEADERS", "X-Secret: s3cr3t")
    with caplog.at_level(logging.DEBUG):
        server = JenkinsServer(Login(url="https://ci/", user="a", token="t"))
    assert server._api._session.verify is True
    assert "s3cr3t" not in caplog.text


def certificate(folder: Path) -> Path:
    """A certificate for loopback that vouches for itself, and its key, in one file."""
    import ipaddress
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ci")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "server.pem"
    path.write_bytes(made.public_bytes(pem) + key.private_bytes(pem, *plain))
    return path


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_https_with_an_authority_of_ones_own_and_without(tmp_path: Path) -> None:
    path = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with serving(FakeJenkins(token=TOKEN), tls=context) as server:
        environ = {"JENKINS_URL": server.url, "JENKINS_USER": "ann", "JENKINS_TOKEN": TOKEN}
        with pytest.raises(CIError, match="not trusted") as caught:
            list_nodes(JenkinsServer(login(environ), backoff=0.001))
        assert "REQUESTS_CA_BUNDLE" in caught.value.hint
        assert server.calls == []
        assert list_nodes(JenkinsServer(login({**environ, "REQUESTS_CA_BUNDLE": str(path)}))) == []


# -- agents --------------------------------------------------------------------------------------------------


def test_agents_say_what_they_are_in_four_places(jenkins: FakeJenkins) -> None:
    jenkins.nodes = [
        node("linux1", labels=("pool-overlay",)),
        node("arm1", description="our arm box\nbuildstep: arch=aarch64 pkgsrc=2021Q4", monitorData={}),
        node(
            "zfs1",
            labels=("pkgsrc-2022Q4",),
            monitorData={"hudson.node_monitors.ArchitectureMonitor": "SunOS (amd64)"},
        ),
        node("gone", offline=True, offlineCauseReason="Disconnected by ann\nmore", monitorData=None),
    ]
    jenkins.configs["zfs1"] = CONFIG
    facts = {node.name: node.facts for node in list_nodes(client(jenkins))}
    assert facts == {
        "linux1": {"arch": "amd64", "os": "linux", "pool": "overlay"},
        "arm1": {"arch": "arm64", "pkgsrc": "2021Q4"},
        "zfs1": {"arch": "amd64", "os": "sunos", "pkgsrc": "2022Q4", "pool": "zfs:zones/one/data"},
        "gone": {},
    }


def test_d43_an_agent_of_another_pkgsrc_release_or_architecture_is_told_why_not() -> None:
    document = {"os": "smartos", "build": {"image": "base-64-lts@21.4.0", "formats": ["zfs"]}}
    needs = needs_of(document, arch="x86_64")
    assert needs == Needs(os="sunos", arch="amd64", pkgsrc="2021Q4", pool="zfs")
    good = JenkinsNode(
        name="good", labels=("os-smartos", "arch-amd64", "pkgsrc-2021Q4", "pool-zfs:zones/a"), idle=1
    )
    old = JenkinsNode(name="old", labels=("os-sunos", "pkgsrc-2018Q4", "pool-zfs"), monitor="SunOS (amd64)")
    linux = JenkinsNode(name="linux", monitor="Linux (aarch64)", offline="by ann")
    verdicts = {it.node.name: it.reasons for it in judge([linux, old, good], needs)}
    assert next(iter(verdicts)) == "good"
    assert verdicts["good"] == ()
    assert verdicts["old"] == ("its pkgsrc release is 2018Q4, and 2021Q4 is needed",)
    assert verdicts["linux"] == (
        "is offline: by ann",
        "its operating system is linux, and sunos is needed",
        "its architecture is arm64, and amd64 is needed",
        "does not say its pkgsrc release, and 2021Q4 is needed (label pkgsrc-2021Q4)",
        "does not say its pool, and zfs is needed (label pool-zfs)",
    )


def test_pools_fit_by_backend_where_one_side_names_no_more() -> None:
    def able(want: str, have: str) -> bool:
        return judge([JenkinsNode(name="a", labels=(f"pool-{have}",))], Needs(pool=want))[0].able

    assert able("zfs", "zfs:zones/a")
    assert able("zfs:zones/a", "zfs")
    assert able("zfs:zones/a", "zfs:zones/a")
    assert not able("zfs:zones/a", "zfs:zones/b")
    assert not able("zfs", "btrfs")


# -- trigger -------------------------------------------------------------------------------------------------


def test_trigger_waits_through_the_queue_in_a_folder_with_parameters_in_the_body(
    jenkins: FakeJenkins,
) -> None:
    jenkins.jobs["team a/app/feature%2Fx"] = Job(parametrized=True)
    notes: list[str] = []
    build = client(jenkins, notes).trigger("team a/app/feature%2Fx", {"SECRET": "a&b ü"}, poll=0.001)
    assert build.number == 1
    assert build.url.endswith("/1/")
    assert jenkins.jobs["team a/app/feature%2Fx"].runs[1].parameters == {"SECRET": ["a&b ü"]}
    assert not [call for call in jenkins.calls if "SECRET" in call]
    assert any("Waiting for next available executor" in note for note in notes)


def test_trigger_without_parameters_takes_the_defaults_of_a_job_that_has_some(jenkins: FakeJenkins) -> None:
    jenkins.jobs["app"] = Job(parametrized=True)
    assert client(jenkins).trigger("app", {}, poll=0.001).number == 1


def test_a_crumb_that_has_expired_is_asked_for_anew(jenkins: FakeJenkins) -> None:
    jenkins.jobs["app"] = Job()
    server = client(jenkins)
    server.trigger("app", {}, poll=0.001)
    jenkins.crumb = "crumb-2"
    assert server.trigger("app", {}, poll=0.001).number == 2
    assert jenkins.counts["POST /job/app/build"] == 3


def test_a_server_without_crumbs(jenkins: FakeJenkins) -> None:
    jenkins.want_crumb = False
    jenkins.jobs["app"] = Job()
    assert client(jenkins).trigger("app", {}, poll=0.001).number == 1


def test_a_trigger_that_may_have_worked_is_not_repeated(jenkins: FakeJenkins) -> None:
    jenkins.jobs["app"] = Job()
    jenkins.faults = [("/job/app/build", "drop")]
    with pytest.raises(CIError, match="no response") as caught:
        client(jenkins).trigger("app", {}, poll=0.001)
    assert "queued all the same" in caught.value.hint
    assert jenkins.counts["POST /job/app/build"] == 1


def test_the_wait_survives_errors_of_the_server(jenkins: FakeJenkins) -> None:
    jenkins.jobs["app"] = Job()
    jenkins.faults = [
        ("/queue/item", "500"),
        ("/queue/item", "drop"),
        ("/queue/item", "503"),
        ("crumb", "502"),
    ]
    notes: list[str] = []
    assert client(jenkins, notes).trigger("app", {}, poll=0.001).number == 1
    assert TOKEN not in "".join(notes)


def test_a_build_cancelled_in_the_queue(jenkins: FakeJenkins) -> None:
    jenkins.jobs["app"] = Job(queue_cancelled=True)
    with pytest.raises(CIError, match="cancelled"):
        client(jenkins).trigger("app", {}, poll=0.001)


def test_a_wait_that_ends_early_leaves_nothing_in_the_queue(jenkins: FakeJenkins) -> None:
    jenkins.jobs["app"] = Job(queue_waits=10_000)
    with pytest.raises(CIError, match="did not leave the queue"):
        client(jenkins).trigger("app", {}, timeout=0.05, poll=0.001)
    assert all(item.cancelled for item in jenkins.queue.values())


def test_a_disabled_job_and_one_that_is_not_there(jenkins: FakeJenkins) -> None:
    jenkins.jobs["app"] = Job(disabled=True)
    with pytest.raises(CIError, match=r"did not queue|404"):
        client(jenkins).trigger("app", {}, poll=0.001)
    with pytest.raises(CIError, match="404") as caught:
        client(jenkins).trigger("nope", {}, poll=0.001)
    assert "folders" in caught.value.hint


def test_a_wrong_token_is_an_error_at_once_and_does_not_come_back_in_it(jenkins: FakeJenkins) -> None:
    jenkins.token = "other"
    with pytest.raises(CIError, match="401") as caught:
        list_nodes(client(jenkins))
    assert "API token" in caught.value.hint
    assert TOKEN not in f"{caught.value}{caught.value.detail}{caught.value.hint}"
    assert len(jenkins.calls) == 1


def test_a_log_in_page_is_not_taken_for_an_answer(jenkins: FakeJenkins) -> None:
    jenkins.faults = [("/computer", "html")]
    jenkins.want_crumb = False
    with pytest.raises(CIError, match="not JSON"):
        list_nodes(client(jenkins))


def test_the_servers_words_are_told_without_our_token(jenkins: FakeJenkins) -> None:
    jenkins.faults = [("/computer", "500")] * 9
    with pytest.raises(CIError, match="500") as caught:
        list_nodes(client(jenkins, attempts=2))
    assert "Oops" in caught.value.detail
    assert TOKEN not in caught.value.detail


# -- watch ---------------------------------------------------------------------------------------------------


def watch(jenkins: FakeJenkins, run: Run, notes: list[str] | None = None) -> tuple[str, str]:
    jenkins.jobs["a/b"] = Job(runs={7: run})
    written: list[str] = []
    result = client(jenkins, notes).watch(JenkinsBuild(job="a/b", number=7), written.append, poll=0.001)
    return "".join(written), result


def test_watch_writes_each_byte_once_with_notes_and_split_characters(jenkins: FakeJenkins) -> None:
    note = b"\x1b[8mha:AAAA+/==\x1b[0m"
    pieces = [note + b"Started\n", "gr\u00fc".encode()[:-1], "\u00fc".encode()[1:] + b"n\n", b"", b"end\n"]
    jenkins.faults = [("progressiveText", "cut"), ("progressiveText", "503"), ("progressiveText", "html")]
    assert watch(jenkins, Run(7, log=pieces, late=2)) == ("Started\ngrün\nend\n", "SUCCESS")


def test_watch_a_log_that_shrinks(jenkins: FakeJenkins) -> None:
    notes: list[str] = []
    text, _ = watch(jenkins, Run(7, log=[b"12345678\n", b"abc\n", b"end\n"], rotate_at=10), notes)
    assert text == "12345678\n[cut]\nend\n"
    assert any("was cut" in note for note in notes)


def test_watch_gives_up_in_time(jenkins: FakeJenkins) -> None:
    jenkins.jobs["a"] = Job(runs={1: Run(1, log=[b"x"] * 10_000)})
    with pytest.raises(CIError, match="did not end within"):
        client(jenkins).watch(JenkinsBuild(job="a", number=1), lambda _: None, timeout=0.05, poll=0.001)


# -- fetch ---------------------------------------------------------------------------------------------------

IMAGE = bytes(range(256)) * 5000


def artifacts(image: bytes = IMAGE, *, served: bytes | None = None) -> dict[str, bytes]:
    """What a build of ours archives, in folders as Jenkins keeps them."""
    sums = {"size": len(image), "sha1": hashlib.sha1(image).hexdigest()}
    manifest = {"name": "hello", "version": "1.0", "files": [{**sums, "compression": "none"}]}
    sha256 = hashlib.sha256(image).hexdigest()
    record = {"artifacts": [{"path": "/agent/bits/hello-1.0.oci.tar", **sums, "sha256": sha256}]}
    return {
        "bits/hello/hello-1.0.imgmanifest": json.dumps(manifest).encode(),
        "bits/hello/hello-1.0.oci.tar": image if served is None else served,
        "bits/hello/hello-1.0.buildrecord.json": json.dumps(record).encode(),
        "report/index.html": b"<html>",
    }


def built(jenkins: FakeJenkins, files: dict[str, bytes], result: str | None = "SUCCESS") -> JenkinsBuild:
    jenkins.jobs["app"] = Job(runs={3: Run(3, log=[], result=result, artifacts=files)})
    return JenkinsBuild(job="app", number=3)


def test_fetch_checks_files_against_manifest_and_record(jenkins: FakeJenkins, tmp_path: Path) -> None:
    build = built(jenkins, artifacts())
    jenkins.faults = [("oci.tar", "cut"), ("oci.tar", "drop"), ("oci.tar", "502")]
    files = {Path(file.path).name: file for file in fetch(client(jenkins), build, tmp_path)}
    assert files["hello-1.0.oci.tar"].checked_by == ("hello-1.0.buildrecord.json", "hello-1.0.imgmanifest")
    assert (tmp_path / "hello-1.0.oci.tar").read_bytes() == IMAGE
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


def test_fetch_takes_what_a_pattern_names_and_what_vouches_for_it(
    jenkins: FakeJenkins, tmp_path: Path
) -> None:
    files = fetch(client(jenkins), built(jenkins, artifacts()), tmp_path, patterns=["*/*.oci.tar"])
    assert "index.html" not in {Path(file.path).name for file in files}
    assert len(files) == 3


@pytest.mark.parametrize(
    "case", ["bytes", "short", "missing", "unvouched", "no manifest", "not json", "two", "path"]
)
def test_fetch_leaves_nothing_of_what_is_wrong(jenkins: FakeJenkins, tmp_path: Path, case: str) -> None:
    files = artifacts()
    image = "bits/hello/hello-1.0.oci.tar"
    match case:
        case "bytes":
            files[image] = IMAGE[:-1] + b"X"
        case "short":
            files[image] = IMAGE[:-1]
        case "missing":
            del files[image]
        case "unvouched":
            files["bits/other-1.0.tar.zst"] = b"?"
        case "no manifest":
            files = {image: IMAGE}
        case "not json":
            files["bits/hello/hello-1.0.imgmanifest"] = b"<html>"
        case "two":
            files["bits/again/hello-1.0.oci.tar"] = IMAGE
        case "path":
            files["bits/../../etc/x.tar"] = b"?"
    (tmp_path / "hello-1.0.oci.tar").write_bytes(b"old")
    with pytest.raises(CIError):
        fetch(client(jenkins), built(jenkins, files), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["hello-1.0.oci.tar"]
    assert (tmp_path / "hello-1.0.oci.tar").read_bytes() == b"old"


def test_fetch_of_a_build_that_failed_has_to_be_asked_for(jenkins: FakeJenkins, tmp_path: Path) -> None:
    build = built(jenkins, artifacts(), result="FAILURE")
    with pytest.raises(CIError, match="ended as FAILURE"):
        fetch(client(jenkins), build, tmp_path)
    assert fetch(client(jenkins), build, tmp_path, any_result=True)


# -- the commands --------------------------------------------------------------------------------------------


@pytest.fixture
def environment(jenkins: FakeJenkins, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setenv("JENKINS_URL", jenkins.url)
    monkeypatch.setenv("JENKINS_USER", jenkins.user)
    monkeypatch.setenv("JENKINS_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*argv: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli.command, list(argv), standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.return_value or 0, done.stdout, done.stderr


def test_agents_command(jenkins: FakeJenkins, environment: Path) -> None:
    (environment / "m.json").write_text(
        json.dumps({"os": "linux", "build": {"image": "scratch", "pool": "overlay:/x"}})
    )
    jenkins.nodes = [node("one", labels=("pool-overlay",)), node("two", labels=("pool-dir",))]
    status, out, _ = run("agents", "--for", "m.json", "--json")
    shown = json.loads(out)
    assert (status, [it["able"] for it in shown["agents"]]) == (0, [True, False])
    status, out, _ = run("agents", "--for", "m.json", "--arch", "arm64")
    assert status == 3
    assert "no   one" in out
    assert "architecture is amd64, and arm64 is needed" in out


@pytest.mark.parametrize(
    ("result", "status"),
    [("SUCCESS", 0), ("UNSTABLE", 4), ("FAILURE", 4), ("NOT_BUILT", 3), ("ABORTED", 143)],
)
def test_watch_commands_exit_code_is_the_result(
    jenkins: FakeJenkins, environment: Path, result: str, status: int
) -> None:
    jenkins.jobs["app"] = Job(runs={1: Run(1, log=[b"one\n"], result=result)})
    code, out, err = run("watch", "app")
    assert (code, out) == (status, "one\n")
    assert f"app 1: {result}" in err


def test_trigger_and_fetch_commands(jenkins: FakeJenkins, environment: Path) -> None:
    (environment / "secret").write_text("s3cr3t\n")
    jenkins.jobs["app"] = Job(
        parametrized=True, queue_waits=0, next_run=Run(1, log=[b"x\n"], artifacts=artifacts())
    )
    code, out, _ = run("trigger", "app", "-p", "A=1=2", "--parameter-file", "S=secret", "--watch", "--json")
    assert (code, json.loads(out)["result"]) == (0, "SUCCESS")
    assert jenkins.jobs["app"].runs[1].parameters == {"A": ["1=2"], "S": ["s3cr3t"]}
    code, out, _ = run("fetch", "app", "-o", "got", "--json")
    assert code == 0
    assert len(json.loads(out)["files"]) == 4
    assert (environment / "got/hello-1.0.imgmanifest").is_file()
