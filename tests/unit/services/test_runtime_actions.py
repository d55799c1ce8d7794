"""Actions that go right and wrong in every way: each ends in a typed outcome, and leaves no process."""

from __future__ import annotations

import ast
import os
import resource
import time
from dataclasses import replace
from pathlib import Path

import pytest

from buildstep.services.interface import Action, Answer, Facts, Side
from buildstep.services.places import talk
from buildstep.services.runtime import answers, proc
from tests.unit.services.calls import Bench

pytestmark = pytest.mark.commands


def runs(pid: int) -> bool:
    found = proc.entry(pid)
    return found is not None and found.state not in "ZX"


def gone(pid: int) -> bool:
    return proc.wait_until(lambda: not runs(pid), 5)


RETURNED = [
    (Action.START, "None", Answer.OK, ""),
    (Action.START, "True", Answer.OK, ""),
    (Action.START, "False", Answer.FAILED, "start returned False"),
    (Action.CHECK_UP, "False", Answer.NOT, ""),
    (Action.CONFIGURE, "'r'", Answer.RESTART, ""),
    (Action.CONFIGURE, "'nr'", Answer.NO_RESTART, ""),
    (Action.CONFIGURE, "'restart'", Answer.RESTART, ""),
    (Action.START, "'nr'", Answer.FAILED, "start returned 'nr': none of True, None, False, 'ok', 'failed'"),
    (Action.START, "5", Answer.FAILED, "start returned 5: none of True, None, False, 'ok', 'failed'"),
    (Action.TEST, "object", Answer.FAILED, "test returned what has no form in JSON: Object of type type is"),
]


@pytest.mark.parametrize(("action", "value", "answer", "message"), RETURNED)
def test_what_an_action_returns_is_an_answer(
    bench: Bench, action: Action, value: str, answer: Answer, message: str
) -> None:
    outcome = bench.run(action, f"def {action}(self, service): return {value}")
    assert outcome.answer is answer
    assert outcome.message.startswith(message)


@pytest.mark.parametrize("action", list(Action))
def test_every_action_turns_true_none_and_false_into_an_answer_of_its_own(action: Action) -> None:
    assert answers.answer_of(action, True) == answers.answer_of(action, None) == ("ok", "", None)
    said = Answer(answers.answer_of(action, False)[0])
    assert said is (Answer.NOT if action in answers.CHECKS else Answer.FAILED)
    assert answers.answer_of(action, 2.5)[0] == ("ok" if action in answers.WITH_RESULT else "failed")
    for name in Answer:
        given = Answer(answers.answer_of(action, name.value)[0])
        assert given in (name, Answer.FAILED) or (action in answers.WITH_RESULT and given is Answer.OK)


def test_the_runtime_knows_the_actions_and_answers_of_the_contract() -> None:
    assert set(answers.ACTIONS) == {action.value for action in Action}
    own = {answers.OK, answers.NOT, answers.FAILED, answers.RESTART, answers.NO_RESTART}
    assert own == {answer.value for answer in Answer}


