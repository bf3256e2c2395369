# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import onnx_ir as ir
import pytest

from sparsec.compiler.calibration import Calibration
from sparsec.compiler.errors import PassError
from sparsec.compiler.fidelity import EXACT_DB, Reference, Vitals, check_collapse, compare, measure
from sparsec.compiler.output_scores import token_scores


def _rows(*rows):
    return [np.array([row], np.float32) for row in rows]


def test_equal_outputs():
    same = compare(_rows([1, 2], [3, 0]), _rows([1, 2], [3, 0]))
    assert (same.relative_error, same.sqnr_db, same.top1, same.kl) == (0, EXACT_DB, 1, 0)
    assert same.correlation == pytest.approx(1)


def test_numbers_by_hand():
    found = compare(_rows([3, 0], [0, 4]), _rows([3, 0], [4, 0]))
    assert found.relative_error == pytest.approx(math.sqrt(32) / 5)
    assert found.sqnr_db == pytest.approx(10 * math.log10(25 / 32))
    assert found.top1 == 0.5
    p = math.exp(4) / (1 + math.exp(4))
    assert found.kl == pytest.approx(0.5 * (p - (1 - p)) * 4)
    assert found.correlation == pytest.approx(np.corrcoef([3, 0, 0, 4], [3, 0, 4, 0])[0, 1])


def test_probabilities_are_taken_as_they_are():
    found = compare(_rows([0.5, 0.5]), _rows([0.25, 0.75]))
    assert found.kl == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))


def test_images_have_no_classes():
    images = [np.random.RandomState(0).rand(1, 3, 4, 4)]
    assert compare(images, images).top1 is None
    assert compare(images, images).kl is None


def test_reference_of_zeros():
    assert compare(_rows([0, 0]), _rows([0, 0])).relative_error == 0
    assert compare(_rows([0, 0]), _rows([0, 1])).relative_error == math.inf


def test_measure_runs_both_models():
    text = '<ir_version: 10, opset_import: ["": 21]>\ng (float[1,4] x) => (float[1,4] y) { y = Mul(x, w) }'
    one, two = (ir.from_onnx_text(text, initializers=[ir.tensor(np.float32(n), name="w")]) for n in (2, 3))
    samples = Calibration({"x": np.random.RandomState(0).rand(6, 4).astype(np.float32)})
    assert measure(one, two, samples)["y"].relative_error == pytest.approx(0.5)


def _recording(output=([1.0, 2.0], [3.0, 4.0]), alive=1.0):
    vitals = Vitals()
    for row in _rows(*output):
        vitals.add({"y": row}, {"fc": alive})
    return vitals


NAN = float("nan")
HARMS = {
    "Pass 'p' on 'fc': the layer's result is now not finite": _recording(alive=math.nan),
    "Pass 'p' on 'fc': the layer's result is now zero everywhere": _recording(alive=0.0),
    "Pass 'p' on 'y': the output is now not finite": _recording(([NAN, 1], [2, 3])),
    "Pass 'p' on 'y': the output is now zero everywhere": _recording(([0, 0], [0, 0])),
    "Pass 'p' on 'y': the output is now the same for every sample": _recording(([1, 2], [1, 2])),
}


@pytest.mark.parametrize("message", HARMS)
def test_collapse_names_pass_and_layer(message):
    with pytest.raises(PassError) as caught:
        check_collapse("p", _recording(), HARMS[message])
    assert str(caught.value).startswith(message)


def test_what_was_dead_before_is_no_collapse():
    check_collapse("p", _recording(), _recording(([9, 9], [0, 1])))
    for dead in HARMS.values():
        check_collapse("p", dead, dead)


def test_layers_that_one_model_lacks_are_no_collapse():
    found = _recording()
    found.layers["new"] = (True, False)
    found.layers.pop("fc")
    check_collapse("p", _recording(), found)


