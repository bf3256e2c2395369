# SPDX-License-Identifier: Apache-2.0
"""permute-channels: put channels in an order in which a pattern, pruned afterwards, keeps more of the weights' score.

What the network computes stays the same: the rows of what writes the channels and the columns of what reads them move
together (in the style of the whole-network rearrangement of SparseByteNN, arXiv 2310.19509; for n:m the input channels
move, as in Zhang et al., "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models", 2024).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from sparsec.compiler.couplings import CoupledGroup, analyse, rearrange
from sparsec.compiler.encoding import NM, Block, EncodedTensor, parse_pattern
from sparsec.compiler.errors import RecipeError
from sparsec.compiler.layers import Layer, layer_name
from sparsec.compiler.pass_manager import LayerRecord, Pass, PassContext, PassResult
from sparsec.compiler.pattern import Array
from sparsec.compiler.statistics import LayerStatistics, collect
from sparsec.passes.channels.order import Aim, Ordering
from sparsec.passes.scores import scores
from sparsec.passes.selection import choose_layers

LEAST_SAMPLES = 8


@dataclass(frozen=True)
class PermuteChannels(Pass):
    """Each coupled group by itself, over and over until none gains.

    Only layers that the later pass prunes count, so give both the same options.

    Attributes:
        pattern: ``block(ROWSxCOLS)`` or ``nm(N:M)``.
        density: Share of the blocks that will be kept, in (0, 1]; for n:m the pattern says it.
        score: What the later pass keeps the most of: ``magnitude``, or with calibration data ``wanda``, ``ria``.
        only: Layers whose score counts, by name or glob; empty for all.
        ignore: Layers whose score does not count, by name or glob; their channels still move.
        min_weights: Layers with fewer weights do not count.
        spatial: Whether convolutions with kernels over 1x1 count.
        min_gain: An order is taken if it raises the kept score by more than this share.

    Raises:
        RecipeError: If an option is out of range.
    """

    name: ClassVar[str] = "permute-channels"
    exact: ClassVar[bool] = True
    stage: ClassVar[str] = "prepare"
    pattern: str = "block(4x1)"
    density: float = 0.5
    score: Literal["magnitude", "wanda", "ria"] = "magnitude"
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    min_weights: int = 4096
    spatial: bool = False
    min_gain: float = 0.001

    def __post_init__(self) -> None:
        found = parse_pattern(self.pattern)
        if not isinstance(found, Block | NM) or (isinstance(found, NM) and found.width > 1):
            msg = (
                f"Pass '{self.name}': option 'pattern' is {self.pattern}, expected block(ROWSxCOLS) or nm(N:M): "
                "no other depends on the order of channels in a way that is searched."
            )
            raise RecipeError(msg)
        if not 0 < self.density <= 1:
            msg = f"Pass '{self.name}': option 'density' is {self.density:g}, expected more than 0 and at most 1."
            raise RecipeError(msg)
        if self.min_gain < 0:
            msg = f"Pass '{self.name}': option 'min_gain' is {self.min_gain:g}, expected at least 0."
            raise RecipeError(msg)

    def needs(self) -> tuple[str, ...]:
        """Calibration data for all scores but magnitude."""
        return ("static-shapes",) if self.score == "magnitude" else ("static-shapes", "calibration")

    def least_samples(self) -> int:
        """See `Pass.least_samples`."""
        return LEAST_SAMPLES if "calibration" in self.needs() else 0

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """See the module."""
        couplings = analyse(model)
        layers, skipped = choose_layers(self, model, self.ignore, self.only)
        reasons = {layer.name: self._reason(layer) for layer in layers}
        counted = [layer for layer in layers if not reasons[layer.name]]
        aim = Aim(self.shape, self.share, self.min_gain)
        work = Ordering(aim, couplings, self._scores(model, counted, context), context.seed)
        groups = [group for group in couplings.groups if not _obstacle(group) and work.roles(group)]
        before = {group.name: work.kept(group) for group in groups}
        gained = work.improve(groups, context.reporter)
        if work.edits:
            rearrange(couplings, work.edits)
        records = [self._record(group, before[group.name], work, group.name in gained) for group in groups]
        records += [LayerRecord(g.name, _obstacle(g), skipped=True) for g in couplings.groups if _obstacle(g)]
        records += [LayerRecord(name, reason, skipped=True) for name, reason in reasons.items() if reason]
        return PassResult(model, bool(work.edits), (*records, *skipped))

    @property
    def shape(self) -> Block | NM:
        """The pattern."""
        found = parse_pattern(self.pattern)
        assert isinstance(found, Block | NM)
        return found

    @property
    def share(self) -> float:
        """The share of a layer's weights that is kept."""
        return self.shape.n / self.shape.m if isinstance(self.shape, NM) else self.density

    def _reason(self, layer: Layer) -> str:
        """Why a layer's score does not count; empty if it does."""
        inputs, weights = layer.matrix().shape[1], layer.matrix().size
        run = self.shape.m if isinstance(self.shape, NM) else 1
        reasons = {
            f"its weight is already {layer.encoded.encoding if layer.encoded else ''}; permute before pruning": (
                layer.encoded is not None
            ),
            "it is a grouped convolution": layer.groups > 1,
            "its kernel is larger than 1x1; set spatial=true to count it": layer.taps > 1 and not self.spatial,
            f"its input axis has {inputs} elements, not a multiple of m={run}": inputs % run > 0,
            f"it has {weights} weights, fewer than min_weights={self.min_weights}": weights < self.min_weights,
        }
        return next((reason for reason, holds in reasons.items() if holds), "")

    def _scores(self, model: ir.Model, layers: list[Layer], context: PassContext) -> dict[Layer, Array]:
        known: Mapping[str, LayerStatistics] = {}
        if self.score != "magnitude" and layers:
            assert context.calibration is not None
            context.calibration.check(model, LEAST_SAMPLES)
            known = collect(model, context.calibration, layers, reporter=context.reporter)
        found = {layer: scores(self.score, layer.matrix(), known.get(layer.name)) for layer in layers}
        return {layer: matrix.astype(np.float32) for layer, matrix in found.items()}

    def _record(self, group: CoupledGroup, before: tuple[float, float], work: Ordering, gained: bool) -> LayerRecord:
        kept, total = before
        names = ", ".join(dict.fromkeys(role.layer.name for role in work.roles(group)))
        if not gained:
            return LayerRecord(group.name, f"no better order: {kept / total:.2%} of the score kept in {names}", True)
        after = work.kept(group)[0]
        return LayerRecord(group.name, f"{kept / total:.2%} -> {after / total:.2%} of the score kept in {names}")


def _obstacle(group: CoupledGroup) -> str:
    """Why a group's order has to stay; empty if it need not."""
    if group.permutable:
        return group.permutable
    if group.span > 1 or group.size < 2:
        return f"its units are {group.kind} of {group.span} channels, which have no order to gain from"
    for node in (*group.producers, *group.consumers):
        weight = node.inputs[1]
        if weight is not None and isinstance(weight.const_value, EncodedTensor):
            return (
                f"the weight of '{layer_name(node)}' is already {weight.const_value.encoding}; permute before pruning"
            )
    return ""
