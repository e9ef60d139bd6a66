"""Tables, the array they share, and the numbers that kernels need to find an element."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robe.checks import nearest, require_in_range, require_positive
from robe.hashing import FORMS, Hash, HashSpec, ReleasedHash, UniversalHash, place

LAYOUT_VERSION = 1


@dataclass(frozen=True)
class Table:
    """One categorical feature's virtual embedding table.

    Args:
        name: unique among the tables of a layout.
        num_embeddings: rows; ids are then in [0, num_embeddings). None: any int64 id, no vocabulary.
        embedding_dim: D.
        direct: store the rows one by one instead of hashing them; needs ``num_embeddings``.
        table_id: e, the number that enters the hash; None takes the table's place in the layout.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range.
    """

    name: str
    num_embeddings: int | None
    embedding_dim: int
    direct: bool = False
    table_id: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"name: expected a str, got {self.name!r}")
        if self.num_embeddings is not None:
            require_positive(f"table {self.name!r}: num_embeddings", self.num_embeddings)
        require_positive(f"table {self.name!r}: embedding_dim", self.embedding_dim)
        if self.direct and self.num_embeddings is None:
            raise ValueError(f"table {self.name!r}: direct placement needs num_embeddings, got None")
        if self.table_id is not None and not 0 <= self.table_id < 2**31:
            raise ValueError(f"table {self.name!r}: expected table_id in [0, 2**31), got {self.table_id}")

    @property
    def full_parameters(self) -> int:
        """Elements of the full table: rows x D.

        Raises:
            ValueError: the table has no number of rows.
        """
        if self.num_embeddings is None:
            raise ValueError(
                f"table {self.name!r} has no num_embeddings, so a full table has no size: "
                "give num_slots= or memory= instead of compression=, or give num_embeddings"
            )
        return self.num_embeddings * self.embedding_dim


def check_tables(tables: Sequence[Table]) -> None:
    """Raises ValueError unless there is a table and names are unique."""
    if not tables:
        raise ValueError("tables: expected at least one table")
    names = [t.name for t in tables]
    if repeated := sorted({n for n in names if names.count(n) > 1}):
        raise ValueError(f"tables: names must be unique, repeated: {repeated}")


def table_index(tables: Sequence[Table], table: int | str) -> int:
    """The number of a table given by number or name; KeyError or IndexError if there is none."""
    if isinstance(table, str):
        names = [t.name for t in tables]
        if table not in names:
            raise KeyError(f"table: unknown name {table!r}; {nearest(table, names)}")
        return names.index(table)
    if not 0 <= table < len(tables):
        raise IndexError(f"table: expected a number in [0, {len(tables)}), got {table}")
    return table


class Mode(IntEnum):
    """How the embeddings of a bag become one vector; the numbers are part of the op contract."""

    SUM = 0
    MEAN = 1
    MAX = 2


class FieldSpec(NamedTuple):
    """What kernels need to know of one field: a row of the op's ``fields`` argument, in this order."""

    direct: int  # 1: rows stored one by one from `base`; 0: hashed
    addend: int  # the table's term of the hash
    sign_addend: int  # the table's term of the sign hash
    dim: int  # D
    rows: int  # ids are in [0, rows); -1: any int64
    base: int  # first slot of a direct table
    column: int  # first output column of the field
    has_padding: int  # 1: ids equal to `padding` give zeros and no gradient, and are not counted
    padding: int


