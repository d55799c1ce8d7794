"""Every failure a caller or a script may branch on, and the exit code that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar


class ExitCode(IntEnum):
    """Exit codes of every command. They are an interface: documented, tested, never reused."""

    OK = 0
    BUG = 1
    USAGE = 2
    NOTHING_TO_DO = 3
    COMMAND_FAILED = 4
    TOOL_MISSING = 5
    DISK = 6
    DATASET = 10
    IMAGE = 11
    INSTALL = 12
    SANDBOX = 13
    EMIT = 14
    GRAPH = 15
    STORE = 16
    PUBLISH = 17
    CI = 18
    SIGNING = 19
    GATE = 20
    REGISTER = 21
    INCOMPLETE = 22
    SERVICE = 23
    LOCK = 24
    CHECK = 25
    SHARED_CACHE = 26
    UNSIGNED = 30
    WRONG_KEY = 31
    WRONG_SUBJECT = 32
    EXPIRED = 33
    DENIED = 34
    VULNERABLE = 35
    NO_DATABASE = 36
    DIFFERENT = 37
    INPUT_MISSING = 38


class BuildstepError(Exception):
    """A failure that we understand.

    message: what happened and where, one line. detail: more lines, such as a command's last output.
    hint: what to do next. retryable: whether the same call could succeed later.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.BUG

    def __init__(self, message: str, *, detail: str = "", hint: str = "", retryable: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint
        self.retryable = retryable

    @property
    def code(self) -> int:
        """The process's exit status for this failure."""
        return int(self.exit_code)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are pickled by what their class was called with, which is not all that ours hold.
        return _remake, (type(self), self.args, self.__dict__)


def _remake(kind: type[BuildstepError], args: tuple[Any, ...], state: Mapping[str, Any]) -> BuildstepError:
    """Return an error that another process has raised."""
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class UsageError(BuildstepError):
    """Wrong flags, configuration or input."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One thing wrong with an input. `where` is a JSON path ($.build.packages[0]) or an option."""

    where: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}"
        return f"{text} ({self.hint})" if self.hint else text


class SpecError(UsageError):
    """An input with faults; all of them are reported together."""

    def __init__(self, source: str, faults: Sequence[Fault]) -> None:
        assert faults, "a SpecError needs at least one fault"
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__(f"{source}: {count}", detail="\n".join(f"  {f}" for f in faults))
        self.source = source
        self.faults = tuple(faults)


@dataclass(frozen=True, kw_only=True, slots=True)
class InImage:
    """How a command in an image was run: variables of its own, whether it had the network, and the
    directories of the CI host that it was shown, in order: where they are, where in the image, whether it
    could write."""

    env: Mapping[str, str]
    network: bool
    shares: tuple[tuple[Path, str, bool], ...] = ()


class CommandFailed(BuildstepError):
    """A command ended with a status that means failure, or was ended. limit: what it reached, if any;
    errors: what it said beside its answer, where an answer was wanted: first and last lines; inside: how it
    was run in an image, None for one on the CI host."""

    exit_code = ExitCode.COMMAND_FAILED
    inside: InImage | None = None

    def __init__(
        self,
        argv: Sequence[str],
        status: int,
        *,
        detail: str = "",
        hint: str = "",
        what: str = "",
        limit: str = "",
        errors: str = "",
    ) -> None:
        ended = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
        prefix = f"{what}: " if what else ""
        super().__init__(f"{prefix}{argv[0]} {ended}", detail=detail, hint=hint)
        self.argv = tuple(argv)
        self.status = status
        self.limit = limit
        self.errors = errors


class ToolMissing(BuildstepError):
    """A program or library that this job needs is not there."""

    exit_code = ExitCode.TOOL_MISSING


class DiskError(BuildstepError):
    """A file system that is full, over its quota, read-only or failing, whichever step found it out."""

    exit_code = ExitCode.DISK


class DatasetError(BuildstepError):
    """A pool or a dataset in it."""

    exit_code = ExitCode.DATASET


class ImageError(BuildstepError):
    """A base image: not found, not as described, or in use."""

    exit_code = ExitCode.IMAGE


class InstallError(BuildstepError):
    """A package manager inside the image."""

    exit_code = ExitCode.INSTALL


class SandboxError(BuildstepError):
    """The chroot, its mounts, or its namespaces."""

    exit_code = ExitCode.SANDBOX


class EmitError(BuildstepError):
    """Writing an image, its manifest or its record."""

    exit_code = ExitCode.EMIT


class StoreError(BuildstepError):
    """A content store or its files."""

    exit_code = ExitCode.STORE


class PublishError(BuildstepError):
    """Handing an artifact to another system."""

    exit_code = ExitCode.PUBLISH


class CIError(BuildstepError):
    """A CI server."""

    exit_code = ExitCode.CI


class SigningError(BuildstepError):
    """Signatures and keys."""

    exit_code = ExitCode.SIGNING


class UnsignedError(SigningError):
    """Something that has to be signed, or proved by a signed statement, and is not."""

    exit_code = ExitCode.UNSIGNED


class WrongKeyError(SigningError):
    """A signature by a key that is not trusted here, or of other bytes than those that are there."""

    exit_code = ExitCode.WRONG_KEY


class WrongSubjectError(SigningError):
    """A good signature, of something else."""

    exit_code = ExitCode.WRONG_SUBJECT


class ExpiredError(SigningError):
    """A signature by a key, or an exception of a policy, whose time is over or has not come."""

    exit_code = ExitCode.EXPIRED


class DeniedError(SigningError):
    """A policy that does not allow what is there: a signer, a builder, a statement that is missing."""

    exit_code = ExitCode.DENIED


class VulnerableError(BuildstepError):
    """Known vulnerabilities in an image, of which the gate says that it must not have them."""

    exit_code = ExitCode.VULNERABLE
    found: Mapping[str, Any] = MappingProxyType({})
    """For the record of a build: what it says of vulnerabilities under `trust`."""


class NoDatabaseError(BuildstepError):
    """No database of vulnerabilities, or none for this system: nothing is known, and that is not all well."""

    exit_code = ExitCode.NO_DATABASE


class DifferentError(BuildstepError):
    """Two builds of the same inputs that gave different images."""

    exit_code = ExitCode.DIFFERENT


class InputMissingError(BuildstepError):
    """An input of a recorded build that is not here, or is not what it was."""

    exit_code = ExitCode.INPUT_MISSING


class GateError(BuildstepError):
    """A limit that the caller asked for is exceeded. A comparison is done then; a build gives out nothing."""

    exit_code = ExitCode.GATE


class LockError(BuildstepError):
    """A lock: it is not about what is asked for, not current, or something that it names is gone."""

    exit_code = ExitCode.LOCK


class SharedCacheError(BuildstepError):
    """The shared cache cannot be used, and whoever builds demands that it is."""

    exit_code = ExitCode.SHARED_CACHE


class CheckError(BuildstepError):
    """A finished image is not what it has to be; it is not given out."""

    exit_code = ExitCode.CHECK


class Interrupted(BaseException):
    """A signal asked us to stop; the exit status is 128 + its number.

    No BuildstepError, and no Exception: it may come anywhere, and what makes do without a thing that failed
    must not take it for such a failure.
    """

    detail: ClassVar[str] = ""
    hint: ClassVar[str] = ""

    def __init__(self, signum: int, name: str) -> None:
        super().__init__(signum, name)
        self.signum = signum
        self.message = f"stopped by {name}"

    def __str__(self) -> str:
        return self.message

    @property
    def code(self) -> int:
        return 128 + self.signum
