# SPDX-License-Identifier: Apache-2.0
"""Half a minute of conversation with its labels, cut into the frames of a voice activity detector.

The recording (16 kHz, two speakers) and its labels by hand are the sample of pyannote.audio. The first 20 seconds are
held out, the last 10 are for calibration; both get white noise.
"""

import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsec.models.packages import verified_file
from sparsec.models.runner import Split

RATE = 16000
"""Samples a second."""
FRAME, CONTEXT = 512, 64
"""Samples of a frame, and those of the frame before that it is given again."""
_HELDOUT_FRAMES = 624
_SNR = 10.0
"""Of speech to noise, in decibels."""


def frames(split: Split, folder: Path | None = None) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Consecutive frames ``[n, CONTEXT + FRAME]`` in -1..1 of a noisy recording, and whether someone speaks in each."""
    samples, spoken = _recording(folder)
    count = len(samples) // FRAME
    blocks = _noisy(samples, spoken)[: count * FRAME].reshape(count, FRAME)
    labels = spoken[FRAME // 2 :: FRAME][:count]
    part = slice(_HELDOUT_FRAMES) if split == "heldout" else slice(_HELDOUT_FRAMES, None)
    blocks, labels = blocks[part], labels[part]
    before = np.vstack([np.zeros((1, CONTEXT)), blocks[:-1, -CONTEXT:]])
    return np.asarray(np.hstack([before, blocks]), np.float32), labels


def area_under_curve(scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> float:
    """Probability that a random frame with speech scores above a random one without; ties count half."""
    positive, negative = scores[labels], scores[~labels]
    above = positive[:, None] > negative
    equal = positive[:, None] == negative
    return float(np.mean(above + 0.5 * equal))


def _recording(folder: Path | None) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The samples, and which of them lie in a speaker's turn."""
    with wave.open(str(verified_file("pyannote-audio", "pyannote/audio/sample/sample.wav", folder))) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / np.float32(32768)
    spoken = np.zeros(len(samples), np.bool_)
    turns = verified_file("pyannote-audio", "pyannote/audio/sample/sample.rttm", folder).read_text("ascii")
    for turn in turns.splitlines():
        start, duration = (float(number) for number in turn.split()[3:5])
        spoken[int(start * RATE) : int((start + duration) * RATE)] = True
    return samples, spoken


def _noisy(samples: NDArray[np.float32], spoken: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The samples under white noise."""
    power = np.mean(samples[spoken] ** 2) / 10 ** (_SNR / 10)
    noise = np.random.RandomState(0).normal(0, np.sqrt(power), len(samples))
    return (samples + noise).astype(np.float32)
