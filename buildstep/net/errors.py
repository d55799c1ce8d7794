"""The error that HTTP clients raise, and texts that may stand in it: nothing secret, one line."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit, urlunsplit

from buildstep.errors import StoreError

if TYPE_CHECKING:
    from buildstep.net.request import HttpResponse


class HttpError(StoreError):
    """A call that failed.

    status: of the response, 0 if none came. server_code: the server's own error code, such as NoSuchBucket.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        server_code: str = "",
        response: HttpResponse | None = None,
        detail: str = "",
        hint: str = "",
        retryable: bool = False,
    ) -> None:
        super().__init__(message, detail=detail, hint=hint, retryable=retryable)
        self.status = status
        self.server_code = server_code
        self.response = response

    def explained(self, *, server_code: str, message: str, detail: str, hint: str) -> Self:
        """Return the same error with the server's own words."""
        error = copy.copy(self)
        error.args = (message,)
        error.message, error.detail, error.hint, error.server_code = message, detail, hint, server_code
        return error


def safe_url(url: str) -> str:
    """Return a URL as it may be shown: without user, password and query, which can hold secrets."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an invalid address"
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def clean_text(text: str, limit: int = 500) -> str:
    """Make a server's text fit for a message: one line, no control characters, no credentials in URLs."""
    text = re.sub(r"//[^/@\s]+@", "//", text)
    text = re.sub(r"(https?://[^\s?\"']+)\?[^\s\"']+", r"\1", text)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= limit else text[:limit] + "..."
