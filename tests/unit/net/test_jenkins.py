"""The Jenkins client against a server on loopback that speaks Jenkins's protocol, with its faults."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildstep.errors import CIError, UsageError
from buildstep.events import Bus, Event, Note
from buildstep.net.jenkins import JenkinsBuild, JenkinsServer
from buildstep.net.jenkins_agents import list_nodes
from buildstep.net.jenkins_login import Login, login
from tests.servers.jenkins import FakeJenkins, Job, Run, serving

TOKEN = "11aa22bb"


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


# -- stop ----------------------------------------------------------------------------------------------------


class EnoughError(Exception):
    pass


def enough(_seconds: float = 0.0) -> None:
    raise EnoughError


def test_a_build_is_stopped_and_what_waits_is_taken_out_of_the_queue(jenkins: FakeJenkins) -> None:
    jenkins.jobs["job"] = Job(parametrized=True, queue_waits=0, next_run=Run(1, log=[b"x"] * 1000))
    build = client(jenkins).trigger("job", {"A": "b"}, poll=0.01)
    with pytest.raises(EnoughError):
        client(jenkins).watch(build, lambda _text: None, poll=0.01, each=enough)
    client(jenkins).stop(build)
    assert jenkins.jobs["job"].runs[1].result == "ABORTED"
    client(jenkins).stop(build)
    jenkins.jobs["job"] = Job(parametrized=True, queue_waits=1000, parameters=("A",))
    with pytest.raises(EnoughError):
        client(jenkins).trigger("job", {"A": "b"}, poll=0.01, each=enough)
    assert jenkins.queue[26].cancelled
    assert client(jenkins).parameters("job") == ["A"]


def test_pauses_can_be_ended(jenkins: FakeJenkins) -> None:
    jenkins.faults = [("api/json", "503")]
    server = client(jenkins, sleep=enough)  # type: ignore[arg-type]
    with pytest.raises(EnoughError):
        list_nodes(server)
