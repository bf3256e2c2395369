# SPDX-License-Identifier: Apache-2.0
"""Recovery block by block: each block of the student learns to give what the teacher's gives.

The teacher's blocks read the teacher's own values, the student's read what the already recovered blocks before them
make of the same samples, so that a block also mends what earlier ones have spoilt. This is the first stage of GQSA
(arXiv 2412.17560: block quantization-pruning optimization), with the loop of EfficientQAT (Chen et al., 2024).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir
import torch
from torch import Tensor

from sparsec.compiler.executor.executor import Executor
from sparsec.compiler.pass_manager import Reporter
from sparsec.passes.recovery.cuts import Piece, cut_into_blocks
from sparsec.passes.recovery.data import Feeds, batches, size, take
from sparsec.passes.recovery.losses import output_kinds, output_loss, squared
from sparsec.passes.recovery.trainables import Trainable, leaves_of, tensors_of
from sparsec.passes.recovery.training import DivergedError, Fit, Progress, Schedule, fit, steps_of


@dataclass(slots=True)
class Side:
    """Teacher or student between two blocks.

    Attributes:
        executor: The model.
        train: Model inputs, and the value at the last cut, of the training samples.
        apart: The same of the validation samples.
    """

    executor: Executor
    train: Feeds
    apart: Feeds

    def compute(self, piece: Piece, parameters: Mapping[str, Tensor], batch: int) -> tuple[Feeds, Feeds]:
        """The values at the block's end."""
        train = _evaluated(self.executor, self.train, piece.ends, parameters, batch)
        return train, _evaluated(self.executor, self.apart, piece.ends, parameters, batch)

    def advance(self, piece: Piece, ends: tuple[Feeds, Feeds]) -> None:
        """Go on to the next block."""
        for feeds, values in zip((self.train, self.apart), ends, strict=True):
            if piece.start is not None:
                del feeds[piece.start]
            feeds.update(values)


def _evaluated(
    executor: Executor, feeds: Feeds, wanted: Sequence[str], parameters: Mapping[str, Tensor], batch: int
) -> Feeds:
    """Values of all samples, without gradients."""
    with torch.no_grad():
        parts = [executor.run_batch(take(feeds, rows), wanted, parameters) for rows in batches(size(feeds), batch)]
    return {name: torch.cat([part[name] for part in parts]) for name in wanted}


def reconstruct(
    models: tuple[ir.Model, ir.Model],
    trainables: Sequence[Trainable],
    samples: tuple[Feeds, Feeds],
    schedule: Schedule,
    reporter: Reporter,
) -> list[tuple[Piece, Fit]]:
    """Train all blocks in order.

    Args:
        models: Student and teacher.
        trainables: What of the student is trained.
        samples: Inputs to train on and to validate with.
        schedule: Of each block.
        reporter: Told of progress.

    Returns:
        The blocks that had something to train, and what came of it.

    Raises:
        DivergedError: With the block's name.
    """
    pieces = cut_into_blocks(models[0].graph, models[1].graph)
    student, teacher = (Side(Executor(model), dict(samples[0]), dict(samples[1])) for model in models)
    owners = _owners(pieces, trainables)
    progress = Progress("reconstruct", steps_of(size(samples[0]), schedule) * sum(map(bool, owners)), reporter)
    kinds, fits = output_kinds(models[1]), []
    final = max((i for i, mine in enumerate(owners) if mine), default=-1)
    for i, (piece, mine) in enumerate(zip(pieces[: final + 1], owners, strict=False)):
        ends = None if i == final else teacher.compute(piece, {}, schedule.batch)
        if mine:
            goal = _goal(teacher, piece, ends)
            fits.append((piece, _fit_block(piece, student, goal, mine, trainables, schedule, progress, kinds)))
        if ends is not None:
            with torch.no_grad():
                parameters = tensors_of(_read(piece, trainables))
            student.advance(piece, student.compute(piece, parameters, schedule.batch))
            teacher.advance(piece, ends)
    return fits


Goal = tuple[Callable[[Tensor], Feeds], Callable[[Tensor], Feeds]]
"""What the teacher's block gives for rows of the training samples, and of the validation samples."""


def _goal(teacher: Side, piece: Piece, ends: tuple[Feeds, Feeds] | None) -> Goal:
    """From the values at the block's end; computed anew each time without them.

    The last block's are the model's outputs, which a language model has too many of to keep.
    """
    if ends is not None:
        return partial(take, ends[0]), partial(take, ends[1])
    computed = partial(_computed, teacher.executor, piece)
    return partial(computed, teacher.train), partial(computed, teacher.apart)


def _computed(executor: Executor, piece: Piece, feeds: Feeds, rows: Tensor) -> Feeds:
    with torch.no_grad():
        return executor.run_batch(take(feeds, rows), piece.ends)


def _owners(pieces: Sequence[Piece], trainables: Sequence[Trainable]) -> list[list[Trainable]]:
    """What each block trains: what it is the first to read."""
    left = list(trainables)
    found = []
    for piece in pieces:
        mine = _read(piece, left)
        left = [trainable for trainable in left if trainable not in mine]
        found.append(mine)
    return found


def _read(piece: Piece, trainables: Sequence[Trainable]) -> list[Trainable]:
    return [trainable for trainable in trainables if piece.names.intersection(trainable.names)]


def _fit_block(
    piece: Piece,
    student: Side,
    goal: Goal,
    mine: Sequence[Trainable],
    trainables: Sequence[Trainable],
    schedule: Schedule,
    progress: Progress,
    kinds: Mapping[str, str],
) -> Fit:
    read = _read(piece, trainables)

    def loss(feeds: Feeds, wanted: Feeds) -> Tensor:
        found = student.executor.run_batch(feeds, piece.ends, tensors_of(read))
        if set(piece.ends) == set(kinds):
            return output_loss(found, wanted, kinds)
        return squared(found[piece.ends[0]], wanted[piece.ends[0]])

    def loss_of(rows: Tensor) -> Tensor:
        return loss(take(student.train, rows), goal[0](rows))

    def validate() -> float:
        return _mean_loss(loss, student.apart, goal[1], schedule.batch)

    try:
        return fit(leaves_of(mine), loss_of, validate, size(student.train), schedule, progress)
    except DivergedError as error:
        raise DivergedError(piece.ends[0]) from error


def _mean_loss(
    loss: Callable[[Feeds, Feeds], Tensor], feeds: Feeds, wanted: Callable[[Tensor], Feeds], batch: int
) -> float:
    """The loss over all samples, without gradients."""
    total = 0.0
    with torch.no_grad():
        for rows in batches(size(feeds), batch):
            total += float(loss(take(feeds, rows), wanted(rows))) * len(rows)
    return total / size(feeds)
