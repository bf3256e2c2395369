# SPDX-License-Identifier: Apache-2.0
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sparsec.compiler.encoding import (
    NM,
    Block,
    Dense,
    EncodedTensor,
    Encoding,
    Quant,
    Unstructured,
    as_half,
    as_matrix,
    classify,
    from_matrix,
    parse_pattern,
)
from sparsec.compiler.errors import PassError, RecipeError

SIDES = st.integers(1, 17)
SCORES = arrays.arrays(np.float32, st.tuples(SIDES, SIDES), elements=st.floats(0, 4, width=16))
DENSITIES = st.floats(0.01, 1)
NMS = st.integers(2, 8).flatmap(lambda m: st.builds(NM, st.integers(1, m - 1), st.just(m)))
BLOCKS = st.builds(Block, st.integers(1, 6), st.integers(1, 6))


@settings(max_examples=40, deadline=None)
@given(SCORES, DENSITIES, BLOCKS)
def test_block_keeps_exactly_so_many_blocks_tails_included(scores, density, pattern):
    mask = pattern.project(scores, density)
    units = -(-scores.shape[0] // pattern.rows) * -(-scores.shape[1] // pattern.cols)
    assert mask.shape == scores.shape
    assert pattern.blocks(mask).sum() == max(1, round(density * units))
    assert pattern.check(mask)


@settings(max_examples=40, deadline=None)
@given(SCORES, NMS)
def test_nm_keeps_exactly_n_of_m_and_of_a_shorter_last_run(scores, pattern):
    mask = pattern.project(scores, pattern.n / pattern.m)
    assert pattern.check(mask)
    for start in range(0, scores.shape[1], pattern.m):
        run, kept = scores[:, start : start + pattern.m], mask[:, start : start + pattern.m]
        assert (kept.sum(axis=1) == min(pattern.n, run.shape[1])).all()
        least = np.where(kept, run, np.inf).min(axis=1)
        assert (np.where(kept, -np.inf, run).max(axis=1) <= least).all()


@settings(max_examples=40, deadline=None)
@given(SCORES, st.integers(2, 3))
def test_pairs_are_kept_whole(scores, width):
    pattern = NM(2, 4, width)
    mask = pattern.project(scores, 0.5)
    assert pattern.check(mask)
    assert pattern.cover(mask).sum() == mask.sum()
    for start in range(0, scores.shape[1], width):
        unit = mask[:, start : start + width]
        assert (unit == unit[:, :1]).all()
    wide = np.zeros((1, 8 * width), np.float32)
    wide[0, : 8 * width : 2 * width] = 1
    assert pattern.project(wide, 0.5).sum() == 4 * width
    assert parse_pattern(str(pattern)) == pattern


@settings(max_examples=40, deadline=None)
@given(SCORES, DENSITIES)
def test_unstructured_keeps_the_highest(scores, density):
    mask = Unstructured().project(scores, density)
    assert mask.sum() == max(1, round(density * scores.size))
    assert scores[mask].min() >= np.max(scores[~mask], initial=-np.inf)


@settings(max_examples=40, deadline=None)
@given(arrays.arrays(bool, st.tuples(SIDES, SIDES)), BLOCKS)
def test_block_cover_is_legal_and_smallest(nonzero, pattern):
    mask = pattern.cover(nonzero)
    assert pattern.check(mask)
    assert not (nonzero & ~mask).any()
    for row, column in np.argwhere(pattern.blocks(mask)):
        rows = slice(row * pattern.rows, (row + 1) * pattern.rows)
        assert nonzero[rows, column * pattern.cols : (column + 1) * pattern.cols].any()


def test_check_refuses_what_is_not_legal():
    mask = np.ones((4, 6), bool)
    mask[0, 0] = False
    assert not Dense().check(mask)
    assert not Block(2, 2).check(mask)
    assert not NM(2, 4).check(mask)
    assert Unstructured().check(mask)
    assert Block(1, 1).check(mask)


TEXTS = [
    "dense",
    "unstructured",
    "nm(2:4)",
    "block(4x1)",
    "block(4x4) x int8(channel)",
    "dense x int8(tensor)",
    "block(1x16) x int4(group16)",
    "unstructured x int5(channel,asymmetric)",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_forms_are_read_back(text):
    assert str(Encoding.parse(text)) == text


BAD = {
    "block(4)": "Pattern 'block(4)' is not known; expected a form such as 'dense', 'unstructured', 'nm(2:4)', "
    "'nm(2:4x2)', 'block(4x4)'.",
    "block(0x4)": "Pattern 'block(0x4)': expected sides of at least 1.",
    "nm(4:4)": "Pattern 'nm(4:4)': expected 1 <= n < m.",
    "dense x float16": "Quantization 'float16' is not known; expected a form such as 'int8(channel)', 'int4(group16)'.",
    "dense x int9(channel)": "Quantization of 9 bits, granularity 'channel', group 0: expected 2 to 8 bits, "
    "granularity 'tensor', 'channel', or 'group' with a group of at least 1.",
    "dense x int8(group)": "Quantization of 8 bits, granularity 'group', group 0: expected 2 to 8 bits, "
    "granularity 'tensor', 'channel', or 'group' with a group of at least 1.",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_text_gives_this_message(text):
    with pytest.raises(RecipeError) as caught:
        Encoding.parse(text)
    assert str(caught.value) == BAD[text]


@pytest.mark.parametrize(
    ("pattern", "density", "message"),
    [
        (Block(4, 4), 0.0, "Density 0.0: expected more than 0 and at most 1."),
        (Unstructured(), 1.5, "Density 1.5: expected more than 0 and at most 1."),
        (NM(2, 4), 0.25, "Pattern 'nm(2:4)' has density 0.5; found density=0.25."),
        (Dense(), 0.5, "Pattern 'dense' has density 1; found density=0.5."),
    ],
)
def test_bad_density_gives_this_message(pattern, density, message):
    with pytest.raises(RecipeError) as caught:
        pattern.project(np.ones((8, 8)), density)
    assert str(caught.value) == message


def _weight(*shape):
    return np.random.RandomState(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("text", ["block(4x4)", "block(4x1)", "block(1x4)", "nm(2:4)", "nm(1:4)", "unstructured"])
def test_classify_names_the_pattern_that_made_the_zeros(text):
    pattern, weight = parse_pattern(text), _weight(32, 48)
    density = pattern.n / pattern.m if isinstance(pattern, NM) else 0.4
    pruned = weight * pattern.project(np.abs(weight), density)
    assert classify(pruned) == (pattern, np.count_nonzero(pruned) / pruned.size)


def test_classify_calls_a_weight_with_few_zeros_dense():
    weight = _weight(20, 20)
    assert classify(weight) == (Dense(), 1.0)
    weight[0, :10] = 0
    assert classify(weight) == (Dense(), 0.975)


@pytest.mark.parametrize(("shape", "axis"), [((6, 5, 3, 3), 0), ((5, 6), 1), ((6, 5), 0), ((4, 6, 2), 1), ((6, 0), 0)])
def test_matrix_view_is_put_back(shape, axis):
    weight = _weight(*shape)
    matrix = as_matrix(weight, axis)
    assert matrix.shape == (6, weight.size // 6)
    np.testing.assert_array_equal(from_matrix(matrix, shape, axis), weight)


def _pruned(text="block(4x4)", quant="", axis=0, shape=(8, 12)):
    encoding = Encoding.parse(text + quant)
    weight = _weight(*shape)
    scores = np.abs(as_matrix(weight, axis))
    mask = from_matrix(encoding.pattern.project(scores, 0.5), shape, axis)
    return encoding, weight * mask, mask


def test_float_tensor_stands_for_its_values():
    encoding, values, mask = _pruned()
    tensor = EncodedTensor("w", encoding, mask, 0, values=values)
    assert isinstance(tensor, ir.TensorProtocol)
    np.testing.assert_array_equal(tensor.numpy(), values)
    np.testing.assert_array_equal(np.asarray(tensor), values)
    np.testing.assert_array_equal(np.frombuffer(tensor.tobytes(), np.float32).reshape(8, 12), values)
    np.testing.assert_array_equal(np.from_dlpack(tensor), values)
    assert (tensor.density, tensor.size, tensor.nbytes) == (0.5, 96, 384)
    with pytest.raises(ValueError, match="read-only"):
        tensor.numpy()[0, 0] = 1


@pytest.mark.parametrize(
    ("quant", "scales"),
    [
        ("tensor", np.float32([[0.5]])),
        ("channel", np.arange(1, 9, dtype=np.float32)[:, None]),
        ("group5", np.arange(1, 25, dtype=np.float32).reshape(8, 3)),
    ],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_quantized_tensor_stands_for_codes_times_scales(quant, scales, axis):
    shape = (8, 12) if axis == 0 else (12, 8)
    encoding, values, mask = _pruned(quant=f" x int8({quant})", axis=axis, shape=shape)
    codes = np.rint(values * 20).astype(np.int8)
    stored = scales if "group" in quant else scales.ravel()
    tensor = EncodedTensor("w", encoding, mask, axis, codes=codes, scales=stored)
    wide = scales.repeat(5, axis=1)[:, :12] if "group" in quant else scales
    np.testing.assert_array_equal(tensor.matrix(), as_matrix(codes, axis).astype(np.float32) * wide)
    assert tensor.numpy().shape == shape


def _asymmetric(bits=4, group=5, pattern="dense"):
    """A tensor with zero points, a tail group, and what it has to stand for."""
    random, quant = np.random.RandomState(1), Quant(bits, "group", symmetric=False, group=group)
    scales = as_half(random.rand(8, 3) + 0.1)
    zeros = random.randint(0, quant.highest + 1, (8, 3)).astype(np.uint8)
    wide = zeros.repeat(group, axis=1)[:, :12]
    mask = parse_pattern(pattern).project(random.rand(8, 12), 1.0 if pattern == "dense" else 0.5)
    codes = np.where(mask, random.randint(0, quant.highest + 1, (8, 12)), wide).astype(np.uint8)
    tensor = EncodedTensor(
        "w", Encoding(parse_pattern(pattern), quant), mask, 0, codes=codes, scales=scales, zero_points=zeros
    )
    return tensor, (codes.astype(np.float32) - wide) * scales.repeat(group, axis=1)[:, :12]


@pytest.mark.parametrize("pattern", ["dense", "unstructured", "block(1x5)"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zero_points_are_taken_off_and_pruned_elements_are_zero(bits, pattern):
    tensor, want = _asymmetric(bits, pattern=pattern)
    np.testing.assert_array_equal(tensor.numpy(), want)
    assert not tensor.numpy()[~tensor.mask].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"zero_points": None}, "zero points are expected where it is asymmetric: uint8 codes, one for each scale"),
        ({"zero_points": np.full((8, 3), 16, np.uint8)}, "zero points are expected where it is asymmetric"),
        ({"codes": np.full((8, 12), 16, np.uint8)}, "a code is out of range"),
        ({"codes": np.zeros((8, 12), np.int8)}, "values must be float32, codes int8"),
        ({"scales": np.full((8, 3), 1 / 3, np.float32)}, "the scales of groups must be float16 numbers"),
    ],
)
def test_wrong_groups_are_refused(change, message):
    tensor, _ = _asymmetric()
    arrays_ = {"codes": tensor.codes, "scales": tensor.scales, "zero_points": tensor.zero_points, **change}
    with pytest.raises(PassError, match=message):
        EncodedTensor("w", tensor.encoding, tensor.mask, 0, **arrays_)


def test_half_scales_stay_positive_and_finite():
    assert (as_half(np.float64([0, 1e-12, 1 / 3, 1e9])) > 0).all()
    assert np.isfinite(as_half(np.float64([1e9]))).all()


def test_storage_counts_values_indices_and_scales():
    encoding, values, mask = _pruned(shape=(8, 14))
    kept = int(Block(4, 4).blocks(mask).sum())
    plain = EncodedTensor("w", encoding, mask, 0, values=values)
    assert plain.storage_bits == kept * (16 * 32 + 8) + 2 * 32
    quantized = Encoding(Block(4, 4), Quant())
    codes = np.rint(values).astype(np.int8)
    tensor = EncodedTensor("w", quantized, mask, 0, codes=codes, scales=np.ones(8, np.float32))
    assert tensor.storage_bits == kept * (16 * 8 + 8) + 2 * 32 + 8 * 32
    assert tensor.bits_per_weight == tensor.storage_bits / (8 * 14)
    half = EncodedTensor("w", Encoding(NM(2, 4)), NM(2, 4).project(values**2, 0.5), 0, values=np.zeros_like(values))
    assert half.storage_bits == 8 * 4 * 2 * (32 + 2)


@pytest.mark.parametrize(("columns", "bits"), [(256, 8), (257, 16)])
def test_block_index_is_narrow_up_to_256_blocks_a_row(columns, bits):
    mask = Block(2, 4).project(np.abs(_weight(6, 4 * columns - 1)), 0.5)
    assert Block(2, 4).index_bits(mask) == int(Block(2, 4).blocks(mask).sum()) * bits + 3 * 32


def test_contradictions_are_refused():
    encoding, values, mask = _pruned()
    broken = mask.copy()
    broken[0, 0] ^= True
    cases = {
        "the mask is not legal for its pattern": (encoding, broken, {"values": values * broken}),
        "an element outside the mask is not zero": (encoding, mask, {"values": values + 1}),
        r"values must be float32, codes int8 \(uint8 where asymmetric\), the mask bool": (
            encoding,
            mask,
            {"values": values.astype(float)},
        ),
        "the mask's shape differs from the values'": (encoding, mask, {"values": values[:4]}),
        "codes and scales are expected when it is quantized, values when it is not": (encoding, mask, {}),
        "the scales must be positive float32, one for each channel, group or tensor": (
            Encoding(Block(4, 4), Quant()),
            mask,
            {"codes": mask.astype(np.int8), "scales": np.zeros(8, np.float32)},
        ),
    }
    for message, (kind, stored, given_arrays) in cases.items():
        with pytest.raises(PassError, match=f"Encoded tensor 'w' of shape .*: {message}"):
            EncodedTensor("w", kind, stored, 0, **given_arrays)
