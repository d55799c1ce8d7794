"""What `buildstep why` says of one record, and of two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from buildstep.report import compare
from buildstep.report.parse import from_json
from buildstep.report.record import BuildRecord
from tests.unit import reportdata


def made(value: dict[str, Any]) -> BuildRecord:
    return from_json(value, Path("hello.buildrecord.json"))


def explain(record: BuildRecord) -> list[str]:
    return [row.text for row in compare.explain(record)]


def differences(old: BuildRecord, new: BuildRecord) -> list[str]:
    return [row.text for row in compare.differences(old, new)]


def test_one_record_gives_its_steps_and_what_changed() -> None:
    value = reportdata.record()
    value["inputs"]["proto"]["changed"] = [["srv/www/index.html", "size"]]
    lines = explain(made(value))
    assert lines[0] == "hello 1.4.2 in 11.82 s (build 20261121T075648-5c6aae69)"
    assert lines[2] == "run    clone        0.001 s  image 67194dc2-e325-4bd1-b867-6ed6b37e274e"
    assert lines[-1] == "changed srv/www/index.html: size"


def test_two_records_of_the_same_build_differ_in_nothing() -> None:
    record = made(reportdata.record())
    same = f"seconds: {record.seconds:.1f} -> {record.seconds:.1f}"
    assert differences(record, record) == ["the trees are the same", "oci: the same bytes", same]


def test_every_kind_of_difference_has_a_line() -> None:
    value = reportdata.record(tree_digest="other", seconds=1.0)
    inputs = value["inputs"]
    inputs["spec"] |= {"installer": "pkgsrc", "source": "elsewhere", "origin_of": {"installer": "flag"}}
    inputs["manifest"]["os"] = "smartos"
    inputs["image"] |= {"uuid": "another", "label": "mmdebstrap:trixie"}
    inputs["proto"]["changed"] = [["srv/www/index.html", "size"]]
    value["tools"]["python"] = "3.12.0"
    value["packages"][0]["version"] = "9"
    value["artifacts"][0] |= {"sha256": "00" * 32, "size": 5}
    value["steps"][2] |= {"state": "reuse", "seconds": 0, "reason": "same packages"}
    assert differences(made(reportdata.record()), made(value)) == [
        "option installer: apt -> pkgsrc (flag)",
        "manifest os: linux -> smartos",
        "base image label: mmdebstrap:bookworm -> mmdebstrap:trixie",
        "tool python: 3.11.7 -> 3.12.0",
        "package adduser:amd64: 1.0.0-1+deb12u0 -> 9",
        "proto srv/www/index.html: size",
        "oci: 65207296 -> 5 bytes",
        "step packages: run 8.2 s -> reuse 0.0 s: same packages",
        "seconds: 11.8 -> 1.0",
    ]


def test_an_installer_is_the_one_that_was_used() -> None:
    old, new = reportdata.record(), reportdata.record()
    for value, asked, used in ((old, "auto", "apt"), (new, "apt", "apt")):
        value["inputs"]["spec"]["installer"], value["inputs"]["installer"] = asked, used
    assert not [row for row in differences(made(old), made(new)) if "installer" in row]
    new["inputs"]["installer"] = ""
    assert "option installer: apt removed" in differences(made(old), made(new))
    new["inputs"]["installer"] = "pkgsrc"
    assert "option installer: apt -> pkgsrc" in differences(made(old), made(new))


def test_the_order_of_the_rules_for_owners_counts() -> None:
    rules = {"*": "root:root", "/srv/*": "www:www"}
    old, new = reportdata.record(), reportdata.record()
    old["inputs"]["spec"]["owner"] = rules
    new["inputs"]["spec"]["owner"] = dict(reversed(rules.items()))
    assert "option owner: order changed" in differences(made(old), made(new))


def test_a_failed_build_can_be_compared() -> None:
    lines = differences(made(reportdata.record()), made(reportdata.failed()))
    assert "step packages: run 8.2 s -> failed 8.2 s: apt-get exited with status 100" in lines


def test_a_program_gets_fields_beside_the_sentences() -> None:
    value = reportdata.record()
    value["inputs"]["proto"]["changed"] = [["srv/www/index.html", "size"]]
    rows = [row.to_json() for row in compare.explain(made(value))]
    assert rows[0] == {
        "kind": "build", "build_id": "20261121T075648-5c6aae69", "name": "hello", "version": "1.4.2", "ok": True,
        "seconds": value["seconds"], "text": "hello 1.4.2 in 11.82 s (build 20261121T075648-5c6aae69)",
    }  # fmt: skip
    assert rows[2].keys() == {"kind", "name", "state", "reason", "seconds", "key", "text"}
    assert (rows[2]["kind"], rows[2]["name"], rows[2]["state"]) == ("step", "clone", "run")
    assert rows[-1] == {
        "kind": "proto", "path": "srv/www/index.html", "why": "size", "text": "changed srv/www/index.html: size"
    }  # fmt: skip


def test_and_so_of_differences() -> None:
    value = reportdata.record(seconds=1.0)
    value["inputs"]["spec"] |= {"installer": "pkgsrc", "origin_of": {"installer": "flag"}}
    value["packages"][0]["version"] = "9"
    value["artifacts"][0] |= {"sha256": "00" * 32, "size": 5}
    value["steps"][2] |= {"state": "reuse", "seconds": 0, "reason": "same packages"}
    found = {
        row["kind"]: row
        for row in (it.to_json() for it in compare.differences(made(reportdata.record()), made(value)))
    }
    assert found["option"] == {
        "kind": "option", "name": "installer", "change": "changed", "old": "apt", "new": "pkgsrc", "origin": "flag",
        "text": "option installer: apt -> pkgsrc (flag)",
    }  # fmt: skip
    assert (found["package"]["name"], found["package"]["new"]) == ("adduser:amd64", "9")
    assert found["tree"]["same"] is True
    assert (found["file"]["format"], found["file"]["same"], found["file"]["new"]) == ("oci", False, 5)
    assert (found["step"]["old"]["state"], found["step"]["new"]["state"]) == ("run", "reuse")
    assert found["seconds"]["new"] == 1.0
