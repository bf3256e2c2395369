# SPDX-License-Identifier: Apache-2.0
"""Writes a network of peers_layers.py as a TensorFlow Lite file: `python peers_tflite.py FOLDER FILE [sparse]`.

Runs in an environment of its own with the package ai-edge-litert, which carries the format's schema. Quantized tensors
keep the scales of the ONNX file; inputs and outputs are float32, so such a network begins with QUANTIZE and ends with
DEQUANTIZE. With `sparse`, float32 weights of 1x1 convolutions are stored in compressed rows and read through DENSIFY,
and others are padded by an operator of their own: the form for which XNNPACK chooses its sparse kernels.
"""

import json
import sys
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as tfl

TYPES = {"float32": tfl.TensorType.FLOAT32, "int8": tfl.TensorType.INT8, "int32": tfl.TensorType.INT32}
OPERATORS = {
    "conv": (tfl.BuiltinOperator.CONV_2D, 3),
    "depthwise": (tfl.BuiltinOperator.DEPTHWISE_CONV_2D, 3),
    "dense": (tfl.BuiltinOperator.FULLY_CONNECTED, 4),
    "add": (tfl.BuiltinOperator.ADD, 2),
    "mean": (tfl.BuiltinOperator.MEAN, 2),
    "quantize": (tfl.BuiltinOperator.QUANTIZE, 1),
    "dequantize": (tfl.BuiltinOperator.DEQUANTIZE, 2),
    "densify": (tfl.BuiltinOperator.DENSIFY, 1),
    "pad": (tfl.BuiltinOperator.PAD, 2),
}
"""Code and version, of the int8 forms where there are several; those contain the float32 ones."""


class Writer:
    """Collects what the file consists of."""

    def __init__(self, description: dict[str, Any], data: bytes, *, sparse: bool) -> None:
        self._tensors, self._description, self._data, self._sparse = description["tensors"], description, data, sparse
        self._buffers: list[Any] = [tfl.BufferT()]
        self._made: list[Any] = []
        self._operators: list[Any] = []
        self._codes: list[str] = []
        self._places: dict[str, int] = {}

    def file(self) -> bytes:
        """All of it."""
        inputs = [self._inward(name) for name in self._description["inputs"]]
        for layer in self._description["layers"]:
            self._layer(layer)
        graph = tfl.SubGraphT()
        graph.outputs = [self._outward(self._description["output"])]
        graph.name, graph.tensors, graph.inputs, graph.operators = "main", self._made, inputs, self._operators
        model = tfl.ModelT()
        model.version, model.description, model.subgraphs, model.buffers = 3, "benchmark", [graph], self._buffers
        model.operatorCodes = [_code(*OPERATORS[kind]) for kind in self._codes]
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _layer(self, layer: dict[str, Any]) -> None:
        kind = layer["kind"]
        inputs = [self._place(name) for name in layer["inputs"]]
        if kind == "mean":
            inputs.append(self._tensor("axes", [2], "int32", np.array([1, 2], np.int32).tobytes()))
        weight = self._tensors[layer["inputs"][-1 if kind == "mean" else 1]] if len(layer["inputs"]) > 1 else {}
        if self._sparse and kind == "conv" and weight["type"] == "float32" and weight["shape"][1:3] == [1, 1]:
            inputs[1] = self._densified(layer["inputs"][1], weight)
        options = _options(layer)
        if self._sparse and any(layer.get("pads", ())):
            inputs[0] = self._padded(layer["inputs"][0], layer["pads"])
            options[1].padding = tfl.Padding.VALID
        self._operator(kind, inputs, self._place(layer["output"]), options)

    def _place(self, name: str) -> int:
        """Index of a tensor, made on first sight."""
        if name not in self._places:
            found = self._tensors[name]
            kind = found.get("type") or ("int8" if "scale" in found else "float32")
            self._places[name] = self._tensor(name, found["shape"], kind, self._bytes(found), found)
        return self._places[name]

    def _inward(self, name: str) -> int:
        """Index of an input, float32; behind a quantizer if the network is quantized."""
        if "scale" not in self._tensors[name]:
            return self._place(name)
        outer = self._tensor(f"{name}, float32", self._tensors[name]["shape"], "float32")
        self._operator(
            "quantize", [outer], self._place(name), (tfl.BuiltinOptions.QuantizeOptions, tfl.QuantizeOptionsT())
        )
        return outer

    def _outward(self, name: str) -> int:
        """Index of an output, float32."""
        if "scale" not in self._tensors[name]:
            return self._place(name)
        outer = self._tensor(f"{name}, float32", self._tensors[name]["shape"], "float32")
        chosen = (tfl.BuiltinOptions.DequantizeOptions, tfl.DequantizeOptionsT())
        self._operator("dequantize", [self._place(name)], outer, chosen)
        return outer

    def _densified(self, name: str, found: dict[str, Any]) -> int:
        """Index of a weight [out, 1, 1, in] that comes out of compressed rows."""
        dense = np.frombuffer(self._bytes(found), np.float32).reshape(found["shape"][0], -1)
        rows, columns = np.nonzero(dense)
        place = self._tensor(f"{name}, compressed", found["shape"], "float32", dense[rows, columns].tobytes())
        self._made[place].sparsity = _compressed(dense)
        outer = self._tensor(f"{name}, dense", found["shape"], "float32")
        self._operator("densify", [place], outer, (tfl.BuiltinOptions.DensifyOptions, tfl.DensifyOptionsT()))
        return outer

    def _padded(self, name: str, pads: list[int]) -> int:
        """Index of a float32 tensor with zeros around height and width."""
        top, left, bottom, right = pads
        amounts = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        shape = [size + int(more) for size, more in zip(self._tensors[name]["shape"], amounts.sum(1), strict=True)]
        outer = self._tensor(f"{name}, padded", shape, "float32")
        constant = self._tensor(f"pads of {name}", [4, 2], "int32", amounts.tobytes())
        self._operator("pad", [self._place(name), constant], outer, (tfl.BuiltinOptions.PadOptions, tfl.PadOptionsT()))
        return outer

    def _bytes(self, found: dict[str, Any]) -> bytes:
        return self._data[found["offset"] :][: found["bytes"]] if "offset" in found else b""

    def _tensor(
        self, name: str, shape: list[int], kind: str, content: bytes = b"", scales: dict[str, Any] | None = None
    ) -> int:
        tensor = tfl.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, TYPES[kind], 0
        if content:
            tensor.buffer = len(self._buffers)
            self._buffers.append(tfl.BufferT())
            self._buffers[-1].data = np.frombuffer(content, np.uint8)
        if scales and "scale" in scales:
            tensor.quantization = _quantization(scales)
        self._made.append(tensor)
        return len(self._made) - 1

    def _operator(self, kind: str, inputs: list[int], output: int, options: tuple[int, Any]) -> None:
        if kind not in self._codes:
            self._codes.append(kind)
        operator = tfl.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = self._codes.index(kind), inputs, [output]
        operator.builtinOptionsType, operator.builtinOptions = options
        self._operators.append(operator)


