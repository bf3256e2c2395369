# SPDX-License-Identifier: Apache-2.0
"""A part of the ONNX backend test suite; all of it is `make conformance`."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import sparsec
from tests.conformance.cases import Case, cases
from tests.conformance.judge import CRASHED, PASSED, REFUSED, WRONG, Verdict, compare, difference, judge
from tests.conformance.table import PASSING, page, passing

ARTIFACTS = (
    "test_acos", "test_argmax_keepdims_example", "test_averagepool_2d_pads", "test_basic_conv_with_padding",
    "test_clip_example", "test_concat_2d_axis_1", "test_convtranspose", "test_cumsum_1d",
    "test_depthtospace_example", "test_einsum_transpose", "test_gather_elements_0", "test_gelu_default_1",
    "test_gemm_default_matrix_bias", "test_layer_normalization_4d_axis3", "test_lrn", "test_matmul_3d",
    "test_maxpool_2d_strides", "test_qlinearmatmul_2D_uint8_float32", "test_quantizelinear",
    "test_reduce_l2_do_not_keepdims_example", "test_scatternd_add", "test_softmax_axis_1", "test_top_k",
    "test_transpose_all_permutations_3", "test_where_example",
)  # fmt: skip
"""Kernels and fallbacks that are compiled to whole artifacts."""

REFUSALS = {
    "test_adam": "Adam",
    "test_bernoulli": "Bernoulli",
    "test_image_decoder_decode_png_rgb": "ImageDecoder",
    "test_loop11": "Loop",
    "test_nonmaxsuppression_suppress_by_IOU": "NonMaxSuppression",
    "test_nonzero_example": "NonZero",
    "test_scan9_sum": "Scan",
    "test_sequence_insert_at_back": "SequenceInsert",
    "test_string_concat": "StringConcat",
    "test_training_dropout": "Dropout",
    "test_unique_not_sorted_without_axis": "Unique",
}
"""Cases that no compiler to static shapes and numbers can take, and the operator the refusal must name."""


@pytest.fixture(scope="module")
def known() -> dict[str, Case]:
    """All cases by name."""
    return {case.name: case for case in cases()}


@pytest.fixture(scope="module")
def verdicts(known: dict[str, Case]) -> dict[str, Verdict]:
    """What came of one case for each operator, and of the refusals."""
    names = [*PASSING.read_text("utf-8").split(), *REFUSALS]
    return {verdict.name: verdict for verdict in judge([known[name] for name in names], "x86")}


def test_one_case_of_each_operator_passes(verdicts: dict[str, Verdict]) -> None:
    names = PASSING.read_text("utf-8").split()
    assert [verdicts[name] for name in names if verdicts[name].outcome != PASSED] == []
    assert len({operator for name in names for operator in verdicts[name].operators}) >= 130


@pytest.mark.parametrize(("name", "operator"), REFUSALS.items())
def test_refusal_names_the_operator(verdicts: dict[str, Verdict], name: str, operator: str) -> None:
    assert verdicts[name].outcome == REFUSED
    assert re.search(rf"\b{operator}\b", verdicts[name].detail)


@pytest.mark.parametrize("name", ARTIFACTS)
def test_wasm_artifact(known: dict[str, Case], name: str, tmp_path: Path) -> None:
    assert _as_artifact(known[name], "wasm", tmp_path) == ""


@pytest.mark.qemu
@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="found no qemu-aarch64 (Debian: qemu-user)")
@pytest.mark.parametrize("name", ARTIFACTS)
def test_arm_artifact(known: dict[str, Case], name: str, tmp_path: Path) -> None:
    assert _as_artifact(known[name], "arm", tmp_path) == ""


def _as_artifact(case: Case, target: str, folder: Path) -> str:
    with sparsec.compile(case.model, target, shapes=case.shapes, output=folder / "artifact") as made:
        names = [port.name for port in made.manifest.inputs]
        return compare(case, names, lambda arrays: list(made.run(dict(zip(names, arrays, strict=True))).values()))


def test_a_wrong_answer_is_seen(known: dict[str, Case]) -> None:
    case = known["test_abs"]
    inputs, expected = case.sets[0]
    assert difference(expected[0], expected[0], case) == ""
    assert "instead of" in difference(expected[0].astype(np.float64), expected[0], case)
    assert "instead of" in difference(expected[0][:1], expected[0], case)
    assert "Mismatched" in compare(case, ["x"], lambda arrays: [arrays[0] * 1.01])
    assert compare(case, ["x"], lambda arrays: [np.abs(arrays[0])]) == ""
    assert len(inputs) == 1


def test_a_dead_process_is_seen(known: dict[str, Case], monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["test_abs", "test_acos", "test_add"]

    def work(batch: list[Case], _target: str, writer: object) -> None:
        for case in batch:
            writer.send(case.name)  # type: ignore[attr-defined]
            if case.name == "test_acos":
                raise SystemExit(1)
            writer.send(Verdict(case.name, case.operators, PASSED))  # type: ignore[attr-defined]

    monkeypatch.setattr("tests.conformance.judge._work", work)
    found = {verdict.name: verdict.outcome for verdict in judge([known[name] for name in names], "x86")}
    assert found == {"test_abs": PASSED, "test_acos": CRASHED, "test_add": PASSED}


def test_a_hanging_process_is_seen(known: dict[str, Case], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.conformance.judge._work", lambda *_: __import__("time").sleep(60))
    found = list(judge([known["test_abs"]], "x86", silence=0.5))
    assert [verdict.outcome for verdict in found] == [CRASHED]


def test_page_counts_and_names_faults() -> None:
    verdicts = [
        Verdict("a", ("Abs",), PASSED),
        Verdict("b", ("Abs", "Add"), PASSED),
        Verdict("c", ("Foo",), REFUSED, "Layer 'c': operator 'Foo' is not supported: 3 of 4."),
        Verdict("d", ("Bar",), WRONG, "output 0: differs"),
    ]
    text = page(verdicts)
    assert "| 4 | 2 | 1 | 1 | 0 |" in text
    assert "**2 operators** of 4" in text
    assert "- `d`: wrong, output 0: differs" in text
    assert "operator '…' is not supported: … of …." in text
    assert passing(verdicts) == ["a", "b"]
