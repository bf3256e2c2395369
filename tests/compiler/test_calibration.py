# SPDX-License-Identifier: Apache-2.0
import numpy as np
import onnx_ir as ir
import pytest

from sparsec.compiler.calibration import BINS, Calibration, observe
from sparsec.compiler.errors import DataError

TEXT = """<ir_version: 10, opset_import: ["": 21]>
g (float[1,3] x, int64[2] n) => (float[1,3] y, float[2] z) { y = Exp(x) z = Cast <to = 1> (n) }"""


@pytest.fixture
def model():
    return ir.from_onnx_text(TEXT)


def _arrays(samples=4):
    random = np.random.RandomState(0)
    return {"x": random.rand(samples, 3).astype(np.float32), "n": random.randint(0, 9, (samples, 2))}


def test_feeds_have_the_models_shapes(model):
    for arrays in (_arrays(), {**_arrays(), "x": _arrays()["x"][:, None]}):
        calibration = Calibration(arrays)
        calibration.check(model, least=4)
        feeds = list(calibration.feeds(model))
        assert len(feeds) == calibration.samples == 4
        assert [(f["x"].shape, f["n"].shape) for f in feeds] == [((1, 3), (2,))] * 4
        np.testing.assert_array_equal(feeds[2]["x"][0], _arrays()["x"][2])
    assert len(list(calibration.feeds(model, limit=3))) == 3


def test_feeds_of_a_scalar_are_arrays():
    model = ir.from_onnx_text('<ir_version: 10, opset_import: ["": 21]> g (int64 n) => (int64 y) { y = Neg(n) }')
    (feed,) = Calibration({"n": np.array([7])}).feeds(model)
    assert isinstance(feed["n"], np.ndarray)
    assert feed["n"].shape == ()


def test_statistics_match_all_samples_at_once(model):
    arrays = _arrays(40)
    seen = observe(model, Calibration(arrays), ["x", "y"], histogram=True)
    values = {"x": arrays["x"], "y": np.exp(arrays["x"])}
    for name, array in values.items():
        assert seen[name].low == pytest.approx(array.min(), rel=1e-6)
        assert seen[name].high == pytest.approx(array.max(), rel=1e-6)
        assert seen[name].counts.sum() == array.size
        for share in (0.1, 0.5, 0.9):
            width = (seen[name].high - seen[name].low) / BINS
            assert abs(seen[name].quantile(share) - np.quantile(array, share, method="inverted_cdf")) <= width
    assert observe(model, Calibration(arrays), ["y"])["y"].counts is None


def test_progress_is_reported(model):
    seen = []
    observe(model, Calibration(_arrays(3)), ["y"], histogram=True, reporter=lambda *step: seen.append(step))
    assert seen == [("calibrate", number, 6) for number in range(1, 7)]


def test_reads_npz(tmp_path, model):
    np.savez(tmp_path / "c.npz", **_arrays())
    loaded = Calibration.load(tmp_path / "c.npz")
    loaded.check(model)
    np.testing.assert_array_equal(loaded.arrays["x"], _arrays()["x"])


def _change(**arrays):
    return {name: array for name, array in {**_arrays(), **arrays}.items() if array is not None}


BAD = {
    "holds no array": {},
    r"'x' has no samples": _change(x=np.zeros((0, 3), np.float32)),
    r"'x' has no samples; expected a leading axis": _change(x=np.float32(1)),
    r"different numbers of samples: 'x' 4, 'n' 3": _change(n=_arrays(3)["n"]),
    r"'x' holds nan at index \(1, 2\)": _change(x=np.where(np.arange(12).reshape(4, 3) == 5, np.nan, 0).astype("f4")),
    r"'x' holds inf at index \(0, 0\)": _change(x=np.full((4, 3), np.inf, np.float32)),
    r"'x' has dtype <U1, expected numbers": _change(x=np.full((4, 3), "a")),
    r"\(x, n\): missing: n": _change(n=None),
    r"\(x, n\): surplus: image": _change(image=np.zeros((4, 1), np.float32)),
    r"'x' has dtype float64, expected float32": _change(x=np.zeros((4, 3))),
    r"'x' has shape \(4, 2\), expected \(samples, 3\)": _change(x=np.zeros((4, 2), np.float32)),
    r"'x' has shape \(4, 2, 3\), expected \(samples, 3\)": _change(x=np.zeros((4, 2, 3), np.float32)),
    r"'n' has shape \(4, 1, 2\), expected \(samples, 2\)": _change(n=np.zeros((4, 1, 2), np.int64)),
    r"has 4 samples, expected at least 5": _change(),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_data_gives_this_message(message, model):
    with pytest.raises(DataError, match=message):
        Calibration(BAD[message]).check(model, least=5)


def test_bad_files_are_refused(tmp_path):
    np.save(tmp_path / "single.npy", np.ones(3))
    (tmp_path / "noise.npz").write_bytes(np.random.RandomState(0).bytes(500))
    np.savez(tmp_path / "objects.npz", x=np.array([{}, None], dtype=object))
    whole = tmp_path / "whole.npz"
    np.savez(whole, x=np.ones((8, 99)))
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:3000])
    (tmp_path / "empty.npz").touch()
    np.savez(tmp_path / "nothing.npz")
    for name in ("none.npz", "noise.npz", "objects.npz", "cut.npz", "empty.npz", "single.npy", "nothing.npz"):
        with pytest.raises(DataError, match="Calibration") as caught:
            Calibration.load(tmp_path / name)
        assert "pickle" not in str(caught.value)