def _code(code: int, version: int) -> Any:
    made = tfl.OperatorCodeT()
    made.builtinCode, made.deprecatedBuiltinCode, made.version = code, min(code, 127), version
    return made


def _options(layer: dict[str, Any]) -> tuple[int, Any]:
    kind = layer["kind"]
    name = {
        "conv": "Conv2DOptions",
        "depthwise": "DepthwiseConv2DOptions",
        "dense": "FullyConnectedOptions",
        "add": "AddOptions",
        "mean": "ReducerOptions",
    }[kind]
    options = getattr(tfl, f"{name}T")()
    if kind in ("conv", "depthwise"):
        options.strideH = options.strideW = layer["stride"]
        options.dilationHFactor = options.dilationWFactor = 1
        options.padding = tfl.Padding.SAME
    if kind == "depthwise":
        options.depthMultiplier = 1
    if layer["relu6"]:
        options.fusedActivationFunction = tfl.ActivationFunctionType.RELU6
    return getattr(tfl.BuiltinOptions, name), options


def _quantization(scales: dict[str, Any]) -> Any:
    """Scales of the whole tensor, or of each output channel: the first axis, and the last of a depthwise weight."""
    made = tfl.QuantizationParametersT()
    made.scale, made.zeroPoint = np.array(scales["scale"], np.float32), np.array(scales["zero"], np.int64)
    count = len(made.scale)
    made.quantizedDimension = 0 if count == 1 or scales["shape"][0] == count else len(scales["shape"]) - 1
    return made


def _compressed(dense: np.ndarray) -> Any:
    """The description of compressed rows for [out, 1, 1, in]: three dense axes, one sparse."""
    made = tfl.SparsityParametersT()
    made.traversalOrder = [0, 1, 2, 3]
    made.dimMetadata = [_dense_axis(size) for size in (len(dense), 1, 1)]
    axis = tfl.DimensionMetadataT()
    axis.format = tfl.DimensionType.SPARSE_CSR
    axis.arraySegmentsType = axis.arrayIndicesType = tfl.SparseIndexVector.Int32Vector
    axis.arraySegments, axis.arrayIndices = tfl.Int32VectorT(), tfl.Int32VectorT()
    axis.arraySegments.values = np.concatenate([[0], np.cumsum((dense != 0).sum(1))]).astype(np.int32)
    axis.arrayIndices.values = np.nonzero(dense)[1].astype(np.int32)
    made.dimMetadata.append(axis)
    return made


def _dense_axis(size: int) -> Any:
    axis = tfl.DimensionMetadataT()
    axis.format, axis.denseSize = tfl.DimensionType.DENSE, size
    return axis


def main(folder: str, file: str, mode: str = "dense") -> None:
    """Read a folder, write a file."""
    description = json.loads((Path(folder) / "layers.json").read_text("utf-8"))
    data = (Path(folder) / "layers.bin").read_bytes()
    Path(file).write_bytes(Writer(description, data, sparse=mode == "sparse").file())


if __name__ == "__main__":
    main(*sys.argv[1:])
