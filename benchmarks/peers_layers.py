# SPDX-License-Identifier: Apache-2.0
"""A network of convolutions as a plain list of layers, from ONNX: for peers that read no ONNX.

`write` makes layers.json and layers.bin, read by peers_tfjs.mjs and peers_tflite.py. Tensors lie in NHWC there, as both
peers want them. Only what MobileNet-like networks need is known; anything else is refused.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Array = NDArray[Any]


class _Reader:
    """Walks over the nodes; quantizers are seen through, and what they say of a tensor is kept."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.scales: dict[str, tuple[Array, Array]] = {}
        self.alias: dict[str, str] = {}
        self.layers: list[dict[str, Any]] = []
        self.shapes = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in graph.input
            if value.name not in self.constants
        }
        self.inputs = list(self.shapes)
        for node in graph.node:
            read = getattr(self, f"_{node.op_type.lower()}", None)
            if read is None:
                msg = f"Node '{node.name}': '{node.op_type}' is none of the operators that are translated for peers."
                raise ValueError(msg)
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            read([self._real(name) for name in node.input], node.output[0], attributes)
        self.output = self._real(graph.output[0].name)

    def _real(self, name: str) -> str:
        while name in self.alias:
            name = self.alias[name]
        return name

    def _quantizelinear(self, inputs: list[str], output: str, _: Mapping[str, Any]) -> None:
        self.scales.setdefault(inputs[0], (self.constants[inputs[1]], self.constants[inputs[2]]))
        self.alias[output] = inputs[0]

    def _dequantizelinear(self, inputs: list[str], output: str, _: Mapping[str, Any]) -> None:
        if inputs[0] in self.constants:
            self.scales[inputs[0]] = (self.constants[inputs[1]], self.constants[inputs[2]])
        self.alias[output] = inputs[0]

    def _conv(self, inputs: list[str], output: str, attributes: Mapping[str, Any]) -> None:
        weight = self.constants[inputs[1]]
        height, width = self.shapes[inputs[0]][2:]
        (kernel, _), stride, group = weight.shape[2:], attributes["strides"][0], attributes["group"]
        total = max((-(-height // stride) - 1) * stride + kernel - height, 0)
        same = [total // 2, total // 2, total - total // 2, total - total // 2]
        if list(attributes["pads"]) != same or height != width or group not in (1, len(weight)):
            msg = (
                f"'{output}': pads {list(attributes['pads'])}, group {group}; expected {same}, and 1 or {len(weight)}."
            )
            raise ValueError(msg)
        size = -(-height // stride)
        kind = "conv" if group == 1 else "depthwise"
        self._add_layer(kind, inputs, output, [1, len(weight), size, size], stride=stride, pads=same)

    def _gemm(self, inputs: list[str], output: str, attributes: Mapping[str, Any]) -> None:
        if not attributes.get("transB"):
            self.constants[inputs[1]] = self.constants[inputs[1]].T
        self._add_layer("dense", inputs, output, [1, len(self.constants[inputs[1]])])

    def _add(self, inputs: list[str], output: str, _: Mapping[str, Any]) -> None:
        self._add_layer("add", inputs, output, self.shapes[inputs[0]])

    def _globalaveragepool(self, inputs: list[str], output: str, _: Mapping[str, Any]) -> None:
        self._add_layer("mean", inputs, output, self.shapes[inputs[0]][:2])

    def _flatten(self, inputs: list[str], output: str, _: Mapping[str, Any]) -> None:
        self.alias[output] = inputs[0]

    def _clip(self, inputs: list[str], output: str, _: Mapping[str, Any]) -> None:
        layer = next(layer for layer in self.layers if layer["output"] == inputs[0])
        if [float(self.constants[name]) for name in inputs[1:]] != [0.0, 6.0]:
            msg = f"'{output}': a Clip that is no ReLU6."
            raise ValueError(msg)
        layer["relu6"] = True
        self.alias[output] = inputs[0]

    def _add_layer(self, kind: str, inputs: list[str], output: str, shape: list[int], **more: Any) -> None:
        self.shapes[output] = shape
        self.layers.append({"kind": kind, "inputs": inputs, "output": output, "relu6": False, **more})


def write(model: onnx.ModelProto, folder: Path) -> None:
    """Write layers.json and layers.bin.

    Args:
        model: float32 with batch normalization folded, or its QDQ form.
        folder: Where.

    Raises:
        ValueError: If an operator or an attribute is not known.
    """
    reader = _Reader(model)
    used = {name for layer in reader.layers for name in layer["inputs"] if name in reader.constants}
    data, tensors = bytearray(), {}
    kinds = {name: layer["kind"] for layer in reader.layers for name in layer["inputs"][1:2]}
    for name in sorted(used):
        array = np.ascontiguousarray(_nhwc(reader.constants[name], kinds.get(name, "")))
        tensors[name] = {"shape": array.shape, "type": str(array.dtype), "offset": len(data), "bytes": array.nbytes}
        data += array.tobytes() + bytes(-array.nbytes % 8)
    for name, shape in reader.shapes.items():
        tensors[name] = {"shape": [shape[i] for i in (0, 2, 3, 1)] if len(shape) == 4 else shape}
    for name, (scale, zero) in reader.scales.items():
        if name in tensors:
            tensors[name] |= {"scale": np.ravel(scale).tolist(), "zero": np.ravel(zero).tolist()}
    described = {"inputs": reader.inputs, "output": reader.output, "layers": reader.layers, "tensors": tensors}
    (folder / "layers.json").write_text(json.dumps(described), "utf-8")
    (folder / "layers.bin").write_bytes(data)


def _nhwc(array: Array, kind: str) -> Array:
    """[out, in, h, w] to [out, h, w, in]; depthwise [channel, 1, h, w] to [1, h, w, channel]."""
    if array.ndim != 4:
        return array
    return array.transpose(1, 2, 3, 0) if kind == "depthwise" else array.transpose(0, 2, 3, 1)
