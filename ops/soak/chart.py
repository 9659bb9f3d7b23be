"""A soak as a picture: private memory, descriptors and shared memory over tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ringcast.soak.report import WARM_UP, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(report: Report, path: Path) -> None:
    """Write a PNG. Imports matplotlib, and of it the Agg backend only."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 10), layout="constrained")
    FigureCanvasAgg(figure)  # takes the place of whatever backend is configured
    memory, descriptors, shared = figure.subplots(3, sharex=True)
    _draw_memory(memory, report)
    _draw_descriptors(descriptors, report)
    _draw_shared(shared, report)
    shared.set_xlabel("tokens checked, millions")
    figure.suptitle(
        f"ringcast soak, seed {report.seed}: {report.tally.tokens:,} tokens, "
        f"{report.tally.wrong} lost, doubled or changed"
    )
    figure.savefig(path)


def _millions(report: Report) -> list[float]:
    return [sample.tokens / 1e6 for sample in report.samples]


def _draw_memory(axes: Axes, report: Report) -> None:
    for role in report.samples[-1].processes:
        label = role
        if role in report.growth:
            slope = report.growth[role].bytes_per_million_tokens.times(1 / 1024)
            label += f": {slope.slope:+.0f} KiB/M [{slope.low:+.0f}, {slope.high:+.0f}]"
        uss = [sample.processes[role].uss / 2**20 for sample in report.samples]
        axes.plot(_millions(report), uss, label=label)
    first, last = report.samples[0], report.samples[-1]
    begin = next(s for s in report.samples if s.at >= first.at + WARM_UP * (last.at - first.at))
    axes.axvspan(0, begin.tokens / 1e6, alpha=0.1, label="warm-up")
    axes.set_ylabel("USS, MiB")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")


def _draw_descriptors(axes: Axes, report: Report) -> None:
    for role in report.samples[-1].processes:
        fds = [sample.processes[role].fds for sample in report.samples]
        axes.plot(_millions(report), fds, label=role)
    axes.set_ylabel("descriptors")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")


def _draw_shared(axes: Axes, report: Report) -> None:
    axes.plot(_millions(report), [sample.shm_bytes / 2**20 for sample in report.samples])
    axes.set_ylabel("shared memory, MiB")
    axes.set_ylim(bottom=0)
