"""The columns of Criteo's raw files: a label, 13 counts, 26 tokens of eight hexadecimal digits, tabs, no header."""

from typing import Final

NUM_DENSE: Final = 13
NUM_FIELDS: Final = 26
COLUMNS: Final = 1 + NUM_DENSE + NUM_FIELDS
DENSE_NAMES: Final = tuple(f"I{j + 1}" for j in range(NUM_DENSE))
FIELD_NAMES: Final = tuple(f"C{f + 1}" for f in range(NUM_FIELDS))

# Lines of the real files.
KAGGLE_LINES: Final = 45_840_617
TERABYTE_DAYS: Final = 24
