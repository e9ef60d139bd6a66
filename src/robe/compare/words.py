"""Results in words and numbers, the same on the terminal and on the page."""

from __future__ import annotations

from robe.compare.records import Comparison, Estimate, Summary

DASH, MINUS, TIMES = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
SPREAD_NOTE = "± is the sample standard deviation over seeds."


def number(value: float | None, digits: int = 4) -> str:
    """A fixed number of decimals, or a dash."""
    return DASH if value is None else f"{value:.{digits}f}"


def with_spread(estimate: Estimate | None, digits: int = 4) -> str:
    """``0.7973 ± 0.0004``; without a spread when there was one seed."""
    if estimate is None:
        return DASH
    mean = f"{estimate.mean:,.{digits}f}"
    return mean if estimate.spread is None else f"{mean} ± {estimate.spread:,.{digits}f}"


def difference(estimate: Estimate | None) -> str:
    """``−0.0012 [−0.0020, −0.0004]``, the brackets being the 95 % interval where there is one."""
    if estimate is None:
        return DASH
    mean = signed(estimate.mean)
    if estimate.interval is None:
        return mean
    return f"{mean} [{signed(estimate.mean - estimate.interval)}, {signed(estimate.mean + estimate.interval)}]"


def signed(value: float) -> str:
    """Four decimals with a sign; a true minus sign."""
    return f"{value:+.4f}".replace("-", MINUS)


def count(value: float | None) -> str:
    """``23,062,400``."""
    return DASH if value is None else f"{value:,.0f}"


def times(compression: float | None) -> str:
    """``1000×``, ``15.3×``."""
    if compression is None:
        return DASH
    return f"{compression:.0f}{TIMES}" if compression >= 99.95 else f"{compression:.3g}{TIMES}"


def megabytes(value: float | None) -> str:
    """Three significant digits, never an exponent."""
    if value is None:
        return DASH
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def setting(key: str) -> str:
    """``embedding.init_std`` without its section."""
    return key.partition(".")[2]


def seeds(n: int) -> str:
    """``one seed`` or ``3 seeds``."""
    return "one seed" if n == 1 else f"{n} seeds"


def headline(comparison: Comparison) -> tuple[str, str]:
    """The finding: the smallest compressed arm against the full tables, and (or "") the hashing trick at that size.

    Among the arms of the highest compression, ROBE goes first, and then the best mean validation AUC: the test
    part has no say in what is shown.
    """
    summaries = [s for s in comparison.summaries() if s.test_auc]
    full = next((s for s in summaries if s.arm == comparison.reference), None)
    others = [s for s in summaries if s.arm.kind != "full"]
    ours = [s for s in others if s.arm.kind == "robe"] or others
    if not ours:
        if full and full.test_auc:
            return f"Full tables reach a test AUC of {_auc(full.test_auc)}; nothing was compared with them.", ""
        return "No run finished.", ""
    smallest = max(s.compression or 0 for s in ours)
    best = max(
        (s for s in ours if (s.compression or 0) >= 0.99 * smallest),
        key=lambda s: s.validation_auc.mean if s.validation_auc else 0.0,
    )
    return _main_sentence(best, full), _peer_sentence(best, others)


def _main_sentence(best: Summary, full: Summary | None) -> str:
    assert best.test_auc is not None
    reached = f"{best.arm.series} with {count(best.parameters)} parameters"
    if full is None or full.test_auc is None:
        size = f" ({times(best.compression)} compression)" if best.compression else ""
        return f"{reached}{size} reaches a test AUC of {_auc(best.test_auc)}."
    # The difference of the table: over the seeds that both have.
    delta = best.delta_auc.mean if best.delta_auc else best.test_auc.mean - full.test_auc.mean
    where = "level with" if abs(delta) < 5e-5 else f"{abs(delta):.4f} {'above' if delta > 0 else 'below'}"
    interval = best.delta_auc.interval if best.delta_auc else None
    unsure = ""
    if interval is not None and abs(delta) < interval:
        unsure = f", a difference that {seeds(full.test_auc.seeds)} cannot tell from zero"
    return (
        f"{reached} instead of {count(full.parameters)} ({times(best.compression)} compression) reaches a test AUC of "
        f"{_auc(best.test_auc)}: {where} the full tables ({_auc(full.test_auc, False)}){unsure}."
    )


def _peer_sentence(best: Summary, others: list[Summary]) -> str:
    """How the plain hashing trick does at the same size."""
    for s in others:
        same_size = s.parameters and best.parameters and abs(s.parameters / best.parameters - 1) < 0.05
        if s.arm.kind == "hashing" != best.arm.kind and same_size and s.test_auc:
            return f"At the same size the hashing trick reaches {_auc(s.test_auc, False)}."
    return ""


def _auc(estimate: Estimate, say_seeds: bool = True) -> str:
    text = with_spread(estimate)
    if estimate.spread is None:
        return f"{text} (one seed, so its spread is unknown)" if say_seeds else text
    return f"{text} ({seeds(estimate.seeds)})" if say_seeds else text


def caveats(comparison: Comparison) -> list[str]:
    """What a reader must know to weigh the numbers."""
    notes = []
    if len(comparison.seeds) == 1:
        notes.append("Every number comes from one seed: differences of the size of the seed noise mean nothing.")
    elif len(comparison.seeds) < 5:
        notes.append(f"Only {seeds(len(comparison.seeds))}: the spread itself is known only roughly.")
    failed = [r for r in comparison.records if r.error]
    if failed:
        notes.append(f"{len(failed)} of {len(comparison.records)} runs failed and are left out of the means.")
    if comparison.tuned and (edges := at_edge(comparison)):
        notes.append(
            f"The best value is at the edge of those tried for {', '.join(edges)}: a wider grid may do better."
        )
    if comparison.reference is None:
        notes.append("No full tables were trained, so there is no difference to them.")
    return notes


def at_edge(comparison: Comparison) -> list[str]:
    """Labels of the arms whose chosen number is the smallest or largest tried."""
    result = []
    for arm in comparison.arms:
        for key, value in comparison.chosen.get(arm.key, {}).items():
            tried = [t.settings[key] for t in comparison.trials if t.arm == arm.key]
            numbers = [t for t in tried if isinstance(t, int | float) and not isinstance(t, bool)]
            if len(set(numbers)) > 2 and value in (min(numbers), max(numbers)) and arm.label not in result:
                result.append(arm.label)
    return result
