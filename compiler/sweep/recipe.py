# SPDX-License-Identifier: Apache-2.0
"""From a sweep to what is done about it: densities for each layer, and a recipe that holds them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from sparsec.compiler.errors import RecipeError
from sparsec.compiler.pass_manager import PassContext
from sparsec.compiler.recipe import Recipe
from sparsec.compiler.sweep.allocation import allocate, allocate_by_index
from sparsec.compiler.sweep.curves import Point
from sparsec.compiler.sweep.request import Request, has_option, pruning_pass, with_options
from sparsec.compiler.sweep.sweep import LayerSweep, Sweep, choose, describe, measure_pass, pruned_weights


@dataclass(frozen=True, slots=True)
class Choice:
    """Densities that were chosen, and what the model is with them.

    Attributes:
        densities: Layer name -> density; empty where nothing was to be chosen.
        found: Fidelity of the model with all these layers pruned to their densities; None without data.
        uniform: The same with as many weights kept, one density for all layers; None without data.
    """

    densities: Mapping[str, float] = field(default_factory=dict)
    found: Point | None = None
    uniform: Point | None = None


def choose_densities(
    model: ir.Model, found: Sweep, request: Request, context: PassContext, budget: float | None
) -> Choice:
    """Densities by the curves of the first pattern, measured, beside one density for all layers.

    Raises:
        RecipeError: As `by_curves` and `recipe`.
    """
    pattern = request.patterns[0]
    densities = by_curves(found, pattern, budget)
    sizes = {layer.name: layer.weights for layer in found.layers if layer.name in densities}
    share = sum(sizes[name] * density for name, density in densities.items()) / sum(sizes.values())
    (step,) = recipe(request, pattern, densities).passes
    same = with_options(pruning_pass(pattern, request.score), density=min(1.0, share))
    return Choice(densities, *(measure_pass(model, each, sizes, request, context) for each in (step, same)))


def by_curves(found: Sweep, pattern: str, budget: float | None = None) -> dict[str, float]:
    """Densities for the layers that the pattern fits: recommended ones, or those that spend a budget best.

    Args:
        found: With a curve for each layer.
        pattern: As it was asked for.
        budget: Share of these layers' weights to keep; None takes each layer's density before its knee.

    Raises:
        RecipeError: If there is no curve to go by, or the budget is out of reach.
    """
    curves = {layer.name: curve for layer in found.layers for curve in layer.curves if curve.pattern == pattern}
    if not curves:
        msg = f"No layer was swept alone under '{pattern}', so densities cannot be chosen. Sweep the layers, too."
        raise RecipeError(msg)
    if budget is None:
        return {name: curve.recommended for name, curve in curves.items()}
    losses = {name: [(point.density, point.loss) for point in curve.points] for name, curve in curves.items()}
    return allocate(losses, {layer.name: layer.weights for layer in found.layers}, budget)


def by_index(model: ir.Model, request: Request, budget: float) -> tuple[tuple[LayerSweep, ...], dict[str, float]]:
    """Densities without data, from the weights' PQ indices; the layers are those that the first pattern fits.

    Raises:
        ModelError: If no layer is called as asked.
        RecipeError: If the budget is out of reach.
    """
    step = pruning_pass(request.patterns[0])
    fits, _ = pruned_weights(model, step, request.only, PassContext())
    layers = tuple(describe(layer) for layer in choose(model, request.only) if layer.name in fits)
    sizes = {layer.name: layer.weights for layer in layers}
    return layers, allocate_by_index({layer.name: layer.pq_index for layer in layers}, sizes, budget)


def recipe(request: Request, pattern: str, densities: Mapping[str, float]) -> Recipe:
    """A recipe of one pass that prunes each layer to its density; layers at density 1 are left alone.

    Args:
        request: What was swept.
        pattern: One of its patterns.
        densities: Layer name -> density in (0, 1].

    Raises:
        RecipeError: If the pattern's pass takes no density for each layer, or all layers stay dense.
    """
    step = pruning_pass(pattern, request.score)
    if not has_option(step, "densities"):
        msg = f"Pattern '{pattern}' has a density of its own, so there is none to choose for each layer."
        raise RecipeError(msg)
    told = {name: f"{density:.4g}" for name, density in densities.items() if density < _DENSE}
    if not told:
        msg = f"Every layer is best left dense under '{pattern}'; there is nothing to write. Allow a larger drop."
        raise RecipeError(msg)
    options: dict[str, tuple[str, ...]] = {"densities": tuple(f"{name}={text}" for name, text in told.items())}
    if request.only:
        options["only"] = tuple(told)
    else:
        dense = (name for name in densities if name not in told)
        options["ignore"] = tuple(dict.fromkeys((*getattr(step, "ignore", ()), *dense)))
    return Recipe((with_options(step, **options),))


_DENSE = 0.99995
"""From this density on a layer is left alone."""
