# SPDX-License-Identifier: Apache-2.0
"""A package that is installed beside sparsec brings a pass: nothing here is faked."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent / "project"
USE = """
import numpy as np
import onnx_ir as ir
from sparsec.compiler.oracle import Oracle
from sparsec.compiler.pass_manager import PassManager
from sparsec.compiler.recipe import Recipe
from sparsec.compiler.registry import catalogue, parse_pass

text = '''<ir_version: 10, opset_import: ["": 21]>
g (float[1,4] x) => (float[1,4] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }'''
weights = [ir.tensor(np.random.RandomState(n).randn(4, 4).astype(np.float32), name=n_) for n, n_ in enumerate("wv")]
model = ir.from_onnx_text(text, initializers=weights)
recipe = Recipe.parse("version: 1\\npasses: [{flip-signs: {count: 1}}]")
assert recipe.passes == (parse_pass("flip-signs{count=1}"),)
result = PassManager(recipe.passes).run(model)
x = {"x": np.ones((1, 4), np.float32)}
np.testing.assert_array_equal(Oracle(model).run(x)["y"], Oracle(result.model).run(x)["y"])
print(catalogue()["flip-signs"].owner, [node.op_type for node in result.model.graph], result.steps[0].text)
"""


def _install(project, target):
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    subprocess.run([*command, "--target", str(target), str(project)], check=True, env=environment, timeout=120)


def _python(code, *folders):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Where the package is installed, built from a copy so that nothing is left in the checkout."""
    project = Path(shutil.copytree(PROJECT, tmp_path_factory.mktemp("source") / "project"))
    target = tmp_path_factory.mktemp("site")
    _install(project, target)
    return target


def test_installed_pass_is_found_by_name_and_runs(site):
    done = _python(USE, site)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "sparsec-flip ['MatMul', 'Neg', 'Relu', 'MatMul'] flip-signs{count=1}"


def _variant(site, folder, name, entry, broken=False):
    """The installed package again, under another name and with another entry point."""
    folder.mkdir(exist_ok=True)
    shutil.copytree(site / "sparsec_flip", folder / name)
    info = Path(shutil.copytree(site / "sparsec_flip-1.0.dist-info", folder / f"{name}-1.0.dist-info"))
    for file in (info / "METADATA", info / "entry_points.txt"):
        text = file.read_text().replace("sparsec-flip", name).replace("sparsec_flip", name)
        file.write_text(text.replace("flip-signs =", f"{entry} ="))
    if broken:
        (folder / name / "__init__.py").write_text("import package_that_is_not_there\n")
    return folder


def test_two_packages_with_one_name_are_an_error_that_names_both(site, tmp_path):
    other = _variant(site, tmp_path, "flip_too", "flip-signs")
    done = _python("from sparsec.compiler.registry import load; load('quantize')", site, other)
    assert "RecipeError: Pass 'flip-signs' is brought by two packages, 'flip_too' and 'sparsec-flip'. " in done.stderr


def test_a_package_cannot_replace_a_built_in_pass(site, tmp_path):
    other = _variant(site, tmp_path, "flip_own", "quantize")
    done = _python("from sparsec.compiler.registry import load; load('quantize')", other)
    assert "Pass 'quantize' is brought by two packages, 'sparsec' and 'flip_own'. Uninstall one" in done.stderr


def test_import_error_is_reported_with_the_packages_name_and_only_on_use(site, tmp_path):
    other = _variant(site, tmp_path, "flip_broken", "flip-broken", broken=True)
    done = _python("from sparsec.compiler.registry import load; load('quantize'); load('flip-broken')", other)
    assert (
        "Pass 'flip-broken' of package 'flip_broken': importing 'flip_broken.flip_signs:FlipSigns' failed"
        in done.stderr
    )
    assert "package_that_is_not_there" in done.stderr
    assert "load('quantize')" not in done.stderr
