# SPDX-License-Identifier: Apache-2.0
"""The built-in recipes on whole networks: valid after each pass, close to the original, and accurate on real data."""

import pytest

from sparsec.compiler.calibration import Calibration
from sparsec.compiler.errors import PassError, ToolchainError
from sparsec.compiler.importers.onnx import load_onnx
from sparsec.compiler.instruments import Fidelity, Verify
from sparsec.compiler.layers import layers
from sparsec.compiler.oracle import Oracle
from sparsec.compiler.pass_manager import PassContext, PassManager
from sparsec.compiler.recipe import Recipe, built_in
from sparsec.models.catalog import find


def _compress(name, recipe):
    entry = find(name)
    try:
        model, samples = load_onnx(entry.build()), Calibration(entry.inputs("calibration", 64))
    except ToolchainError as error:
        pytest.skip(str(error))
    fidelity = Fidelity()
    context = PassContext(calibration=samples)
    result = PassManager(Recipe.load(recipe).passes, [Verify(), fidelity]).run(model, context)
    return entry, model, result.model, fidelity.measured[-1][1]


LEAST = {
    "int8": 0.98,
    "sparse-int8": 0.6,
    "nm-2-4": 0.85,
    "kernel-30": 0.75,
    "gqsa-w4s50": 0.6,
    "vit-2-4-int8": 0.85,
    "tome": 0.95,
}
"""Correlation of the logits with the original's, on networks whose weights are random and have nothing to spare."""


def test_each_built_in_recipe_is_tested():
    assert set(LEAST) == set(built_in())


@pytest.mark.parametrize("name", ["tiny-cnn", "tiny-transformer"])
@pytest.mark.parametrize("recipe", LEAST)
def test_small_networks_stay_close(name, recipe):
    if (name, recipe) == ("tiny-cnn", "tome"):
        with pytest.raises(PassError, match="'merge-tokens': found no attention"):
            _compress(name, recipe)
        return
    _, original, model, found = _compress(name, recipe)
    assert len(list(layers(model))) == len(list(layers(original)))
    if "int8" in recipe or recipe == "kernel-30":
        assert all(layer.encoded is not None and layer.encoded.codes is not None for layer in layers(model))
    assert found["logits"].correlation > LEAST[recipe]


@pytest.mark.parametrize(("recipe", "least"), [("int8", 0.99), ("sparse-int8", 0.98)])
def test_digits_keep_their_accuracy(recipe, least):
    entry, _, model, _ = _compress("digits", recipe)
    assert entry.score(Oracle(model).run, limit=1000) >= least
    if recipe == "sparse-int8":
        encoded = [layer.encoded for layer in layers(model)]
        stored = sum(tensor.density * tensor.size for tensor in encoded) / sum(tensor.size for tensor in encoded)
        assert stored < 0.7


def test_two_runs_give_the_same_bytes():
    from sparsec.compiler.exchange import to_onnx

    first, second = (
        to_onnx(_compress("tiny-cnn", "sparse-int8")[2]).SerializeToString(deterministic=True) for _ in "ab"
    )
    assert first == second
