# SPDX-License-Identifier: Apache-2.0
"""Pass, its result and context, and the manager that runs a pipeline of them under instruments."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar

import onnx_ir as ir

from sparsec.compiler.errors import PassError, RecipeError, SparsecError
from sparsec.compiler.options import render
from sparsec.compiler.target import Target

if TYPE_CHECKING:
    from sparsec.compiler.calibration import Calibration

Reporter = Callable[[str, int, int], None]
"""Told of progress: what is done, steps done, steps in all."""


def silent(what: str, done: int, total: int) -> None:
    """The reporter that says nothing."""


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """What a pass did to one layer, or why it left it alone.

    Attributes:
        layer: ONNX name of the node.
        note: What was done, or the reason for skipping.
        skipped: Whether the layer was left alone.
    """

    layer: str
    note: str
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class PassResult:
    """The model after a pass.

    Attributes:
        model: The same object as was given, or a new one.
        changed: Whether it differs from the one given.
        records: One for each layer that the pass changed or chose to skip.
    """

    model: ir.Model
    changed: bool
    records: tuple[LayerRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class PassContext:
    """All that a pass may know besides the model.

    Attributes:
        target: What the model will be compiled for; None when that is not decided.
        calibration: Real inputs; None where none were given.
        seed: For every random choice.
        reporter: Told of progress by passes that take longer than a second.
        heldout: Real inputs that no pass computes with: fidelity is measured on them. None where none were given.
        original: The model before the first pass that loses anything, for passes that recover; set by the manager.
        since: The passes that have run since then; set by the manager.
    """

    target: Target | None = None
    calibration: "Calibration | None" = None
    seed: int = 0
    reporter: Reporter = silent
    heldout: "Calibration | None" = None
    original: ir.Model | None = None
    since: tuple["Step", ...] = ()


@dataclass(frozen=True)
class Pass(ABC):
    """One transformation: a frozen dataclass whose fields are its options.

    A subclass names itself (kebab-case, verb first) and lists what it `requires`, words of `REQUIREMENTS`.
    Options are validated in ``__post_init__`` with a `RecipeError`; one that may be left out has the type
    ``int | None`` (or another for int) and the default None. `run` may change the model it is given
    (the manager hands over a copy), keeps every layer's name, and raises `PassError` through `failure`.
    A pass that is `exact` keeps what the model computes, but for rounding; one with a `stage`, a word of `STAGES`,
    is refused where a later stage has come before it.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ()
    exact: ClassVar[bool] = False
    stage: ClassVar[str] = ""

    @abstractmethod
    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Transform the model.

        Raises:
            PassError: If the pass cannot do on this model what it was asked.
        """

    def needs(self) -> tuple[str, ...]:
        """What this pass with these options requires, words of `REQUIREMENTS`; by default what its class `requires`."""
        return self.requires

    def least_samples(self) -> int:
        """How many calibration samples this pass with these options needs; by default 1 where it needs them at all."""
        return int("calibration" in self.needs())

    def __str__(self) -> str:
        """The text form: ``prune-blocks{rows=4 cols=4 density=0.5}``."""
        return render(self.name, self)

    def failure(self, layer: str, reason: str) -> PassError:
        """An error that names this pass and a layer; raise it."""
        return PassError(f"Pass '{self.name}' on '{layer}': {reason}")


@dataclass(frozen=True)
class IrPass(Pass):
    """Lets a pass of `onnx_ir.passes` stand in a pipeline, named after its class without ``Pass``."""

    exact: ClassVar[bool] = True
    inner: ir.passes.PassBase

    @property
    def name(self) -> str:  # type: ignore[override]
        """``CommonSubexpressionEliminationPass`` is ``common-subexpression-elimination``."""
        words = type(self.inner).__name__.removesuffix("Pass")
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", words).lower()

    def __str__(self) -> str:
        return self.name

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Run the inner pass."""
        result = self.inner(model)
        return PassResult(result.model, result.modified)


class Instrument:
    """Watches a pipeline; subclasses override what they need. One instance serves one run at a time."""

    def start(self, model: ir.Model, context: PassContext) -> None:
        """Called once with the model before all passes."""

    def before(self, step: Pass, model: ir.Model, context: PassContext) -> None:
        """Called before each pass."""

    def after(self, step: Pass, result: PassResult, context: PassContext) -> None:
        """Called after each pass."""


