# SPDX-License-Identifier: Apache-2.0
"""What recovery trains: weights under their masks and grids, scales, biases, normalizations; and how it is put back.

Every leaf starts at 0 and is measured in units of what it changes: a weight moves by the root mean square of its
output channel's surviving weights, a scale by factors of e. So one learning rate is a relative change, whatever the
magnitudes of a model are. Weights on a grid keep float masters, rounded in the forward pass with straight-through
gradients; their scales learn as in Esser et al., "Learned Step Size Quantization", 2020.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from sparsec.compiler.encoding import Codes, EncodedTensor, as_matrix, from_matrix, spread
from sparsec.compiler.executor.quantization import straight_round
from sparsec.passes.ranges import LEVELS

_HALF = (2.0**-24, 65504.0)
"""Least and greatest number over 0 that float16 holds."""


class Trainable(ABC):
    """Something to train.

    Attributes:
        leaves: The tensors that the optimizer moves.
        names: Initializers that `tensors` replaces.
    """

    leaves: list[Tensor]
    names: tuple[str, ...]

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The initializers' present values by name, with gradients to the leaves."""

    @abstractmethod
    def write(self, graph: ir.Graph) -> None:
        """Put the present values into the graph's initializers."""


class Plain(Trainable):
    """An initializer without a mask or codes: a dense weight, a bias, a normalization's gain or shift."""

    def __init__(self, value: ir.Value, axis: int | None = None) -> None:
        """Take an initializer; `axis` is that of a weight's output channels, None for vectors."""
        assert value.const_value is not None
        array = np.asarray(value.const_value.numpy(), np.float32)
        self.names = (str(value.name),)
        self._base = torch.tensor(array)
        self._unit = torch.tensor(_units(array, np.ones(array.shape, bool), axis))
        self.leaves = [torch.zeros_like(self._base).requires_grad_()]

    def tensors(self) -> dict[str, Tensor]:
        """See `Trainable`."""
        return {self.names[0]: self._base + self._unit * self.leaves[0]}

    def write(self, graph: ir.Graph) -> None:
        """See `Trainable`."""
        (array,) = _arrays(self.tensors().values())
        graph.initializers[self.names[0]].const_value = ir.tensor(array, name=self.names[0])


class Masked(Trainable):
    """A pruned float32 weight: what the mask does not store stays zero."""

    def __init__(self, value: ir.Value, encoded: EncodedTensor) -> None:
        """Take an initializer and its tensor."""
        self.names = (str(value.name),)
        self._encoded = encoded
        self._base = torch.tensor(encoded.numpy())
        self._unit = torch.tensor(_units(encoded.numpy(), encoded.mask, encoded.axis) * encoded.mask)
        self.leaves = [torch.zeros_like(self._base).requires_grad_()]

    def tensors(self) -> dict[str, Tensor]:
        """See `Trainable`."""
        return {self.names[0]: self._base + self._unit * self.leaves[0]}

    def write(self, graph: ir.Graph) -> None:
        """See `Trainable`."""
        old, (array,) = self._encoded, _arrays(self.tensors().values())
        graph.initializers[self.names[0]].const_value = EncodedTensor(
            self.names[0], old.encoding, old.mask, old.axis, values=np.where(old.mask, array, np.float32(0))
        )


