"""What can go wrong with the guest itself, as opposed to the command that runs in it."""

from __future__ import annotations


class GuestError(Exception):
    """The guest could not be made, started or finished. `detail` is a log's tail, `hint` a way out."""

    def __init__(self, message: str, *, detail: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.message]
        lines += [f"  | {line}" for line in self.detail.splitlines()]
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)


class GuestTimeoutError(GuestError):
    """The guest was still running when its time was up; it has been killed."""
