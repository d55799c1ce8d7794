"""Fragments become a section of the changelog, and nothing else is taken for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import changelog


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "changelog.d").mkdir()
    (tmp_path / "changelog.d/README.md").write_text("# Fragments\n")
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 0.1.0 (2026-01-01)\n\n- First.\n")
    return tmp_path


def test_fragments_are_joined_by_kind_and_removed(top: Path) -> None:
    (top / "changelog.d/pools.fixed.md").write_text("A pool\nis closed.\n")
    (top / "changelog.d/csv.added.md").write_text("A report for spreadsheets.\n")
    assert changelog.release(top, "0.2.0", "2026-02-01") == 2
    assert (top / "CHANGELOG.md").read_text() == (
        "# Changelog\n\n## 0.2.0 (2026-02-01)\n\n### Added\n\n- A report for spreadsheets.\n\n"
        "### Fixed\n\n- A pool is closed.\n\n## 0.1.0 (2026-01-01)\n\n- First.\n"
    )
    assert [path.name for path in (top / "changelog.d").iterdir()] == ["README.md"]


@pytest.mark.parametrize(
    ("name", "text"), [("pools.md", "x"), ("pools.other.md", "x"), ("a.fixed.md", " \n")]
)
def test_what_is_no_fragment_is_refused_and_nothing_is_written(top: Path, name: str, text: str) -> None:
    (top / "changelog.d" / name).write_text(text)
    with pytest.raises(ValueError, match=name):
        changelog.release(top, "0.2.0", "2026-02-01")
    assert "0.2.0" not in (top / "CHANGELOG.md").read_text()


def test_a_release_without_changes_is_refused(top: Path) -> None:
    with pytest.raises(ValueError, match="no fragment"):
        changelog.release(top, "0.2.0", "2026-02-01")


def test_ours_are_fragments() -> None:
    assert changelog.fragments(changelog.TOP)
