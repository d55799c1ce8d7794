"""Whose calls to S3 they are, and where they go: credentials, region and endpoint.

The environment alone is read at no cost. Where it has no keys, botocore looks through everything else that
AWS's tools know: profiles, roles, single sign-on, the metadata of an instance.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from buildstep.errors import ToolMissing, UsageError
from buildstep.net.errors import safe_url
from buildstep.net.s3_errors import S3Error
from buildstep.net.s3_signing import Keys

DEFAULT_REGION = "us-east-1"


class Account:
    """Credentials and addresses for S3. endpoint: another store than Amazon's, else AWS_ENDPOINT_URL_S3 or
    AWS_ENDPOINT_URL, else that of the profile."""

    def __init__(self, environ: Mapping[str, str], endpoint: str = "") -> None:
        self._environ = environ
        self._endpoint = endpoint
        self._guard = threading.Lock()
        self._session: Any = None
        self._found: Any = None
        self._region = ""

    def keys(self) -> Keys:
        """Return what to sign the next call with: some credentials end, and are renewed here.

        Raises S3Error where there are none, ToolMissing.
        """
        environ = self._environ
        access, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
        if access and secret:
            return Keys(access, secret, environ.get("AWS_SESSION_TOKEN", ""))
        with self._guard:
            return self._by_chain()

    def _by_chain(self) -> Keys:
        session = self._botocore()
        from botocore.exceptions import BotoCoreError

        try:
            self._found = self._found or session.get_credentials()
            frozen = self._found.get_frozen_credentials() if self._found else None
        except BotoCoreError as error:
            raise S3Error(f"no credentials for S3: {error}") from None
        if frozen is None:
            raise S3Error(
                "no credentials for S3", hint="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
            )
        return Keys(frozen.access_key, frozen.secret_key, frozen.token or "")

    def _botocore(self) -> Any:
        if self._session is None:
            try:
                import botocore.session
            except ImportError as error:
                raise ToolMissing(
                    "credentials that are not in the environment need the Python package boto3",
                    hint="pip install 'buildstep[s3]', or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
                ) from error
            self._session = botocore.session.Session(profile=self._environ.get("AWS_PROFILE"))
        return self._session

    def _of_profile(self, name: str) -> str:
        """Return a setting of the profile; empty where it has none, or nothing of it is wanted."""
        if self._environ.get("AWS_ACCESS_KEY_ID") and not self._environ.get("AWS_PROFILE"):
            return ""
        with self._guard, contextlib.suppress(ToolMissing):
            from_profile = self._botocore().get_scoped_config().get(name, "")
            return from_profile if isinstance(from_profile, str) else ""
        return ""

    @property
    def region(self) -> str:
        """The region that calls are signed for."""
        if not self._region:
            environ = self._environ
            named = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
            self._region = named or self._of_profile("region") or DEFAULT_REGION
        return self._region

    @region.setter
    def region(self, value: str) -> None:
        self._region = value

    def address(self, bucket: str) -> tuple[str, str]:
        """Return the base of the URLs of a bucket, and the path that each key comes after.

        Other stores than Amazon's seldom have a host name for each bucket. Raises UsageError.
        """
        names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        endpoint = self._endpoint or next(filter(None, map(self._environ.get, names)), "")
        endpoint = endpoint or self._of_profile("endpoint_url")
        if endpoint:
            parts = urlsplit(endpoint)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise UsageError(f"{safe_url(endpoint)!r} is no address of an S3 store")
            return (
                f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}",
                f"{parts.path.rstrip('/')}/{bucket}/",
            )
        domain = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
        if "." in bucket:  # no certificate is for a name with more dots
            return f"https://s3.{self.region}.{domain}", f"/{bucket}/"
        return f"https://{bucket}.s3.{self.region}.{domain}", "/"
