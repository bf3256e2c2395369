# SPDX-License-Identifier: Apache-2.0
"""Recovery end to end: the student learns the teacher's outputs, and its values at the cuts between blocks.

The mix of a soft loss on outputs and weighted feature losses follows GPUSQ-ViT (Yu et al., CVPR 2023); a feature's
weight is its share of the feature losses at the start, so what compression has hurt most counts most. With scales
alone it is the second stage of GQSA (arXiv 2412.17560: end-to-end optimized quantization-pruning).
"""

from collections.abc import Mapping, Sequence

import onnx_ir as ir
import torch
from torch import Tensor

from sparsec.compiler.executor.executor import Executor
from sparsec.compiler.pass_manager import Reporter
from sparsec.passes.recovery.cuts import cut_into_blocks
from sparsec.passes.recovery.data import Feeds, batches, size, take, varied
from sparsec.passes.recovery.losses import output_kinds, output_loss, squared
from sparsec.passes.recovery.trainables import Trainable, leaves_of, tensors_of
from sparsec.passes.recovery.training import Fit, Progress, Schedule, fit, steps_of


def distill(
    models: tuple[ir.Model, ir.Model],
    trainables: Sequence[Trainable],
    samples: tuple[Feeds, Feeds],
    schedule: Schedule,
    features: float,
    augment: bool,
    reporter: Reporter,
) -> Fit:
    """Train everything at once.

    Args:
        models: Student and teacher.
        trainables: What of the student is trained.
        samples: Inputs to train on and to validate with.
        schedule: How long and how fast.
        features: Weight of all feature losses together, beside the loss on outputs.
        augment: Whether images are varied anew in each step.
        reporter: Told of progress.

    Raises:
        DivergedError: If the loss is not finite.
    """
    pair = _Pair(models, trainables, features)
    pair.weigh(samples[1], schedule.batch)
    generator = torch.Generator().manual_seed(schedule.seed + 1)

    def loss_of(rows: Tensor) -> Tensor:
        feeds = take(samples[0], rows)
        return pair.loss(varied(feeds, generator) if augment else feeds)

    def validate() -> float:
        with torch.no_grad():
            rows = list(batches(size(samples[1]), schedule.batch))
            losses = [float(pair.loss(take(samples[1], part))) * len(part) for part in rows]
        return sum(losses) / size(samples[1])

    progress = Progress("distill", steps_of(size(samples[0]), schedule), reporter)
    return fit(leaves_of(trainables), loss_of, validate, size(samples[0]), schedule, progress)


class _Pair:
    """Teacher and student with the loss between them."""

    def __init__(self, models: tuple[ir.Model, ir.Model], trainables: Sequence[Trainable], features: float) -> None:
        pieces = cut_into_blocks(models[0].graph, models[1].graph)
        self.student, self.teacher = map(Executor, models)
        self.kinds = output_kinds(models[1])
        self.cuts = tuple(piece.ends[0] for piece in pieces[:-1]) if features else ()
        self.trainables, self.features = trainables, features
        self.weights: Mapping[str, float] = dict.fromkeys(self.cuts, 1 / max(1, len(self.cuts)))

    def loss(self, feeds: Feeds) -> Tensor:
        """Of a batch of samples."""
        found, wanted = self._values(feeds)
        total = output_loss(found, wanted, self.kinds)
        for name, weight in self.weights.items():
            total = total + self.features * weight * squared(found[name], wanted[name])
        return total

    def weigh(self, feeds: Feeds, batch: int) -> None:
        """Weigh each feature loss by its share of all."""
        sums = dict.fromkeys(self.cuts, 0.0)
        with torch.no_grad():
            for rows in batches(size(feeds), batch) if self.cuts else ():
                found, wanted = self._values(take(feeds, rows))
                sums = {name: total + float(squared(found[name], wanted[name])) for name, total in sums.items()}
        whole = sum(sums.values())
        if whole > 0:
            self.weights = {name: total / whole for name, total in sums.items()}

    def _values(self, feeds: Feeds) -> tuple[Feeds, Feeds]:
        names = (*self.kinds, *self.cuts)
        with torch.no_grad():
            wanted = self.teacher.run_batch(feeds, names)
        return self.student.run_batch(feeds, names, tensors_of(self.trainables)), wanted