@dataclass(frozen=True, slots=True)
class Step:
    """One pass as it ran.

    Attributes:
        name: The pass's name.
        text: Its text form with all options.
        changed: Whether it changed the model.
        records: What it did to which layer.
        seconds: Time in the pass alone, without instruments.
    """

    name: str
    text: str
    changed: bool
    records: tuple[LayerRecord, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """The model after all passes, and the steps that led to it."""

    model: ir.Model
    steps: tuple[Step, ...]

    @property
    def changed(self) -> bool:
        """Whether any pass changed the model."""
        return any(step.changed for step in self.steps)


def _is_static(model: ir.Model, context: PassContext) -> bool:
    return all(value.shape is not None and value.shape.is_static() for value in model.graph.inputs)


REQUIREMENTS: Mapping[str, tuple[Callable[[ir.Model, PassContext], bool], str]] = {
    "calibration": (
        lambda model, context: context.calibration is not None,
        "needs calibration data. Give --calibration FILE.npz with one array per model input and a leading axis "
        "of samples (in Python: calibration={input name: array}).",
    ),
    "static-shapes": (_is_static, "needs inputs of known shape. Pin them with --shape INPUT=1x3x224x224."),
    "torch": (
        lambda model, context: find_spec("torch") is not None,
        "needs torch, which is not installed. Install 'sparsec[torch]'.",
    ),
}
"""What a pass may require: how to test it, and what to do where it is not met."""


STAGES: Mapping[str, int] = {"prepare": 0, "tokens": 0, "prune": 0, "prune-and-quantize": 1, "quantize": 2}
"""Stages of a pipeline by rank: scales have to fit the weights and the tokens that are kept.

``prepare`` moves what later passes work on, scales or the order of channels; weights on a grid cannot follow.
"""


class PassManager:
    """Runs passes in order on a copy of a model.

    Attributes:
        passes: The pipeline.
        instruments: Called around each pass, in this order.
    """

    def __init__(self, passes: Iterable[Pass | ir.passes.PassBase], instruments: Sequence[Instrument] = ()) -> None:
        """Take passes of sparsec and of `onnx_ir.passes` alike."""
        self.passes: tuple[Pass, ...] = tuple(p if isinstance(p, Pass) else IrPass(p) for p in passes)
        self.instruments = tuple(instruments)

    def __str__(self) -> str:
        return ",".join(map(str, self.passes))

    def run(self, model: ir.Model, context: PassContext | None = None) -> PipelineResult:
        """Run all passes; the model given stays as it is.

        The order, requirements and numbers of samples are checked before anything runs.

        Raises:
            SparsecError: Whatever a pass or an instrument raises; the message says which pass failed, on which
                layer where that is known, and what had run. `PassError` also for a requirement that is not met.
        """
        context = context or PassContext()
        self._check_order()
        self._check_requirements(model, context)
        current = model.clone()
        for instrument in self.instruments:
            instrument.start(current, context)
        steps: list[Step] = []
        for number, step in enumerate(self.passes):
            context.reporter(step.name, number, len(self.passes))
            if context.original is None and not step.exact:
                context = replace(context, original=current.clone())
            current, done = self._step(step, current, context, steps)
            steps.append(done)
            if context.original is not None:
                context = replace(context, since=(*context.since, done))
        return PipelineResult(current, tuple(steps))

    def _check_order(self) -> None:
        """Refuse a pipeline that, say, prunes after it has quantized, before anything runs."""
        staged = [step for step in self.passes if step.stage]
        for index, step in enumerate(staged):
            late = next((other for other in staged[:index] if STAGES[other.stage] > STAGES[step.stage]), None)
            if late is not None:
                order = ", ".join(other.name for other in sorted(staged, key=lambda other: STAGES[other.stage]))
                msg = (
                    f"Pass '{step.name}' stands after '{late.name}', which has to come later. "
                    f"This order works: {order}."
                )
                raise RecipeError(msg)

    def _check_requirements(self, model: ir.Model, context: PassContext) -> None:
        for step in self.passes:
            for word in step.needs():
                met, message = REQUIREMENTS.get(word, (lambda model, context: False, f"requires unknown '{word}'."))
                if not met(model, context):
                    msg = f"Pass '{step.name}' {message}"
                    raise PassError(msg)
            least = step.least_samples()
            if least and context.calibration is not None:
                try:
                    context.calibration.check(model, least)
                except SparsecError as error:
                    raise _located(error, step, ()) from error

    def _step(self, step: Pass, model: ir.Model, context: PassContext, ran: Sequence[Step]) -> tuple[ir.Model, Step]:
        try:
            for instrument in self.instruments:
                instrument.before(step, model, context)
            before, start = _state(model), perf_counter()
            result = step.run(model, context)
            seconds = perf_counter() - start
            result = replace(result, changed=result.changed or _state(result.model) != before)
            for instrument in self.instruments:
                instrument.after(step, result, context)
        except Exception as error:
            raise _located(error, step, ran) from error
        return result.model, Step(step.name, str(step), result.changed, result.records, seconds)


def _state(model: ir.Model) -> tuple[object, ...]:
    """What tells two versions of a model apart, so that a pass that forgets to say so is still checked.

    Tensors and attributes count as different unless they are the same objects, which the result keeps alive.
    """
    initializers = [(name, _Same(value.const_value)) for name, value in model.graph.initializers.items()]
    outputs = [value.name for value in model.graph.outputs]
    return tuple(map(_node_state, model.graph.all_nodes())), tuple(initializers), tuple(outputs)


def _node_state(node: ir.Node) -> tuple[object, ...]:
    names = tuple(value.name if value else None for value in (*node.inputs, *node.outputs))
    attributes = tuple((name, _Same(attribute.value)) for name, attribute in node.attributes.items())
    return node.domain, node.op_type, node.name, names, attributes


@dataclass(frozen=True, slots=True, eq=False)
class _Same:
    """Equal to a wrapper of the very same object, or of an equal number or text."""

    value: object

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Same):
            return NotImplemented
        plain = isinstance(self.value, int | float | str | tuple) and isinstance(other.value, int | float | str | tuple)
        return self.value is other.value or (plain and self.value == other.value)

    def __hash__(self) -> int:
        return 0


def _located(error: Exception, step: Pass, ran: Sequence[Step]) -> SparsecError:
    """The error with the pass's name and what had run; one of another class becomes a `PassError`."""
    text = str(error) or type(error).__name__
    known = isinstance(error, SparsecError)
    if not known:
        text = f"Pass '{step.name}' failed with {type(error).__name__}: {text}"
    elif f"'{step.name}'" not in text:
        text = f"Pass '{step.name}': {text}"
    before = f" Ran before it: {', '.join(done.name for done in ran)}." if ran else ""
    kind = type(error) if isinstance(error, SparsecError) else PassError
    return kind(text + before)
