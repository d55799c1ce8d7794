"""The results as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.results import median, ratio, verdict


def render(results: Mapping[str, Any]) -> str:
    """Every case with each engine's median, what the peers take of ours, and our peak memory: of the largest
    process, and of all together."""
    return "\n".join(_lines(results)) + "\n"


def _lines(results: Mapping[str, Any]) -> Iterator[str]:
    host = results["host"]
    size = f"{host['cores']} cores, {host['memory'] / 1e9:.0f} GB"
    yield f"{host['cpu']}, {size}, {host['filesystem']}, kernel {host['kernel']}"
    yield "; ".join(f"{name} {text}" for name, text in results["versions"].items())
    yield f"medians in seconds (runs, least to most); page cache {results['page_cache']}"
    for workload in results["workloads"]:
        yield ""
        facts = workload.get("facts", {})
        size = f" ({facts['files']:,} files, {facts['data_bytes'] / 1e6:,.0f} MB)" if facts else ""
        if "packages" in facts:
            size = f" ({facts['packages']} packages)"
        yield f"{workload['name']}: {workload['title']}{size}"
        if "left_out" in workload:
            yield f"  left out: {workload['left_out']}"
            continue
        yield from _cases(workload["cases"])


def _cases(cases: list[dict[str, Any]]) -> Iterator[str]:
    engines = list(dict.fromkeys(name for case in cases for name in case["engines"]))
    head = [
        "case",
        "bar",
        *engines,
        *(f"{name}/ours" for name in engines if name != "ours"),
        "peak",
        "all",
        "",
    ]
    rows = [head]
    notes: dict[str, str] = {}
    for case in cases:
        row = [case["title"], "" if case["bar"] is None else f"{case['bar']:g}"]
        for name in engines:
            cell = case["engines"].get(name, {"left_out": ""})
            row.append(_cell(cell))
            if cell.get("left_out"):
                notes.setdefault(f"{name}, {cell['left_out']}", case["title"])
        for name in engines:
            if name != "ours":
                times = ratio(case, name)
                row.append("" if times is None else f"{times:.1f}x")
        ours = case["engines"].get("ours", {})
        for key in ("rss_largest", "pss_total"):  # results of before have no such sum
            row.append(f"{ours[key] / 1e6:.0f} MB" if median(ours) is not None and ours.get(key) else "")
        row.append(verdict(case))
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [text.rjust(width) for text, width in zip(row[1:-1], widths[1:-1], strict=True)]
        yield "  " + "  ".join([*cells, row[-1]]).rstrip()
    for note, title in notes.items():
        yield f"  - {title}: {note}"
    yield from _costs(cases)


def _costs(cases: list[dict[str, Any]]) -> Iterator[str]:
    """What our build counted, where its time went, and how large everyone's archives are."""
    for case in cases:
        cell = case["engines"].get("ours", {})
        if median(cell) is None:
            continue
        counts = ", ".join(f"{name} {_short(amount)}" for name, amount in cell["counts"].items() if amount)
        slowest = sorted(cell["steps"].items(), key=lambda item: -item[1])[:3]
        steps = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in slowest)
        did = f"{steps}; {counts}" if steps else "what was there was left as it is"
        sizes = ", ".join(
            f"{name} {_short(other['bytes'])}B"
            for name, other in case["engines"].items()
            if other.get("bytes")
        )
        yield f"  . {case['title']}: processor {cell['cpu']:.2f} s; {did}; archives: {sizes}"


def _short(amount: float) -> str:
    for unit in ("", "k", "M"):
        if amount < 1000:
            return f"{amount:.0f}{unit}"
        amount /= 1000
    return f"{amount:.1f}G"


def _cell(cell: Mapping[str, Any]) -> str:
    if median(cell) is None:
        return "-"
    spread = f" ({cell['count']}, {cell['least']:.2f}-{cell['most']:.2f})" if cell["count"] > 1 else " (1)"
    return f"{cell['median']:.2f}{spread}"