BAD = [
    ("raise ValueError('no such thing')", "ValueError: no such thing (actions_node.py:7)"),
    ("raise Failure('it is full')", "it is full"),
    ("service.fail('it is full')", "it is full"),
    ("sys.exit(3)", "it called sys.exit(3)"),
    ("raise KeyboardInterrupt", "KeyboardInterrupt (actions_node.py:7)"),
    ("os._exit(0)", "it ended with status 0 and gave no answer"),
    ("os.kill(os.getpid(), signal.SIGSEGV)", "it was killed by SIGSEGV and gave no answer"),
    ("os.closerange(3, 4096)", "it ended with status 1 and gave no answer"),
    ("os.write(200, b'hello')", "its answer cannot be read: something else was written"),
    ("service.secret('nothing')", "x!main has no secret nothing; it has none"),
    ("service['param.prot']", "x!main has no value param.prot: did you mean param.port?"),
    ("service.render('$(param.port) $(a.b) $(c)')", "a text of x!main refers to what is not there: a.b, c"),
    ("service.run('ls /')", "a command is a list of words, not 'ls /'"),
    ("service.run(['no-such-program'])", "the program no-such-program is not installed"),
    ("service.run(['sh', '-c', 'exit 3'])", "sh exited with status 3"),
    ("service.set('k', object())", "k cannot be set: Object of type object is not JSON serializable"),
    ("service.write_file('relative', 'x')", "'relative' is no absolute path"),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_an_action_that_fails_says_why(bench: Bench, line: str, message: str) -> None:
    outcome = bench.run(
        Action.START, f"def start(self, service):\n  {line}", facts={"values": {"param.port": 1}}
    )
    assert (outcome.answer, outcome.message[: len(message)]) == (Answer.FAILED, message)
    assert bench.place.done("x!main") == {}


FILES = [
    ("class Other:\n    pass\n", "has no class Actions"),
    ("def (:\n", "SyntaxError: invalid syntax"),
    ("import no_such_module_here\n", "ModuleNotFoundError: No module named 'no_such_module_here'"),
    ("class Actions:\n    start = 5\n", "start of the class Actions is no method"),
    ("class Actions:\n    def start(self, service, more): pass\n", "missing a required argument: 'more'"),
    ("import buildstep.system\n", "ModuleNotFoundError: No module named 'buildstep.system'"),
]


@pytest.mark.parametrize(("text", "message"), FILES, ids=range(len(FILES)))
def test_a_file_that_cannot_be_used_is_a_failure_that_says_why(bench: Bench, text: str, message: str) -> None:
    (bench.folder / "actions_node.py").write_text(text)
    call = replace(bench.call(Action.START), source=bench.folder / "actions_node.py")
    outcome = bench.place.run(call, bench.lines.append, bench.stopped)
    assert outcome.answer is Answer.FAILED
    assert message in outcome.message


def test_a_class_without_a_base_gets_our_own_for_what_it_lacks(bench: Bench) -> None:
    bench.source("def start(self, service): return False", head="class Actions:\n")
    source = bench.folder / "actions_node.py"
    for action, answer in ((Action.START, Answer.FAILED), (Action.CHECK_UP, Answer.OK)):
        call = replace(bench.call(action), source=source)
        assert bench.place.run(call, bench.lines.append, bench.stopped).answer is answer


def test_an_action_gets_its_service_its_secrets_and_its_arguments(bench: Bench) -> None:
    redis = Facts(key="redis!main", name="redis", instance="main", role="redis", values={"port": 6379})
    body = """
    def consume(self, service, producer):
        service.set("port", producer["port"])
        return [service.key, producer.key, service.secret("login"), service.producers["redis"][0].name][:2]
    """
    outcome = bench.run(
        Action.CONSUME,
        body,
        facts={"producers": {"redis": [redis]}},
        arguments={"producer": "redis!main"},
        secrets={"login": "s3cr3t"},
    )
    assert outcome.answer is Answer.OK
    assert outcome.result == ["x!main", "redis!main"]
    assert outcome.values == {"port": 6379}


def test_the_old_form_of_data_import_gets_the_id_first(bench: Bench) -> None:
    body = "def data_import(self, id, service): return [id, service.key]"
    assert bench.run(Action.DATA_IMPORT, body, arguments={"id": "7"}).result == ["7", "x!main"]


def test_standard_input_is_empty_and_bytes_that_are_no_text_are_shown(bench: Bench) -> None:
    body = """
    def start(self, service):
        print(repr(sys.stdin.read()), flush=True)
        os.write(1, b"\\xff\\xfe\\n")
        service.run(["cat"])
        print("no end", end="")
    """
    assert bench.run(Action.START, body).answer is Answer.OK
    assert bench.lines == ["''", "\\xff\\xfe", "no end"]


def test_an_action_that_prints_a_lot_is_heard_to_its_end(bench: Bench) -> None:
    body = """
    def start(self, service):
        for n in range(50_000): print("x" * 100, n)
        print("y" * 3_000_000)
    """
    assert bench.run(Action.START, body).answer is Answer.OK
    assert bench.lines[49_999].endswith(" 49999")
    assert sum(line.count("y") for line in bench.lines) == 3_000_000


def test_secrets_are_hidden_in_lines_and_messages(bench: Bench) -> None:
    secret = "p4ss'w\\rd/+=x"
    body = """
    def start(self, service):
        import base64
        value = service.secret("login")
        print(value)
        print(repr(value))
        print(base64.b64encode(("user:" + value).encode()).decode())
        os.write(1, value[:5].encode()); time.sleep(0.1); os.write(1, value[5:].encode() + b"\\n")
        print("z" * 70_000 + value + "z" * 70_000)
        service.run(["printf", "%s\\n", value])
        raise Failure("cannot log in with " + value)
    """
    outcome = bench.run(Action.START, body, secrets={"login": secret})
    assert outcome.message == "cannot log in with ***"
    assert bench.lines[0] == "***"
    assert "z***z" in "".join(bench.lines)
    assert not [line for line in bench.lines if "p4ss" in line or "OnA0c3" in line]


def test_a_secret_in_a_value_or_a_result_is_a_failure(bench: Bench) -> None:
    body = "def init(self, service): service.set('k', 'x' + service.secret('login'))"
    outcome = bench.run(Action.INIT, body, secrets={"login": "p4ssword"})
    assert (outcome.answer, outcome.values) == (Answer.FAILED, {})
    assert "has a secret in it" in outcome.message


def test_an_action_that_takes_too_long_is_ended_even_if_it_ignores_sigterm(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = """
    def start(self, service):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen(["sh", "-c", "trap '' TERM; echo $$; while :; do sleep 1; done"], start_new_session=True)
        print(os.getpid(), flush=True)
        while True: time.sleep(1)
    """
    begun = time.monotonic()
    outcome = bench.run(Action.START, body, timeout=0.5)
    assert (outcome.answer, outcome.message) == (Answer.FAILED, "it did not end within 0.5 s")
    assert time.monotonic() - begun < 8
    pids = [
        int(line) for line in bench.lines if line.isdigit()
    ]  # the shell may say that its sleep was killed
    assert len(pids) == 2
    assert all(map(gone, pids))


def test_what_an_action_leaves_in_its_session_is_ended_and_a_daemon_stays(bench: Bench) -> None:
    body = """
    def start(self, service):
        left = subprocess.Popen(["sleep", "60"])
        daemon = subprocess.Popen(["sleep", "60"], start_new_session=True)
        print(left.pid, daemon.pid, flush=True)
        if os.fork() == 0:
            print("from the fork", flush=True)  # and returns: only one of the two may answer
        return True
    """
    outcome = bench.run(Action.START, body)
    left, daemon = map(int, bench.lines[0].split())
    try:
        assert outcome.answer is Answer.OK
        assert outcome.seconds < 5  # the daemon has the output's pipe open
        assert gone(left)
        assert runs(daemon)
    finally:
        os.kill(daemon, 9)


def test_a_background_process_that_prints_for_ever_does_not_hold_the_outcome_back(bench: Bench) -> None:
    body = "def start(self, service): subprocess.Popen(['yes'])"
    assert bench.run(Action.START, body).answer is Answer.OK


def test_only_a_failure_that_says_so_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    body = """
    def start(self, service):
        with open("tries", "a") as file: file.write("x")
        if os.path.getsize("tries") < 2: raise Failure("not yet", retryable=True)
    def stop(self, service):
        with open("stops", "a") as file: file.write("x")
        raise Failure("never")
    """
    outcome = bench.run(Action.START, body, tries=3)
    assert (outcome.answer, outcome.tries) == (Answer.OK, 2)
    assert bench.lines == ["not yet; trying again in 1 s"]
    assert bench.run(Action.STOP, body, tries=3).tries == 1
    assert (bench.folder / "stops").read_text() == "x"


def test_a_run_that_is_stopped_ends_its_action(bench: Bench) -> None:
    bench.stopped.set()
    outcome = bench.run(Action.START, "def start(self, service): time.sleep(60)")
    assert (outcome.answer, outcome.message) == (Answer.FAILED, "it was stopped")


def test_an_action_that_completed_is_recorded_and_one_that_begins_anew_is_not(bench: Bench) -> None:
    body = """
    def configure(self, service):
        if os.path.exists("bad"): raise Failure("bad")
        return "nr"
    """
    bench.run(Action.CONFIGURE, body, token="t1", digest="d1")
    done = bench.place.done("x!main")[Side.NODE, Action.CONFIGURE]
    assert (done.digest, done.token, done.outcome.answer) == ("d1", "t1", Answer.NO_RESTART)
    (bench.folder / "bad").touch()
    assert bench.run(Action.CONFIGURE, body).answer is Answer.FAILED
    assert bench.place.done("x!main") == {}
    bench.place.forget("x!main")
    assert list(bench.state.iterdir()) == []
    bench.place.forget("x!main")


def test_the_runtime_needs_no_newer_python_than_3_9_and_nothing_but_the_standard_library() -> None:
    import sys

    newer = {"StrEnum", "tomllib", "zoneinfo_utc", "batched", "pairwise", "ExceptionGroup", "removeprefix_"}
    for path in sorted(Path(talk.RUNTIME).rglob("*.py")):
        tree = ast.parse(path.read_text(), feature_version=(3, 9))
        assert "from __future__ import annotations" in path.read_text()
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
                assert not newer & {alias.name for alias in node.names}, path
            for name in names:
                ours = name == "buildstep.services.runtime" or name.startswith("buildstep.services.runtime.")
                assert ours or name.partition(".")[0] in {*sys.stdlib_module_names, "jinja2"}, (path, name)
            if isinstance(node, ast.Call):
                assert "slots" not in [keyword.arg for keyword in node.keywords], path
                assert not (isinstance(node.func, ast.Name) and node.func.id == "zip" and node.keywords), path


def test_an_action_runs_where_few_files_may_be_open(bench: Bench) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        outcome = bench.run(Action.CONFIGURE, "def configure(self, service): return True")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert outcome.answer is Answer.OK, outcome.message
