"""Errors and addresses of S3, for every client of it."""

from __future__ import annotations

from urllib.parse import urlsplit

from buildstep.errors import UsageError
from buildstep.net.errors import HttpError, clean_text

TAKEN = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
"""Codes that stores give where a name has an object already."""
MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
"""Codes that stores give where a name has no object."""
HINTS = {
    "NoSuchBucket": "create the bucket first, or check its name",
    "AccessDenied": "these credentials do not permit this call",
    "Forbidden": "these credentials do not permit this call",
    "403": "these credentials do not permit this call, or are wrong",
    "InvalidAccessKeyId": "the access key is not known to this store",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
}


class S3Error(HttpError):
    """A call to a store that failed. server_code: the store's, such as NoSuchBucket."""


class Taken(S3Error):
    """The name has an object already."""


def parse_s3(uri: str) -> tuple[str, str]:
    """Return bucket and prefix of `s3://BUCKET[/PREFIX]`. Raises UsageError."""
    parts = urlsplit(uri)
    prefix = parts.path.strip("/")
    if parts.scheme != "s3" or not parts.netloc or parts.query or ".." in prefix.split("/"):
        raise UsageError(f"{clean_text(uri, 200)!r} is not s3://BUCKET[/PREFIX]")
    return parts.netloc, prefix
