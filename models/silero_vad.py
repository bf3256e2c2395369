# SPDX-License-Identifier: Apache-2.0
"""Silero VAD on 16 frames (half a second) a call: spectrum, convolutions, one LSTM, 0.31 M parameters.

The state of the LSTM goes in and comes out, so that a recording is heard call by call. Judged on a labelled, noisy
conversation.
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

FRAMES = 16


def build(folder: Path | None = None) -> ir.Model:
    """The network: ``input`` [frames, 576], ``h``, ``c`` [1, 1, 128] to ``speech_probs`` [frames], ``hn``, ``cn``."""
    return ir.load(verified_file("silero-vad", "silero_vad/data/silero_vad_16k_sequence.onnx", folder))


def inputs(split: Split, folder: Path | None = None) -> Arrays:
    """The frames, [calls, 16, 576], with the states that the network itself left before each call."""
    calls = [call for call, _ in _listen(onnxruntime_run(build(folder)), split, folder, None)]
    return {name: np.stack([call[name] for call in calls]) for name in calls[0]}


def score(run: Run, folder: Path | None = None, limit: int | None = None) -> float:
    """Area under the curve of speech probability over the held-out frames, the state passed from call to call."""
    heard = [outputs["speech_probs"] for _, outputs in _listen(run, "heldout", folder, limit)]
    probabilities = np.concatenate(heard)
    return speech.area_under_curve(probabilities, speech.frames("heldout", folder)[1][: len(probabilities)])


def _listen(
    run: Run, split: Split, folder: Path | None, limit: int | None
) -> Iterator[tuple[Arrays, dict[str, NDArray[Any]]]]:
    """Inputs and outputs of each call."""
    frames, _ = speech.frames(split, folder)
    calls = frames[: len(frames) // FRAMES * FRAMES].reshape(-1, FRAMES, speech.CONTEXT + speech.FRAME)
    hidden = cell = np.zeros((1, 1, 128), np.float32)
    for block in calls[:limit]:
        given = {"input": block, "h": hidden, "c": cell}
        outputs = dict(run(given))
        yield given, outputs
        hidden, cell = outputs["hn"], outputs["cn"]
