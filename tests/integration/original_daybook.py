"""A small model of the original daybook: what it asks of S3 and of Consul, and what it makes of the answers.

It follows tobz/daybook at 08c5fce with its libraries, mistakes included, by raw calls: objects by boto3, keys
by Consul's HTTP interface. Nothing of ours is in it.
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
import tarfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PREFIX = "daybook/hosts/"


class Fatal(Exception):
    """The original ends with its message, and with 1."""


class Panic(Exception):
    """The original dies by a run-time error of Go, with 2."""


def client(endpoint: str, keys: dict[str, str]) -> Any:
    """A client of an S3 server on loopback."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


class Original:
    """Its three commands. consul: the agent's address, as http://HOST:PORT; seed: of the order in which Go
    goes through a map."""

    def __init__(self, s3: Any, bucket: str, consul: str, *, seed: int = 15) -> None:
        self.s3, self.bucket, self.consul = s3, bucket, consul
        self._order = random.Random(seed)

    # -- daybook-push ---------------------------------------------------------------------------------------

    def push(self, service: str, version: str, path: Path) -> None:
        """One PUT, whatever is there and whatever the file holds."""
        if not path.name.endswith(".tar.gz"):
            raise Fatal(f"unsupported file type ({path})")
        with path.open("rb") as body:
            self.s3.put_object(
                Bucket=self.bucket,
                Key=f"{service}-{version}.tar.gz",
                Body=body,
                ContentType="application/x-gtar",
                ACL="private",
            )

    # -- daybook-map ----------------------------------------------------------------------------------------

    def add(self, pattern: str, services: Sequence[str]) -> None:
        value = self._get(pattern)
        existing = value.split(",") if value is not None else []
        self._put(pattern, self._any_order({*existing, *services}))

    def remove(self, pattern: str, services: Sequence[str]) -> None:
        value = self._get(pattern)
        if value is None:
            raise Fatal(f"pattern '{pattern}' does not exist")
        left = {*value.split(",")} - {*services}
        if left:
            self._put(pattern, self._any_order(left))
        else:
            self._call("DELETE", PREFIX + pattern)
            raise Fatal(f"Failed to list the services for '{pattern}'")  # after all was done

    def listed(self, pattern: str) -> list[str]:
        value = self._get(pattern)
        if value is None:
            raise Fatal(f"pattern '{pattern}' does not exist")
        return value.split(",")

    # -- daybook-pull ---------------------------------------------------------------------------------------

    def services(self, host: str) -> list[str]:
        """The services of the longest key that matches; none if nothing does."""
        rows = self._call("GET", PREFIX, query="recurse") or []
        matches = []
        for row in rows:
            pattern = row["Key"][len(PREFIX) :]
            if path_match(pattern, host):
                matches.append(row)
        if not matches:
            return []
        matches.sort(key=lambda row: -len(row["Key"].encode()))
        return [name.strip() for name in _value(matches[0]).split(",")]

    def assets(self, service: str) -> list[str]:
        """The versions that one page of a listing has; the name is believed to be what was asked for."""
        found = []
        reply = self.s3.list_objects(Bucket=self.bucket, Prefix=service)
        for row in reply.get("Contents", []):
            parts = row["Key"].removesuffix(".tar.gz").split("-")
            if len(parts) < 2:
                raise Panic("index out of range")
            found.append(parts[1])
        return found

    def pull(self, host: str, install: Path) -> None:
        """Everything, again, until something goes wrong."""
        from botocore.exceptions import ClientError

        for service in self.services(host):
            for version in self.assets(service):
                key = f"{service}-{version}.tar.gz"
                try:
                    body = self.s3.get_object(Bucket=self.bucket, Key=key)["Body"]
                except ClientError as error:
                    raise Fatal(f"couldn't find asset for {service}/{version}") from error
                target = install / service / version
                target.mkdir(0o755, parents=True, exist_ok=True)
                with body, tarfile.open(fileobj=body, mode="r|gz") as archive:
                    for member in archive:
                        _extract(archive, member, target)

    # -- Consul ---------------------------------------------------------------------------------------------

    def _any_order(self, names: set[str]) -> str:
        shown = sorted(names)
        self._order.shuffle(shown)
        return ",".join(shown)

    def _get(self, pattern: str) -> str | None:
        rows = self._call("GET", PREFIX + pattern)
        return _value(rows[0]) if rows else None

    def _put(self, pattern: str, value: str) -> None:
        assert self._call("PUT", PREFIX + pattern, body=value.encode()) is True

    def _call(self, method: str, key: str, *, query: str = "", body: bytes | None = None) -> Any:
        url = f"{self.consul}/v1/kv/{urllib.parse.quote(key)}" + (f"?{query}" if query else "")
        request = urllib.request.Request(url, data=body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    return None
                raise Fatal(f"Unexpected response code: {error.code}") from error


def _value(row: dict[str, Any]) -> str:
    return base64.b64decode(row["Value"] or "").decode()


def path_match(pattern: str, name: str) -> bool:
    """Go's path.Match for patterns of `*` and `?` alone, which is what the README promises."""
    assert not set(pattern) & set("[\\"), "the model does not know classes"
    wild = {"*": "[^/]*", "?": "[^/]"}
    return re.fullmatch("".join(wild.get(char) or re.escape(char) for char in pattern), name) is not None


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    """One member, as archive.go has it: of a directory only the last part of its path counts."""
    name = member.name
    if member.isdir():
        path = root / os.path.basename(name.rstrip("/"))
        if name.rstrip("/") in (".", ""):
            path = root
        path.mkdir(exist_ok=True)
    elif member.isreg():
        path = Path(os.path.normpath(f"{root}/{os.path.dirname(name)}")) / os.path.basename(name)
        if not path.parent.is_dir():
            raise Fatal(f"base directory '{path.parent}' doesn't exist")
        source = archive.extractfile(member)
        assert source is not None
        path.write_bytes(source.read())
    else:
        raise Fatal(f"unhandled object type {member.type!r}")
    path.chmod(member.mode & 0o777)
    os.chown(path, member.uid, member.gid)
