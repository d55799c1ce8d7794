"""Publish to an IMGAPI: import, add the file, compare, activate; undone when it fails before the end."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, ClassVar

from buildstep.errors import PublishError, SigningError
from buildstep.events import Bus
from buildstep.images.publishers.bundle import Bundle, Published, PublishOptions
from buildstep.net.errors import HttpError
from buildstep.net.imgapi import Account, ImgapiClient
from buildstep.net.ssh_keys import agent_signer
from buildstep.spec import imgmanifest
from buildstep.trust import keys

# Set or replaced by servers: they say nothing on whether two images are the same.
_SERVERS_OWN = frozenset(
    (
        "owner", "state", "activated", "disabled", "public", "published_at", "channels", "icon", "urn",
        "v", "files", "acl", "error",
    )
)  # fmt: skip


class ImgapiPublisher:
    """Targets: http(s)://HOST[/PREFIX][?channel=C], or the same after `imgapi:`."""

    scheme: ClassVar[str] = "imgapi"

    def publish(self, bundle: Bundle, target: str, *, options: PublishOptions, bus: Bus) -> Published:
        url = target.removeprefix("imgapi:").removeprefix("imgapi+")
        with options.session(bus) as http:
            client = ImgapiClient(url, http=http, channel=options.channel, account=_account(options, bus))
            client.ping()
            return _Publication(client, bundle, bus).run()


def _account(options: PublishOptions, bus: Bus) -> Account | None:
    if not options.user:
        if options.key:
            raise PublishError("a key was given, but no user to sign as", hint="give both, or neither")
        return None
    kind, _, fingerprint = options.key.partition(":")
    if not options.key or kind == "agent":
        return Account(user=options.user, signer=agent_signer(options.environ, fingerprint=fingerprint))
    signer = keys.signer(options.key, options.environ, bus=bus)
    if signer.algorithm != "rsa":
        raise SigningError(f"{signer.where} is not an RSA key", hint="IMGAPI servers accept RSA keys only")
    return Account(user=options.user, signer=signer.sign)


class _Publication:
    """One image on its way into one server."""

    def __init__(self, client: ImgapiClient, bundle: Bundle, bus: Bus) -> None:
        self.client, self.bundle, self.bus = client, bundle, bus
        self.uuid = bundle.uuid
        self.ours = False
        """Whether this run made the image there, so that undoing it takes nothing from anybody else."""

    def run(self) -> Published:
        image = self.bundle.image  # read and compared with the manifest before the server hears of it
        there = self.client.get(self.uuid)
        if there is not None:
            self._same(there)
            if imgmanifest.state_of(there) == "active":
                self._same_file(there)
                return self._published("already")
            if imgmanifest.state_of(there) != "unactivated":
                raise PublishError(
                    f"image {self.uuid} is at {self.client.label} in state {imgmanifest.state_of(there)}",
                    hint="enable or delete it there first",
                )
            self.bus.note(f"image {self.uuid} is at {self.client.label}, not yet active; going on with it")
        try:
            if there is None:
                self._import()
            self._same_file(
                self.client.add_file(
                    self.uuid,
                    image.path,
                    compression=self.bundle.compression,
                    sha1=image.sha1,
                    dataset_guid=str(self.bundle.meta["files"][0].get("dataset_guid", "")),
                )
            )
        except BaseException:
            self._undo()
            raise
        self._activate()
        return self._published("published")

    def _import(self) -> None:
        for attempt in range(1, self.client.http.options.attempts + 1):
            try:
                self.client.import_image(self.bundle.meta)
            except HttpError as error:
                # No response, or one about an earlier call whose response was lost: ask what is there.
                lost = error.status == 0 or error.retryable
                if not lost and error.server_code != "ImageUuidAlreadyExists":
                    raise
                there = self.client.get(self.uuid)
                if there is None:
                    if not lost or attempt == self.client.http.options.attempts:
                        raise
                    self.client.http.pause(attempt, error)
                    continue
                self._same(there)
                if imgmanifest.state_of(there) != "unactivated":
                    raise PublishError(
                        f"image {self.uuid} was published to {self.client.label} by somebody else meanwhile",
                        hint="publish again: then it is compared",
                    ) from error
                # It is as we sent it, and it was not there when we asked first.
            self.ours = True
            return

    def _activate(self) -> None:
        try:
            self.client.activate(self.uuid)
        except HttpError as error:
            try:
                there = self.client.get(self.uuid)
            except HttpError as second:
                # It may be active, and an active image is not ours to take away again.
                raise PublishError(
                    f"{self.client.label} did not say whether image {self.uuid} is active now",
                    detail=f"{error.message}\n{second.message}",
                    hint="publish again: what is there is then found and compared",
                    retryable=True,
                ) from error
            if there is not None and imgmanifest.state_of(there) == "active":
                self._same_file(there)
                return
            self._undo()
            raise
        there = self.client.get(self.uuid)
        if there is None or imgmanifest.state_of(there) != "active":
            raise PublishError(
                f"{self.client.label} says that it activated {self.uuid}, but it is not active"
            )

    def _undo(self) -> None:
        """Remove what this run made. A failure is a note beside the first error, never in its place."""
        if not self.ours:
            return
        try:
            self.client.delete(self.uuid)
        except HttpError as error:
            with contextlib.suppress(Exception):
                self.bus.note(
                    f"the unfinished image {self.uuid} is still there: {error.message}",
                    level="warning",
                )

    def _same(self, there: Mapping[str, Any]) -> None:
        ours, theirs = _comparable(self.bundle.meta), _comparable(there)
        wrong = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
        if wrong:
            raise PublishError(
                f"another image is at {self.client.label} under the uuid {self.uuid}",
                detail=f"fields that differ: {', '.join(wrong)}",
                hint="build again: each build has a uuid of its own",
            )

    def _same_file(self, there: Mapping[str, Any]) -> None:
        files = there.get("files") or [{}]
        found = (files[0].get("size"), files[0].get("sha1"))
        image = self.bundle.image
        if found != (image.size, image.sha1):
            raise PublishError(
                f"{self.client.label} has another file for image {self.uuid}",
                detail=f"size and sha1 there: {found[0]} {found[1]}; here: {image.size} {image.sha1}",
            )

    def _published(self, state: str) -> Published:
        return Published(
            target=self.client.label,
            name=f"{self.bundle.name}@{self.bundle.version}",
            state="already" if state == "already" else "published",
            uuid=self.uuid,
            objects={f"images/{self.uuid}/file": f"sha1:{self.bundle.image.sha1}"},
        )


def _comparable(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What an author or a build said of an image; empty values say as little as missing ones."""
    return {
        key: value
        for key, value in manifest.items()
        if key not in _SERVERS_OWN and value not in (None, "", [], {})
    }
