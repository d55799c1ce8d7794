"""The object that an action gets: what its service is, and what actions need to do."""

from __future__ import annotations

import base64
import json
import os
import re
import string
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from buildstep.services.runtime import commands, files, host, ports
from buildstep.services.runtime.answers import Failure
from buildstep.services.runtime.records import Records, state_root

_REFERENCE = re.compile(r"\$\(([\w.]+)\)")


class Process:
    """A process of a service: the fields of `interface.Process`."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.number: int = data["number"]
        self.name: str = data["name"]
        self.argv: list[str] = list(data["argv"])
        self.directory: str = data["directory"]
        self.environment: dict[str, str] = dict(data["environment"])
        self.user: str = data["user"]
        self.priority: int = data["priority"]
        self.ports: list[int] = list(data["ports"])
        self.pattern: str = data["pattern"]
        self.manager: str = data["manager"]
        self.start_seconds: float = data["start_seconds"]
        self.stop_seconds: float = data["stop_seconds"]


class Facts:
    """What is known of a service: the fields of `interface.Facts`, as attributes."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.key: str = data["key"]
        self.name: str = data["name"]
        self.instance: str = data["instance"]
        self.role: str = data["role"]
        self.domain: str = data["domain"]
        self.version: str = data["version"]
        self.values: dict[str, Any] = {key: _value(value) for key, value in data["values"].items()}
        self.producers: dict[str, list[Facts]] = {
            role: [Facts(one) for one in some] for role, some in data["producers"].items()
        }
        # A stable order whatever the sender's: by priority, then by number.
        processes = [Process(one) for one in data["processes"]]
        self.processes = sorted(processes, key=lambda one: (one.priority, one.number))
        self.packages: list[str] = list(data["packages"])
        self.users: list[dict[str, Any]] = [dict(one) for one in data["users"]]
        self.files: dict[str, str] = dict(data["files"])
        self.trees: dict[str, str] = dict(data["trees"])
        self.folder: str | None = data["folder"]

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of an entry of the template or the instance; default: where there is none."""
        return self.values.get(key, default)

    def __getitem__(self, key: str) -> Any:
        """Return the value of an entry. Raises Failure with the near ones, if there is none."""
        if key not in self.values:
            import difflib

            near = difflib.get_close_matches(key, self.values, 1)
            raise Failure(f"{self.key} has no value {key}" + (f": did you mean {near[0]}?" if near else ""))
        return self.values[key]

    def __repr__(self) -> str:
        return f"<service {self.key}>"


class Service(Facts):
    """A service as its actions see it: facts as attributes, and methods for what actions do.

    changed: what `set` was given. arguments: of the action.
    """

    def __init__(self, call: Mapping[str, Any]) -> None:
        super().__init__(call["facts"])
        place = call.get("place") or {}
        self.side: str = call["side"]
        self.in_image: bool = bool(place.get("timeless"))
        self.arguments: dict[str, Any] = dict(call["arguments"])
        self.changed: dict[str, Any] = {}
        self.records = Records(state_root(place.get("state")), self.key)
        self._secrets: dict[str, str] = dict(call["secrets"])

    # -- what it is ----------------------------------------------------------------------------------------

    def secret(self, name: str) -> str:
        """Return a secret. Raises Failure, which has the names of those there are."""
        if name not in self._secrets:
            known = ", ".join(sorted(self._secrets)) or "none"
            raise Failure(f"{self.key} has no secret {name}; it has {known}")
        return self._secrets[name]

    def set(self, key: str, value: Any) -> None:
        """Change an entry of the instance: written to its `instance.hrd` once the action is done."""
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise Failure(f"{key} cannot be set: {error}") from None
        self.changed[key] = value
        self.values[key] = value

    def producer(self, key: str) -> Facts:
        """Return a service that this one uses, by its key or its role. Raises Failure."""
        for role, some in self.producers.items():
            for one in some:
                if key in (one.key, role):
                    return one
        raise Failure(f"{self.key} uses no service {key}")

    def default(self, action: str, **arguments: Any) -> Any:
        """Run our own action in place of the class's, or as a part of it."""
        from buildstep.services.runtime.defaults import BASES

        return getattr(BASES[self.side](), action)(self, **arguments)

    def fail(self, message: str, *, retryable: bool = False) -> None:
        """End the action: it failed. retryable: whether beginning it again may help."""
        raise Failure(message, retryable=retryable)

    def log(self, text: object) -> None:
        """Print a line to the action's log; print() does the same."""
        sys.stdout.write(f"{text}\n")

    # -- files ---------------------------------------------------------------------------------------------

    def render(self, text: str, **more: Any) -> str:
        """Put values into a text: `$(param.port)` as in HRD. Raises Failure that names all unknown ones."""
        names = self._names(more)
        missing = sorted({match.group(1) for match in _REFERENCE.finditer(text)} - set(names))
        if missing:
            raise Failure(f"a text of {self.key} refers to what is not there: {', '.join(missing)}")
        return _REFERENCE.sub(lambda match: _text(names[match.group(1)]), text)

    def render_template(self, path: str, **more: Any) -> str:
        """Put values into a file beside the actions. One that ends in `.j2` goes through jinja2, which must
        be there, with `service` and `more`; in one that ends in `.tmpl`, `$name` and `${name}` are
        replaced (string.Template) with values of `more`; any other as `render` does. Raises Failure."""
        text = self.read(path)
        if path.endswith(".j2"):
            try:
                import jinja2
            except ImportError:
                raise Failure(
                    f"{path} is a template of jinja2, which is not there: install python3-jinja2"
                ) from None
            environment = jinja2.Environment(  # noqa: S701 - configuration, not HTML
                undefined=jinja2.StrictUndefined, keep_trailing_newline=True
            )
            return str(environment.from_string(text).render(service=self, **more))
        if path.endswith(".tmpl"):
            try:
                return string.Template(text).substitute(more)
            except (KeyError, ValueError) as error:
                raise Failure(f"{path}: {error}") from None
        return self.render(text, **more)

    def read(self, path: str) -> str:
        """Return the text of a file; a relative path is from the service's directory. Raises Failure."""
        whole = os.path.join(self.folder or "/", path)
        try:
            with open(whole, encoding="utf-8", errors="surrogateescape") as file:
                return file.read()
        except OSError as error:
            raise Failure(f"{whole}: {error.strerror}") from None

    def write_file(
        self, path: str, text: str | bytes, *, mode: int = 0o644, user: str = "", group: str = ""
    ) -> bool:
        """Write a file, whole or not at all, with its mode and owner; return whether anything changed."""
        return files.put(path, text, mode=mode, user=user, group=group)

    def ensure_dir(self, path: str, *, mode: int = 0o755, user: str = "", group: str = "") -> bool:
        """Have a directory with this mode and owner, and those above it; return whether anything changed."""
        return files.put_directory(path, mode=mode, user=user, group=group)

    # -- the system ----------------------------------------------------------------------------------------

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        retryable: bool = False,
        env: Mapping[str, str] | None = None,
        **more: Any,
    ) -> commands.Result:
        """Run a command, given as a list of words; what it prints goes to the action's log.

        check: a status other than 0 is a Failure, retryable or not. env: variables besides the usual ones.
        more: `cwd`, `user`, `text` (its standard input), `capture` (what it prints on standard output is in
        the result instead).
        """
        result = commands.run(argv, commands.Options(env=dict(env or {}), **more))
        if check and result.status:
            raise Failure(f"{argv[0]} {result.ended}", retryable=retryable)
        return result

    def ensure_user(self, name: str, **wanted: Any) -> bool:
        """Have an account: `uid`, `gid`, `group`, `groups`, `home`, `shell` as wanted; return whether it was
        made. Raises Failure where one of this name is there with other numbers."""
        return host.ensure_user({"name": name, **wanted})

    def ensure_packages(self, *names: str, start: bool = False) -> list[str]:
        """Have packages of the system; return those that were installed. start: whether a package may start
        the daemon that it brings; without it the package manager is told not to."""
        from buildstep.services.runtime import packages

        return packages.ensure(names, start=start)

    def wait_port(self, port: int, seconds: float = 10.0, address: str = "") -> None:
        """Wait until somebody listens on a port: here, or at an address. Raises Failure."""
        if not ports.wait(port, seconds, address):
            raise Failure(
                f"nothing listens on {address + ':' if address else 'port '}{port} after {seconds:g} s"
            )

    def _names(self, more: Mapping[str, Any]) -> dict[str, Any]:
        parts = {"name": self.name, "instance": self.instance, "role": self.role, "domain": self.domain}
        return {**parts, **self.values, **more}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _value(value: Any) -> Any:
    """Return a value as it was told to `wire.plain`: bytes are an object of one key there."""
    if isinstance(value, dict):
        if list(value) == ["$bytes"]:
            return base64.b64decode(value["$bytes"])
        return {key: _value(item) for key, item in value.items()}
    return [_value(item) for item in value] if isinstance(value, list) else value
