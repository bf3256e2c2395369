# SPDX-License-Identifier: Apache-2.0
"""Silero VAD on one frame (32 ms) a call, for live sound; the graph asks `If` about shapes that pinning fixes.

Weights and answers are those of `sparsec.models.silero_vad`; the state of the LSTM is one tensor here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.models import speech
from sparsec.models.packages import verified_file
from sparsec.models.runner import Arrays, Run, Split, onnxruntime_run


def build(folder: Path | None = None) -> ir.Model:
    """The network: ``input`` [1, 576], ``state`` [2, 1, 128], rate ``sr`` to ``output`` [1, 1] and ``stateN``."""
    return ir.load(verified_file("silero-vad", "silero_vad/data/silero_vad_16k_op15.onnx", folder))


def inputs(split: Split, folder: Path | None = None) -> Arrays:
    """The frames, [calls, 1, 576], with the states that the network itself left before each call."""
    calls = [call for call, _ in _listen(onnxruntime_run(build(folder)), split, folder, None)]
    return {name: np.stack([call[name] for call in calls]) for name in calls[0]}


def score(run: Run, folder: Path | None = None, limit: int | None = None) -> float:
    """Area under the curve of speech probability over the held-out frames, the state passed from call to call."""
    heard = [outputs["output"].item() for _, outputs in _listen(run, "heldout", folder, limit)]
    labels = speech.frames("heldout", folder)[1][: len(heard)]
    return speech.area_under_curve(np.array(heard, np.float32), labels)


def _listen(
    run: Run, split: Split, folder: Path | None, limit: int | None
) -> Iterator[tuple[Arrays, dict[str, NDArray[Any]]]]:
    """Inputs and outputs of each call."""
    frames, _ = speech.frames(split, folder)
    state = np.zeros((2, 1, 128), np.float32)
    for frame in frames[:limit]:
        given = {"input": frame[None], "state": state, "sr": np.array(speech.RATE, np.int64)}
        outputs = dict(run(given))
        yield given, outputs
        state = outputs["stateN"]