@dataclass(frozen=True)
class Layout:
    """How tables share one array: which slot holds element i of id x of table e.

    The array is the hashed part followed by the rows of the direct tables.

    Args:
        tables: the tables, in the order that numbers them.
        num_slots: m, the size of the whole array.
        block_size: Z. Above a table's D it must be a multiple of it.
        hash: the hash form, ``UniversalHash(0)`` by default.
        use_sign: multiply elements by the sign hash g (equation 2).

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: names repeat, the array is too small, or Z, the hash and the tables do not fit together.
    """

    tables: tuple[Table, ...]
    num_slots: int
    block_size: int
    hash: Hash = field(default_factory=UniversalHash)
    use_sign: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "tables", tuple(self.tables))
        check_tables(self.tables)
        ids = [self.table_id(i) for i in range(len(self.tables))]
        if repeated := sorted({i for i in ids if ids.count(i) > 1}):
            raise ValueError(
                f"tables: table_id {repeated[0]} is used twice, so equal ids of these tables would share everything; "
                "give table_id to all tables or to none"
            )
        require_positive("num_slots", self.num_slots)
        require_positive("block_size", self.block_size)
        if not isinstance(self.hash, tuple(FORMS.values())):
            raise TypeError(f"hash: expected one of {[f.__name__ for f in FORMS.values()]}, got {self.hash!r}")
        if self.hashed_slots < (self.block_size if self.hashed_tables else 0):
            direct = self.num_slots - self.hashed_slots
            raise ValueError(
                f"num_slots: expected at least block_size={self.block_size} slots beside the {direct} of direct "
                f"tables, got {self.num_slots} (from compression or memory, if given): a block would overlap "
                "itself. Use a larger array or a smaller Z"
            )
        self._check_hashed_tables()

    def _check_hashed_tables(self) -> None:
        for table in self.hashed_tables:
            dim = table.embedding_dim
            if not isinstance(self.hash, ReleasedHash) and self.block_size > dim and self.block_size % dim != 0:
                raise ValueError(
                    f"block_size: {self.block_size} is above embedding_dim={dim} of table {table.name!r} "
                    "and must be a multiple of it"
                )
        if isinstance(self.hash, ReleasedHash):
            if self.use_sign:
                raise ValueError("use_sign: the released hash has no sign hash; use robe.UniversalHash")
            without = [t.name for t in self.tables if t.num_embeddings is None]
            if without:
                raise ValueError(
                    f"hash: the released form numbers rows over all tables, so num_embeddings is needed; "
                    f"None for {without}. Give it, or use robe.UniversalHash"
                )

    @property
    def hashed_tables(self) -> tuple[Table, ...]:
        """Tables that are not direct."""
        return tuple(t for t in self.tables if not t.direct)

    @property
    def hashed_slots(self) -> int:
        """Slots of the hashed part of the array."""
        return self.num_slots - sum(t.full_parameters for t in self.tables if t.direct)

    @property
    def full_parameters(self) -> int:
        """Elements of the full tables together; raises ValueError if a table has no number of rows."""
        return sum(t.full_parameters for t in self.tables)

    def index(self, table: int | str) -> int:
        """The number of a table given by number or name."""
        return table_index(self.tables, table)

    def table_id(self, index: int) -> int:
        """e, the number of a table in the hash."""
        given = self.tables[index].table_id
        return index if given is None else given

    def field_specs(
        self, fields: Sequence[int | str] | None = None, padding: Sequence[int | None] | None = None
    ) -> list[FieldSpec]:
        """The rows of the op's ``fields`` argument.

        Args:
            fields: the table that each field looks up, by number or name; each table once by default.
            padding: padding id of each field, None for none.
        """
        tables = range(len(self.tables)) if fields is None else [self.index(t) for t in fields]
        pads = [None] * len(tables) if padding is None else list(padding)
        row_offsets, bases = self._offsets()
        specs, column = [], 0
        for t, pad in zip(tables, pads, strict=True):
            table = self.tables[t]
            specs.append(
                FieldSpec(
                    direct=int(table.direct),
                    addend=self.hash.addend(self.table_id(t), row_offsets[t]),
                    sign_addend=self.hash.sign_addend(self.table_id(t)) if self.use_sign else 0,
                    dim=table.embedding_dim,
                    rows=-1 if table.num_embeddings is None else table.num_embeddings,
                    base=bases[t],
                    column=column,
                    has_padding=int(pad is not None),
                    padding=0 if pad is None else pad,
                )
            )
            column += table.embedding_dim
        return specs

    def _offsets(self) -> tuple[list[int], list[int]]:
        """Rows before each table, and first slot of each direct table (0 for hashed ones)."""
        row_offsets, bases = [], []
        rows, base = 0, self.hashed_slots
        for table in self.tables:
            row_offsets.append(rows)
            rows += table.num_embeddings or 0
            bases.append(base if table.direct else 0)
            base += table.full_parameters if table.direct else 0
        return row_offsets, bases

    def hash_spec(self) -> HashSpec:
        """The op's ``spec`` argument."""
        return self.hash.spec(self.block_size, self.hashed_slots, self.use_sign)

    def slots(self, table: int | str, ids: Tensor) -> Tensor:
        """Where each element lives.

        Args:
            table: number or name.
            ids: int64 [N] (any shape).

        Returns:
            int64 [N, D].

        Raises:
            IndexError: an id is outside the table.
        """
        t = self.index(table)
        spec = self.field_specs([t])[0]
        require_in_range(f"ids of table {self.tables[t].name!r}", ids, spec.rows)
        if spec.direct:
            return spec.base + ids.unsqueeze(-1) * spec.dim + torch.arange(spec.dim, device=ids.device)
        return place(ids, spec.addend, spec.dim, self.hash_spec())

    def to_dict(self) -> dict[str, Any]:
        """What decides where elements live, as JSON-able values; saved with every model.

        The rows of a hashed table are left out unless the hash depends on them: a vocabulary may grow
        without moving anything.
        """
        keeps_rows = isinstance(self.hash, ReleasedHash)
        return {
            "version": LAYOUT_VERSION,
            "num_slots": self.num_slots,
            "block_size": self.block_size,
            "use_sign": self.use_sign,
            "hash": self.hash.to_dict(),
            "tables": [
                {
                    "table_id": self.table_id(i),
                    "embedding_dim": t.embedding_dim,
                    "direct": t.direct,
                    "num_embeddings": t.num_embeddings if keeps_rows or t.direct else None,
                }
                for i, t in enumerate(self.tables)
            ],
        }


