# SPDX-License-Identifier: Apache-2.0
"""Swapping: one onnxruntime session in which weights are exchanged from run to run, to measure many variants."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import onnx
import onnx_ir as ir

from sparsec.compiler.comparison import Comparison, Tally
from sparsec.compiler.exchange import to_onnx
from sparsec.compiler.output_scores import token_scores
from sparsec.compiler.pattern import Array

_OVERRIDABLE_SINCE = 4
"""The first IR version in which an initializer that is also an input may be given another value."""
_KEPT_BYTES = 1 << 28
Weights = Mapping[str, Array]
"""Initializer name -> the values to run with, of the same shape."""


class Swapper:
    """A model whose weights can be replaced for a run, and what its outputs then lose.

    The dense model runs in the same session, so a comparison sees the weights and nothing else.
    """

    def __init__(
        self, model: ir.Model, names: Iterable[str], feeds: Sequence[Mapping[str, Array]], jobs: int = 1
    ) -> None:
        """Load the model.

        Args:
            model: The dense model.
            names: Initializers that may be replaced.
            feeds: Model inputs by name, a mapping for each sample.
            jobs: Samples that run at the same time; the results do not depend on it.

        Raises:
            ModelError: If onnxruntime refuses the model.
        """
        from sparsec.compiler.oracle import Oracle

        proto = _overridable(to_onnx(model), set(names))
        self._outputs = tuple(value.name for value in proto.graph.output)
        self._tokens, self._feeds, self._jobs = token_scores(model), feeds, max(1, jobs)
        self._kept: list[dict[str, Array]] | None = None
        self._oracle = Oracle(proto)

    def compare(self, weights: Weights) -> dict[str, Comparison]:
        """Each output with these weights compared with the dense model's, over all samples.

        Raises:
            ModelError: If onnxruntime fails on a sample.
        """
        tallies = {name: Tally(name in self._tokens) for name in self._outputs}
        for want, got in zip(self._reference(), self._run(weights), strict=True):
            for name, tally in tallies.items():
                tally.add(want[name], got[name])
        return {name: tally.result() for name, tally in tallies.items()}

    def _reference(self) -> Iterator[dict[str, Array]]:
        """The dense model's outputs, kept where they are small."""
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[dict[str, Array]] = []
        size = 0
        for outputs in self._run({}):
            size += sum(array.nbytes for array in outputs.values())
            if size <= _KEPT_BYTES:
                kept.append(outputs)
            yield outputs
        self._kept = kept if size <= _KEPT_BYTES else None

    def _run(self, weights: Weights) -> Iterator[dict[str, Array]]:
        """Outputs of each sample in order; no more than `jobs` samples are at work or waiting."""
        waiting: deque[Future[dict[str, Array]]] = deque()
        with ThreadPoolExecutor(self._jobs) as pool:
            for feed in self._feeds:
                if len(waiting) >= self._jobs:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(self._oracle.run, {**feed, **weights}))
            while waiting:
                yield waiting.popleft().result()


def _overridable(proto: onnx.ModelProto, names: set[str]) -> onnx.ModelProto:
    """Declare initializers as inputs, too, so that a run may replace them."""
    declared = {value.name for value in proto.graph.input}
    for tensor in proto.graph.initializer:
        if tensor.name in names - declared:
            proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    proto.ir_version = max(proto.ir_version, _OVERRIDABLE_SINCE)
    return proto
