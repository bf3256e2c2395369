# SPDX-License-Identifier: Apache-2.0
"""The training loop of recovery: Adam, a cosine schedule, clipped gradients, early stop, the best state kept."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

import torch
from torch import Tensor

from sparsec.compiler.pass_manager import Reporter
from sparsec.passes.recovery.data import batches
from sparsec.passes.recovery.trainables import restore, snapshot

_WARM_UP = 0.05
"""Share of the steps over which the learning rate rises."""
_FLOOR = 0.05
"""The last learning rate, as a share of the first."""
_NOTHING = 1e-9
"""A loss at which there is nothing to recover."""
_CLIP = 1.0
"""Greatest norm of the gradient."""


class DivergedError(ArithmeticError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        epochs: At most so many rounds over the samples.
        lr: Relative change of a weight at the first step.
        batch: Samples in a step.
        patience: Rounds without progress on the validation samples before it stops.
        seed: For the order of the samples.
    """

    epochs: int
    lr: float
    batch: int
    patience: int
    seed: int


@dataclass(frozen=True, slots=True)
class Fit:
    """What came of it.

    Attributes:
        before: Validation loss at the start.
        after: Validation loss of the state that was kept; never over `before`.
        epochs: Rounds that were run.
    """

    before: float
    after: float
    epochs: int


class Progress:
    """Tells a reporter of steps with the loss and the time left, over all fits of a pass."""

    def __init__(self, what: str, steps: int, reporter: Reporter) -> None:
        """Expect `steps` in all."""
        self._what, self._steps, self._reporter = what, max(1, steps), reporter
        self._done, self._start = 0, monotonic()

    def step(self, loss: float) -> None:
        """One step is done."""
        self._done += 1
        left = (monotonic() - self._start) / self._done * max(0, self._steps - self._done)
        text = f"{self._what} {loss:.4f}, {_duration(left)} left"
        self._reporter(text, min(self._done, self._steps), self._steps)

    def skip(self, steps: int) -> None:
        """Steps that an early stop has saved."""
        self._steps = max(self._done, self._steps - steps)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def steps_of(samples: int, schedule: Schedule) -> int:
    """Steps of a whole fit."""
    return schedule.epochs * math.ceil(samples / schedule.batch)


def fit(
    leaves: Sequence[Tensor],
    loss_of: Callable[[Tensor], Tensor],
    validate: Callable[[], float],
    samples: int,
    schedule: Schedule,
    progress: Progress,
) -> Fit:
    """Train leaves; they end in the state that validated best, which may be the one they began in.

    Args:
        leaves: What to train.
        loss_of: The loss of the samples of these indices, with gradients to the leaves.
        validate: The loss on the validation samples.
        samples: Number of training samples.
        schedule: How long and how fast.
        progress: Told of each step.

    Raises:
        DivergedError: If the loss is not finite.
    """
    before = best = _finite(validate())
    if before <= _NOTHING:
        progress.skip(steps_of(samples, schedule))
        return Fit(before, before, 0)
    kept, idle, epoch = snapshot(leaves), 0, 0
    optimizer = torch.optim.Adam(leaves, lr=schedule.lr)
    total = steps_of(samples, schedule)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, total))
    generator = torch.Generator().manual_seed(schedule.seed)
    while epoch < schedule.epochs and idle <= schedule.patience:
        epoch += 1
        for rows in batches(samples, schedule.batch, generator):
            progress.step(_step(optimizer, leaves, loss_of(rows)))
            rate.step()
        found = validate()
        idle = 0 if found < best else idle + 1
        if found < best:
            best, kept = found, snapshot(leaves)
    progress.skip((schedule.epochs - epoch) * math.ceil(samples / schedule.batch))
    restore(leaves, kept)
    return Fit(before, best, epoch)


def _step(optimizer: torch.optim.Optimizer, leaves: Sequence[Tensor], loss: Tensor) -> float:
    value = _finite(float(loss.detach()))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(leaves, _CLIP)
    optimizer.step()
    return value


def _finite(loss: float) -> float:
    if not math.isfinite(loss):
        raise DivergedError
    return loss


def _rate(step: int, total: int) -> float:
    """Linear warm-up, then a cosine."""
    warm = max(1, round(total * _WARM_UP))
    if step < warm:
        return (step + 1) / warm
    share = (step - warm) / max(1, total - warm)
    return _FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
