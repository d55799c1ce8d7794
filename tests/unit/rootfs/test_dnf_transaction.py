"""The table that dnf prints of a transaction."""

from __future__ import annotations

from buildstep.rootfs.installers import dnf_transaction

RULE = "=" * 80
HEAD = f"Dependencies resolved.\n{RULE}\n Package  Arch  Version  Repo  Size\n{RULE}\n"
ALL = f"""\
{HEAD}Installing:
 a-name-so-long-that-there-is-no-room-for-anything-that-comes-after-it-in-its-line
                 noarch    2:1.0-1     made    6.3 k
     replacing  old-name.noarch 1.0-1
Upgrading:
 glibc           x86_64    2.36-1      base    2.1 M
 glibc           i686      2.36-1      base    1.9 M
Installing weak dependencies:
 tiny            noarch    1-1         made    12
Removing dependent packages:
 gone            noarch    1.0-1       @made   8.0

Transaction Summary
{RULE}
Install  2 Packages
Upgrade  2 Packages
Remove   1 Package

Total download size: 18 k
"""


def test_every_row_is_read() -> None:
    answer = dnf_transaction.parse(ALL)
    assert answer.versions == {
        "a-name-so-long-that-there-is-no-room-for-anything-that-comes-after-it-in-its-line": "2:1.0-1",
        "glibc": "2.36-1",
        "glibc:i686": "2.36-1",
        "tiny": "1-1",
        "old-name": "",
        "gone": "",
    }
    assert answer.exact


def test_what_is_not_understood_makes_it_inexact() -> None:
    for old, new in (
        ("Install  2 Packages", "Install  3 Packages"),
        ("Upgrading:", "Enabling module streams:"),
        (" gone            noarch    1.0-1       @made   8.0", " gone"),
        ("Transaction Summary", "Summary"),
    ):
        assert not dnf_transaction.parse(ALL.replace(old, new)).exact, new


def test_what_is_passed_over_does_not_come() -> None:
    text = f"{HEAD}Skipping packages with broken dependencies:\n bad  noarch  1-1  t  6.0 k\n\n"
    answer = dnf_transaction.parse(f"{text}Transaction Summary\n{RULE}\nSkip  1 Package\n\nNothing to do.\n")
    assert (answer.versions, answer.exact) == ({}, True)


def test_nothing_to_do_is_an_answer() -> None:
    assert dnf_transaction.is_answer("Dependencies resolved.\nNothing to do.\nComplete!\n")
    assert dnf_transaction.parse("Dependencies resolved.\nNothing to do.\n").exact
    assert not dnf_transaction.is_answer("Error: Unable to find a match: x")
    assert not dnf_transaction.parse("").exact