def test_sums_equal_all_samples_at_once():
    random = np.random.RandomState(0)
    want = [random.rand(1, 7, 50).astype(np.float32) + 100 for _ in range(5)]
    got = [array + 0.1 * random.rand(*array.shape).astype(np.float32) for array in want]
    found = compare(want, got, tokens=True)
    a, b = (np.concatenate([x.ravel() for x in side]).astype(np.float64) for side in (want, got))
    assert found.relative_error == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-12)
    assert found.correlation == pytest.approx(np.corrcoef(a, b)[0, 1], rel=1e-9)
    rows = a.reshape(-1, 50), b.reshape(-1, 50)
    assert found.rows == 35
    assert found.top1 == (rows[0].argmax(1) == rows[1].argmax(1)).mean()
    p, q = (np.exp(side) / np.exp(side).sum(1, keepdims=True) for side in rows)
    assert found.kl == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-9)


def test_chunks_do_not_change_the_sums(monkeypatch):
    random = np.random.RandomState(1)
    want, got = ([random.rand(1, 9, 11)] for _ in "ab")
    whole = [compare(want, got, tokens) for tokens in (True, False)]
    monkeypatch.setattr("sparsec.compiler.comparison._CHUNK", 25)
    for found, tokens in zip(whole, (True, False), strict=True):
        again = compare(want, got, tokens)
        assert (again.top1, again.rows) == (found.top1, found.rows)
        assert again.relative_error == pytest.approx(found.relative_error, rel=1e-12)
        assert again.correlation == pytest.approx(found.correlation, rel=1e-9)


def test_numbers_that_are_not_finite_are_told():
    found = compare(_rows([1, 2]), _rows([NAN, 2]))
    assert math.isnan(found.relative_error)
    assert found.sqnr_db == -EXACT_DB


TOKENS = """<ir_version: 10, opset_import: ["": 21]>
g (float[1,3,4] x) => (float[1,3,6] scores, float[1,3,4] hidden, float[1,3,4] sums) {
    m = MatMul(x, w) b = Add(m, c) scores = Identity(b) hidden = Relu(x) q = MatMul(x, v) sums = Add(q, x)
}"""


def test_scores_of_tokens_come_out_of_a_matrix_product():
    sizes = {"w": (4, 6), "c": (6,), "v": (4, 4)}
    tensors = [ir.tensor(np.ones(shape, np.float32), name=name) for name, shape in sizes.items()]
    assert token_scores(ir.from_onnx_text(TOKENS, initializers=tensors)) == {"scores"}


@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_a_reference_is_kept_or_computed_again_with_the_same_result(kept, monkeypatch):
    monkeypatch.setattr("sparsec.compiler.fidelity._KEPT_BYTES", kept)
    text = '<ir_version: 10, opset_import: ["": 21]>\ng (float[1,4] x) => (float[1,4] y) { y = MatMul(x, w) }'
    random = np.random.RandomState(0)
    weight = random.rand(4, 4).astype(np.float32)
    one, two = (ir.from_onnx_text(text, initializers=[ir.tensor(weight * n, name="w")]) for n in (1, np.float32(2)))
    reference = Reference(one, [{"x": random.rand(1, 4).astype(np.float32)} for _ in range(3)])
    for _ in range(2):
        found, vitals = reference.measure(two)
        assert found["y"].relative_error == pytest.approx(1)
        assert vitals.layers == reference.vitals.layers == {"y": (True, True)}


def test_an_output_of_another_shape_is_refused():
    texts = (
        '<ir_version: 10, opset_import: ["": 21]>\ng (float[1,4] x) => (float[1,4] y) { y = Relu(x) }',
        '<ir_version: 10, opset_import: ["": 21]>\ng (float[1,4] x) => (float[1,8] y) { y = Concat<axis=1>(x, x) }',
    )
    one, two = map(ir.from_onnx_text, texts)
    with pytest.raises(PassError) as caught:
        measure(one, two, Calibration({"x": np.ones((2, 4), np.float32)}))
    assert str(caught.value) == "Output 'y' has shape (1, 8) after the pass, expected (1, 4) as in the original."
