"""Plots of a comparison as SVG text that takes its colours and font from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from robe.compare import words
from robe.compare.records import Comparison, Record, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Matplotlib writes these colours; `_svg` replaces each by a CSS variable, so that one picture serves light and dark.
_INK, _MUTED, _GRID = "#a1b2f0", "#a1b2f1", "#a1b2f2"
_SERIES = tuple(f"#a1b2{i:02x}" for i in range(8))
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _GRID: "--grid"} | {c: f"--s{i}" for i, c in enumerate(_SERIES)}
_MARKERS = "os^DvPX*"
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))
_WIDTH = 5.6  # inches at 72 points: text stays readable when a phone shrinks it to 340 pixels

_STYLE: Any = {  # matplotlib types its 400 keys; a plain dict does not match
    "svg.fonttype": "none",
    "svg.hashsalt": "robe",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _GRID,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}


def auc_against_size(comparison: Comparison, identifier: str, floor: float | None = None) -> str:
    """Test AUC against parameters, a line per method and Z, full tables as a level, error bars of the spread.

    Args:
        comparison: what to plot.
        identifier: prefix of all ids in the SVG; unique in its page.
        floor: the lowest AUC to show, for a close-up; None for all.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 3.7), layout="constrained")
        axes = figure.subplots()
        summaries = [s for s in comparison.summaries() if s.test_auc]
        series = _series(comparison)
        for name, index in series.items():
            line = [s for s in summaries if s.arm.series == name]
            if line and line[0].arm.kind == "full":
                _level(axes, line[0], _INK if line[0].arm == comparison.reference else _SERIES[index])
            elif any(s.test_auc.mean > (floor or 0.0) for s in line if s.test_auc):
                # Bars at one size would hide each other: each series is set 4 % aside.
                _line(axes, name, index, line, nudge=1.04 ** (index - (len(series) - 2) / 2))
        if comparison.data.best_auc is not None and floor is None:
            axes.axhline(comparison.data.best_auc, color=_MUTED, ls=":", lw=1.4, label="best reachable")
        axes.set_xlabel("parameters of the embedding (log scale)")
        axes.set_ylabel("test AUC")
        _log_axis(axes, [s.parameters for s in summaries if s.arm.kind != "full" and s.parameters])
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.3f}"))
        axes.margins(y=0.08)
        if floor is not None:
            top = max(s.test_auc.mean + (s.test_auc.spread or 0) for s in summaries if s.test_auc)
            axes.set_ylim(floor, top + 0.12 * (top - floor))
        figure.legend(loc="outside upper left", ncols=3, handlelength=2.4, columnspacing=1.4, borderpad=0)
        return _svg(figure, identifier)


def close_up_floor(comparison: Comparison) -> float | None:
    """Where a close-up of the best arms should begin; None when one plot shows all of them well."""
    estimates = [s.test_auc for s in comparison.summaries() if s.test_auc]
    top = max((e.mean for e in estimates), default=0.0)
    near = [e for e in estimates if e.mean > top - 0.015]
    lowest = min((e.mean for e in estimates), default=0.0)
    if len(near) < 2 or top - lowest < 3 * (top - min(e.mean for e in near)):
        return None
    bottom = min(e.mean - (e.spread or 0.0) for e in near)
    return bottom - 0.1 * (top - bottom) - 0.0002


