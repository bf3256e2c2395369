# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from sparsec.cli.main import main


def two_products():
    """y = max(x A, 0) B with x 1x16, A 16x32, B 32x8; half of A's 4x4 blocks are zero."""
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal(shape).astype(np.float32) for shape in ((16, 32), (32, 8)))
    a *= (np.indices((4, 8)).sum(0) % 2).repeat(4, 0).repeat(4, 1)
    nodes = [
        helper.make_node("MatMul", ["x", "A"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "B"], ["y"], "second"),
    ]
    ports = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, s)] for n, s in (("x", ("batch", 16)), ("y", None))]
    weights = [numpy_helper.from_array(a, "A"), numpy_helper.from_array(b, "B")]
    graph = helper.make_graph(nodes, "two", *ports, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def sparsec():
    """Runs a command line in this process: result with `exit_code`, `stdout`, `stderr`."""
    return invoke


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder that is the current one."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def model(here):
    """The file of `two_products` in the current folder."""
    path = here / "two.onnx"
    onnx.save(two_products(), path)
    return path


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """An artifact of `two_products` for this machine; not to be changed."""
    folder = tmp_path_factory.mktemp("compiled")
    onnx.save(two_products(), folder / "two.onnx")
    done = invoke("compile", folder / "two.onnx", "--target", "host", "-o", folder / "two")
    assert done.exit_code == 0, done.stderr
    return folder / "two"


@pytest.fixture
def samples():
    """Inputs of `two_products`, four of them."""
    return np.random.default_rng(1).standard_normal((4, 16)).astype(np.float32)


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.fixture
def refused(here):
    """Asserts that a command failed with one clear message and left the current folder as it was."""
    state = {}

    def check(*arguments, code=1, says=()):
        state["before"] = names(here)
        done = invoke(*arguments)
        assert done.exit_code == code, (done.stdout, done.stderr)
        assert done.stdout == ""
        lines = done.stderr.splitlines()
        assert lines[0].startswith("error: "), done.stderr
        assert len(lines) == (2 if code == 2 else 1), done.stderr
        for word in (says,) if isinstance(says, str) else says:
            assert word in done.stderr
        assert names(here) == state["before"]

    return check
