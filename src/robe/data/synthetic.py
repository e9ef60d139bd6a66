"""Criteo-shaped data with a planted click model, so that the best reachable AUC is known.

Everything is a pure function of (spec, row number), from a counter-based random source (:mod:`robe.data.mixing`).

**Ids.** Field f of cardinality n has a Zipf law: frequency rank k in 0..n-1 has probability close to (k + 1)^-s,
drawn through the quantile function of the bounded Pareto law on [1, n + 1), piecewise linear between 4,097 knots.
The id is ``(k a + c) mod n`` with a coprime to n, so that near ids are not near in frequency.

**Numeric features.** Counts ``c = floor(exp(mu_j + sigma_j z))``, z near normal, at most 65,535; stored as log(1 + c).

**Clicks.** label = 1 with probability sigmoid(logit), and

    logit = b + main + pairs + dense
    main  = g1 (sum_f w_f[id_f] - mean)
    pairs = g2 (sum_{f<g} <u_f[id_f], u_g[id_g]> - mean)      u of rank r
    dense = g3 (sum_j v_j x_j - mean)

w, u, v are near normal numbers (the sum of four uniform ones, scaled to variance 1) drawn on the fly from a hash of
(seed, field, id), so that no table of them exists. w and u of frequency rank k are shrunk by sqrt(K / (K + k)), K =
``head``: rare tokens say little, as what can be learned of them is little. Means and gains g are measured on 65,536
rows of a stream of their own and set so that the three terms have the variances ``signal^2`` times ``shares``; b is
set there for the click rate. They are in the manifest under ``details``.

**Best AUC.** Of every split: the AUC of scoring by the true logit, exact over the split's rows. No model that sees
the features can expect more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from robe.checks import require_positive
from robe.data.columns import Field
from robe.data.dataset import PreparedDataset
from robe.data.format import CREATED_WITH, FieldInfo, Manifest, SplitInfo
from robe.data.mixing import UInt64, random_words, stream_key, uniform
from robe.data.progress import bar
from robe.data.staging import staged_folder
from robe.data.writer import SplitWriter, write_manifest

# Tokens of the 26 categorical features of Criteo Kaggle, in order: appendix C of the ROBE paper. Sum 33,762,577.
CRITEO_CARDINALITIES: Final = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)

_KNOTS: Final = 4096
_CALIBRATION_ROWS: Final = 65536
_CHUNK: Final = 8192  # rows whose arrays stay in the cache


@dataclass(frozen=True)
class SyntheticSpec:
    """What to generate; the model is described in :mod:`robe.data.synthetic`.

    Args:
        rows: of all splits together.
        scale: factor on the 26 Criteo cardinalities, over 0 and at most 1. Default 1.0 (33.8 million tokens).
        min_cardinality: scaling leaves a field no smaller than this, or than it was. Default 100.
        cardinalities: tokens per field, instead of the scaled Criteo ones. Default () for those.
        num_dense: numeric features. Default 13.
        zipf: exponent s of the token frequencies. Default 1.1.
        rank: rank r of the pairwise term. Default 4.
        signal: standard deviation of the logit. Default 1.35, a best AUC of about 0.80.
        shares: of main, pairwise and dense terms in the variance of the logit. Default (0.5, 0.3, 0.2).
        head: frequency rank at which w and u are shrunk to sqrt(1/2). Default 1000.
        click_rate: mean of the label. Default 0.25.
        validation: fraction of rows, cut off before the test rows. Default 0.1.
        test: fraction of rows, the last ones. Default 0.1.
        seed: of everything. Default 0.

    Raises:
        ValueError: a value is out of range.
    """

    rows: int
    scale: float = 1.0
    min_cardinality: int = 100
    cardinalities: tuple[int, ...] = ()
    num_dense: int = 13
    zipf: float = 1.1
    rank: int = 4
    signal: float = 1.35
    shares: tuple[float, float, float] = (0.5, 0.3, 0.2)
    head: int = 1000
    click_rate: float = 0.25
    validation: float = 0.1
    test: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rows", "min_cardinality", "rank", "head"):
            require_positive(name, getattr(self, name))
        for n in self.cardinalities:
            require_positive("cardinalities", n)
        if not 0 < self.scale <= 1:
            raise ValueError(f"scale: expected over 0 and at most 1, got {self.scale}")
        if self.num_dense < 0:
            raise ValueError(f"num_dense: expected 0 or more, got {self.num_dense}")
        if self.zipf <= 0 or self.signal <= 0:
            raise ValueError(f"zipf and signal: expected positive numbers, got {self.zipf} and {self.signal}")
        if not 0 < self.click_rate < 1:
            raise ValueError(f"click_rate: expected between 0 and 1, got {self.click_rate}")
        if min(self.validation, self.test) < 0 or self.validation + self.test >= 1:
            raise ValueError(
                f"validation and test: expected fractions that leave rows to train on, got {self.validation} "
                f"and {self.test}"
            )
        if len(self.shares) != 3 or min(self.shares) < 0 or not math.isclose(sum(self.shares), 1, abs_tol=1e-6):
            raise ValueError(f"shares: expected three numbers from 0 that sum to 1, got {self.shares}")

    @property
    def field_cardinalities(self) -> tuple[int, ...]:
        """Tokens of every field."""
        return self.cardinalities or tuple(
            max(min(n, self.min_cardinality), round(n * self.scale)) for n in CRITEO_CARDINALITIES
        )


def generate(
    spec: SyntheticSpec, out: str | Path, *, overwrite: bool = False, progress: bool = False
) -> PreparedDataset:
    """Writes the data that ``spec`` describes as a prepared data set.

    Args:
        spec: what to generate.
        out: the folder to make.
        overwrite: replace an existing data set ``out``. Default False.
        progress: show a progress bar on standard error. Default False.

    Returns:
        The open data set; ``manifest.splits[name].best_auc`` is the AUC of the true click probabilities.

    Raises:
        FileExistsError: ``out`` exists and ``overwrite`` is False, or it is no data set of robe.
    """
    out = Path(out)
    model = ClickModel(spec)
    names = [f"C{f + 1}" for f in range(len(model.cardinalities))]
    fields = [Field(name, n) for name, n in zip(names, model.cardinalities, strict=True)]
    test = round(spec.rows * spec.test)
    validation = round(spec.rows * spec.validation)
    sizes = {"train": spec.rows - validation - test, "validation": validation, "test": test}
    splits: dict[str, SplitInfo] = {}
    with staged_folder(out, overwrite) as folder, bar("generating", spec.rows, "rows", progress) as advance:
        start = 0
        for split, size in sizes.items():
            if not size:
                continue
            writer = SplitWriter(folder, split, fields, spec.num_dense)
            logits, labels = [], []
            for rows in model.chunks(start, start + size):
                writer.write(rows.label, rows.dense if spec.num_dense else None, rows.ids)
                logits.append(rows.logit)
                labels.append(rows.label)
                advance(len(rows.label))
            splits[split] = writer.close(auc(np.concatenate(logits), np.concatenate(labels)))
            start += size
        rate = sum(info.rows * (info.label_rate or 0) for info in splits.values()) / spec.rows
        manifest = Manifest(
            created_with=CREATED_WITH,
            kind="synthetic",
            ids={"kind": "synthetic", "definition": "numbers 0..num_embeddings-1; see robe.data.synthetic"},
            fields=tuple(FieldInfo(name=f.name, num_embeddings=f.num_embeddings) for f in fields),
            dense=tuple(f"I{j + 1}" for j in range(spec.num_dense)),
            splits=splits,
            rows_read=spec.rows,
            rows_written=spec.rows,
            label_rate=rate,
            spec=asdict(spec),
            details=model.calibration,
        )
        write_manifest(folder, manifest)
    return PreparedDataset.open(out)


@dataclass(frozen=True)
class SyntheticRows:
    """Generated rows: label float32 [n], dense float32 [n, num_dense], ids int64 [n, F], true logit float64 [n]."""

    label: NDArray[np.float32]
    dense: NDArray[np.float32]
    ids: NDArray[np.int64]
    logit: NDArray[np.float64]


class ClickModel:
    """The planted model of a spec: rows by their number, with their true logit.

    Args:
        spec: what to generate.
    """

    def __init__(self, spec: SyntheticSpec) -> None:
        self.spec = spec
        self.cardinalities = spec.field_cardinalities
        self._quantiles = [_pareto_knots(n, spec.zipf) for n in self.cardinalities]
        self._shuffles = [_affine(stream_key(spec.seed, 1, f), n) for f, n in enumerate(self.cardinalities)]
        self._token_keys = [stream_key(spec.seed, 2, f) for f in range(len(self.cardinalities))]
        self._dense_keys = [stream_key(spec.seed, 3, j) for j in range(spec.num_dense)]
        self._dense_weights = _normal(random_words(stream_key(spec.seed, 4), np.arange(spec.num_dense)))
        # math, not numpy, and rounded: the last bit of numpy's transcendental functions depends on the processor.
        self._log1p = np.array([math.log1p(c) for c in range(65536)], dtype=np.float32)

    def chunks(self, start: int, stop: int) -> Iterator[SyntheticRows]:
        """Rows ``start`` to ``stop`` in pieces, made by two threads, in order."""
        bounds = [(lo, min(lo + _CHUNK, stop)) for lo in range(start, stop, _CHUNK)]
        with ThreadPoolExecutor(2) as pool:
            for group in range(0, len(bounds), 16):  # few at a time: the writer sets the pace
                yield from pool.map(lambda b: self.rows(*b), bounds[group : group + 16])

    def rows(self, start: int, stop: int) -> SyntheticRows:
        """Rows ``start`` to ``stop``."""
        ids, dense, terms = self._draw(5, np.arange(start, stop, dtype=np.uint64))
        c = self.calibration
        logit = np.full(stop - start, c["bias"])
        for name, term in terms.items():
            logit += c[f"gain_{name}"] * (term - c[f"mean_{name}"])
        u = uniform(random_words(stream_key(self.spec.seed, 6), np.arange(start, stop)))
        label = (u < 1 / (1 + np.exp(-logit))).astype(np.float32)
        return SyntheticRows(label, dense, ids, logit)

    @cached_property
    def calibration(self) -> dict[str, float]:
        """Means and gains of the three terms, and the bias, measured on rows of their own stream."""
        parts = [
            self._draw(7, np.arange(lo, lo + _CHUNK, dtype=np.uint64))[2] for lo in range(0, _CALIBRATION_ROWS, _CHUNK)
        ]
        found: dict[str, float] = {}
        logit = np.zeros(_CALIBRATION_ROWS)
        for name, share in zip(parts[0], self.spec.shares, strict=True):
            term = np.concatenate([part[name] for part in parts])
            spread = float(term.std())
            # Rounded, so that a different order of summation gives the same model.
            found[f"mean_{name}"] = round(float(term.mean()), 6)
            found[f"gain_{name}"] = round(self.spec.signal * math.sqrt(share) / spread, 6) if spread > 1e-9 else 0.0
            logit += found[f"gain_{name}"] * (term - found[f"mean_{name}"])
        low, high = -30.0, 30.0
        for _ in range(60):
            bias = (low + high) / 2
            below = float((1 / (1 + np.exp(-logit - bias))).mean()) < self.spec.click_rate
            low, high = (bias, high) if below else (low, bias)
        found["bias"] = round(low, 6)
        return found

    def _draw(
        self, stream: int, rows: UInt64
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], dict[str, NDArray[np.float64]]]:
        spec, n = self.spec, len(rows)
        ids = np.empty((n, len(self.cardinalities)), dtype=np.int64)
        dense = np.empty((n, spec.num_dense), dtype=np.float32)
        main, sums, squares = np.zeros(n), np.zeros((spec.rank, n)), np.zeros(n)
        for f, cardinality in enumerate(self.cardinalities):
            u = uniform(random_words(stream_key(spec.seed, stream, f), rows))
            rank = np.minimum(_interpolate(self._quantiles[f], u).astype(np.int64) - 1, cardinality - 1)
            factor, shift = self._shuffles[f]
            ids[:, f] = (rank * factor + shift) % cardinality
            shrink = np.sqrt(spec.head / (spec.head + rank))
            token = ids[:, f] * (spec.rank + 1)
            main += shrink * _normal(random_words(self._token_keys[f], token))
            for r in range(spec.rank):
                factors = shrink * _normal(random_words(self._token_keys[f], token + (r + 1)))
                sums[r] += factors
                squares += factors * factors
        score = np.zeros(n)
        for j, key in enumerate(self._dense_keys):
            z = _normal(random_words(stream_key(key, stream), rows))
            count = self._counts[j][np.minimum((z + 4) * (_KNOTS / 8), _KNOTS - 1).astype(np.int64)]
            dense[:, j] = self._log1p[count]
            score += self._dense_weights[j] * dense[:, j]
        pairs = ((sums * sums).sum(0) - squares) / 2
        return ids, dense, {"main": main, "pairs": pairs, "dense": score}

    @cached_property
    def _counts(self) -> list[NDArray[np.int64]]:
        """Count of every numeric feature by the cell of its z: 4,096 cells over [-4, 4)."""
        tables = []
        for key in self._dense_keys:
            a, b = uniform(random_words(key, np.arange(2)))
            mu, sigma = 4 * float(a), 0.5 + 1.5 * float(b)
            centres = [(cell + 0.5) * 8 / _KNOTS - 4 for cell in range(_KNOTS)]
            tables.append(np.array([min(65535, int(math.exp(mu + sigma * z))) for z in centres]))
        return tables


def auc(score: NDArray[np.float64], label: NDArray[np.float32]) -> float | None:
    """Exact area under the ROC curve with ties counted half; None when only one class is there."""
    positive = label > 0.5
    p, n = int(positive.sum()), int((~positive).sum())
    if not p or not n:
        return None
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - p * (p + 1) / 2) / (p * n))


def _normal(words: UInt64) -> NDArray[np.float64]:
    """Near normal numbers of mean 0 and variance 1: the sum of the four 16-bit parts, exact in float64."""
    low = np.uint64(0x0000FFFF0000FFFF)
    pairs = (words & low) + ((words >> np.uint64(16)) & low)
    total = (pairs & np.uint64(0xFFFFFFFF)) + (pairs >> np.uint64(32))
    return (total.astype(np.float64) - 131070.0) * (math.sqrt(3) / 65536)


def _pareto_knots(n: int, s: float) -> NDArray[np.float64]:
    """Quantiles 0, 1/4096, .., 1 of the law with density ~ x^-s on [1, n + 1), rounded to float32."""
    top = n + 1.0
    grid = [j / _KNOTS for j in range(_KNOTS + 1)]
    if abs(s - 1) < 1e-9:
        knots = [top**u for u in grid]
    else:
        knots = [(1 - u * (1 - top ** (1 - s))) ** (1 / (1 - s)) for u in grid]
    return np.array(knots, dtype=np.float32).astype(np.float64)


def _interpolate(knots: NDArray[np.float64], u: NDArray[np.float64]) -> NDArray[np.float64]:
    position = u * _KNOTS
    cell = position.astype(np.int64)
    return knots[cell] + (position - cell) * (knots[cell + 1] - knots[cell])


def _affine(key: int, n: int) -> tuple[int, int]:
    """Factor coprime to n, and shift: k -> (k factor + shift) mod n is a bijection of 0..n-1."""
    words = random_words(key, np.arange(2))
    factor = max(1, int(words[0]) % n)
    while math.gcd(factor, n) != 1:
        factor += 1
    return factor, int(words[1]) % n
