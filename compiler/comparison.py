# SPDX-License-Identifier: Apache-2.0
"""Comparison: one output of two models over many samples, added up sample by sample.

Nothing of a sample is kept but sums, so outputs may be as large as a language model's scores of a whole text.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sparsec.compiler.pattern import Array

EXACT_DB = 300.0
"""The signal-to-noise ratio reported where there is no difference at all."""
_CHUNK = 1 << 20
"""Elements that are taken to float64 at once."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One output, over all samples, against the reference.

    Attributes:
        relative_error: Norm of the difference over the norm of the reference.
        sqnr_db: Signal to quantization noise in decibels; at most `EXACT_DB`.
        correlation: Pearson's, over all elements; 1.0 where both are constant and equal.
        top1: Share of rows whose greatest element is at the same place. A row is a sample's vector of class scores, or
            the scores of one token; None where the output holds no scores.
        kl: Mean Kullback-Leibler divergence of the rows' softmax in nats; None where `top1` is.
        rows: How many rows `top1` and `kl` are over; 0 where they are None.
    """

    relative_error: float
    sqnr_db: float
    correlation: float
    top1: float | None = None
    kl: float | None = None
    rows: int = 0


def compare(reference: Sequence[Array], found: Sequence[Array], tokens: bool = False) -> Comparison:
    """Compare one output, an array a sample, with the reference's.

    Args:
        reference: One array a sample, any numeric type.
        found: As many arrays of the same shapes.
        tokens: Whether each row of a sample's array holds the scores of one token.
    """
    tally = Tally(tokens)
    for want, got in zip(reference, found, strict=True):
        tally.add(want, got)
    return tally.result()


def worst(found: Mapping[str, Comparison]) -> Comparison:
    """The output with the greatest relative error; one that is not a number counts as the greatest."""
    return max(found.values(), key=lambda c: math.inf if math.isnan(c.relative_error) else c.relative_error)


class Tally:
    """Sums from which a `Comparison` follows.

    Means and moments are merged chunk by chunk (Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm
    for Computing Sample Variances", 1979), so that no digits are lost to a large mean.
    """

    def __init__(self, tokens: bool = False) -> None:
        """Start at zero; `tokens` as for `compare`."""
        self._tokens = tokens
        self._noise = self._signal = self._divergence = 0.0
        self._count = self._rows = self._same = 0
        self._means, self._moments = np.zeros(2), np.zeros((2, 2))

    def add(self, want: Array, got: Array) -> None:
        """Add a sample: the reference's output and the other model's, of one shape."""
        scores = _holds_rows(want, self._tokens)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            for a, b in _chunks(want, got, scores):
                self._add_elements(a.ravel(), b.ravel())
                if scores:
                    self._rows += len(a)
                    self._same += int((a.argmax(-1) == b.argmax(-1)).sum())
                    self._divergence += float(_divergence(a, b).sum())

    def result(self) -> Comparison:
        """What the samples so far amount to."""
        noise, signal = math.sqrt(self._noise), math.sqrt(self._signal)
        error = noise / signal if signal else (0.0 if not noise else math.inf)
        ratio = 20 * math.log10(signal / noise) if 0 < noise < math.inf and 0 < signal < math.inf else EXACT_DB
        exact = noise == 0
        return Comparison(
            error,
            min(ratio, EXACT_DB) if exact or 0 < noise < math.inf else -EXACT_DB,
            self._correlation(exact),
            self._same / self._rows if self._rows else None,
            self._divergence / self._rows if self._rows else None,
            self._rows,
        )

    def _add_elements(self, want: Array, got: Array) -> None:
        if not want.size:
            return
        difference = want - got
        self._noise += float(difference @ difference)
        self._signal += float(want @ want)
        both = np.stack((want, got))
        means = both.mean(axis=1)
        both -= means[:, None]
        total = self._count + want.size
        step = means - self._means
        self._moments += both @ both.T + np.outer(step, step) * (self._count * want.size / total)
        self._means += step * (want.size / total)
        self._count = total

    def _correlation(self, exact: bool) -> float:
        scale = math.sqrt(self._moments[0, 0]) * math.sqrt(self._moments[1, 1])
        if exact or not scale:
            return float(exact)
        found = float(self._moments[0, 1]) / scale
        return found if math.isnan(found) else max(-1.0, min(1.0, found))


def _holds_rows(array: Array, tokens: bool) -> bool:
    """Whether a sample is one row of at least two scores, or with `tokens` several such rows."""
    wide = array.ndim >= 1 and array.shape[-1] > 1
    return wide and array.size > 0 and (array.size == array.shape[-1] or tokens)


def _chunks(want: Array, got: Array, rows: bool) -> Iterator[tuple[Array, Array]]:
    """Both as float64 matrices of at most about `_CHUNK` elements; whole rows with `rows`."""
    width = want.shape[-1] if rows else min(max(want.size, 1), _CHUNK)
    flat = want.reshape(-1, width) if rows else want.reshape(1, -1)
    other = got.reshape(flat.shape)
    step = max(1, _CHUNK // width) if rows else _CHUNK
    for start in range(0, flat.shape[0 if rows else 1], step):
        part = np.s_[start : start + step] if rows else np.s_[:, start : start + step]
        yield flat[part].astype(np.float64), other[part].astype(np.float64)


def _divergence(want: Array, got: Array) -> Array:
    """KL(want || got) of each row; rows that are probabilities already are taken as they are."""
    probabilities = bool((want >= 0).all()) and np.allclose(want.sum(-1), 1, atol=1e-3)
    p, q = (_logs(rows, probabilities) for rows in (want, got))
    return np.asarray((np.exp(p) * (p - q)).sum(-1))


def _logs(rows: Array, probabilities: bool) -> Array:
    if probabilities:
        return np.asarray(np.log(np.clip(rows, 1e-12, None)))
    shifted = rows - rows.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
