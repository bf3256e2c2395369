# SPDX-License-Identifier: Apache-2.0
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from tests.cli.conftest import names, two_products


@pytest.fixture
def expected(samples):
    """What onnxruntime makes of each sample."""
    session = ort.InferenceSession(two_products().SerializeToString())
    return np.stack([session.run(None, {"x": row[None]})[0] for row in samples])


def test_one_sample(compiled, here, samples, expected, sparsec):
    np.savez(here / "in.npz", x=samples[:1])
    done = sparsec("run", compiled, "--input", "in.npz", "--output", "out.npz")
    assert done.exit_code == 0, done.stderr
    with np.load("out.npz") as found:
        np.testing.assert_allclose(found["y"], expected[0], rtol=1e-5)
    assert names(here) == ["in.npz", "out.npz"]


@pytest.mark.parametrize("shape", [(4, 16), (4, 1, 16)])
def test_a_leading_axis_of_samples(shape, compiled, here, samples, expected, sparsec):
    np.savez(here / "in.npz", x=samples.reshape(shape))
    done = sparsec("run", compiled, "--input", "in.npz", "--output", "out.npz")
    assert done.exit_code == 0, done.stderr
    assert "4 samples" in done.stdout
    with np.load("out.npz") as found:
        np.testing.assert_allclose(found["y"], expected, rtol=1e-5)


def test_compare_prints_each_error(compiled, model, samples, here, sparsec):
    np.savez(here / "in.npz", x=samples)
    done = sparsec("run", compiled, "--input", "in.npz", "--compare", model)
    assert done.exit_code == 0, done.stderr
    name, *_, error = done.stdout.split()
    assert name == "'y'"
    assert float(error) < 1e-5


def test_compare_fails_above_the_tolerance(compiled, here, samples, sparsec):
    other = two_products()
    weight = numpy_helper.to_array(other.graph.initializer[1])
    other.graph.initializer[1].CopyFrom(numpy_helper.from_array(weight * np.float32(1.01), "B"))
    onnx.save(other, here / "other.onnx")
    np.savez(here / "in.npz", x=samples)
    arguments = ("run", compiled, "--input", "in.npz", "--compare", "other.onnx")
    done = sparsec(*arguments)
    assert done.exit_code == 1
    assert "'y'" in done.stdout
    assert done.stderr.startswith("error: Output 'y': relative error")
    assert sparsec(*arguments, "--tolerance", "0.1").exit_code == 0


def test_compare_with_another_model_names_the_output(compiled, here, samples, sparsec):
    other = two_products()
    other.graph.node[2].output[0] = other.graph.output[0].name = "scores"
    onnx.save(other, here / "other.onnx")
    np.savez(here / "in.npz", x=samples)
    done = sparsec("run", compiled, "--input", "in.npz", "--compare", "other.onnx")
    assert done.exit_code == 1
    assert "no output 'y', found 'scores'" in done.stderr


def test_verify_says_what_it_checked(compiled, sparsec):
    done = sparsec("verify", compiled)
    assert done.exit_code == 0, done.stderr
    assert "'y' relative error" in done.stdout
    assert "files whole, 1 outputs right" in done.stdout
