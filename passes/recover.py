# SPDX-License-Identifier: Apache-2.0
"""recover: trains what compression has left of a model to do again what the original did. No labels.

The teacher is the model before the first pass that lost anything, the data are the calibration samples. Masks stay as
they are, and with ``train: scales`` the codes too. ``reconstruct`` goes block by block (see `recovery.reconstruct`),
``distill`` trains end to end (see `recovery.distill`). `docs/recovery.md` says which to choose. torch is imported when
the pass runs.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import onnx_ir as ir

from sparsec.compiler.encoding import EncodedTensor
from sparsec.compiler.errors import PassError, RecipeError
from sparsec.compiler.layers import layer_name
from sparsec.compiler.pass_manager import LayerRecord, Pass, PassContext, PassResult, Step
from sparsec.passes.selection import check_names

_EPOCHS: Mapping[str, int] = {"reconstruct": 10, "distill": 10}
_RATES: Mapping[str, float] = {"reconstruct": 3e-3, "distill": 1e-3}
"""Of a method, where the recipe gives none."""


@dataclass(frozen=True)
class Recover(Pass):
    """Trains surviving weights, scales, biases and normalizations against the original model.

    Attributes:
        method: ``reconstruct`` or ``distill``.
        train: ``weights``: everything; ``scales``: integer codes stay bit for bit, and no weight changes, only
            scales, biases and normalizations do.
        epochs: Rounds over the samples, for each block or in all; left out, the method's own number.
        lr: Learning rate: relative change of a weight in a step; left out, the method's own.
        batch: Samples in a step.
        patience: Rounds without progress on the validation samples (the last eighth) before training stops.
        features: Weight of the feature losses of ``distill``.
        augment: Whether images (three channels, at least 16 pixels a side) are varied: parts, mirrors, contrast.
        views: ``reconstruct`` trains on so many varied views of each image.
        precision: Of products and convolutions in training: ``float32``, or ``bfloat16``, which is faster on CPUs with
            instructions for it. Weights, scales, sums and losses stay float32.
        ignore: Layers to leave as they are, by name or glob.
        min_samples: Fewer calibration samples are an error.

    Raises:
        RecipeError: If an option is out of range.
    """

    name: ClassVar[str] = "recover"
    requires: ClassVar[tuple[str, ...]] = ("calibration", "static-shapes", "torch")
    method: Literal["reconstruct", "distill"] = "reconstruct"
    train: Literal["weights", "scales"] = "weights"
    epochs: int | None = None
    lr: float | None = None
    batch: int = 8
    patience: int = 3
    features: float = 1.0
    augment: bool = True
    views: int = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    ignore: tuple[str, ...] = ()
    min_samples: int = 16

    def __post_init__(self) -> None:
        least = {"epochs": 1, "batch": 1, "patience": 0, "features": 0, "views": 1, "min_samples": 2}
        for option, bound in least.items():
            found = getattr(self, option)
            if found is not None and not found >= bound:
                hint = f", or no '{option}' for the method's own" if option == "epochs" else ""
                msg = f"Pass '{self.name}': option '{option}' is {found}, expected at least {bound}{hint}."
                raise RecipeError(msg)
        if self.lr is not None and not self.lr > 0:
            expected = "more than 0, or no 'lr' for the method's own"
            msg = f"Pass '{self.name}': option 'lr' is {self.lr:g}, expected {expected}."
            raise RecipeError(msg)

    def least_samples(self) -> int:
        """See `Pass.least_samples`."""
        return self.min_samples

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """See the module."""
        teacher = context.original
        if teacher is None or _same(teacher, model):
            return PassResult(model, False, (self._idle(model, context.since),))
        assert context.calibration is not None
        context.calibration.check(model, self.min_samples)
        check_names(self, "ignore", self.ignore, [layer_name(node) for node in model.graph])
        _require_torch()
        from sparsec.passes.recovery.roles import find_trainables
        from sparsec.passes.recovery.training import DivergedError

        trainables = find_trainables(model, self.train, self.ignore)
        if not trainables:
            return PassResult(model, False)
        try:
            with self._numbers():
                records = self._train((model, teacher), trainables, context)
        except DivergedError as error:
            raise self.failure(str(error) or "all", f"the loss became infinite or NaN. {self._advice()}") from error
        changed = any(not record.skipped for record in records)
        for trainable in trainables if changed else ():
            trainable.write(model.graph)
        return PassResult(model, changed, records)

    def _idle(self, model: ir.Model, since: Sequence[Step]) -> LayerRecord:
        """The record where the passes before this one left all as it was.

        Raises:
            PassError: If no such pass stands before this one, or the model came with its loss.
        """
        tensors = [value.const_value for value in model.graph.initializers.values()]
        before = [_alone(step) for step in since if step.name != self.name]
        quantized = any(isinstance(tensor, EncodedTensor) and tensor.codes is not None for tensor in tensors)
        if quantized or not before:
            msg = f"Pass '{self.name}': {_CAME_QUANTIZED if quantized else _TOO_EARLY}"
            raise PassError(msg)
        return LayerRecord("all", f"nothing is lost yet: {', '.join(before)}", skipped=True)

    def _advice(self) -> str:
        return f"Choose a lower 'lr' than {self._schedule(0).lr:g}."

    def _schedule(self, seed: int) -> Any:
        from sparsec.passes.recovery.training import Schedule

        epochs = _EPOCHS[self.method] if self.epochs is None else self.epochs
        rate = _RATES[self.method] if self.lr is None else self.lr
        return Schedule(epochs, rate, self.batch, self.patience, seed)

    def _numbers(self) -> AbstractContextManager[Any]:
        """Where torch computes in the precision that was asked for."""
        import torch

        return torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16")

    def _train(self, models: Any, trainables: Any, context: PassContext) -> tuple[LayerRecord, ...]:
        from sparsec.passes.recovery import data as recover_data
        from sparsec.passes.recovery.distill import distill
        from sparsec.passes.recovery.reconstruct import reconstruct

        assert context.calibration is not None
        schedule = self._schedule(context.seed)
        samples = recover_data.load(models[0], context.calibration)
        augment = self.augment and bool(recover_data.images(samples[0]))
        if self.method == "distill":
            fit = distill(models, trainables, samples, schedule, self.features, augment, context.reporter)
            return (_record("all", fit),)
        if augment:
            samples = recover_data.with_views(samples[0], self.views, context.seed), samples[1]
        fits = reconstruct(models, trainables, samples, schedule, context.reporter)
        return tuple(_record(layer, fit) for piece, fit in fits for layer in piece.layers)


def _record(layer: str, fit: Any) -> LayerRecord:
    if not fit.after < fit.before:
        return LayerRecord(layer, f"training did not lower the validation loss of {fit.before:.3g}", skipped=True)
    return LayerRecord(layer, f"validation loss {fit.before:.3g} -> {fit.after:.3g} in {fit.epochs} epochs")


def _same(teacher: ir.Model, model: ir.Model) -> bool:
    """Whether nothing was done to the model: a clone shares its tensors."""
    first, second = (
        [(name, id(value.const_value)) for name, value in m.graph.initializers.items()] for m in (teacher, model)
    )
    return first == second and len(teacher.graph) == len(model.graph)


def _alone(step: Step) -> str:
    """A pass that changed nothing, with its first reason."""
    reasons = dict.fromkeys(record.note for record in step.records if record.skipped)
    why = f" ({next(iter(reasons))}{'; ...' if len(reasons) > 1 else ''})" if reasons else ""
    return f"'{step.name}' left all layers alone{why}"


_CAME_QUANTIZED = (
    "the model came with quantized weights, and no pass before this one changed it; what it lost then cannot "
    "be won back without the float32 model. Start from that one, or leave 'recover' out."
)
_TOO_EARLY = "nothing is lost yet. Put it behind a pass that loses something, as 'quantize'."


def _require_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        msg = "Pass 'recover' needs torch, which is not installed. Install 'sparsec[torch]'."
        raise PassError(msg) from error
