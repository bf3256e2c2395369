# SPDX-License-Identifier: Apache-2.0
"""What the command line asks about prices: in the driver's layer, where targets meet the back ends.

`map_of` is the break-even map of a target, `shapes_in` says what to map for a model, `measure` makes a profile.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsec.compiler import driver
from sparsec.compiler.breakeven import Curve, Shape, curves_of, patterns_for, shapes_of
from sparsec.compiler.errors import ModelError
from sparsec.compiler.machine_profile import MachineProfile, Tuned
from sparsec.compiler.pass_manager import Reporter, silent
from sparsec.compiler.pattern import parse_pattern
from sparsec.compiler.target import Target

MOST_SHAPES = 24
"""Of one model: the layers with the highest prices."""


def map_of(
    target: Target,
    profile: MachineProfile | None,
    shapes: Sequence[Shape],
    patterns: Sequence[str] | None = None,
    reporter: Reporter = silent,
) -> list[Curve]:
    """The predicted gain of every pattern over the best dense kernel, for each shape and precision.

    Args:
        target: Whose kernels.
        profile: To price by; None for the built-in one.
        shapes: Of layers.
        patterns: Text forms as passes name them: a block of a convolution holds whole kernels. None for all there are.
        reporter: Told of each shape.
    """
    from sparsec.backends.targets import backend

    found: list[Curve] = []
    prices = backend(target, profile)
    for number, shape in enumerate(shapes):
        reporter(f"layer {shape}", number, len(shapes))
        asked = patterns_for(shape, [parse_pattern(text) for text in patterns]) if patterns else None
        found += curves_of(prices, shape, asked)
    return found


def profile_for(target: Target, path: Path | None) -> MachineProfile:
    """The profile in a file, or the built-in one.

    Raises:
        DataError: If the file is malformed, or for another instruction set.
    """
    from sparsec.backends.targets import profile_of

    return profile_of(target, path)


def shapes_in(model: Any, target: Target, reporter: Reporter = silent) -> list[Shape]:
    """The different shapes of a model's layers with weights, the dearest first, at most `MOST_SHAPES`.

    Raises:
        ModelError: If the model is at fault, or no layer can be mapped.
    """
    job = driver.job(model, target, reporter=reporter)
    found = shapes_of(driver.lower(driver.compress(job), job).layers, MOST_SHAPES)
    if not found:
        msg = (
            f"Model '{model}': found no convolution or matrix product with constant weights, so there is no map of it."
        )
        raise ModelError(msg)
    return found


def measure(target: Target, reporter: Reporter = silent, milliseconds: float | None = None) -> Tuned:
    """Measure the machine at hand: time kernels, and fit the costs by which they are priced.

    Args:
        target: Whose kernels; one that this machine, or its WebAssembly engine, can run.
        reporter: Told of progress.
        milliseconds: To time each kernel for; None for the usual.

    Raises:
        TargetError: If this machine cannot run the target's kernels.
        ToolchainError: If kernels cannot be compiled, or the engine fails.
    """
    from sparsec.backends.isa import priced_for
    from sparsec.backends.targets import BY_FAMILY, profile_of
    from sparsec.backends.tuning.tune import MILLISECONDS, require_runnable, tune

    require_runnable(target)
    return tune(BY_FAMILY, priced_for(target), profile_of(target), reporter, milliseconds or MILLISECONDS)
