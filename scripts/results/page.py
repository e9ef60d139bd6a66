"""Writes docs/results.md and its plot from finished comparisons.

python scripts/results/page.py OUT DOCS
"""

import sys
from pathlib import Path

import matplotlib as mpl
from jinja2 import Template
from matplotlib.figure import Figure

from robe.compare import read_json
from robe.compare.records import Comparison, Summary

NAMES = {
    "dlrm": "DLRM", "dcn": "DCN", "autoint": "AutoInt+", "deepfm": "DeepFM", "xdeepfm": "xDeepFM", "fibinet": "FiBiNET",
}  # fmt: skip
# BARS' results of Frappe_x1, with the training negatives of its own; tables of D = 10.
PUBLISHED = {
    "dlrm": 0.9840, "dcn": 0.9839, "autoint": 0.9848, "deepfm": 0.9842, "xdeepfm": 0.9845, "fibinet": 0.9832,
}  # fmt: skip
TITLES = {"movielens": "MovieLens-1M with seven crosses", "frappe": "Frappe_x1, train negatives re-sampled"}


def by_model(comparison: Comparison) -> dict[str, list[Summary]]:
    """The lines of a comparison by model, full tables first, in the order of the configuration."""
    lines: dict[str, list[Summary]] = {}
    for summary in comparison.summaries():
        lines.setdefault(summary.arm.method.split()[0], []).append(summary)
    return lines


def size(summary: Summary) -> str:
    return "full tables" if summary.arm.size == "full" else f"ROBE {summary.arm.size}"


def table(comparison: Comparison, published: dict[str, float] | None = None) -> list[str]:
    """Mean and spread of every model and size, the loss against its own full tables, and what others published."""
    models = by_model(comparison)
    sizes = list(dict.fromkeys(size(s) for lines in models.values() for s in lines))
    columns = [*(["published"] if published else []), *sizes]
    rows = [f"| test AUC | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for model, lines in models.items():
        found = {size(s): s.test_auc for s in lines if s.test_auc is not None}
        full = found.get("full tables")
        cells = [f"{published[model]:.4f}"] if published else []
        for name in sizes:
            auc = found.get(name)
            if auc is None:
                cells.append("–")
                continue
            spread = "" if auc.spread is None else f" ± {auc.spread:.4f}"
            loss = "" if full is None or auc is full else f" ({auc.mean - full.mean:+.4f})".replace("-", "−")
            cells.append(f"{auc.mean:.4f}{spread}{loss}")
        rows.append(f"| {NAMES[model]} | {' | '.join(cells)} |")
    return rows


def plot(comparisons: dict[str, Comparison], path: Path) -> None:
    """Test AUC of every model, a marker per size, whiskers of the spread over seeds."""
    mpl.rcParams["svg.hashsalt"] = "robe"
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, len(comparisons), squeeze=False)[0]
    for axes, (name, comparison) in zip(panels, comparisons.items(), strict=True):
        models = by_model(comparison)
        sizes = list(dict.fromkeys(size(s) for lines in models.values() for s in lines))
        for k, wanted in enumerate(sizes):
            points = [
                (i + 0.18 * (k - 1), s.test_auc.mean, s.test_auc.spread or 0)
                for i, lines in enumerate(models.values())
                for s in lines
                if size(s) == wanted and s.test_auc is not None
            ]
            x, y, spread = zip(*points, strict=True)
            axes.errorbar(x, y, yerr=spread, fmt="os^"[k], capsize=2, markersize=5, linestyle="none", label=wanted)
        axes.set_xticks(range(len(models)), [NAMES[model] for model in models], fontsize=8)
        axes.set_title(TITLES[name], fontsize=10)
        axes.set_ylabel("test AUC")
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    out, docs = Path(sys.argv[1]), Path(sys.argv[2])
    files = {name: out / name / "results.json" for name in TITLES}
    comparisons = {name: read_json(file) for name, file in files.items() if file.exists()}
    tables = {
        name: "\n".join(table(comparison, PUBLISHED if name == "frappe" else None))
        for name, comparison in comparisons.items()
    }
    plot(comparisons, docs / "img" / "results.svg")
    template = Template(
        Path(__file__).with_name("results.md.j2").read_text(encoding="utf-8"), keep_trailing_newline=True
    )
    (docs / "results.md").write_text(template.render(tables), encoding="utf-8")


if __name__ == "__main__":
    main()
