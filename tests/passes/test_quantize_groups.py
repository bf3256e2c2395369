# SPDX-License-Identifier: Apache-2.0
"""quantize with few bits, groups and GPTQ: weights alone."""

import json
from pathlib import Path

import numpy as np
import pytest

from sparsec.compiler.calibration import Calibration
from sparsec.compiler.driver import compile as compile_model
from sparsec.compiler.errors import DataError, PassError
from sparsec.compiler.exchange import from_qdq, to_onnx
from sparsec.compiler.importers.onnx import load_onnx
from sparsec.compiler.instruments import Verify
from sparsec.compiler.layers import layers
from sparsec.compiler.oracle import Oracle
from sparsec.compiler.pass_manager import PassContext, PassManager
from sparsec.compiler.registry import parse_pass
from sparsec.compiler.statistics import collect
from sparsec.passes.column_sweep import output_error
from sparsec.passes.prune_blocks import PruneBlocks
from sparsec.passes.quantize import Quantize

CHAIN = "g (float[4,40] x) => (float[4,24] y) { a = MatMul(x, v) b = Relu(a) y = Gemm <transB = 1> (b, w) }"
CONV = "g (float[1,8,6,6] x) => (float[1,4,6,6] y) { a = Conv <group = 8> (x, d) b = Relu(a) y = Conv(b, w) }"


def _chain(model_of, normal):
    return model_of(CHAIN, v=normal(40, 32), w=normal(24, 32, seed=9))


def _correlated(model, samples=16):
    random = np.random.RandomState(7)
    mix = random.standard_normal((40, 40)) * np.logspace(0, -1.5, 40)
    return Calibration({"x": (random.standard_normal((samples, 4, 40)) @ mix).astype(np.float32)})


def _quantize(model, *before, calibration=None, **options):
    return PassManager([*before, Quantize(act="none", **options)], [Verify()]).run(
        model, PassContext(calibration=calibration)
    )


@pytest.mark.parametrize("group", [0, 8, 16])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_alone_need_no_calibration_and_onnxruntime_agrees(bits, group, model_of, normal, run, ops):
    model = _chain(model_of, normal)
    result = _quantize(model, bits=bits, group=group, symmetric=not group)
    assert ops(result.model) == ops(model)
    for layer in layers(result.model):
        quant = layer.encoded.encoding.quant
        assert (quant.bits, quant.group, quant.symmetric) == (bits, group, not group)
    dense = _chain(model_of, normal)
    for before, after in zip(layers(dense), layers(result.model), strict=True):
        before.weight.const_value = _plain(after)
    np.testing.assert_array_equal(run(result.model)["y"], run(dense)["y"])


def _plain(layer):
    import onnx_ir as ir

    return ir.tensor(layer.tensor.numpy(), name=layer.weight.name)


def test_record_says_the_encoding_and_its_bits(model_of, normal):
    result = _quantize(_chain(model_of, normal), bits=4, group=16, symmetric=False)
    notes = [record.note for record in result.steps[0].records]
    assert notes == [
        "dense x int4(group16,asymmetric), 5.50 bits a weight",
        "dense x int4(group16,asymmetric), 5.25 bits a weight",
    ]


@pytest.mark.parametrize(("bits", "group"), [(4, 16), (2, 8), (8, 0), (4, 0)])
def test_gptq_errs_less_on_the_layers_output_than_rounding(bits, group, model_of, normal):
    model = _chain(model_of, normal)
    data = _correlated(model)
    first = collect(model, data, list(layers(model)), hessian=True)
    before = {layer.name: layer.matrix() for layer in layers(model)}
    options = {"bits": bits, "group": group, "symmetric": not group, "correct_bias": False, "calibration": data}
    errors = []
    for method in ("rtn", "gptq"):
        result = _quantize(_chain(model_of, normal), method=method, **options)
        changed = {layer.name: layer.matrix() - before[layer.name] for layer in layers(result.model)}
        errors.append({name: output_error(change, first[name].hessian) for name, change in changed.items()})
    assert all(errors[1][name] < errors[0][name] for name in before)


def test_gptq_rounds_the_weights_of_inputs_that_no_sample_had(model_of, normal):
    model = _chain(model_of, normal)
    data = _correlated(model)
    data.arrays["x"][..., :5] = 0
    options = {"bits": 8, "correct_bias": False, "calibration": data}
    rounded, swept = (next(layers(_quantize(model, method=m, **options).model)) for m in ("rtn", "gptq"))
    np.testing.assert_array_equal(swept.matrix()[:, :5], rounded.matrix()[:, :5])
    assert swept.matrix()[:, :5].any()


