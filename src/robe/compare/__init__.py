"""Comparisons: several embeddings x sizes x seeds on one data set, tuned fairly, reported honestly."""

from robe.compare.files import read_json
from robe.compare.plan import METHODS, Plan, make_plan
from robe.compare.records import Arm, Comparison, Estimate, Record, Summary
from robe.compare.runner import RunFailedError, compare, write_results
from robe.compare.table import terminal_table

__all__ = [
    "METHODS",
    "Arm",
    "Comparison",
    "Estimate",
    "Plan",
    "Record",
    "RunFailedError",
    "Summary",
    "compare",
    "make_plan",
    "read_json",
    "terminal_table",
    "write_results",
]
