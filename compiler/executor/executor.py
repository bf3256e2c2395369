# SPDX-License-Identifier: Apache-2.0
"""Executor: a model, or the part of it between given values, run by torch with gradients."""

from collections.abc import Mapping, Sequence

import onnx_ir as ir
import torch
from onnx_ir.passes.common import InlinePass, LiftConstantsToInitializersPass
from torch import Tensor

from sparsec.compiler.errors import UnsupportedError
from sparsec.compiler.executor.plan import Step, plan
from sparsec.compiler.executor.types import as_torch, torch_type
from sparsec.compiler.layers import layer_name

Tensors = Mapping[str, Tensor]


class Executor:
    """Runs a model as `sparsec.compiler.importers` gives it: static shapes, constants folded.

    Functions of the model are inlined. Codes of QuantizeLinear equal onnxruntime's, with straight-through gradients.

    Attributes:
        model: The model, with its functions inlined; the one given stays as it is.
    """

    def __init__(self, model: ir.Model) -> None:
        """Prepare a model; weights become torch tensors when they are first needed."""
        self.model = _inlined(model)
        self._constants: dict[str, Tensor] = {}
        self._plans: dict[tuple[frozenset[str], tuple[str, ...]], tuple[Step, ...]] = {}
        self._types = {str(v.name): v.dtype for node in self.model.graph for v in node.outputs}

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the model's outputs."""
        return tuple(str(value.name) for value in self.model.graph.outputs)

    def constant(self, name: str) -> Tensor:
        """An initializer as a tensor, shared by all calls: do not write to it."""
        if name not in self._constants:
            value = self.model.graph.initializers[name]
            assert value.const_value is not None
            self._constants[name] = as_torch(value.const_value)
        return self._constants[name]

    def run(self, feeds: Tensors, wanted: Sequence[str] = (), parameters: Tensors | None = None) -> dict[str, Tensor]:
        """Compute values of one sample.

        Args:
            feeds: Tensors by the name of a model input or of any other value, at which the graph is then cut.
            wanted: Names of values to return; by default the model's outputs.
            parameters: Tensors that take the place of initializers of the same shape. Gradients reach them.

        Raises:
            ModelError: If a wanted value depends on an input that is not fed.
            UnsupportedError: If an operator on the way has no counterpart in torch.
        """
        names = tuple(wanted) or self.outputs
        values: dict[str, Tensor] = {**(parameters or {}), **feeds}
        for step in self._plan(frozenset(values), names):
            arguments = [None if name is None else self._value(values, name) for name in step.inputs]
            result = step.function(step.node, *arguments)
            results = result if isinstance(result, (tuple, list)) else (result,)
            if len(results) < sum(bool(name) for name in step.outputs):
                msg = f"Operator {step.node.op_type} of node '{layer_name(step.node)}' has optional outputs in use."
                raise UnsupportedError(msg)
            values.update(zip(step.outputs, results, strict=False))
            for name in step.done:
                values.pop(name, None)
        return {name: self._typed(name, self._value(values, name)) for name in names}

    def run_batch(
        self, feeds: Tensors, wanted: Sequence[str] = (), parameters: Tensors | None = None
    ) -> dict[str, Tensor]:
        """Compute values of many samples at once: as `run`, with a leading axis of samples on feeds and results.

        Models bake shapes into constants, so a batch is not an axis of the model: torch vectorizes `run` over it.
        """
        fed, names = tuple(feeds), tuple(wanted) or self.outputs

        def one(*rows: Tensor) -> tuple[Tensor, ...]:
            found = self.run(dict(zip(fed, rows, strict=True)), names, parameters)
            return tuple(found[name] for name in names)

        results = torch.func.vmap(one)(*feeds.values())
        return dict(zip(names, results, strict=True))

    def _plan(self, given: frozenset[str], wanted: tuple[str, ...]) -> tuple[Step, ...]:
        if (given, wanted) not in self._plans:
            self._plans[given, wanted] = plan(self.model.graph, given, wanted)
        return self._plans[given, wanted]

    def _value(self, values: Tensors, name: str) -> Tensor:
        return values[name] if name in values else self.constant(name)

    def _typed(self, name: str, tensor: Tensor) -> Tensor:
        """In the type that the model declares; codes stay float32 where a gradient is wanted through them."""
        declared = self._types.get(name)
        if declared is None or not tensor.is_floating_point() or (declared.is_integer() and tensor.requires_grad):
            return tensor
        return tensor.to(torch_type(declared))


def _inlined(model: ir.Model) -> ir.Model:
    """A copy without functions and Constant nodes where there were any."""
    if not model.functions and all(node.op_type != "Constant" for node in model.graph):
        return model
    copy = model.clone()
    if copy.functions:
        copy = InlinePass()(copy).model
    return LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(copy).model