def test_gptq_keeps_pruned_weights_pruned(model_of, normal):
    model = _chain(model_of, normal)
    prune = PruneBlocks(rows=1, cols=8, density=0.5, min_weights=1)
    result = _quantize(
        model, prune, bits=4, group=8, symmetric=False, method="gptq", calibration=_correlated(model)
    ).model
    for layer in layers(result):
        assert str(layer.encoded.encoding) == "block(1x8) x int4(group8,asymmetric)"
        assert layer.mask.mean() == 0.5
        assert not layer.tensor.numpy()[~layer.mask].any()


def test_depthwise_is_rounded_per_channel_and_too_small_for_groups(model_of, normal, calibration):
    model = model_of(CONV, d=normal(8, 1, 1, 1), w=normal(4, 8, 1, 1, seed=3))
    data = calibration(model)
    result = _quantize(model, bits=4, method="gptq", calibration=data)
    assert [record.note.split(",")[0] for record in result.steps[0].records] == ["dense x int4(channel)"] * 2
    grouped = _quantize(model, bits=4, group=8, calibration=data)
    skipped = [record for record in grouped.steps[0].records if record.skipped]
    assert [record.note for record in skipped] == ["it has 1 inputs, fewer than a group of 8"]


def test_a_convolution_with_taps_has_groups_over_channels_and_taps(model_of, normal, run):
    text = "g (float[1,8,6,6] x) => (float[1,4,4,4] y) { y = Conv(x, w) }"
    model = model_of(text, w=normal(4, 8, 3, 3))
    result = _quantize(model, bits=8, group=16).model
    (layer,) = layers(result)
    assert layer.tensor.scales.shape == (4, 5)
    want, got = run(model)["y"], run(result)["y"]
    assert np.linalg.norm(want - got) < 0.01 * np.linalg.norm(want)


def test_round_trip_through_plain_onnx(model_of, normal, run):
    model = _quantize(_chain(model_of, normal), bits=3, group=16, symmetric=False).model
    again = from_qdq(load_onnx(to_onnx(model)))
    for before, after in zip(layers(model), layers(again), strict=True):
        assert before.encoded.encoding == after.encoded.encoding
        np.testing.assert_array_equal(before.tensor.numpy(), after.tensor.numpy())
    np.testing.assert_array_equal(run(again)["y"], run(model)["y"])


@pytest.mark.parametrize("second", [{"bits": 4, "group": 16}, {"bits": 8}])
def test_a_quantized_model_is_not_quantized_twice(second, model_of, normal):
    first = _quantize(_chain(model_of, normal), bits=4, group=16).model
    again = _quantize(first, **second)
    assert not again.changed
    assert {(record.note, record.skipped) for record in again.steps[0].records} == {("it is already quantized", True)}


def test_gptq_needs_calibration(model_of, normal):
    with pytest.raises(PassError, match=r"Pass 'quantize' needs calibration data\. Give --calibration FILE\.npz"):
        _quantize(_chain(model_of, normal), method="gptq")


@pytest.mark.parametrize("kind", ["few", "constant"])
def test_poor_samples_are_refused(kind, model_of, normal):
    model = _chain(model_of, normal)
    data = _correlated(model, 7) if kind == "few" else Calibration({"x": np.ones((8, 4, 40), np.float32)})
    with pytest.raises(DataError, match="Pass 'quantize': Calibration"):
        _quantize(model, method="gptq", calibration=data)


GROUPS = "dense (int4(group16,asymmetric) as float32)"
COMPILED = {
    "quantize{bits=4 group=16 symmetric=false act=none}": {"int4": "dense", "float32": GROUPS},
    "quantize{bits=4 group=16 symmetric=false}": {"int4": "dense", "float32": GROUPS},
    "quantize{bits=4}": {"int8": "dense"},
}
"""By precision, which prices decide, what the report says of the kernel."""


@pytest.mark.parametrize("text", COMPILED)
def test_compiles_and_the_report_says_what_is_computed_as_float32(text, model_of, normal):
    model = _chain(model_of, normal)
    data = _correlated(model)
    artifact = compile_model(model, "host", passes=[text], calibration=data.arrays, heldout=data.arrays)
    report = json.loads((Path(artifact.folder) / "report.json").read_text())
    said = {(layer["precision"], layer["kernel"].partition(" ")[2]) for layer in report["layers"] if layer["macs"]}
    assert said <= COMPILED[text].items()
    assert said
    again = PassManager([parse_pass(text)]).run(model, PassContext(calibration=data)).model
    feed = {"x": data.arrays["x"][0]}
    want, got = Oracle(again).run(feed)["y"], artifact.run(feed)["y"]
    assert np.linalg.norm(want - got) <= 1e-3 * np.linalg.norm(want)
