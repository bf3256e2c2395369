# SPDX-License-Identifier: Apache-2.0
"""Densities of single layers for the table of accuracy, by the library's own sweep on calibration inputs alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import onnx_ir as ir

from sparsec.compiler import driver
from sparsec.compiler.pass_manager import PassContext, PassManager
from sparsec.compiler.registry import parse_pass
from sparsec.compiler.sweep.recipe import by_curves, recipe
from sparsec.compiler.sweep.request import Request
from sparsec.compiler.sweep.sweep import Sweep, sweep


@dataclass(frozen=True, slots=True)
class Kept:
    """A pruning pass whose layers share a budget of weights.

    Attributes:
        step: Text of the pass; its layers and densities are found.
        share: Of the weights of the layers swept, to be kept.
    """

    step: str
    share: float


@dataclass(frozen=True, slots=True)
class Curves:
    """What is swept to find densities.

    Attributes:
        pattern: Text of the pass that is swept, without a density.
        layers: Names or globs.
        densities: At which each layer is measured.
        samples: Calibration inputs used, of which the driver holds out a quarter to measure on.
    """

    pattern: str
    layers: tuple[str, ...]
    densities: tuple[float, ...]
    samples: int = 64


Steps = Sequence[str | Kept]
Asked = Callable[[Sequence[str]], driver.Job]
"""The job for passes, with as many calibration inputs as `Curves` asks for."""


def resolved(steps: Steps, curves: Curves | None, asked: Asked) -> list[str]:
    """The steps as texts of passes, each `Kept` with a density for each layer.

    Raises:
        SparsecError: If the sweep fails, or a budget is out of its reach.
    """
    if not any(isinstance(step, Kept) for step in steps):
        return [step for step in steps if isinstance(step, str)]
    assert curves is not None
    before = [step for step in takewhile(_is_text, steps) if isinstance(step, str)]
    model, context = prepared(before, asked)
    found = measured(model, curves, context)
    return [step if isinstance(step, str) else with_densities(step, found, curves) for step in steps]


def prepared(before: Sequence[str], asked: Asked) -> tuple[ir.Model, PassContext]:
    """The model behind the passes that stand before the first pruning, and what passes know besides."""
    _, model, context = driver.imported(asked([]))
    return PassManager([parse_pass(text) for text in before]).run(model, context).model, context


def measured(model: ir.Model, curves: Curves, context: PassContext) -> Sweep:
    """Fidelity against density of each layer alone."""
    return sweep(model, _request(curves), context)


def with_densities(kept: Kept, found: Sweep, curves: Curves) -> str:
    """The text of the pass with the densities that spend its budget best."""
    densities: Mapping[str, float] = by_curves(found, curves.pattern, kept.share)
    (step,) = recipe(_request(curves), kept.step, densities).passes
    return str(step)


def _request(curves: Curves) -> Request:
    return Request((curves.pattern,), curves.densities, only=curves.layers, jobs=1)


def _is_text(step: object) -> bool:
    return isinstance(step, str)