class OnGrid(Trainable):
    """A quantized weight: scales and, unless its codes are frozen, float masters that are rounded to the grid."""

    def __init__(self, value: ir.Value, encoded: EncodedTensor, frozen: bool) -> None:
        """Take an initializer and its tensor; `frozen` keeps its codes bit for bit."""
        quant = encoded.encoding.quant
        assert quant is not None
        assert encoded.scales is not None
        self.names = (str(value.name),)
        self._encoded, self._quant = encoded, quant
        self._mask = torch.tensor(encoded.matrix(encoded.mask))
        zeros = np.zeros(encoded.scales.shape, np.uint8) if encoded.zero_points is None else encoded.zero_points
        self._zeros = torch.tensor(spread(zeros, quant, self._mask.shape[1]).astype(np.float32))
        least = max(quant.lowest, -quant.highest) if quant.symmetric else quant.lowest
        self._low, self._high = least - self._zeros, quant.highest - self._zeros
        self._scales = torch.tensor(encoded.scales)
        self._base = torch.tensor(encoded.matrix())
        self._unit = torch.tensor(encoded.matrix(_units(encoded.numpy(), encoded.mask, encoded.axis)))
        self._frozen = frozen
        self._steps = (self._base / self._wide(self._scales)).round()
        self.leaves = [torch.zeros_like(self._scales).requires_grad_()]
        if not frozen:
            self.leaves.append(torch.zeros_like(self._base).requires_grad_())

    def tensors(self) -> dict[str, Tensor]:
        """See `Trainable`."""
        wide = self._wide(self._present_scales())
        return {self.names[0]: self._restored(self._present_steps(wide) * wide)}

    def write(self, graph: ir.Graph) -> None:
        """See `Trainable`."""
        old, scales = self._encoded, self._present_scales()
        steps = self._present_steps(self._wide(scales))
        codes, sizes = _arrays([steps + self._zeros, scales])
        assert old.codes is not None
        kept: Codes = from_matrix(codes, old.mask.shape, old.axis).astype(old.codes.dtype)  # type: ignore[assignment]
        graph.initializers[self.names[0]].const_value = EncodedTensor(
            self.names[0],
            old.encoding,
            old.mask,
            old.axis,
            codes=old.codes if self._frozen else kept,
            scales=sizes,
            zero_points=old.zero_points,
        )

    def _present_scales(self) -> Tensor:
        scales = self._scales * torch.exp(self.leaves[0])
        if not self._quant.group:
            return scales
        return scales + (scales.clamp(*_HALF).half().float() - scales).detach()

    def _present_steps(self, wide: Tensor) -> Tensor:
        """Codes less zero points, ``[out, in]``."""
        if self._frozen:
            return self._steps
        steps = straight_round((self._base + self._unit * self.leaves[1]) / wide)
        return torch.clamp(steps, self._low, self._high) * self._mask

    def _wide(self, scales: Tensor) -> Tensor:
        """Scales as they apply to the matrix ``[out, in]``."""
        if self._quant.group:
            return scales.repeat_interleave(self._quant.group, 1)[:, : self._mask.shape[1]]
        return scales.reshape(-1, 1)

    def _restored(self, matrix: Tensor) -> Tensor:
        """``[out, in]`` in the stored shape."""
        shape, axis = self._encoded.mask.shape, self._encoded.axis
        moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
        return torch.movedim(matrix.reshape(moved), 0, axis)


class Grid(Trainable):
    """The scale of an activation's 7-bit codes, with the bounds of the Clip before it."""

    def __init__(self, scale: ir.Value, zero: int, low: ir.Value, high: ir.Value) -> None:
        """Take the three scalars, which nothing else uses, and the zero point, which stays."""
        assert scale.const_value is not None
        self.names = tuple(str(value.name) for value in (scale, low, high))
        self._zero = zero
        self._scale = torch.tensor(scale.const_value.numpy())
        self.leaves = [torch.zeros_like(self._scale).requires_grad_()]

    def tensors(self) -> dict[str, Tensor]:
        """See `Trainable`; the bounds are what codes 0 and 127 stand for."""
        scale = self._scale * torch.exp(self.leaves[0])
        fixed = scale.detach()
        return dict(zip(self.names, (scale, -self._zero * fixed, (LEVELS - self._zero) * fixed), strict=True))

    def write(self, graph: ir.Graph) -> None:
        """See `Trainable`."""
        for name, array in zip(self.names, _arrays(self.tensors().values()), strict=True):
            graph.initializers[name].const_value = ir.tensor(array, name=name)


def tensors_of(trainables: Iterable[Trainable]) -> dict[str, Tensor]:
    """The present values of all, by initializer name."""
    return {name: tensor for trainable in trainables for name, tensor in trainable.tensors().items()}


def leaves_of(trainables: Iterable[Trainable]) -> list[Tensor]:
    """The leaves of all."""
    return [leaf for trainable in trainables for leaf in trainable.leaves]


def snapshot(leaves: Sequence[Tensor]) -> list[Tensor]:
    """Copies to go back to with `restore`."""
    return [leaf.detach().clone() for leaf in leaves]


def restore(leaves: Sequence[Tensor], copies: Sequence[Tensor]) -> None:
    """Set leaves to copies."""
    with torch.no_grad():
        for leaf, copy in zip(leaves, copies, strict=True):
            leaf.copy_(copy)


def _units(array: np.ndarray, mask: np.ndarray, axis: int | None) -> np.ndarray:
    """By how much an element moves for a leaf's 1: the root mean square of its channel's, or the whole, survivors."""
    if axis is None:
        return np.full(array.shape, max(float(np.sqrt(np.mean(np.square(array)))), 1e-3), np.float32)
    matrix, kept = as_matrix(array, axis), as_matrix(mask, axis)
    sizes = np.sqrt(np.square(matrix, dtype=np.float64).sum(1) / np.maximum(kept.sum(1), 1))
    sizes = np.maximum(sizes, 1e-3 * sizes.mean() + 1e-12)
    wide = np.broadcast_to(sizes[:, None], matrix.shape).astype(np.float32)
    return from_matrix(wide, array.shape, axis)


def _arrays(tensors: Iterable[Tensor]) -> list[np.ndarray]:
    return [np.ascontiguousarray(tensor.detach().numpy()) for tensor in tensors]
