"""What a root that is made here has of the day on which it was made."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from buildstep.images.sources import settled
from buildstep.system.root import Root
from buildstep.tree.entry import Entry


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([], 0),
        (["Date: Sat, 28 Nov 2026 02:53:00 UTC"], 1795834380),
        (["Date: Sat, 28 Nov 2026 02:53:00 UTC", "Date: Thu, 01 Jan 1970 00:00:07 +0000"], 1795834380),
        (["Date: Sat, 28 Nov 2026 02:53:00", "Date: Sat, 28 Nov 2026 02:53:00 -0000"], 1795834380),
        (["Date: sometime", "Valid-Until: Sat, 28 Nov 2026 02:53:00 UTC", "no field"], 0),
    ],
)
def test_the_latest_date_of_release_files(
    lines: list[str], found: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        with monkeypatch.context() as patch:
            patch.setenv("TZ", "Asia/Tokyo")
            time.tzset()
            assert settled.newest_of(lines) == found
    finally:
        time.tzset()


def test_no_time_is_later_and_older_ones_stay(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name, second in (("old", 5), ("d/new", 500)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (second, second))
    os.symlink("nowhere", tmp_path / "link")
    node = Entry(b"dev/null", "c", 0o666, 0, 0, mtime=10**18)
    settled.settle_times(tmp_path, {b"dev/null": node}, 100)
    found = {path: os.lstat(tmp_path / path).st_mtime_ns for path in ("", "d", "d/new", "link", "old")}
    late = 100 * 10**9
    assert found == {"": late, "d": late, "d/new": late, "link": late, "old": 5 * 10**9}
    assert node.mtime == late


def test_accounts_have_the_day_of_what_the_root_is_made_of(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    table = tmp_path / "etc/shadow"
    table.write_text(
        "root:*:20787:0:99999:7:::\nold:!:19000:0:99999:7:::\nnone:*::::::\nnext:*:20788:0::::\n"
    )
    table.chmod(0o640)
    entry = Entry(b"etc/shadow", "f", 0o640, 0, 42, size=1, sha256="x")
    days = settled.days_of(20787 * 86400 + 86399, 20788 * 86400)
    settled.settle_accounts(Root(tmp_path), {entry.path: entry}, days, 20700 * 86400 + 5)
    text = "root:*:20700:0:99999:7:::\nold:!:19000:0:99999:7:::\nnone:*::::::\nnext:*:20700:0::::\n"
    assert table.read_text() == text
    assert table.stat().st_mode & 0o7777 == 0o640
    assert (entry.size, entry.sha256) == (len(text), "")


def test_a_table_that_leads_out_of_the_root_is_not_written(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "shadow"
    (root / "etc").mkdir(parents=True)
    outside.write_text("root:*:20787:0:99999:7:::\n")
    (root / "etc/shadow").symlink_to(outside)
    settled.settle_accounts(Root(root), None, range(20787, 20788), 0)
    assert outside.read_text() == "root:*:20787:0:99999:7:::\n"