UNREADABLE = {
    b"x,y\n1,2\n": "is no .npz file; expected one as numpy.savez writes it, an array for each model input.",
    b"PK\x03\x04rest": "cannot be read as .npz of plain arrays: File is not a zip file.",
}


@pytest.mark.parametrize("content", UNREADABLE)
def test_what_is_wrong_with_a_file_is_said_in_words(content, tmp_path):
    path = tmp_path / "samples.npz"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        Calibration.load(path)
    assert str(caught.value) == f"Calibration '{path}' {UNREADABLE[content]}"


def test_objects_in_a_file_are_refused_in_words(tmp_path):
    path = tmp_path / "objects.npz"
    np.savez(path, x=np.array([{}, None], dtype=object))
    with pytest.raises(DataError) as caught:
        Calibration.load(path)
    assert str(caught.value) == (
        f"Calibration '{path}' cannot be read as .npz of plain arrays: an array holds Python objects."
    )


def test_value_that_overflows_is_an_error(model):
    arrays = {**_arrays(), "x": np.full((4, 3), 1e3, np.float32)}
    with pytest.raises(DataError, match="Value 'y' is not finite on the calibration samples"):
        observe(model, Calibration(arrays), ["y"])


def test_the_last_quarter_is_held_out():
    for samples, held in ((16, 4), (40, 10), (64, 16), (500, 16)):
        first, last = Calibration(_arrays(samples)).split()
        assert (first.samples, last.samples) == (samples - held, held)
        np.testing.assert_array_equal(np.concatenate((first.arrays["x"], last.arrays["x"])), _arrays(samples)["x"])
        assert first.shared(last) == 0
        assert last.title == "Held-out data"


def test_too_few_after_the_split_says_how_many_were_given(model):
    mine, held = Calibration(_arrays(16)).split()
    with pytest.raises(DataError) as caught:
        mine.check(model, 16)
    assert str(caught.value) == (
        "Calibration has 12 samples, expected at least 16: of the 16 given, the last 4 are held out to measure "
        "fidelity on. Give others to measure on with --heldout FILE.npz to keep all 16."
    )
    with pytest.raises(DataError) as caught:
        held.check(model, 5)
    assert str(caught.value) == "Held-out data has 4 samples, expected at least 5."


def test_few_samples_are_not_split():
    samples = Calibration(_arrays(15))
    assert samples.split() == (samples, samples)


def test_samples_in_both_sets_are_counted():
    one, two = _arrays(6), _arrays(6)
    two["x"] = np.concatenate((two["x"][:2], two["x"][2:] + 1))
    assert Calibration(one).shared(Calibration(two)) == 2


SAME = {
    "Calibration has 4 samples that are all the same; expected different real inputs.": _change(
        x=np.tile(_arrays(1)["x"], (4, 1)), n=np.zeros((4, 2), np.int64)
    ),
    "Calibration holds one value everywhere in each array; expected real inputs.": {"x": np.zeros((1, 3), np.float32)},
}


@pytest.mark.parametrize("message", SAME)
def test_samples_that_teach_nothing_are_refused(message):
    with pytest.raises(DataError) as caught:
        Calibration(SAME[message]).check_varied()
    assert str(caught.value) == message


def test_one_constant_input_among_others_is_fine():
    Calibration(_change(n=np.ones((4, 2), np.int64))).check_varied()


def test_held_out_data_is_called_so(model):
    with pytest.raises(DataError, match="Held-out data does not fit the model's inputs"):
        Calibration({"z": np.ones((1, 1))}, "Held-out data").check(model)
