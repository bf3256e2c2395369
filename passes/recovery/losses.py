# SPDX-License-Identifier: Apache-2.0
"""How far the student is from the teacher: normalized squared error, and divergence of class scores."""

from collections.abc import Mapping

import onnx_ir as ir
import torch
from torch import Tensor

from sparsec.compiler.output_scores import scoring_node
from sparsec.compiler.statistics import LOUD, MOST

_TOKENS = 4
"""Axes of a batch of samples with tokens."""


def squared(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error over the teacher's variance: 1 is as bad as its mean, 0 is equal.

    Of tokens, ``[samples, 1, tokens, width]``, a few have activations a thousand times as large as all others' (Sun et
    al., "Massive Activations in Large Language Models", 2024); they count no more than `compiler.statistics` lets them.
    """
    counts = _counts(wanted) if wanted.dim() == _TOKENS else torch.ones(())
    middle = (counts * wanted).mean() / counts.mean()
    variance = (counts * (wanted - middle) ** 2).mean()
    return torch.mean(counts * (found - wanted) ** 2) / (variance + 1e-8)


def _counts(wanted: Tensor) -> Tensor:
    """What each token counts, ``[samples, 1, tokens, 1]``: 1, or less where it is far louder than the others."""
    energy = wanted.square().sum(-1, keepdim=True)
    most = LOUD * energy.quantile(MOST, dim=-2, keepdim=True)
    return torch.where((energy > most) & (most > 0), most / energy.clamp_min(1e-30), torch.ones(()))


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
    node = scoring_node(value)
    if node is None:
        return "values"
    if node.op_type == "Softmax":
        last = len(node.outputs[0].shape or ()) - 1
        return "probabilities" if node.attributes.get_int("axis", -1) in (-1, last) else "values"
    wide = value.shape is not None and len(value.shape) >= 2 and value.shape[-1] not in (0, 1)
    return "scores" if wide else "values"


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
