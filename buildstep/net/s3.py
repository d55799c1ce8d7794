"""S3 over boto3: get, put, list and download objects; writes that are refused where a name is taken.

What a store of blobs needs beyond that is in `s3_blobs`.

boto3 is imported on first use: it is an extra, and slow to import.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from buildstep.errors import ToolMissing, UsageError
from buildstep.events import Gauge, Reading
from buildstep.net.download import Downloaded, Progress, download
from buildstep.net.errors import clean_text, safe_url
from buildstep.net.http import Http
from buildstep.net.request import MAX_RESPONSE, USER_AGENT, HttpRequest
from buildstep.net.s3_errors import HINTS, MISSING, TAKEN, S3Error, Taken, parse_s3
from buildstep.system.digest import Expected, sha256_file

SHA256 = "sha256"
"""The name of our metadata field: stores differ in the digests they compute, but all keep metadata."""

WRITER = "writer"
"""The name of a metadata field that tells one call from another that writes the same."""

MULTIPART_FROM = 64 << 20
_PART = 32 << 20
_MAX_PARTS = 10_000
_REGION = "us-east-1"
_LINK_SECONDS = 6 * 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectInfo:
    """An object of a store. key: without the client's prefix. sha256, writer: of our metadata; not in
    listings. etag: the store's name for this value; modified: seconds since the epoch."""

    key: str
    size: int
    sha256: str = ""
    writer: str = field(default="", compare=False)
    etag: str = field(default="", compare=False)
    modified: float = field(default=0.0, compare=False)


