# SPDX-License-Identifier: Apache-2.0
"""Calibration: real inputs of a model, and what its values do on them."""

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import onnx_ir as ir
from numpy.lib.npyio import NpzFile

from sparsec.compiler.errors import DataError
from sparsec.compiler.graph import dtype_of, shape_of
from sparsec.compiler.pass_manager import Reporter, silent
from sparsec.compiler.pattern import Array

BINS = 2048
"""Bins of a histogram between the least and the greatest value seen."""
LEAST_TO_SPLIT = 16
"""Fewer samples are not split: the same ones calibrate and measure."""
MOST_HELDOUT = 16
"""A split holds out a quarter of the samples, but no more than this."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Samples of a model's inputs.

    Attributes:
        arrays: One for each model input, named after it, with a leading axis of samples. What follows that axis
            is the input's shape, with or without a leading 1 of its own.
        title: What errors call it.
        withheld: How many samples given with these were held out by `split`.

    Raises:
        DataError: If there is no array, the numbers of samples differ, or a value is not finite.
    """

    arrays: Mapping[str, Array]
    title: str = "Calibration"
    withheld: int = 0

    def __post_init__(self) -> None:
        if not self.arrays:
            msg = f"{self.title} holds no array; expected one for each model input."
            raise DataError(msg)
        for name, array in self.arrays.items():
            _check_values(self.title, name, array)
        counts = {name: len(array) for name, array in self.arrays.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"'{name}' {count}" for name, count in counts.items())
            msg = f"{self.title} arrays have different numbers of samples: {listed}."
            raise DataError(msg)

    @classmethod
    def load(cls, path: str | Path, title: str = "Calibration") -> "Calibration":
        """Read an ``.npz`` file; pickled objects are refused.

        Raises:
            DataError: If it cannot be read, or see the class.
        """
        try:
            _check_archive(path, title)
            archive = np.load(path, allow_pickle=False)
            if not isinstance(archive, NpzFile):
                msg = f"{title} '{path}' is a single array; expected an .npz with one for each model input."
                raise DataError(msg)
            with archive:
                arrays = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError, MemoryError, OverflowError, BadZipFile, zlib.error) as error:
            msg = f"{title} '{path}' cannot be read as .npz of plain arrays: {_plainly(error)}."
            raise DataError(msg) from error
        return cls(arrays, title)

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(next(iter(self.arrays.values())))

    def check(self, model: ir.Model, least: int = 1) -> None:
        """Check that these are inputs of `model`, at least `least` samples of them.

        Raises:
            DataError: On a missing or surplus array, a wrong dtype or shape, or too few samples.
        """
        inputs = {str(value.name): value for value in _inputs(model)}
        missing, surplus = sorted(inputs.keys() - self.arrays.keys()), sorted(self.arrays.keys() - inputs.keys())
        if missing or surplus:
            found = "; ".join(f"{what}: {', '.join(names)}" for what, names in _kinds(missing, surplus) if names)
            msg = f"{self.title} does not fit the model's inputs ({', '.join(inputs)}): {found}."
            raise DataError(msg)
        for name, value in inputs.items():
            _check_type(self.title, name, self.arrays[name], value)
        if self.samples < least:
            msg = f"{self.title} has {self.samples} samples, expected at least {least}{self._whereabouts()}."
            raise DataError(msg)

    def _whereabouts(self) -> str:
        """Where the other samples are; empty if these are all that were given."""
        if not self.withheld:
            return ""
        given = self.samples + self.withheld
        return (
            f": of the {given} given, the last {self.withheld} are held out to measure fidelity on. "
            f"Give others to measure on with --heldout FILE.npz to keep all {given}"
        )

    def check_varied(self) -> None:
        """Check that the samples are not one and the same, nor one value all over.

        Raises:
            DataError: If nothing can be learned from them.
        """
        if self.samples > 1 and all((array == array[:1]).all() for array in self.arrays.values()):
            msg = f"{self.title} has {self.samples} samples that are all the same; expected different real inputs."
            raise DataError(msg)
        if all(array.size > 1 and (array == array.flat[0]).all() for array in self.arrays.values()):
            msg = f"{self.title} holds one value everywhere in each array; expected real inputs."
            raise DataError(msg)

    def split(self) -> tuple["Calibration", "Calibration"]:
        """Samples to calibrate with, and samples held out: the last quarter, at most `MOST_HELDOUT`.

        Of fewer than `LEAST_TO_SPLIT` samples, all are both.
        """
        if self.samples < LEAST_TO_SPLIT:
            return self, self
        first = self.samples - min(self.samples // 4, MOST_HELDOUT)
        mine, held = (
            {name: array[part] for name, array in self.arrays.items()} for part in (slice(first), slice(first, None))
        )
        return Calibration(mine, self.title, self.samples - first), Calibration(held, "Held-out data")

    def shared(self, other: "Calibration") -> int:
        """How many of these samples are also among the other's."""
        return len(self._digests() & other._digests())

    def _digests(self) -> set[bytes]:
        rows = range(self.samples)
        arrays = [self.arrays[name] for name in sorted(self.arrays)]
        return {hashlib.sha256(b"".join(np.ascontiguousarray(a[i]).tobytes() for a in arrays)).digest() for i in rows}

    def feeds(self, model: ir.Model, limit: int | None = None) -> Iterator[dict[str, Array]]:
        """Each sample (at most `limit`) as model inputs by name, in the shapes that the model declares."""
        shapes = {str(value.name): len(value.shape or ()) for value in _inputs(model)}
        for index in range(min(self.samples, limit or self.samples)):
            rows = {name: np.asarray(self.arrays[name][index]) for name in shapes}
            yield {name: row if row.ndim == shapes[name] else row[None] for name, row in rows.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """What one value of the graph did over all samples.

    Attributes:
        low: Least element.
        high: Greatest element.
        counts: int64 [BINS] between `low` and `high`; None where no histogram was asked for.
    """

    low: float
    high: float
    counts: Array | None = None

    @property
    def centers(self) -> Array:
        """Middle of each bin, float64 [BINS]."""
        edges = np.linspace(self.low, self.high, BINS + 1)
        return np.asarray((edges[:-1] + edges[1:]) / 2)

    def quantile(self, share: float) -> float:
        """The value below which `share` (0 to 1) of the elements lie, to the width of a bin."""
        assert self.counts is not None
        total = np.cumsum(self.counts)
        index = int(np.searchsorted(total, share * total[-1]))
        return float(self.centers[min(index, BINS - 1)])


def observe(
    model: ir.Model,
    calibration: Calibration,
    names: Sequence[str],
    *,
    histogram: bool = False,
    reporter: Reporter = silent,
) -> dict[str, Statistics]:
    """Statistics of values over all samples, streamed: no sample's activations are kept.

    Args:
        model: The model, run by onnxruntime.
        calibration: Inputs.
        names: Names of float32 values: inputs, intermediate results, outputs.
        histogram: Whether to count a histogram, which takes a second run over the samples.
        reporter: Told of each sample.

    Raises:
        DataError: If the samples do not fit the model, or make a value that is not finite.
    """
    from sparsec.compiler.oracle import Oracle

    calibration.check(model)
    inputs = {value.name for value in model.graph.inputs}
    oracle = Oracle(model, [name for name in names if name not in inputs])
    runs = calibration.samples * (2 if histogram else 1)
    ranges = dict.fromkeys(names, (np.inf, -np.inf))
    for number, feed in enumerate(calibration.feeds(model)):
        values = {**feed, **oracle.run(feed)}
        ranges = {name: _widened(name, ranges[name], values[name]) for name in names}
        reporter("calibrate", number + 1, runs)
    if not histogram:
        return {name: Statistics(*ends) for name, ends in ranges.items()}
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    for number, feed in enumerate(calibration.feeds(model)):
        values = {**feed, **oracle.run(feed)}
        for name in names:
            counts[name] += np.histogram(values[name], BINS, ranges[name])[0]
        reporter("calibrate", calibration.samples + number + 1, runs)
    return {name: Statistics(*ends, counts[name]) for name, ends in ranges.items()}


def random_inputs(model: ir.Model, seed: int) -> dict[str, Array]:
    """One sample of seeded inputs: normal numbers; for integers 0 and 1, which fit most tables."""
    generator = np.random.default_rng(seed)
    return {str(value.name): _random(generator, shape_of(value), dtype_of(value)) for value in model.graph.inputs}


def _random(generator: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    if np.dtype(dtype).kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    return generator.integers(0, 2, shape).astype(dtype)


def _widened(name: str, ends: tuple[float, float], array: Array) -> tuple[float, float]:
    if not array.size:
        return ends
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        msg = f"Value '{name}' is not finite on the calibration samples; the model overflows or divides by zero."
        raise DataError(msg)
    return min(low, ends[0]), max(high, ends[1])


def _inputs(model: ir.Model) -> list[ir.Value]:
    return [value for value in model.graph.inputs if value.name not in model.graph.initializers]


def _kinds(missing: list[str], surplus: list[str]) -> tuple[tuple[str, list[str]], ...]:
    return ("missing", missing), ("surplus", surplus)


def _check_archive(path: str | Path, title: str) -> None:
    """Check that a file starts as archives and arrays of numpy do; `numpy.load` takes any other for a pickle."""
    with Path(path).open("rb") as file:
        start = file.read(8)
    if not start.startswith(_MAGIC):
        msg = f"{title} '{path}' is no .npz file; expected one as numpy.savez writes it, an array for each model input."
        raise DataError(msg)


_MAGIC = (b"\x93NUMPY", b"PK\x03\x04", b"PK\x05\x06")


def _plainly(error: Exception) -> str:
    """What is wrong, without the argument by which numpy would read it all the same."""
    return "an array holds Python objects" if "allow_pickle" in str(error) else str(error)


def _check_values(title: str, name: str, array: Array) -> None:
    if array.ndim < 1 or not len(array):
        msg = f"{title} array '{name}' has no samples; expected a leading axis of samples."
        raise DataError(msg)
    if array.dtype.kind not in "biuf":
        msg = f"{title} array '{name}' has dtype {array.dtype}, expected numbers."
        raise DataError(msg)
    bad = ~np.isfinite(array) if array.dtype.kind == "f" else np.zeros(1, bool)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        msg = f"{title} array '{name}' holds {array[where]} at index {where}; expected finite numbers."
        raise DataError(msg)


def _check_type(title: str, name: str, array: Array, value: ir.Value) -> None:
    if value.dtype is not None and array.dtype != value.dtype.numpy():
        msg = f"{title} array '{name}' has dtype {array.dtype}, expected {value.dtype.numpy()}."
        raise DataError(msg)
    if value.shape is None:
        return
    whole = tuple(side if isinstance(side, int) else None for side in value.shape)
    short = whole[1:] if whole and whole[0] in (1, None) else whole
    if not any(_fits(array.shape[1:], shape) for shape in (whole, short)):
        listed = ", ".join("?" if side is None else str(side) for side in short)
        msg = f"{title} array '{name}' has shape {array.shape}, expected (samples, {listed})."
        raise DataError(msg)


def _fits(found: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    return len(found) == len(shape) and all(want in (None, got) for got, want in zip(found, shape, strict=True))
