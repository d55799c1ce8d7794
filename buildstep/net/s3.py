"""S3 over boto3: get, put, list and download objects; writes that are refused where a name is taken.

boto3 is imported on first use: it is an extra, and slow to import.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from buildstep.errors import ToolMissing, UsageError
from buildstep.events import Bus
from buildstep.net.download import Downloaded, download
from buildstep.net.errors import USER_AGENT, HttpError, clean_text, safe_url
from buildstep.net.http import Http
from buildstep.system.digest import Expected, sha256_file

SHA256 = "sha256"
"""The name of our metadata field: stores differ in the digests they compute, but all keep metadata."""

MULTIPART_FROM = 64 << 20
_PART = 32 << 20
_MAX_PARTS = 10_000
_REGION = "us-east-1"
_LINK_SECONDS = 6 * 3600
_TAKEN = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
_HINTS = {
    "NoSuchBucket": "create the bucket first, or check its name",
    "AccessDenied": "these credentials may not do this",
    "Forbidden": "these credentials may not do this",
    "403": "these credentials may not do this, or are wrong",
    "InvalidAccessKeyId": "the access key is not known to this store",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
}


class S3Error(HttpError):
    """A call to a store that failed. server_code: the store's, such as NoSuchBucket."""


class Taken(S3Error):
    """The name has an object already, or another one than was expected."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectInfo:
    """An object of a store. key: without the client's prefix. sha256: our metadata's; empty in listings."""

    key: str
    size: int
    etag: str
    sha256: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


def parse_s3(uri: str) -> tuple[str, str]:
    """Bucket and prefix of `s3://BUCKET[/PREFIX]`. Raises UsageError."""
    parts = urlsplit(uri)
    prefix = parts.path.strip("/")
    if parts.scheme != "s3" or not parts.netloc or parts.query or ".." in prefix.split("/"):
        raise UsageError(f"{clean_text(uri, 200)!r} is not s3://BUCKET[/PREFIX]")
    return parts.netloc, prefix


class S3Client:
    """The objects of a bucket under a prefix. Raises S3Error, and Taken where a condition is not met.

    endpoint: another store than Amazon's; else AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL. Credentials are
    taken from `environ` where it has them, else found as boto3 does.
    """

    def __init__(
        self, uri: str, *, environ: Mapping[str, str], bus: Bus, endpoint: str = "", http: Http | None = None
    ) -> None:
        self.bucket, self.prefix = parse_s3(uri)
        self.uri = f"s3://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")
        self._environ, self._bus = environ, bus
        self._endpoint = (
            endpoint or environ.get("AWS_ENDPOINT_URL_S3", "") or environ.get("AWS_ENDPOINT_URL", "")
        )
        self.http = http or Http(environ=environ, bus=bus)
        self._made: Any = None
        self._conditional: bool | None = None
        """Whether the store heeds conditions on writes; None until that was seen."""

    @property
    def _boto(self) -> Any:
        if self._made is None:
            self._made = self._connect()
        return self._made

    def _connect(self) -> Any:
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise ToolMissing(
                "S3 needs the Python package boto3", hint="pip install 'buildstep[s3]'"
            ) from error
        environ, limits = self._environ, self.http.options
        session = boto3.session.Session(
            aws_access_key_id=environ.get("AWS_ACCESS_KEY_ID"),
            aws_secret_access_key=environ.get("AWS_SECRET_ACCESS_KEY"),
            aws_session_token=environ.get("AWS_SESSION_TOKEN"),
            profile_name=environ.get("AWS_PROFILE"),
        )
        region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or session.region_name
        return session.client(
            "s3",
            endpoint_url=self._endpoint or None,
            region_name=region or _REGION,
            verify=(limits.ca_bundle or None) if limits.verify else False,
            config=Config(
                signature_version="s3v4",
                # Other stores seldom have a host name for each bucket.
                s3={"addressing_style": "path" if self._endpoint else "auto"},
                connect_timeout=limits.connect,
                read_timeout=limits.response,
                retries={"total_max_attempts": limits.attempts, "mode": "standard"},
                # Some stores give a range the checksum of the whole; we have our own of everything.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                user_agent_extra=USER_AGENT,
            ),
        )

    def _key(self, key: str) -> str:
        if not key or key.startswith("/") or ".." in key.split("/"):
            raise UsageError(f"{key!r} is not the name of an object")
        return f"{self.prefix}/{key}" if self.prefix else key

    @contextlib.contextmanager
    def _calling(self, what: str) -> Iterator[None]:
        boto = self._boto  # first: it says what to install
        del boto
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        where = f"{what} {self.uri}"
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            kind = Taken if code in _TAKEN or status == 412 else S3Error
            raise kind(
                f"{where}: {code} {clean_text(str(error.response.get('Error', {}).get('Message', '')), 200)}",
                status=status,
                server_code=code,
                hint=_HINTS.get(code, ""),
                retryable=status in (429, 500, 502, 503, 504),
            ) from None
        except NoCredentialsError:
            raise S3Error(
                f"{where}: no credentials", hint="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
            ) from None
        except BotoCoreError as error:
            at = f" ({safe_url(self._endpoint)})" if self._endpoint else ""
            raise S3Error(f"{where}{at}: {clean_text(str(error), 200)}", retryable=True) from None

    # -- reading -------------------------------------------------------------------------------------

    def head(self, key: str) -> ObjectInfo | None:
        """What is known of an object; None when there is none."""
        try:
            with self._calling(f"look at {key} in"):
                found = self._boto.head_object(Bucket=self.bucket, Key=self._key(key))
        except S3Error as error:
            if error.server_code in _MISSING:
                return None
            raise
        # Some stores give the names of metadata back in capitals.
        metadata = {name.lower(): value for name, value in found.get("Metadata", {}).items()}
        return ObjectInfo(
            key=key,
            size=int(found["ContentLength"]),
            etag=str(found.get("ETag", "")),
            sha256=metadata.get(SHA256, ""),
            metadata=metadata,
        )

    def get(self, key: str, *, limit: int = 64 << 20) -> tuple[bytes, str] | None:
        """A small object's bytes and its ETag; None when there is none. Proved where its sha256 is known."""
        try:
            with self._calling(f"get {key} from"):
                found = self._boto.get_object(Bucket=self.bucket, Key=self._key(key))
                with contextlib.closing(found["Body"]) as body:
                    data: bytes = body.read(limit + 1)
        except S3Error as error:
            if error.server_code in _MISSING:
                return None
            raise
        if len(data) > limit or len(data) != found["ContentLength"]:
            raise S3Error(f"{self.uri}/{key} came with {len(data)} of {found['ContentLength']} bytes")
        known = {name.lower(): value for name, value in found.get("Metadata", {}).items()}.get(SHA256)
        if known and hashlib.sha256(data).hexdigest() != known:
            raise S3Error(f"{self.uri}/{key} is damaged: its sha256 is not {known}")
        return data, str(found.get("ETag", ""))

    def download(self, key: str, target: Path, *, expected: Expected | None = None) -> Downloaded:
        """Bring an object here, resumed where possible, proved by `expected` or by its own sha256."""
        if expected is None:
            info = self.head(key)
            if info is None:
                raise S3Error(f"{self.uri} has no {key}", status=404, server_code="NoSuchKey")
            expected = Expected(size=info.size, sha256=info.sha256)
        with self._calling(f"get {key} from"):
            link = self._boto.generate_presigned_url(
                "get_object", Params={"Bucket": self.bucket, "Key": self._key(key)}, ExpiresIn=_LINK_SECONDS
            )
        return download(self.http, link, target, expected=expected)

    def list(self, under: str = "") -> Iterator[ObjectInfo]:
        """The objects whose keys begin so, in order of their keys."""
        base = f"{self.prefix}/" if self.prefix else ""
        with self._calling("list"):
            pages = self._boto.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=base + under
            )
            for page in pages:
                for row in page.get("Contents", []):
                    yield ObjectInfo(
                        key=str(row["Key"]).removeprefix(base),
                        size=int(row["Size"]),
                        etag=str(row.get("ETag", "")),
                    )

    # -- writing ---------------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        data: bytes | Path,
        *,
        sha256: str = "",
        content_type: str = "application/octet-stream",
        if_absent: bool = False,
        if_match: str = "",
    ) -> ObjectInfo:
        """Store an object, with its sha256, and see that it is there whole.

        if_absent: raises Taken when the name has an object. if_match: raises Taken unless the object
        there has this ETag. A store that knows no conditions is asked before, and that is said.
        """
        if isinstance(data, Path):
            size, sha256 = data.stat().st_size, sha256 or sha256_file(data)
        else:
            size, sha256 = len(data), sha256 or hashlib.sha256(data).hexdigest()
        if if_absent or if_match:
            self._check_before(key, if_match)
        condition = {"IfNoneMatch": "*"} if if_absent else {"IfMatch": if_match} if if_match else {}
        common = {
            "Bucket": self.bucket,
            "Key": self._key(key),
            "ContentType": content_type,
            "Metadata": {SHA256: sha256},
        }
        try:
            self._send(key, data, size, sha256, common, condition)
        except Taken:
            # Our own write whose reply was lost, and was repeated, is taken by ourselves.
            there = self.head(key) if if_absent else None
            if there is None or (there.sha256, there.size) != (sha256, size):
                raise
        if if_absent and self._conditional is None and isinstance(data, bytes):
            self._find_out(key, data, sha256, common)
        there = self.head(key)
        if there is None or there.size != size or there.sha256 != sha256:
            raise S3Error(f"{self.uri}/{key} is not there as it was sent", retryable=True)
        return there

    def _check_before(self, key: str, if_match: str) -> None:
        there = self.head(key)
        if if_match and (there is None or there.etag != if_match):
            raise Taken(
                f"{self.uri}/{key} was changed meanwhile", server_code="PreconditionFailed", retryable=True
            )
        if not if_match and there is not None:
            raise Taken(f"{self.uri}/{key} is there already", server_code="PreconditionFailed")

    def _send(
        self,
        key: str,
        data: bytes | Path,
        size: int,
        sha256: str,
        common: Mapping[str, Any],
        condition: Mapping[str, str],
    ) -> None:
        if isinstance(data, Path) and size > MULTIPART_FROM:
            self._send_parts(key, data, size, common, condition)
            return
        proof = base64.b64encode(bytes.fromhex(sha256)).decode()
        with contextlib.ExitStack() as stack:
            body = stack.enter_context(data.open("rb")) if isinstance(data, Path) else data
            stack.enter_context(self._calling(f"put {key} into"))
            self._boto.put_object(Body=body, ContentLength=size, ChecksumSHA256=proof, **common, **condition)

    def _send_parts(
        self, key: str, path: Path, size: int, common: Mapping[str, Any], condition: Mapping[str, str]
    ) -> None:
        """Upload in parts, which nobody sees before the last call."""
        part_size = max(_PART, -(-size // _MAX_PARTS))
        where = {"Bucket": common["Bucket"], "Key": common["Key"]}
        with self._calling(f"put {key} into"):
            upload = self._boto.create_multipart_upload(**common)["UploadId"]
            try:
                parts = []
                with path.open("rb") as stream:
                    for number in range(1, _MAX_PARTS + 1):
                        piece = stream.read(part_size)
                        if not piece:
                            break
                        etag = self._boto.upload_part(
                            **where, UploadId=upload, PartNumber=number, Body=piece
                        )["ETag"]
                        parts.append({"PartNumber": number, "ETag": etag})
                self._boto.complete_multipart_upload(
                    **where, UploadId=upload, MultipartUpload={"Parts": parts}, **condition
                )
            except BaseException:
                with contextlib.suppress(Exception):
                    self._boto.abort_multipart_upload(**where, UploadId=upload)
                raise

    def _find_out(self, key: str, data: bytes, sha256: str, common: Mapping[str, Any]) -> None:
        """Whether the store heeds conditions: the write just made is made again, and has to be refused."""
        try:
            self._send(key, data, len(data), sha256, common, {"IfNoneMatch": "*"})
        except Taken:
            self._conditional = True
            return
        self._conditional = False
        self._bus.note(
            f"{self.uri} ignores conditions on writes: two writers of one name at the same moment would not "
            "notice each other",
            level="warning",
        )

    @property
    def conditional(self) -> bool | None:
        """Whether the store heeds conditions on writes; None while that is not known."""
        return self._conditional

    def delete(self, key: str) -> None:
        """Remove an object; nothing is done when it is not there."""
        with self._calling(f"delete {key} from"):
            self._boto.delete_object(Bucket=self.bucket, Key=self._key(key))
