"""A learned classifier of text quality (report §2.1, step 5): hashed n-grams and logistic regression, in numpy.

    scorer = QualityClassifier.train(good_texts, bad_texts)
    scorer.score("...")  -> probability that the text is one of the good

The report's "text-quality scoring models" in their simplest form, as in GPT-3 (Brown et al., 2020) and LLaMA (Touvron
et al., 2023): words and pairs of words (characters and pairs, in scripts without spaces), hashed into 2^16 weights,
trained to separate a curated source from dropped pages. Training is full-batch, so it is deterministic; scores say
little about languages and topics that neither side contains.
"""

from __future__ import annotations

import io
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qwenkit.data.text_units import ngram_hashes, unit_hashes
from qwenkit.errors import UserError
from qwenkit.files import read_bytes
from qwenkit.records import replacing

BITS = 16
_MOST = 1 << 21  # bytes of a filter's file, packed or not
_FORM = 3  # of the features: another hash of units is another filter
_NO_FILTER = (
    ValueError, KeyError, EOFError, TypeError, AttributeError, OSError, OverflowError, NotImplementedError,
    RuntimeError, MemoryError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip
"""Errors of reading a file that is not a filter: each reader inside numpy and zipfile has its own."""
Floats = npt.NDArray[np.float64]


@dataclass
class QualityClassifier:
    """Weights of the hashed features and a bias."""

    weights: Floats
    bias: float

    @classmethod
    def train(
        cls, good: Sequence[str], bad: Sequence[str], *, rounds: int = 100, rate: float = 20.0, decay: float = 1e-4
    ) -> QualityClassifier:
        """Return a classifier trained by gradient descent with momentum. Both classes have the same total weight."""
        if not good or not bad:
            raise ValueError(f"{len(good)} good and {len(bad)} bad texts: both sides are needed")
        columns, values, rows = _matrix([*good, *bad])
        labels = np.repeat([1.0, 0.0], [len(good), len(bad)])
        share = np.repeat([0.5 / len(good), 0.5 / len(bad)], [len(good), len(bad)])
        weights, speed, bias = np.zeros(2**BITS), np.zeros(2**BITS), 0.0
        for _ in range(rounds):
            logits = np.bincount(rows, values * weights[columns], minlength=len(labels)) + bias
            error = (_sigmoid(logits) - labels) * share
            gradient = np.bincount(columns, values * error[rows], minlength=2**BITS) + decay * weights
            speed = 0.9 * speed - rate * gradient
            weights = weights + speed
            bias -= rate * 0.1 * float(error.sum())
        return cls(weights, bias)

    def scores(self, texts: Iterable[str]) -> Floats:
        """Return the probability of being good for each text, [texts]."""
        texts = list(texts)
        columns, values, rows = _matrix(texts)
        return _sigmoid(np.bincount(rows, values * self.weights[columns], minlength=len(texts)) + self.bias)

    def score(self, text: str) -> float:
        """Return the probability that one text is good, 0 to 1."""
        return float(self.scores([text])[0])

    def save(self, path: Path | str) -> None:
        """Write the weights as one `.npz` file."""
        with replacing(path) as file:
            weights = self.weights.astype(np.float32)
            np.savez_compressed(file, weights=weights, bias=np.float64(self.bias), form=np.int64(_FORM))

    @classmethod
    def load(cls, path: Path | str) -> QualityClassifier:
        """Return the classifier that `save` wrote."""
        file = io.BytesIO(read_bytes(path, expected="a file that `qwenkit train-filter` wrote"))
        try:
            with zipfile.ZipFile(file) as packed:
                if sum(part.file_size for part in packed.filelist) > _MOST:
                    raise ValueError("larger than any filter")
            with np.load(file) as data:
                if int(data["form"]) != _FORM:
                    raise KeyError("form")
                classifier = cls(data["weights"].astype(np.float64), float(data["bias"]))
            if classifier.weights.shape != (2**BITS,) or not np.isfinite([*classifier.weights, classifier.bias]).all():
                raise ValueError("other weights")
            return classifier
        except _NO_FILTER as error:
            raise UserError(
                "no filter", where=str(path), expected="a file that `qwenkit train-filter` wrote"
            ) from error


def agreement(good: Sequence[str], bad: Sequence[str]) -> float:
    """Return the accuracy, 0 to 1, on a fifth of the texts of a classifier trained on the others."""
    validation = [side[::5] for side in (good, bad)]
    train = [[text for n, text in enumerate(side) if n % 5] for side in (good, bad)]
    scorer = QualityClassifier.train(*train)
    correct = (scorer.scores(validation[0]) > 0.5).sum() + (scorer.scores(validation[1]) <= 0.5).sum()
    return float(correct / (len(validation[0]) + len(validation[1])))


def _features(text: str) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return the hashed columns of a text's units and pairs, and their weights: log counts scaled to length 1."""
    hashes = unit_hashes(text).hashes
    grams = np.concatenate([ngram_hashes(hashes, 1), ngram_hashes(hashes, 2)])
    columns, counts = np.unique(grams >> np.uint64(64 - BITS), return_counts=True)
    values = 1 + np.log(counts)
    return columns.astype(np.int64), values / (np.linalg.norm(values) or 1.0)


def _matrix(texts: Sequence[str]) -> tuple[npt.NDArray[np.int64], Floats, npt.NDArray[np.int64]]:
    """Return all texts as one sparse matrix: column, value and row of every entry."""
    parts = [_features(text) for text in texts]
    sizes = [len(columns) for columns, _ in parts]
    if not sum(sizes):
        return np.empty(0, dtype=np.int64), np.empty(0), np.empty(0, dtype=np.int64)
    columns, values = (np.concatenate(column) for column in zip(*parts))
    return columns, values, np.repeat(np.arange(len(texts)), sizes)


def _sigmoid(logits: npt.ArrayLike) -> Floats:
    return 1 / (1 + np.exp(-np.clip(np.asarray(logits, dtype=np.float64), -50, 50)))
