# SPDX-License-Identifier: Apache-2.0
import re
from dataclasses import replace

import numpy as np
import pytest

from sparsec.backends.targets import backend
from sparsec.compiler.breakeven import PRECISIONS, SHAPES, Shape, curves, full_weight, operation, patterns_for
from sparsec.compiler.errors import RecipeError
from sparsec.compiler.lowering.groups import split
from sparsec.compiler.lowering.ops import Convolution, GroupedLinear, Linear
from sparsec.compiler.lowering.repricing import MARGIN
from sparsec.compiler.lowering.select import choose
from sparsec.compiler.pattern import parse_pattern
from sparsec.compiler.target import Target

SMALL = (Shape(64, 64, 196), Shape(256, 128, 1), Shape(32, 32, 196, (3, 3)))
WASM = replace(backend(Target.parse("wasm+relaxed-simd")), twins=())  # the map is of the fast module alone


@pytest.mark.parametrize("text", ["256x128x196", "1000x1280x1", "64x32x784x3x5"])
def test_a_shape_reads_what_it_prints(text):
    assert str(Shape.parse(text)) == text


@pytest.mark.parametrize("text", ["", "256x128", "0x1x1", "axbxc", "1x1x1x3", "99999x99999x1", "1x1x1x0x1", "1x1x1;2"])
def test_what_is_no_shape_is_refused(text):
    message = (
        f"Shape '{text}': expected OUTxINxPOSITIONS such as '256x256x196', or OUTxINxPOSITIONSxHEIGHTxWIDTH "
        "for a convolution such as '64x64x3136x3x3', with at most 64 Mi weights."
    )
    with pytest.raises(RecipeError, match=f"^{re.escape(message)}$"):
        Shape.parse(text)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_shape_becomes_an_operation_of_its_size(shape, precision):
    op, weight = operation(shape, precision), full_weight(shape, precision)
    if precision == "int4":
        assert isinstance(op, GroupedLinear)
        assert (op.positions, weight.shape) == (shape.positions, (op.outputs, op.inputs))
    elif isinstance(op, Convolution):
        assert op.out_size[0] * op.out_size[1] == shape.positions
        assert weight.shape == (op.filters, op.channels, *op.kernel)
    else:
        assert isinstance(op, Linear)
        assert (op.positions, weight.shape) == (1, (op.outputs, op.inputs))
    assert weight.all()


def test_blocks_of_a_convolution_hold_whole_kernels():
    assert "block(4x36)" in patterns_for(Shape(64, 64, 784, (3, 3)))
    assert "block(4x4)" in patterns_for(Shape(64, 64, 784))


@pytest.mark.parametrize("target", ["x86", "x86+avx512vnni", "arm", "arm+dotprod", "wasm", "wasm+relaxed-simd"])
def test_less_density_never_costs_more(target):
    found = curves(backend(Target.parse(target)), SMALL)
    assert {curve.precision for curve in found} == set(PRECISIONS)
    for curve in found:
        assert list(curve.densities) == sorted(curve.densities)
        assert list(curve.ratios) == sorted(curve.ratios, reverse=True), curve


def test_it_pays_where_the_ratio_says_so():
    for curve in curves(WASM, SMALL):
        for density, ratio in zip(curve.densities, curve.ratios, strict=True):
            pays = curve.pays_from is not None and density <= curve.pays_from
            assert pays == (ratio >= 1 / MARGIN), (curve, density)


def test_selection_agrees_with_the_map():
    for curve in curves(WASM, SMALL, ("block(4x4)",), ("float32", "int8")):
        assert curve.pays_from is not None
        op, weight = operation(curve.shape, curve.precision), full_weight(curve.shape, curve.precision)
        scores = np.abs(weight.reshape(len(weight), -1).astype(np.float64))
        for density, taken in ((curve.pays_from, True), (min(curve.pays_from + 0.02, 1.0), curve.pays_from > 0.98)):
            mask = parse_pattern(curve.pattern).project(scores, density).reshape(weight.shape)
            choice = choose(WASM, op, weight * mask, curve.pattern)
            assert (choice.refused == "") == taken, (curve, choice)
            assert choice.rival_price == pytest.approx(curve.rival, rel=0.03), (
                "of kernels that cost alike, the shortest"
            )


def test_groups_of_four_bits_are_mapped_for_matrix_products_of_whole_groups():
    found = curves(WASM, SMALL, precisions=("int4",))
    fitting = {"256x128x1": (16, 32, 64, 128), "64x64x196": (16, 32, 64)}
    expected = {(shape, f"block(1x{group})") for shape, groups in fitting.items() for group in groups}
    assert {(str(curve.shape), curve.pattern) for curve in found} == expected
    assert all(curve.ratios[5] > 1 for curve in found), "half of the groups are skipped"


def test_random_groups_are_read_back():
    found = split(full_weight(SMALL[1], "int4"), 16)
    assert (found.scales == 1).all()
    assert (found.zeros == 8).all()
    assert found.kept.all()
    assert set(np.unique(found.codes)) == set(range(16))


def test_a_pattern_without_a_kernel_is_left_out():
    assert curves(WASM, SMALL[:1], ("dense",)) == []


def test_n_of_m_has_only_its_own_densities():
    (curve,) = curves(WASM, SMALL[:1], ("nm(2:4)",), ("float32",))
    assert curve.densities == (0.25, 0.5, 0.75)
