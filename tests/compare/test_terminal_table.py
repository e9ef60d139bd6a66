import io

import pytest
from rich.console import Console

from robe.compare import terminal_table, words


@pytest.mark.parametrize("tuned", [True, False])
def test_fits_into_120_columns(make, tuned):
    comparison = make(tuned=tuned)
    console = Console(width=120, file=io.StringIO())
    console.print(terminal_table(comparison))
    text = console.file.getvalue()
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    for summary in comparison.summaries():
        line = next(x for x in text.splitlines() if words.with_spread(summary.test_auc) in x)
        assert words.with_spread(summary.test_logloss) in line
        assert words.times(summary.compression) in line


def test_epochs_are_those_to_the_best_checkpoint(comparison):
    columns = [" ".join(str(column.header).split()) for column in terminal_table(comparison).columns]
    assert "epochs to best" in columns
    assert "epochs" not in columns
