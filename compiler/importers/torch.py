# SPDX-License-Identifier: Apache-2.0
"""The torch front end: a module is traced by torch.export, exported to ONNX, and imported like any ONNX model."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.compiler.errors import ModelError, ToolchainError
from sparsec.compiler.importers.onnx import load_onnx


def load_torch(
    module: Any,
    example_inputs: Sequence[Any] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    reporter: Callable[[str], None] | None = None,
) -> ir.Model:
    """Import a torch module.

    Args:
        module: a ``torch.nn.Module``, traced in evaluation mode, or a ``torch.export.ExportedProgram``.
        example_inputs: one tensor for each of the module's arguments; their shapes become the model's. Not needed
            for an ExportedProgram.
        shapes: whole shapes by input name, for what an ExportedProgram has left dynamic.
        reporter: is told what was decided without being asked, one sentence a call.

    Returns:
        A model as :func:`sparsec.compiler.importers.onnx.load_onnx` returns it. A layer bears its path in the
        module, as in ``blocks.3.fc1``; weights are copies.

    Raises:
        ToolchainError: torch is not installed.
        ModelError: torch cannot trace or export the module, or the result cannot be imported.
    """
    torch = _import_torch()
    program = _exported(torch, module, example_inputs)
    with _quiet():
        try:
            model = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False).model
        except Exception as error:
            raise ModelError(_reason("torch cannot export the module to ONNX", error)) from error
    _own_weights(model)
    _name_layers(model)
    return load_onnx(model, shapes, reporter)


def _import_torch() -> Any:
    try:
        import torch
        import torch.onnx
    except ImportError as error:
        msg = "Importing a torch module needs torch, which is not installed. Install 'sparsec[torch]'."
        raise ToolchainError(msg) from error
    return torch


def _exported(torch: Any, module: Any, example_inputs: Sequence[Any] | None) -> Any:
    if isinstance(module, torch.export.ExportedProgram):
        return module
    if not isinstance(module, torch.nn.Module):
        msg = f"A torch.nn.Module or an ExportedProgram was expected, not {type(module).__name__!r}."
        raise ModelError(msg)
    if example_inputs is None:
        msg = "A torch module needs example inputs, one tensor for each argument, from which its shapes are taken."
        raise ModelError(msg)
    training = {name: part.training for name, part in module.named_modules()}
    try:
        with _quiet():
            return torch.export.export(module.eval(), tuple(example_inputs))
    except Exception as error:
        raise ModelError(_reason("torch cannot trace the module", error)) from error
    finally:
        for name, part in module.named_modules():
            part.training = training[name]


def _reason(what: str, error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{what}: {(lines or [type(error).__name__])[0][:500]}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own remarks away from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _own_weights(model: ir.Model) -> None:
    """Copy the weights: the module may be trained on after the import."""
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            value.const_value = ir.Tensor(np.array(value.const_value.numpy()), name=value.name)


def _name_layers(model: ir.Model) -> None:
    """Name a node after the module its weight belongs to; the first node wins if it has several."""
    taken: set[str] = set()
    for node in model.graph:
        weight = next((v for v in node.inputs if v is not None and str(v.name).endswith(".weight")), None)
        layer = str(weight.name).removesuffix(".weight") if weight is not None else ""
        if layer and weight in model.graph.initializers.values() and layer not in taken:
            taken.add(layer)
            node.name = layer
