# SPDX-License-Identifier: Apache-2.0
"""How far the student is from the teacher: normalized squared error, and divergence of class scores."""

from collections.abc import Mapping

import onnx_ir as ir
import torch
from torch import Tensor

from sparsec.compiler.graph import constant_of, source_of

_LINEAR = ("Gemm", "MatMul")


def squared(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error over the teacher's variance: 1 is as bad as its mean, 0 is equal."""
    return torch.mean((found - wanted) ** 2) / (wanted.var(correction=0) + 1e-8)


def divergence(found: Tensor, wanted: Tensor, probabilities: bool) -> Tensor:
    """Kullback-Leibler divergence of rows along the last axis in nats, averaged over rows: images, or tokens."""
    if probabilities:
        p, q = (torch.log(rows.clamp_min(1e-9)) for rows in (wanted, found))
    else:
        p, q = (torch.log_softmax(rows, -1) for rows in (wanted, found))
    return (p.exp() * (p - q)).sum(-1).mean()


def output_kinds(model: ir.Model) -> dict[str, str]:
    """What each output is: ``scores`` (of classes or words, before the softmax), ``probabilities``, or ``values``."""
    return {str(value.name): _kind(value) for value in model.graph.outputs}


def _kind(value: ir.Value) -> str:
    softmax = source_of(value, "Softmax")
    if softmax is not None:
        axis, rank = softmax.attributes.get_int("axis", -1), len(value.shape or ())
        return "probabilities" if axis in (-1, rank - 1) else "values"
    add = source_of(value, "Add")
    sources = [value] if add is None else [v for v in add.inputs if v is not None and constant_of(v) is None]
    wide = value.shape is not None and len(value.shape) >= 2 and value.shape[-1] not in (0, 1)
    return "scores" if wide and any(source_of(v, *_LINEAR) is not None for v in sources) else "values"


def output_loss(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], kinds: Mapping[str, str]) -> Tensor:
    """Divergence of scores with a tenth of their squared error, which holds their level; squared error elsewhere."""
    total = torch.zeros(())
    for name, kind in kinds.items():
        error = squared(found[name], wanted[name])
        if kind == "values":
            total = total + error
        else:
            total = total + divergence(found[name], wanted[name], kind == "probabilities") + 0.1 * error
    return total
