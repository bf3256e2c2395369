# SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from sparsec.compiler.calibration import Calibration
from sparsec.compiler.errors import DataError, ModelError, PassError
from sparsec.compiler.instruments import Dump, Fidelity, Sizes, Timing, Verify
from sparsec.compiler.pass_manager import Pass, PassContext, PassManager, PassResult

TEXT = """<ir_version: 10, opset_import: ["": 21]>
g (float[1,4] x) => (float[1,4] y) <float[1,4] h, float[1,4] r> { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"""


def _model():
    random = np.random.RandomState(0)
    tensors = [ir.tensor(random.rand(4, 4).astype(np.float32), name=name) for name in "wv"]
    model = ir.from_onnx_text(TEXT, initializers=tensors)
    for node, name in zip(model.graph, ["first", "act", "second"], strict=True):
        node.name = name
    return model


@dataclass(frozen=True)
class Scale(Pass):
    """Multiplies the weights of the second layer."""

    name: ClassVar[str] = "scale"
    factor: float = 1.0
    weight: str = "v"

    def run(self, model, context):
        value = model.graph.initializers[self.weight]
        value.const_value = ir.tensor(value.const_value.numpy() * np.float32(self.factor), name=self.weight)
        return PassResult(model, True)


@dataclass(frozen=True)
class Misspell(Pass):
    name: ClassVar[str] = "misspell"
    op_type: str = "Rleu"

    def run(self, model, context):
        model.graph[1].op_type = self.op_type
        return PassResult(model, True)


@pytest.fixture
def context():
    return PassContext(calibration=Calibration({"x": np.random.RandomState(1).rand(9, 4).astype(np.float32)}))


def test_verify_passes_a_valid_model():
    PassManager([Scale(2.0)], [Verify()]).run(_model())


def test_verify_names_the_pass_that_broke_the_model():
    with pytest.raises(PassError, match=r"Pass 'misspell' made an invalid model\. .*Rleu.* Ran before it: scale\."):
        PassManager([Scale(), Misspell()], [Verify()]).run(_model())


def test_verify_finds_what_only_onnxruntime_sees():
    with pytest.raises(PassError, match=r"Pass 'misspell' made an invalid model\. onnxruntime refuses the model: "):
        PassManager([Misspell("Det")], [Verify()]).run(_model())


def test_verify_refuses_a_model_that_is_broken_from_the_start():
    model = _model()
    model.graph[1].op_type = "Rleu"
    with pytest.raises(ModelError, match=r"The ONNX checker refuses the model: .*Rleu"):
        PassManager([Scale()], [Verify()]).run(model)


def test_fidelity_is_measured_after_each_pass_against_the_original(context):
    fidelity = Fidelity(samples=4)
    PassManager([Scale(1.5), Scale(2.0)], [fidelity]).run(_model(), context)
    (first, second) = fidelity.measured
    assert (first[0], second[0]) == ("scale", "scale")
    assert first[1]["y"].relative_error == pytest.approx(0.5)
    assert second[1]["y"].relative_error == pytest.approx(2.0)
    assert second[1]["y"].correlation == pytest.approx(1)


def test_fidelity_without_calibration_measures_nothing():
    fidelity = Fidelity()
    PassManager([Scale()], [fidelity]).run(_model())
    assert fidelity.measured == []


def test_fidelity_is_measured_on_what_was_held_out(context):
    held = Calibration({"x": np.random.RandomState(2).rand(3, 4).astype(np.float32)}, "Held-out data")
    both = replace(context, heldout=held)
    results = {}
    for name, given in {"held": both, "alone": PassContext(heldout=held), "calibration": context}.items():
        fidelity = Fidelity()
        PassManager([Misspell("Abs")], [fidelity]).run(_model(), given)
        results[name] = fidelity.measured
    assert results["held"] == results["alone"] != results["calibration"]


def test_without_data_a_collapse_is_still_an_error():
    with pytest.raises(PassError, match="Pass 'scale' on 'second': the layer's result is now zero everywhere"):
        PassManager([Scale(0.0)], [Fidelity()]).run(_model())


def test_a_model_that_fails_on_random_inputs_passes_without_data():
    """Indices 0 and 1 into a table of one row."""
    text = """<ir_version: 10, opset_import: ["": 21]>
    g (int64[9] n) => (float[9,4] y) <float[9,4] r> { r = Gather(t, n) y = MatMul(r, v) }"""
    tables = {"t": np.ones((1, 4), np.float32), "v": np.ones((4, 4), np.float32)}
    model = ir.from_onnx_text(text, initializers=[ir.tensor(array, name=name) for name, array in tables.items()])
    fidelity = Fidelity()
    PassManager([Scale(0.0)], [fidelity]).run(model)
    assert fidelity.measured == []


def test_sizes_are_taken_after_each_pass():
    sizes = Sizes()
    PassManager([Scale(2.0), Scale(0.0)], [sizes]).run(_model())
    assert [(found.zeros, found.macs, found.weight_bytes) for found in sizes.surveys] == [(0, 32, 128), (0.5, 32, 128)]


def test_fidelity_checks_the_samples():
    with pytest.raises(DataError, match=r"Calibration does not fit the model's inputs \(x\): missing: x; surplus: z"):
        PassManager([], [Fidelity()]).run(_model(), PassContext(calibration=Calibration({"z": np.ones((1, 4))})))


COLLAPSES = [
    (Scale(0.0, "w"), "Pass 'scale' on 'first': the layer's result is now zero everywhere, which it was not"),
    (Scale(0.0, "v"), "Pass 'scale' on 'second': the layer's result is now zero everywhere, which it was not"),
    (Scale(3e38, "v"), "Pass 'scale' on 'second': the layer's result is now not finite"),
    (Scale(-1.0, "w"), "Pass 'scale' on 'second': the layer's result is now zero everywhere"),
]


@pytest.mark.parametrize(("step", "message"), COLLAPSES)
def test_collapse_is_an_error(step, message, context):
    with pytest.raises(PassError) as caught:
        PassManager([Scale(10.0, "w"), step], [Fidelity()]).run(_model(), context)
    assert message in str(caught.value)
    assert "add the layer to 'ignore'" in str(caught.value)


def test_timing_has_one_entry_a_pass():
    timing = Timing()
    PassManager([Scale(), Misspell("Neg")], [timing]).run(_model())
    assert [name for name, _ in timing.seconds] == ["scale", "misspell"]
    assert all(seconds >= 0 for _, seconds in timing.seconds)


def test_dump_writes_each_stage_and_stays_in_its_folder(tmp_path):
    odd = type("Odd", (Scale,), {"name": "../../odd"})()
    PassManager([Scale(2.0), odd], [Dump(tmp_path / "dump")]).run(_model())
    names = sorted(path.name for path in (tmp_path / "dump").iterdir())
    assert names == ["00-input.onnx", "01-scale.onnx", "02-______odd.onnx"]
    onnx.checker.check_model(onnx.load(tmp_path / "dump" / names[1]))
    assert [path.name for path in tmp_path.iterdir()] == ["dump"]
