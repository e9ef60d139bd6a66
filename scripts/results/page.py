"""Writes docs/results.md and its plot from finished comparisons.

python scripts/results/page.py OUT DOCS
"""

import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from robe.compare import read_json
from robe.compare.records import Comparison, Summary

TITLES = {"movielens": "MovieLens-1M with seven crosses", "frappe": "Frappe_x1, train negatives re-sampled"}


def by_model(comparison: Comparison) -> dict[str, list[Summary]]:
    """The lines of a comparison by model, full tables first, in the order of the configuration."""
    lines: dict[str, list[Summary]] = {}
    for summary in comparison.summaries():
        lines.setdefault(summary.arm.method.split()[0], []).append(summary)
    return lines


def size(summary: Summary) -> str:
    return "full tables" if summary.arm.size == "full" else f"ROBE {summary.arm.size}"


def table(comparison: Comparison) -> list[str]:
    models = by_model(comparison)
    sizes = list(dict.fromkeys(size(s) for lines in models.values() for s in lines))
    rows = [f"| test AUC | {' | '.join(sizes)} |", "|---" * (len(sizes) + 1) + "|"]
    for model, lines in models.items():
        found = {size(s): s for s in lines}
        cells = []
        for name in sizes:
            auc = found[name].test_auc if name in found else None
            spread = "" if auc is None or auc.spread is None else f" ± {auc.spread:.4f}"
            cells.append("–" if auc is None else f"{auc.mean:.4f}{spread}")
        rows.append(f"| {model} | {' | '.join(cells)} |")
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
        axes.set_xticks(range(len(models)), list(models))
        axes.set_title(TITLES[name], fontsize=10)
        axes.set_ylabel("test AUC")
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    out, docs = Path(sys.argv[1]), Path(sys.argv[2])
    comparisons = {
        name: read_json(out / name / "results.json") for name in TITLES if (out / name / "results.json").exists()
    }
    text = [
        "# Results",
        "",
        "Written by `bash scripts/results/run.sh DATA OUT`. Mean and standard deviation over seeds; the",
    ]
    text += [
        "test split is read once a run, at the checkpoint of the best validation AUC. Settings: `scripts/results`."
    ]
    for name, comparison in comparisons.items():
        text += ["", f"## {TITLES[name]}", "", *table(comparison)]
    text += ["", "![Test AUC of six models with full tables and with ROBE](img/results.svg)", ""]
    plot(comparisons, docs / "img" / "results.svg")
    (docs / "results.md").write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