def learning_curves(comparison: Comparison, method: str, identifier: str) -> str:
    """Validation AUC against epoch for the arms of one method, a thin line per seed, the best points marked."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 3.3), layout="constrained")
        axes = figure.subplots()
        series = _series(comparison)
        arms = [arm for arm in comparison.arms if arm.method == method]
        sizes = list(dict.fromkeys(arm.size for arm in arms))
        for arm in arms:
            records = [r for r in comparison.records if r.arm == arm.key and r.curve]
            for i, record in enumerate(records):
                colour = _INK if arm == comparison.reference else _SERIES[series[arm.series]]
                dash, marker = _DASHES[sizes.index(arm.size) % len(_DASHES)], _MARKERS[series[arm.series]]
                _curve(axes, record, colour, dash, marker, arm.label if i == 0 else None)
        axes.set_xlabel("epoch")
        axes.set_ylabel("validation AUC")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.3f}"))
        if axes.lines:
            figure.legend(loc="outside upper left", ncols=3, handlelength=2.6, columnspacing=1.4, borderpad=0)
        return _svg(figure, identifier)


def throughput(comparison: Comparison, identifier: str) -> str:
    """Training speed of every arm as horizontal bars with the spread."""
    summaries = [s for s in comparison.summaries() if s.samples_per_second]
    series = _series(comparison)
    with mpl.rc_context(_STYLE | {"axes.grid.axis": "x"}):
        figure = Figure(figsize=(_WIDTH, 0.5 + 0.3 * len(summaries)), layout="constrained")
        axes = figure.subplots()
        top = max(s.samples_per_second.mean for s in summaries if s.samples_per_second)
        for row, s in enumerate(summaries):
            assert s.samples_per_second is not None
            mean, spread = s.samples_per_second.mean, s.samples_per_second.spread
            colour = _INK if s.arm == comparison.reference else _SERIES[series[s.arm.series]]
            axes.barh(row, mean, 0.62, color=colour, alpha=0.8, lw=0)
            if spread is not None:
                axes.errorbar(mean, row, xerr=spread, color=_INK, lw=1.2, capsize=2.5)
            axes.text(mean + (spread or 0) + 0.015 * top, row, f"{mean:,.0f}", va="center", fontsize=9, color=_INK)
        axes.set_yticks(range(len(summaries)), [s.arm.label for s in summaries])
        axes.invert_yaxis()
        axes.set_xlim(0, top * 1.2)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlabel("training samples per second")
        return _svg(figure, identifier)


def _level(axes: Axes, summary: Summary, colour: str) -> None:
    assert summary.test_auc is not None
    mean, spread = summary.test_auc.mean, summary.test_auc.spread
    label = f"{summary.arm.method} ({words.count(summary.parameters)})"
    axes.axhline(mean, color=colour, ls=(0, (6, 2)), lw=1.6, label=label)
    if spread is not None:
        axes.axhspan(mean - spread, mean + spread, color=colour, alpha=0.1, lw=0)


def _line(axes: Axes, name: str, index: int, summaries: Sequence[Summary], nudge: float) -> None:
    points = sorted((s.parameters or 0, s.test_auc.mean, s.test_auc.spread) for s in summaries if s.test_auc)
    x, y, spread = zip(*((parameters * nudge, auc, sd) for parameters, auc, sd in points), strict=True)
    bars = None if None in spread else spread
    axes.errorbar(
        x, y, yerr=bars, color=_SERIES[index], marker=_MARKERS[index], capsize=3, elinewidth=1.3, label=name
    )  # fmt: skip


def _curve(axes: Axes, record: Record, colour: str, dash: Any, marker: str, label: str | None) -> None:
    epochs, aucs = zip(*record.curve, strict=True)
    best = max(range(len(aucs)), key=lambda i: aucs[i])
    axes.plot(epochs, aucs, ls=dash, lw=1.3, color=colour, alpha=0.85, label=label)
    axes.plot(epochs[best], aucs[best], marker=marker, markersize=4.5, ls="", color=colour)


def _log_axis(axes: Axes, parameters: Sequence[int]) -> None:
    if not parameters:
        axes.set_xticks([])
        return
    low, high = min(parameters), max(parameters)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.6, high * 1.6)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 30 else (1.0, 2.0, 5.0), numticks=12))
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _series(comparison: Comparison) -> dict[str, int]:
    """Colour number by series; the reference has the ink colour and takes no number from the others."""
    names = dict.fromkeys(arm.series for arm in comparison.arms if arm != comparison.reference)
    numbers = {name: i % len(_SERIES) for i, name in enumerate(names)}
    return ({comparison.reference.series: len(_SERIES) - 1} if comparison.reference else {}) | numbers


def _svg(figure: Figure, identifier: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r'\bid="', f'id="{identifier}-', text)
    text = re.sub(r'href="#', f'href="#{identifier}-', text)
    text = text.replace("url(#", f"url(#{identifier}-")
    text = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", text)
    return re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", text).strip()
