# SPDX-License-Identifier: Apache-2.0
"""Runs models with onnxruntime: the reference for numbers, statistics and fidelity."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime as ort

from sparsec.compiler.errors import ModelError
from sparsec.compiler.exchange import to_onnx
from sparsec.compiler.pattern import Array

UNFAITHFUL = ["WeightBiasQuantization"]
"""Graph rewrites that onnxruntime counts as basic, yet that change results: this one rounds float32 weights and
biases between quantized activations to integers, one scale a tensor."""


class Oracle:
    """A model in onnxruntime: one thread, and only the graph rewrites that keep the numbers.

    Attributes:
        outputs: Names of what `run` returns.
    """

    def __init__(self, model: ir.Model | onnx.ModelProto, extra: Sequence[str] = ()) -> None:
        """Load a model.

        Args:
            model: The model.
            extra: Values inside the graph to return besides its outputs.

        Raises:
            ModelError: If onnxruntime refuses the model.
        """
        proto = to_onnx(model) if isinstance(model, ir.Model) else onnx.ModelProto.FromString(model.SerializeToString())
        own = [value.name for value in proto.graph.output]
        self.outputs = tuple(dict.fromkeys([*own, *extra]))
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.outputs[len(own) :])
        try:
            self._session: Any = ort.InferenceSession(
                proto.SerializeToString(),
                _settings(),
                providers=["CPUExecutionProvider"],
                disabled_optimizers=UNFAITHFUL,
            )
        except Exception as error:  # onnxruntime has many classes of its own, all derived from this alone
            msg = f"onnxruntime refuses the model: {_first_line(error)}"
            raise ModelError(msg) from error

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name.

        Raises:
            ModelError: If onnxruntime fails on these inputs.
        """
        try:
            results = self._session.run(list(self.outputs), dict(feeds))
        except Exception as error:
            msg = f"onnxruntime fails on the model: {_first_line(error)}"
            raise ModelError(msg) from error
        return dict(zip(self.outputs, results, strict=True))

    def stream(self, feeds: Iterable[Mapping[str, Array]]) -> Iterator[dict[str, Array]]:
        """`run` for each sample."""
        return map(self.run, feeds)


def _settings() -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    return options


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:500] if str(error).strip() else type(error).__name__
