"""Metrics of a host in the Prometheus text format, as node_exporter's textfile collector reads them.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4). The collector reads
files with the end `.prom`, which must appear complete, and refuses samples with a time of their own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from buildstep.errors import UsageError
from buildstep.system.files import atomic_write

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


@dataclass(kw_only=True, slots=True)
class Metric:
    """A metric that can go up and down (a gauge), and its samples: labels and value."""

    name: str
    about: str
    samples: list[tuple[Mapping[str, str], float]] = field(default_factory=list)

    def add(self, value: float, **labels: str) -> None:
        """Add a sample. Two with the same labels would make the collector refuse the whole file."""
        assert all(labels != other for other, _ in self.samples), (self.name, labels)
        self.samples.append((labels, value))


def text_of(metrics: Iterable[Metric]) -> str:
    """Return metrics as text. One without a sample is left out."""
    lines: list[str] = []
    for metric in metrics:
        assert _NAME.fullmatch(metric.name), metric.name
        if not metric.samples:
            continue
        about = metric.about.replace("\\", r"\\").replace("\n", r"\n")
        lines += [f"# HELP {metric.name} {about}", f"# TYPE {metric.name} gauge"]
        lines += [f"{metric.name}{_labels(labels)} {_number(value)}" for labels, value in metric.samples]
    return "".join(f"{line}\n" for line in lines)


def write(path: Path, metrics: Iterable[Metric]) -> None:
    """Write metrics to a file, which others may read; it is complete whenever it is read.

    Raises UsageError for a name that the collector would not look at, and OSError.
    """
    if path.suffix != ".prom":
        raise UsageError(
            f"{path}: node_exporter reads only files that end in .prom",
            hint=f"--metrics {path.with_suffix('.prom')}",
        )
    # The temporary name ends in .part: the collector does not read it.
    with atomic_write(path, mode=0o644, durable=False) as stream:
        stream.write(text_of(metrics).encode())


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    assert all(map(_LABEL.fullmatch, labels)), labels
    shown = (f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{','.join(shown)}}}"


def _escaped(value: str) -> str:
    text = value.encode(errors="backslashreplace").decode()  # a host's name may be no UTF-8
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
