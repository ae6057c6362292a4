"""Which rows to show: the k first by some key, found in one pass and remembered by file and row number only."""

import heapq
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc


class Tag(str, Enum):
    """Why a row is shown; a row may have several."""

    SAMPLE = "sample"
    UNCERTAIN = "uncertain"
    DEEP = "deep"
    TRUNCATED = "truncated"
    LOOPED = "looped"
    ERROR = "error"


@dataclass(frozen=True, order=True)
class Pick:
    """A row to fetch later. Smaller keys come first."""

    key: float
    file: str
    row: int


@dataclass
class FirstK:
    """The k picks with the smallest keys seen so far."""

    k: int
    picks: list[Pick] = field(default_factory=list)

    def add(self, keys: np.ndarray, file: str, first_row: int) -> None:
        """Offer the rows first_row, first_row + 1, .. with these keys; NaN is never picked."""
        candidates = np.flatnonzero(np.isfinite(keys))
        if candidates.size > self.k:
            candidates = (
                candidates[np.argpartition(keys[candidates], self.k - 1)[: self.k]] if self.k else candidates[:0]
            )
        self.merge([Pick(float(keys[row]), file, first_row + int(row)) for row in candidates])

    def merge(self, picks: list[Pick]) -> None:
        self.picks = heapq.nsmallest(self.k, [*self.picks, *picks])


def fair_keys(sample_ids: pa.Array, prompt_indexes: pa.Array) -> np.ndarray:
    """Numbers in [0, 1) that look random and depend on a row's identity alone: every run samples the same rows."""
    ids = pc.fill_null(sample_ids, "").to_numpy(zero_copy_only=False)
    prompts = pc.fill_null(prompt_indexes, 0).to_numpy(zero_copy_only=False).astype(np.uint64)
    hashes = pd.util.hash_array(ids, categorize=False) ^ pd.util.hash_array(prompts)
    return np.asarray((hashes >> np.uint64(11)).astype(np.float64) / 2.0**53)
