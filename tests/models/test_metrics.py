# SPDX-License-Identifier: Apache-2.0
"""The scores and geometry that catalog models are judged with."""

import numpy as np
import pytest

from sparsec.models.efficientnet_lite0 import same_pads
from sparsec.models.minilm_l6 import spearman
from sparsec.models.speech import area_under_curve


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"),
    [
        (224, 3, 2, (0, 0, 1, 1)),
        (112, 3, 1, (1, 1, 1, 1)),
        (56, 5, 2, (1, 1, 2, 2)),
        (7, 5, 1, (2, 2, 2, 2)),
        (7, 3, 2, (1, 1, 1, 1)),
        (4, 1, 2, (0, 0, 0, 0)),
    ],
)
def test_same_padding_is_tensorflows(size, kernel, stride, pads):
    assert same_pads(size, kernel, stride) == pads


@pytest.mark.parametrize(
    ("scores", "expected"), [([0.1, 0.4, 0.35, 0.8], 0.75), ([1, 2, 3, 4], 1.0), ([1, 1, 1, 1], 0.5), ([4, 3, 2, 1], 0)]
)
def test_area_under_curve(scores, expected):
    labels = np.array([False, False, True, True])
    assert area_under_curve(np.array(scores, np.float32), labels) == expected


def test_spearman_sees_order_alone_and_shares_ranks():
    assert spearman([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486833)