class S3Client:
    """The objects of a bucket under a prefix. Raises S3Error.

    http: gives the environment, the limits and the bus. endpoint: another store than Amazon's; by default
    AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL. Credentials are those of the environment, else those that boto3
    finds. at_once: connections that are kept for calls of several threads.
    """

    def __init__(self, uri: str, *, http: Http, endpoint: str = "", at_once: int = 10) -> None:
        self.bucket, self.prefix = parse_s3(uri)
        self.uri = f"s3://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")
        self.http = http
        names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        self._endpoint = endpoint or next(filter(None, map(http.environ.get, names)), "")
        self._at_once = at_once
        self._guard = threading.Lock()
        self._made: Any = None
        self._conditional: bool | None = None
        """Whether the store obeys conditions on writes; None while that is not known."""

    @property
    def _boto(self) -> Any:
        with self._guard:
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
        environ, limits = self.http.environ, self.http.options
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
                max_pool_connections=self._at_once,
                connect_timeout=limits.connect,
                read_timeout=limits.response,
                retries={"total_max_attempts": limits.attempts, "mode": "standard"},
                # Some stores send the checksum of the complete object with a range; we verify by ourselves.
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
            kind = Taken if code in TAKEN or status == 412 else S3Error
            raise kind(
                f"{where}: {code} {clean_text(str(error.response.get('Error', {}).get('Message', '')), 200)}",
                status=status,
                server_code=code,
                hint=HINTS.get(code, ""),
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
        """Return what is known of an object; None if there is none."""
        try:
            with self._calling(f"look at {key} in"):
                return _info(key, self._boto.head_object(Bucket=self.bucket, Key=self._key(key)))
        except S3Error as error:
            if error.server_code in MISSING:
                return None
            raise

    def get(self, key: str, *, limit: int = MAX_RESPONSE) -> bytes | None:
        """Return a small object's bytes, verified if its sha256 is known; None if there is no object."""
        found = self.load(key, limit=limit)
        if found is None:
            return None
        data, info = found
        if info.sha256 and hashlib.sha256(data).hexdigest() != info.sha256:
            raise S3Error(f"{self.uri}/{key} is damaged: its sha256 is not {info.sha256}")
        return data

    def load(self, key: str, *, limit: int = MAX_RESPONSE) -> tuple[bytes, ObjectInfo] | None:
        """Return a small object's bytes, and what is known of it; None if there is no object."""
        try:
            data, found = self._read(key, limit=limit)
        except S3Error as error:
            if error.server_code in MISSING:
                return None
            raise
        return data, _info(key, found)

    def _read(
        self, key: str, *, wanted: str = "", limit: int | None = None
    ) -> tuple[bytes, Mapping[str, Any]]:
        attempt = 1
        while True:
            with self._calling(f"get {key} from"):
                found = self._boto.get_object(
                    Bucket=self.bucket, Key=self._key(key), **({"Range": wanted} if wanted else {})
                )
            # boto repeats a call whose response does not begin, but not one whose body breaks off.
            try:
                with self._calling(f"get {key} from"), contextlib.closing(found["Body"]) as body:
                    data: bytes = body.read() if limit is None else body.read(limit + 1)
                size = int(found["ContentLength"])
                if limit is not None and len(data) > limit:
                    raise S3Error(f"{self.uri}/{key} has {size} bytes, more than the {limit} that are read")
                if len(data) != size:
                    raise S3Error(f"{self.uri}/{key} came with {len(data)} of {size} bytes", retryable=True)
            except S3Error as error:
                if not error.retryable or attempt >= self.http.options.attempts:
                    raise
                self.http.pause(attempt, error)
                attempt += 1
            else:
                return data, found

    def download(
        self, key: str, target: Path, *, expected: Expected, progress: Progress | None = None
    ) -> Downloaded:
        """Download an object, resumed where that is possible, and verify it."""
        with self._calling(f"get {key} from"):
            link = self._boto.generate_presigned_url(
                "get_object", Params={"Bucket": self.bucket, "Key": self._key(key)}, ExpiresIn=_LINK_SECONDS
            )
        return download(self.http, HttpRequest("GET", link), target, expected=expected, progress=progress)

    def list(self, under: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose keys begin so, in order of their keys."""
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
                        modified=row["LastModified"].timestamp(),
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
    ) -> ObjectInfo:
        """Store an object, with its sha256, and check that it is there complete.

        if_absent: raise Taken if the name has an object. The client also looks before it writes, as some
        stores ignore conditions on writes; then it warns.
        """
        if isinstance(data, Path):
            size, sha256 = data.stat().st_size, sha256 or sha256_file(data)
        else:
            size, sha256 = len(data), sha256 or hashlib.sha256(data).hexdigest()
        if if_absent and self.head(key) is not None:
            raise Taken(f"{self.uri}/{key} is there already", server_code="PreconditionFailed")
        common = {
            "Bucket": self.bucket,
            "Key": self._key(key),
            "ContentType": content_type,
            "Metadata": {SHA256: sha256},
        }
        wanted = ObjectInfo(key=key, size=size, sha256=sha256)
        try:
            self._send(data, wanted, common, ABSENT if if_absent else {})
        except Taken:
            # Our own write may have been repeated after a lost response, and found itself.
            if not if_absent or self.head(key) != wanted:
                raise
        if if_absent and self._conditional is None and isinstance(data, bytes):
            self._conditional = self._obeys_conditions(data, wanted, common)
        if self.head(key) != wanted:
            raise S3Error(f"{self.uri}/{key} is not there as it was sent", retryable=True)
        return wanted

    def _send(
        self, data: bytes | Path, info: ObjectInfo, common: Mapping[str, Any], condition: Mapping[str, str]
    ) -> None:
        """Write an object. condition: of the call. Raises Taken where it does not hold."""
        if isinstance(data, Path) and info.size > MULTIPART_FROM:
            self._send_parts(data, info, common, condition)
            return
        checksum = base64.b64encode(bytes.fromhex(info.sha256)).decode()
        with contextlib.ExitStack() as stack:
            body: Any = data
            if isinstance(data, Path):
                body = stack.enter_context(data.open("rb"))
                stack.enter_context(self._job(info, body))
            stack.enter_context(self._calling(f"put {info.key} into"))
            self._boto.put_object(
                Body=body, ContentLength=info.size, ChecksumSHA256=checksum, **common, **condition
            )

    def _send_parts(
        self, path: Path, info: ObjectInfo, common: Mapping[str, Any], condition: Mapping[str, str]
    ) -> None:
        """Upload in parts, which nobody sees before the last call.

        boto3's own upload knows no conditions, and an interrupt in it can wait for ever.
        """
        part_size = max(_PART, -(-info.size // _MAX_PARTS))
        where = {"Bucket": common["Bucket"], "Key": common["Key"]}
        with path.open("rb") as stream, self._job(info, stream), self._calling(f"put {info.key} into"):
            upload = self._boto.create_multipart_upload(**common)["UploadId"]
            try:
                parts: list[dict[str, Any]] = []
                while piece := stream.read(part_size):
                    number = len(parts) + 1
                    part = self._boto.upload_part(**where, UploadId=upload, PartNumber=number, Body=piece)
                    parts.append({"PartNumber": number, "ETag": part["ETag"]})
                self._boto.complete_multipart_upload(
                    **where, UploadId=upload, MultipartUpload={"Parts": parts}, **condition
                )
            except BaseException:
                with contextlib.suppress(Exception):
                    self._boto.abort_multipart_upload(**where, UploadId=upload)
                raise

    def _job(self, info: ObjectInfo, stream: IO[bytes]) -> contextlib.AbstractContextManager[Gauge]:
        """Show how much of an object has been sent, by how far its file was read."""
        where = lambda: Reading(os.lseek(stream.fileno(), 0, os.SEEK_CUR))  # noqa: E731
        return self.http.bus.job(f"push {info.key}", info.size, read=where)

    def _obeys_conditions(self, data: bytes, info: ObjectInfo, common: Mapping[str, Any]) -> bool:
        """Repeat the write just made, which a store that obeys conditions refuses."""
        try:
            self._send(data, info, common, ABSENT)
        except Taken:
            return True
        self.http.bus.note(
            f"{self.uri} ignores conditions on writes: two writers of one name at the same moment would not "
            "notice each other",
            level="warning",
        )
        return False

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        with self._calling(f"delete {key} from"):
            self._boto.delete_object(Bucket=self.bucket, Key=self._key(key))


ABSENT = {"IfNoneMatch": "*"}
"""The condition that a name has no object."""


def _info(key: str, found: Mapping[str, Any]) -> ObjectInfo:
    # Some stores give the names of metadata back in capitals.
    metadata = {name.lower(): value for name, value in found.get("Metadata", {}).items()}
    return ObjectInfo(
        key=key,
        size=int(found["ContentLength"]),
        sha256=metadata.get(SHA256, ""),
        writer=metadata.get(WRITER, ""),
        etag=str(found.get("ETag", "")),
    )
