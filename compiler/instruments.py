# SPDX-License-Identifier: Apache-2.0
"""Instruments for the pass manager: verify, measure fidelity, time, dump."""

import re
from pathlib import Path
from time import perf_counter

import onnx
import onnx_ir as ir

from sparsec.compiler.errors import ModelError, PassError
from sparsec.compiler.exchange import to_onnx
from sparsec.compiler.fidelity import Comparison, Recording, check_collapse, compare
from sparsec.compiler.pass_manager import Instrument, Pass, PassContext, PassResult


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
    """Compares the outputs after each pass with the original's on calibration samples; a collapse is an error.

    Without calibration nothing is measured.

    Attributes:
        measured: (pass name, output name -> comparison) of each pass that changed the model.
    """

    def __init__(self, samples: int = 8) -> None:
        """Use at most `samples` samples."""
        self.samples = samples
        self.measured: list[tuple[str, dict[str, Comparison]]] = []
        self._reference: Recording | None = None

    def start(self, model: ir.Model, context: PassContext) -> None:
        """Record the original.

        Raises:
            DataError: If the samples do not fit the model.
        """
        self.measured, self._reference = [], None
        if context.calibration is not None:
            context.calibration.check(model)
            self._reference = Recording.of(model, context.calibration, self.samples)

    def after(self, step: Pass, result: PassResult, context: PassContext) -> None:
        """Compare with the original.

        Raises:
            PassError: If an output or a layer has collapsed.
        """
        if self._reference is None or context.calibration is None or not result.changed:
            return
        found = Recording.of(result.model, context.calibration, self.samples)
        check_collapse(step.name, self._reference, found)
        want = self._reference.outputs
        self.measured.append((step.name, {name: compare(want[name], found.outputs[name]) for name in want}))


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
