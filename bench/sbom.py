"""What a bill of materials costs: of the sample image, in every format, and of many files without an owner.

`python -m bench.sbom [IMAGE] [--files N] [--runs N]`. IMAGE: an image file, `fixtures/sample` built where it
is left out. The list of the image and its contents are at hand, as they are for a build; how long an archive
takes to be listed is shown apart. The bar is 0.5 s for the inventory and all three formats together; exit
status 1 where the median is over it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.files_diff import seconds
from buildstep.events import Bus
from buildstep.images import inventory as images
from buildstep.trust import sbom
from buildstep.trust.inventory.gather import inventory_of
from buildstep.trust.inventory.model import Inventory, Origin, OwnFile

BAR = 0.5
TOP = Path(__file__).resolve().parents[1]


def build_sample(folder: Path) -> Path:
    """Build the sample image as a user does; return its archive."""
    sample = TOP / "fixtures/sample"
    words = ["-m", os.fspath(sample / "m.json"), "-o", os.fspath(folder), os.fspath(sample / "proto")]
    subprocess.run([os.fspath(TOP / "bin/build"), *words], check=True, stdout=subprocess.DEVNULL)
    return folder / "hello-1.0.0.oci.tar"


def write_all(given: Inventory) -> int:
    """Write every format; return the bytes."""
    return sum(len(sbom.write(name, given)) for name in sbom.FORMATS)


def many_files(count: int) -> Inventory:
    """Return an inventory of so many files that no package owns."""
    names = [
        b"srv/app/node_modules/package%d/lib/file%d.js" % (number // 40, number) for number in range(count)
    ]
    origin = Origin(step="sync", layer=1)
    files = [
        OwnFile(
            path=name,
            size=4000,
            hashes={
                "sha256": hashlib.sha256(name).hexdigest(),
                "sha1": hashlib.sha256(name).hexdigest()[:40],
            },
            origin=origin,
        )
        for name in names
    ]
    return Inventory(name="large", files=tuple(files))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("image", nargs="?", type=Path)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        image = options.image or build_sample(Path(folder))
        begin = time.perf_counter()
        with images.of_archive(os.fspath(image), bus=Bus(), environ=os.environ) as found:
            taken, size = time.perf_counter() - begin, image.stat().st_size
            print(f"{'list it':12} {taken:7.3f} s with the inventory, {size} bytes")
            known = found.inventory
            rows: dict[str, Callable[[], object]] = {
                "inventory": lambda: inventory_of(found.contents, name=known.name),
                **{name: partial(sbom.write, name, known) for name in sbom.FORMATS},
                "all": lambda: write_all(inventory_of(found.contents, name=known.name)),
            }
            times = {name: seconds(job, options.runs) for name, job in rows.items()}
    large = many_files(options.files)
    times[f"{options.files} files"] = seconds(lambda: write_all(large), 1)
    for name, (taken, worked) in times.items():
        print(f"{name:12} {taken:7.3f} s, {worked:.3f} s of the processor")
    return int(times["all"][0] > BAR)


if __name__ == "__main__":
    sys.exit(main())