def difference(saved: dict[str, Any], current: dict[str, Any], prefix: str = "") -> list[str]:
    """The entries in which two ``Layout.to_dict()`` differ, as lines ``name: saved X, this module Y``."""
    lines = []
    for key in sorted(saved.keys() | current.keys()):
        old, new = saved.get(key), current.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += difference(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: saved {old!r}, this module {new!r}")
    return lines


UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_memory(memory: str | int) -> int:
    """Bytes from an int or from text such as "4096", "64MB", "1.5 GB" (powers of 1000) or "64MiB" (of 1024).

    Raises:
        ValueError: the text is not a number and a unit, or is not positive.
    """
    if isinstance(memory, int) and not isinstance(memory, bool):
        require_positive("memory", memory)
        return memory
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*", f"{memory}B" if str(memory).isdigit() else str(memory))
    if match is None or match[2].upper() not in UNITS:
        raise ValueError(f'memory: expected bytes or text such as "64MB" or "64MiB", got {memory!r}')
    size = int(float(match[1]) * UNITS[match[2].upper()])
    if size < 1:
        raise ValueError(f"memory: expected a positive size, got {memory!r}")
    return size


def resolve_num_slots(
    tables: Sequence[Table],
    num_slots: int | None,
    compression: float | None,
    memory: str | int | None,
    dtype: torch.dtype,
) -> int:
    """Parameters to store, from exactly one of the three ways to say it.

    Args:
        tables: the tables.
        num_slots: m itself.
        compression: (sum of rows x D of the full tables) / m.
        memory: bytes, or text such as "64MB", of an array of ``dtype``.
        dtype: of the array.

    Raises:
        ValueError: none or several are given, or one is out of range.
    """
    given = {"num_slots": num_slots, "compression": compression, "memory": memory}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise ValueError(
            "exactly one of num_slots=, compression= and memory= sets the size of the array, "
            f"got {', '.join(named) or 'none'}"
        )
    if num_slots is not None:
        require_positive("num_slots", num_slots)
        return num_slots
    if memory is not None:
        slots = parse_memory(memory) // dtype.itemsize
        if slots < 1:
            raise ValueError(f"memory: {memory!r} holds no element of {dtype}")
        return slots
    assert compression is not None
    if not (isinstance(compression, int | float) and math.isfinite(compression) and compression > 0):
        raise ValueError(f"compression: expected a positive number, such as 1000, got {compression!r}")
    return max(1, round(sum(t.full_parameters for t in tables) / compression))
