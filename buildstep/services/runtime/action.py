"""The process of one action: load its class, find its method, call it, say what came of it."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, TextIO

from buildstep.services.runtime import answers
from buildstep.services.runtime.answers import Failure
from buildstep.services.runtime.defaults import BASES
from buildstep.services.runtime.service import Service

_NO_ANSWER = 1


def child(call: dict[str, Any], answer: int) -> None:
    """Run a call's action and write what it said, as JSON, to a descriptor. Never returns."""
    pid = os.getpid()
    sys.stdout, sys.stderr = (_to_log(fd) for fd in (1, 2))
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - of /dev/null, to the end of the process
    os.umask(0o022)
    folder = call["facts"]["folder"]
    os.chdir(folder if folder and os.path.isdir(folder) else "/")
    said = perform(call)
    if os.getpid() != pid:
        os._exit(0)  # the action forked, and its child came back here too
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the action has closed it
            stream.flush()
    status = _NO_ANSWER
    try:
        data = json.dumps(said, allow_nan=False).encode("utf-8", "surrogatepass")
        while data:
            data = data[os.write(answer, data) :]
        status = 0
    finally:
        os._exit(status)


def _to_log(fd: int) -> TextIO:
    return open(fd, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)


def perform(call: dict[str, Any]) -> dict[str, Any]:
    """Run a call's action in this process; return what it said, and whether to try again."""
    service = Service(call)
    said: dict[str, Any] = {"result": None, "retryable": False}
    try:
        method = method_of(load(call["source"]) if call["source"] else None, call["side"], call["action"])
        value = _called(method, service, call)
        said["answer"], said["message"], said["result"] = answers.answer_of(call["action"], value)
    except Failure as error:
        said.update(answer=answers.FAILED, message=str(error), retryable=error.retryable)
    except SystemExit as error:
        said.update(answer=answers.FAILED, message=f"it called sys.exit({error.code!r})")
    except BaseException as error:  # noqa: BLE001 - whatever an action raises is its failure, and is told
        traceback.print_exc()
        said.update(answer=answers.FAILED, message=_described(error, call["source"]))
    return {**said, "values": service.changed}


def load(path: str) -> Any:
    """Return a new object of the class `Actions` of a file. Raises Failure."""
    if not os.path.isfile(path):
        raise Failure(f"there is no {path}")
    sys.dont_write_bytecode = True  # the file lies in a repository
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise Failure(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, os.path.dirname(path))  # for modules that lie beside it
    spec.loader.exec_module(module)
    actions = getattr(module, "Actions", None)
    if not inspect.isclass(actions):
        raise Failure(f"{path} has no class Actions")
    return actions()


def method_of(actions: Any, side: str, action: str) -> Callable[..., Any]:
    """Return the method for an action: of the class, or else of our own for this side."""
    method = getattr(actions, action, None)
    if method is None:
        method = getattr(BASES[side](), action)
    if not callable(method):
        raise Failure(f"{action} of the class Actions is no method")
    return method  # type: ignore[no-any-return]


def _called(method: Callable[..., Any], service: Service, call: dict[str, Any]) -> Any:
    given = dict(call["arguments"])
    if "producer" in given:
        given["producer"] = service.producer(given["producer"])
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):
        return method(service)
    names = [
        name
        for name, one in signature.parameters.items()
        if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    # The one method whose old form has the service second.
    first = [given.pop("id"), service] if names[:1] == ["id"] and "id" in given else [service]
    takes_all = any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values())
    taken = {name: value for name, value in given.items() if takes_all or name in signature.parameters}
    try:
        signature.bind(*first, **taken)
    except TypeError as error:
        raise Failure(f"{call['action']}{signature} of the class Actions: {error}") from None
    return method(*first, **taken)


def _described(error: BaseException, source: str | None) -> str:
    """Return an error in a line, with the place in the action's file where it came from."""
    text = " ".join(str(error).split())
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source]
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {text}"
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"
