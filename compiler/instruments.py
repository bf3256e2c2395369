# SPDX-License-Identifier: Apache-2.0
"""Instruments for the pass manager: verify, measure fidelity, survey sizes, time, dump."""

import re
from pathlib import Path
from time import perf_counter

import onnx
import onnx_ir as ir

from sparsec.compiler.calibration import random_inputs
from sparsec.compiler.comparison import Comparison
from sparsec.compiler.errors import ModelError, PassError
from sparsec.compiler.exchange import to_onnx
from sparsec.compiler.fidelity import Reference, check_collapse
from sparsec.compiler.pass_manager import Instrument, Pass, PassContext, PassResult
from sparsec.compiler.survey import Survey, survey


class Verify(Instrument):
    """The model is valid ONNX that onnxruntime loads, before the first pass and after each that changed it."""

    def start(self, model: ir.Model, context: PassContext) -> None:
        """Check the model that comes in.

        Raises:
            ModelError: If it is not valid.
        """
        verify(model)

    def after(self, step: Pass, result: PassResult, context: PassContext) -> None:
        """Check the model that a pass made.

        Raises:
            PassError: If it is not valid.
        """
        if not result.changed:
            return
        try:
            verify(result.model)
        except ModelError as error:
            msg = f"Pass '{step.name}' made an invalid model. {error}"
            raise PassError(msg) from error


def verify(model: ir.Model) -> None:
    """Check a model with the ONNX checker and by loading it into onnxruntime.

    Raises:
        ModelError: What either of them says.
    """
    from sparsec.compiler.oracle import Oracle

    proto = to_onnx(model)
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, ValueError) as error:
        msg = f"The ONNX checker refuses the model: {' '.join(str(error).split())[:500]}"
        raise ModelError(msg) from error
    Oracle(proto)


class Fidelity(Instrument):
    """Compares the outputs after each pass with the original's on held-out samples; a collapse is an error.

    Where nothing is held out, calibration samples serve. Without either nothing is measured, and a collapse is looked
    for on a few random inputs.

    Attributes:
        measured: (pass name, output name -> comparison) of each pass that changed the model.
    """

    def __init__(self, samples: int | None = None) -> None:
        """Use at most `samples` samples; None for all."""
        self.samples = samples
        self.measured: list[tuple[str, dict[str, Comparison]]] = []
        self._reference: Reference | None = None
        self._real = False

    def start(self, model: ir.Model, context: PassContext) -> None:
        """Take the original as the reference.

        Raises:
            DataError: If the samples do not fit the model.
        """
        for given in (context.calibration, context.heldout):
            if given is not None:
                given.check(model)
        data = context.heldout or context.calibration
        self.measured, self._real = [], data is not None
        self._reference = (
            Reference(model, list(data.feeds(model, self.samples))) if data else _random_reference(model, context.seed)
        )

    def after(self, step: Pass, result: PassResult, context: PassContext) -> None:
        """Compare with the original.

        Raises:
            PassError: If an output or a layer has collapsed.
        """
        if self._reference is None or not result.changed:
            return
        found, vitals = self._reference.measure(result.model)
        check_collapse(step.name, self._reference.vitals, vitals)
        if self._real:
            self.measured.append((step.name, found))


def _random_reference(model: ir.Model, seed: int) -> Reference | None:
    """The original on a few random inputs; None where it has none, of no known shape, or does not run on them."""
    if not model.graph.inputs or not all(v.shape is not None and v.shape.is_static() for v in model.graph.inputs):
        return None
    reference = Reference(model, [random_inputs(model, seed + number) for number in range(_RANDOM)])
    try:
        reference.run()
    except ModelError:  # indices out of range, for one
        return None
    return reference


_RANDOM = 3
"""Random inputs on which a collapse is looked for where there are no real ones."""


class Sizes(Instrument):
    """Surveys the model after each pass.

    Attributes:
        surveys: One for each pass, in order; None where a pass has left a shape unknown.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        self.surveys: list[Survey | None] = []

    def start(self, model: ir.Model, context: PassContext) -> None:
        """Forget earlier runs."""
        self.surveys = []

    def after(self, step: Pass, result: PassResult, context: PassContext) -> None:
        """Survey; a pass that changed nothing has the sizes of the one before."""
        if result.changed or not self.surveys:
            self.surveys.append(_survey(result.model))
        else:
            self.surveys.append(self.surveys[-1])


def _survey(model: ir.Model) -> Survey | None:
    try:
        return survey(model)
    except ModelError:
        return None


class Timing(Instrument):
    """Wall-clock time of each pass.

    Attributes:
        seconds: (pass name, seconds), in order.
    """

    def __init__(self) -> None:
        """Start with no times."""
        self.seconds: list[tuple[str, float]] = []
        self._began = 0.0

    def start(self, model: ir.Model, context: PassContext) -> None:
        """Forget earlier runs."""
        self.seconds = []

    def before(self, step: Pass, model: ir.Model, context: PassContext) -> None:
        """Start the clock."""
        self._began = perf_counter()

    def after(self, step: Pass, result: PassResult, context: PassContext) -> None:
        """Stop it."""
        self.seconds.append((step.name, perf_counter() - self._began))


class Dump(Instrument):
    """Writes the model as plain ONNX at the start and after each pass: ``00-input.onnx``, ``01-quantize.onnx``."""

    def __init__(self, folder: str | Path) -> None:
        """Write into `folder`, which is made if it does not exist."""
        self.folder = Path(folder)
        self._number = 0

    def start(self, model: ir.Model, context: PassContext) -> None:
        """Write the model that comes in."""
        self._number = 0
        self._write("input", model)

    def after(self, step: Pass, result: PassResult, context: PassContext) -> None:
        """Write the model that a pass made."""
        self._number += 1
        self._write(step.name, result.model)

    def _write(self, name: str, model: ir.Model) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = re.sub(r"[^A-Za-z0-9_-]", "_", name)
        onnx.save(to_onnx(model), self.folder / f"{self._number:02}-{stem}.onnx")
