"""`buildstep sbom`: the bill of materials of an image that is there, in a standard format."""

from __future__ import annotations

from pathlib import Path

import click

from buildstep.cli import values
from buildstep.cli.options import POOL, tell, write_result
from buildstep.trust import sbom


@click.command("sbom", epilog="Exit codes: 0 written, 2 usage, 6 disk, 10 dataset, 11 image.")
@click.argument("image", metavar="RECORD|ARCHIVE|IMAGE", shell_complete=values.IMPORTABLE)
@click.option(
    "-f",
    "--format",
    "format_name",
    metavar=f"[{'|'.join(sbom.FORMATS)}]",
    shell_complete=lambda _context, _param, begun: [name for name in sbom.FORMATS if name.startswith(begun)],
    help="Default: by the ending of FILE, else spdx.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), default=Path("-"),
    metavar="FILE", show_default="standard output", help="Where to write; appears only when it is complete.",
)  # fmt: skip
@POOL
def command(image: str, format_name: str | None, output: Path, pool: str | None) -> None:
    """Write the bill of materials of an image: its packages with licences and sources, and all other files.

    RECORD|ARCHIVE|IMAGE: a build record; an image file (tar, OCI, docker-archive) or OCI directory;
    docker://HOST/NAME:TAG; or an image in the pool. Files are read where they are: neither root nor a pool is
    needed, and no scanner. `build.trust` lets the build write the same beside its image.
    """
    from buildstep.cli.inventories import looked_at

    chosen = format_name or next(
        (name for name in sbom.FORMATS if output.name.endswith(sbom.find(name).ending)), "spdx"
    )
    sbom.find(chosen)  # before anything is read
    with looked_at(image, pool) as found:
        document = sbom.write(chosen, found.inventory)
        for text in (*found.notes, *found.inventory.unknown):
            tell(f"note: {text}")
    write_result(output, document)
