"""`buildstep assets push`: check a tarball, and store it as a version of a service."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.assets_options import HYPHENS, Work, with_assets
from buildstep.cli.files_options import owner
from buildstep.cli.options import CLAMP, JSON, QUIET, show
from buildstep.system.text import plural, size_text

if TYPE_CHECKING:
    from buildstep.assets.push import Options, Pushed, Upload


@click.command("push")
@click.argument("words", metavar="SERVICE VERSION PATH", nargs=-1, shell_complete=values.service_version_path)
@click.option(
    "--dir",
    "folder",
    metavar="DIR",
    shell_complete=values.FOLDERS,
    help="Push every asset file of a directory, by its name, instead of one.",
)
@click.option("--replace", is_flag=True, help="Also where another asset of this version is there.")
@HYPHENS
@click.option(
    "--key", metavar="FILE", shell_complete=values.FILES, help="Sign with this private key (Ed25519)."
)
@click.option(
    "--compress",
    type=click.Choice(["gzip", "zstd"]),
    default="gzip",
    help="For a directory, a .tar or an image; daybook itself knows gzip only (the default).",
)
@click.option(
    "--owner",
    metavar="UID:GID",
    default="0:0",
    show_default=True,
    callback=owner,
    help="For a directory: whose its files are on the hosts.",
)
@CLAMP
@click.option(
    "--links-out",
    is_flag=True,
    help="Allow symbolic links that lead out of the asset, as the tree of a whole image has them.",
)
@with_assets
@JSON
@QUIET
def command(
    work: Work,
    words: tuple[str, ...],
    folder: str | None,
    *,
    hyphens: bool,
    as_json: bool,
    quiet: bool,
    **how: Any,
) -> int:
    """Check a tarball, and store it as a version of a service.

    PATH: a .tar.gz, .tgz, .tar.zst or .tar, a directory, or an image (OCI layout, `docker save`). Each member
    is looked at before anything is stored: what leads out of the asset, devices and bombs are refused. The
    version must be new; the same bytes again are no error. With --dir, exit code 22 if some were not pushed.
    """
    from buildstep.assets.push import push

    hyphens = work.hyphens(hyphens)
    options = _options(work, how)
    with tempfile.TemporaryDirectory(prefix="buildstep-push-") as scratch:
        uploads = _uploads(work, words, folder, hyphens, Path(scratch), how)
        store = work.store()
        done = push(store, uploads, options, partial(_progress, quiet=quiet))
    if folder is None and done[0].error is not None:
        raise done[0].error
    failed = [row for row in done if row.error is not None]
    new = [row for row in done if row.stored]
    summary = f"{plural(len(new), 'asset')} pushed, {len(failed)} failed"
    show(_facts(store.url, done), _lines(store.url, done), as_json=as_json, done=summary)
    return _raise_if_incomplete(done, failed, store.url)


def _progress(files: int, size: int, *, quiet: bool) -> Any:
    from buildstep.report.progress import progress

    return progress("push", files, size, quiet=quiet)


def _options(work: Work, how: dict[str, Any]) -> Options:
    from buildstep.assets.archive_check import Policy
    from buildstep.assets.push import Options

    signer = None
    if key := how["key"] or work.config.key:
        from buildstep.trust.keys.file import ed25519_signer
        from buildstep.trust.keys.interface import KeySource

        signer = ed25519_signer(key, KeySource(environ=work.environ, bus=work.bus))
    return Options(replace=how["replace"], signer=signer, policy=Policy(links_out=how["links_out"]))


def _uploads(
    work: Work,
    words: Sequence[str],
    folder: str | None,
    hyphens: bool,
    scratch: Path,
    how: dict[str, Any],
) -> list[Upload]:
    """Return what is to be pushed. Raises UsageError, and as `pack.tarball` does."""
    from buildstep.assets import names
    from buildstep.assets.push import Upload, uploads_of
    from buildstep.errors import UsageError

    if folder is not None:
        if words:
            raise UsageError("--dir takes the names from the files: give no SERVICE VERSION PATH with it")
        return uploads_of(Path(folder), hyphens=hyphens)
    if len(words) != 3:
        few = "few" if len(words) < 3 else "many"
        raise UsageError(
            f"too {few} arguments: {len(words)}, and SERVICE VERSION PATH are three",
            hint="such as: buildstep assets push web 1.2.0 out/web.tar.gz",
        )
    service, version = names.checked_service(words[0]), names.checked_version(words[1], hyphens=hyphens)
    from buildstep.assets.pack import Packing, tarball

    packing = Packing(
        form=".tar.zst" if how["compress"] == "zstd" else ".tar.gz", owner=how["owner"], clamp=how["clamp"]
    )
    path, form = tarball(Path(words[2]), scratch, packing, work.bus, work.environ)
    return [Upload(names.Name(service, version, form), path)]


def _facts(url: str, done: Sequence[Pushed]) -> dict[str, Any]:
    return {"store": url, "assets": [_row(row) for row in done]}


def _row(row: Pushed) -> dict[str, Any]:
    return {
        "service": row.upload.name.service,
        "version": row.upload.name.version,
        "file": row.upload.name.file,
        "sha256": row.details.sha256 if row.details else "",
        "size": row.details.size if row.details else None,
        "signed": bool(row.details and row.details.signature),
        "stored": row.stored,
        "error": row.error.message if row.error else "",
    }


def _lines(url: str, done: Sequence[Pushed]) -> Iterator[str]:
    for row in done:
        if row.error is not None or row.details is None:
            continue
        how = "pushed" if row.stored else "there already, the same"
        signed = ", signed" if row.details.signature else ""
        yield f"{row.upload.name.file}  {size_text(row.details.size)}  {row.details.sha256}  {how}{signed}"
    if len(done) > 1:
        stored = [row.details.size for row in done if row.stored and row.details]
        yield f"{plural(len(stored), 'asset')} of {size_text(sum(stored))} pushed to {url}"


_SHOWN = 20


def _raise_if_incomplete(done: Sequence[Pushed], failed: Sequence[Pushed], url: str) -> int:
    from buildstep.assets.interface import Incomplete

    if not failed:
        return 0
    lines = []
    for row in failed[:_SHOWN]:
        assert row.error is not None
        lines.append(f"  {row.upload.name.file}: {row.error.message}")
        lines += [f"  {line}" for line in row.error.detail.splitlines()]
    if len(failed) > _SHOWN:
        lines.append(f"  and {len(failed) - _SHOWN} more")
    assert failed[0].error is not None
    nothing = len(failed) == len(done)
    raise Incomplete(
        f"{len(failed)} of {plural(len(done), 'asset')} not pushed to {url}",
        detail="\n".join(lines),
        hint=failed[0].error.hint
        if nothing
        else "the others are there; the same command pushes what is missing",
    )
