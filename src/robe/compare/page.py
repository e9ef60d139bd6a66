"""The comparison as one HTML page that needs nothing but itself: no network, no scripts."""

from __future__ import annotations

import importlib.util
import re
from importlib import resources
from typing import Any

from robe.compare import words
from robe.compare.records import Arm, Comparison, Record, Value

REMEDY = "pip install 'robe[plots]'"


def can_render() -> bool:
    """Whether matplotlib and jinja2, the extra ``plots``, are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("matplotlib", "jinja2"))


def render(comparison: Comparison) -> str:
    """The page as HTML text.

    Raises:
        ModuleNotFoundError: the extra ``plots`` is not installed.
    """
    if not can_render():
        raise ModuleNotFoundError(f"the page needs matplotlib and jinja2: {REMEDY}")
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = resources.files("robe.compare").joinpath("page.html.j2").read_text(encoding="utf-8")
    arms = {arm.key: arm for arm in comparison.arms}
    return environment.from_string(template).render(
        c=comparison,
        summaries=comparison.summaries(),
        arms=arms,
        words=words,
        headline=words.headline(comparison),
        caveats=words.caveats(comparison),
        figures=_figures(comparison),
        tuning=_tuning(comparison),
        made=_made(comparison),
    )


def _figures(comparison: Comparison) -> dict[str, list[dict[str, Any]]]:
    """SVGs by section, each with a caption and a text alternative that says what is seen."""
    from robe.compare import plots

    done = [s for s in comparison.summaries() if s.test_auc]
    if not done:
        return {"size": [], "curves": [], "speed": []}
    seen = "; ".join(
        f"{s.arm.label}: {words.count(s.parameters)} parameters, {words.with_spread(s.test_auc)}" for s in done
    )
    size = [
        _figure(
            "size", plots.auc_against_size(comparison, "size"), "All methods", f"Test AUC against parameters. {seen}."
        )
    ]
    floor = plots.close_up_floor(comparison)
    if floor is not None:
        caption = f"Close-up of test AUC above {floor:.3f}"
        size.append(
            _figure("close", plots.auc_against_size(comparison, "close", floor), caption, f"{caption}. {seen}.")
        )
    curves = []
    for i, method in enumerate(dict.fromkeys(arm.method for arm in comparison.arms)):
        if any(r.curve for r in comparison.records if _arm(comparison, r).method == method):
            svg = plots.learning_curves(comparison, method, f"curve{i}")
            curves.append(
                _figure(
                    f"curve{i}", svg, method, f"Validation AUC against epoch, {method}. {_best(comparison, method)}"
                )
            )
    rates = "; ".join(f"{s.arm.label}: {words.with_spread(s.samples_per_second, 0)}" for s in done)
    speed = []
    if any(s.samples_per_second for s in done):  # runs of one step have no rate
        svg = plots.throughput(comparison, "speed")
        speed.append(_figure("speed", svg, "", f"Training samples per second. {rates}."))
    return {"size": size, "curves": curves, "speed": speed}


def _figure(identifier: str, svg: str, caption: str, alternative: str) -> dict[str, Any]:
    from markupsafe import Markup, escape

    head = f'<svg role="img" aria-labelledby="{identifier}-alt"'
    title = f'<title id="{identifier}-alt">{escape(alternative)}</title>'
    svg = re.sub(r"<svg([^>]*)>", lambda m: f"{head}{m[1]}>{title}", svg, count=1)
    return {"svg": Markup(svg), "caption": caption}  # noqa: S704 - matplotlib escapes its texts, and ours is escaped


def _best(comparison: Comparison, method: str) -> str:
    parts = [
        f"{s.arm.label}: best {words.with_spread(s.validation_auc)} at epoch {words.with_spread(s.best_epoch, 1)}"
        for s in comparison.summaries()
        if s.arm.method == method and s.validation_auc
    ]
    return "; ".join(parts) + "."


def _arm(comparison: Comparison, record: Record) -> Arm:
    return next(arm for arm in comparison.arms if arm.key == record.arm)


def _tuning(comparison: Comparison) -> dict[str, Any] | None:
    """Rows of the tuning table: every arm's validation AUC by value, the chosen one marked."""
    if not comparison.trials:
        return None
    columns = list(dict.fromkeys(_text(t.settings) for t in comparison.trials))
    rows = []
    for arm in comparison.arms:
        cells = {_text(t.settings): t for t in comparison.trials if t.arm == arm.key}
        chosen = _text(comparison.chosen.get(arm.key, {}))
        rows.append({"label": arm.label, "cells": [(cells.get(c), c == chosen) for c in columns]})
    return {"columns": columns, "rows": rows, "keys": ", ".join(comparison.tuned)}


def _text(settings: Any) -> str:
    return ", ".join(f"{words.setting(key)} = {value}" for key, value in settings.items())


def _made(comparison: Comparison) -> dict[str, Value]:
    data = comparison.data
    rows = ", ".join(f"{n:,} {split}" for split, n in data.rows.items())
    tokens = "ids without a vocabulary" if data.tokens is None else f"{data.tokens:,} tokens"
    return {
        "Command": comparison.command or "library call",
        "Data set": data.path,
        "Rows": rows,
        "Features": f"{data.fields} categorical ({tokens}), {data.dense} numeric",
        "Data digest": data.digest,
        "Seeds": ", ".join(map(str, comparison.seeds)),
        "Made": comparison.created,
        **comparison.environment,
    }
