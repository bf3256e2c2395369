# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import onnx_ir as ir
import pytest

from sparsec.compiler.calibration import Calibration
from sparsec.compiler.errors import PassError
from sparsec.compiler.fidelity import EXACT_DB, Recording, check_collapse, compare, measure


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


def _recording(output=([1.0, 2.0], [3.0, 4.0]), alive=(True, True)):
    return Recording({"y": _rows(*output)}, {"fc": alive})


NAN = float("nan")
HARMS = {
    "Pass 'p' on 'fc': the layer's result is now not finite": _recording(alive=(False, True)),
    "Pass 'p' on 'fc': the layer's result is now zero everywhere": _recording(alive=(True, False)),
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
