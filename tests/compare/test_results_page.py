"""scripts/results/page.py: docs/results.md and its plot from finished comparisons."""

import subprocess
import sys
from pathlib import Path

import pytest

from robe.compare.files import write_json
from robe.compare.records import Arm, Comparison, DataFacts, Record

SCRIPT = Path(__file__).parents[2] / "scripts" / "results" / "page.py"
AUC = {("dlrm", "full"): 0.984, ("dlrm", "10x"): 0.98, ("xdeepfm", "full"): 0.985}


def finished():
    arms, records = [], []
    for (model, size), auc in AUC.items():
        kind = "full" if size == "full" else "robe"
        key = f"{model}-{kind}-{size}"
        arms.append(Arm(key, f"{model} {kind}", kind, size, None if kind == "full" else 4))
        records += [Record(f"{key}-seed{s}", key, s, test_auc=auc + d) for s, d in enumerate((-0.001, 0, 0.001))]
    facts = DataFacts("frappe", "sha256:00", {"train": 3, "validation": 2, "test": 1}, 10, 0, 5392)
    return Comparison(facts, tuple(arms), (0, 1, 2), tuple(records))


@pytest.mark.parametrize("names", [("frappe",), ("movielens", "frappe")])
def test_the_page_and_its_plot(tmp_path, names):
    pytest.importorskip("matplotlib")
    (tmp_path / "docs" / "img").mkdir(parents=True)
    for name in names:
        (tmp_path / name).mkdir()
        write_json(finished(), tmp_path / name / "results.json")
    subprocess.run([sys.executable, str(SCRIPT), str(tmp_path), str(tmp_path / "docs")], check=True, timeout=120)
    page = (tmp_path / "docs" / "results.md").read_text()
    assert "| DLRM | 0.9840 | 0.9840 ± 0.0010 | 0.9800 ± 0.0010 (\u22120.0040) |" in page
    assert "| xDeepFM | 0.9845 | 0.9850 ± 0.0010 | \u2013 |" in page
    assert page.count("\n## ") == len(names)
    assert "<svg" in (tmp_path / "docs" / "img" / "results.svg").read_text()
