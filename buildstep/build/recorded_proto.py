"""What a build record says of the proto directory, so that the same one can be had again and recognised."""

from __future__ import annotations

from pathlib import Path

from buildstep.build.context import BuildContext
from buildstep.system.digest import sha256_bytes
from buildstep.tree import git_head
from buildstep.tree.hashing import hash_entries, spread_digests
from buildstep.tree.proto import ProtoDir


def digest(context: BuildContext) -> str:
    """Return the digest of the proto directory that a build used. What it did not need to read, as something
    else covers it in the image, is read now."""
    proto = context.plan.proto
    context.bus.count("bytes_hashed", hash_entries(b"", proto.fresh_entries.values()))
    if proto.inodes:
        spread_digests({entry.path: entry for entry in proto.entries.values()})
    return digest_of(proto, owners="keep" in context.spec.owner.values())


def digest_of(proto: ProtoDir, *, owners: bool) -> str:
    """Return the digest of a proto directory whose files were read: of all but times.

    owners: whether the image takes over those of the CI host.
    """
    return proto.digest(owners=owners, epoch=None, timed=False)


def times_of(proto: ProtoDir, epoch: int | None) -> str:
    """Return a digest over the times before an epoch, which an image of it tells as they are.

    Of directories of one digest it says whether they give the same bytes. Empty without an epoch.
    """
    if epoch is None:
        return ""
    limit = epoch * 1_000_000_000
    rows = sorted((path, mtime) for path, mtime in proto.times() if mtime < limit)
    return sha256_bytes(b"".join(b"%d %s\0" % (mtime, path) for path, mtime in rows))


def git(proto: Path) -> dict[str, str] | None:
    """Return the commit that a proto directory is checked out from, the work tree, and the path in that; None
    where there is none."""
    found = git_head.find(str(proto))
    return None if found is None else {"commit": found.commit, "top": found.top, "path": found.inner}
