"""The comparison as a table for the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table

from robe.compare import words
from robe.compare.records import Comparison, Summary


def terminal_table(comparison: Comparison) -> Table:
    """A rich table, one line an arm; the caption says what the numbers are."""
    reference = comparison.reference
    with_reference = reference is not None and len(comparison.arms) > 1
    caption = f"{words.seeds(len(comparison.seeds)).capitalize()}. "
    if len(comparison.seeds) > 1:
        caption += words.SPREAD_NOTE
        if with_reference:
            caption += " [..] is the 95 % interval of the difference paired by seed."
    else:
        caption += "No spread can be given."
    # Without vertical lines, and with two lines for an interval, everything fits into 120 columns.
    table = Table(
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("method", overflow="fold")
    numeric = ["Z", "parameters", "MB", "compression", *(words.setting(k) for k in comparison.tuned)]
    numeric += ["test AUC", "logloss", *(["Δ AUC vs full"] if with_reference else []), "epochs\nto best", "samples/s"]
    for name in numeric:
        table.add_column(name, justify="right", no_wrap=not name.startswith("Δ"))  # the interval may take two lines
    for summary in comparison.summaries():
        table.add_row(*_cells(summary, comparison, with_reference))
    return table


def _cells(s: Summary, comparison: Comparison, with_reference: bool) -> list[str]:
    failed = f" ({s.failed} failed)" if s.failed else ""
    return [
        s.arm.method + failed,
        str(s.arm.block_size or words.DASH),
        words.count(s.parameters),
        words.megabytes(s.megabytes),
        words.times(s.compression),
        *(str(s.chosen.get(key, words.DASH)) for key in comparison.tuned),
        words.with_spread(s.test_auc),
        words.with_spread(s.test_logloss),
        *([words.difference(s.delta_auc).replace(" [", "\n[")] if with_reference else []),
        words.with_spread(s.best_epoch, 1),
        words.count(s.samples_per_second.mean if s.samples_per_second else None),
    ]
