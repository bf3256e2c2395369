# SPDX-License-Identifier: Apache-2.0
"""The cases of `onnx.backend.test`: a model, inputs, expected outputs, tolerances, and the operators it exercises."""

import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted")
"""Suites with data of their own (`real` needs downloads)."""


PARAMETERS: dict[str, tuple[int, ...]] = {
    "AffineGrid": (1,), "BatchNormalization": (1, 2, 3, 4), "BlackmanWindow": (0,), "CastLike": (1,),
    "CenterCropPad": (1,), "Clip": (1, 2), "Col2Im": (1, 2), "ConstantOfShape": (0,), "Conv": (1, 2),
    "ConvInteger": (1, 2, 3), "ConvTranspose": (1, 2), "CumProd": (1,), "CumSum": (1,), "DFT": (1, 2),
    "DeformConv": (1, 3), "DequantizeLinear": (1, 2), "Dropout": (1, 2), "Expand": (1,), "GRU": (1, 2, 3, 4),
    "GroupNormalization": (1, 2), "HammingWindow": (0,), "HannWindow": (0,), "If": (0,),
    "InstanceNormalization": (1, 2), "LSTM": (1, 2, 3, 4, 7), "LayerNormalization": (1, 2), "Loop": (0, 1),
    "MatMulInteger": (2, 3), "MaxUnpool": (2,), "MelWeightMatrix": (0, 1, 2, 3, 4), "OneHot": (1, 2), "PRelu": (1,),
    "Pad": (1, 2, 3), "QLinearConv": (1, 2, 3, 4, 5, 6, 7, 8), "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QuantizeLinear": (1, 2), "RMSNormalization": (1,), "RNN": (1, 2, 3, 4), "Range": (0, 1, 2), "ReduceL1": (1,),
    "ReduceL2": (1,), "ReduceLogSum": (1,), "ReduceLogSumExp": (1,), "ReduceMax": (1,), "ReduceMean": (1,),
    "ReduceMin": (1,), "ReduceProd": (1,), "ReduceSum": (1,), "ReduceSumSquare": (1,), "Reshape": (1,),
    "Resize": (1, 2, 3), "RotaryEmbedding": (3,), "STFT": (1, 2, 3), "Slice": (1, 2, 3, 4), "Split": (1,),
    "SplitToSequence": (1,), "Squeeze": (1,), "TensorScatter": (2,), "Tile": (1,), "TopK": (1,), "Trilu": (1,),
    "Unsqueeze": (1,), "Upsample": (1,),
}  # fmt: skip
"""Inputs that hold parameters (shapes, axes, sizes, weights, scales), by operator.

The suite passes everything at run time. Exported models hold these as constants, and a compiler to static shapes needs
them so; the judge therefore hands them over as initializers. Data inputs are never touched.
"""


ABSOLUTE = {"DFT": 1e-6}
"""Absolute tolerances by operator where the suite's are too fine for its own data.

Where an inverse DFT gives exactly 0, the expected values hold the rounding errors of a float32 FFT, up to 2e-7.
"""


@dataclass(frozen=True, eq=False)
class Case:
    """One case.

    Attributes:
        name: As in the suite.
        model: The model.
        sets: (inputs, expected outputs) in the order of the graph's; an entry is None where it is no tensor.
        rtol: Relative tolerance, element by element.
        atol: Absolute tolerance.
    """

    name: str
    model: onnx.ModelProto
    sets: list[tuple[list[Any], list[Any]]]
    rtol: float
    atol: float

    @property
    def operators(self) -> tuple[str, ...]:
        """Operators of the main graph, domain first if it is not ONNX's own."""
        return tuple(sorted({f"{n.domain}.{n.op_type}".lstrip(".") for n in self.model.graph.node}))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs by name."""
        inputs = self.sets[0][0] if self.sets else []
        ports = [port.name for port in self.model.graph.input]
        return {port: array.shape for port, array in zip(ports, inputs, strict=False) if array is not None}


@cache
def cases() -> tuple[Case, ...]:
    """All cases, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [_case(test) for kind in KINDS for test in load_model_tests(kind=kind)]
    unique = {case.name: case for case in found}
    return tuple(unique[name] for name in sorted(unique))


def _case(test: Any) -> Case:
    folder = Path(test.model_dir) if test.model_dir else None
    model = test.model or onnx.load(folder / "model.onnx")
    sets = test.data_sets
    if sets is None:
        places = sorted(folder.glob("test_data_set_*"))
        sets = [
            (_read(place, "input", model.graph.input), _read(place, "output", model.graph.output)) for place in places
        ]
    atol = max([test.atol, *(ABSOLUTE.get(node.op_type, 0.0) for node in model.graph.node)])
    return _with_constants(Case(test.name, model, [tuple(map(_arrays, pair)) for pair in sets], test.rtol, atol))


def _with_constants(case: Case) -> Case:
    """Turn parameters into initializers where every set of data agrees on them."""
    graph = case.model.graph
    names = {node.input[i] for node in graph.node for i in PARAMETERS.get(node.op_type, ()) if i < len(node.input)}
    data = {node.input[i] for node in graph.node for i in _data_inputs(node)}
    values = {
        port.name: case.sets[0][0][number]
        for number, port in enumerate(graph.input)
        if port.name in names - data and case.sets and number < len(case.sets[0][0])
    }
    fixed = {name: array for name, array in values.items() if isinstance(array, np.ndarray) and _agreed(case, name)}
    unread = _unread(case)
    if not fixed and not unread:
        return case
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    places = [number for number, port in enumerate(graph.input) if port.name not in {*fixed, *unread}]
    kept = [model.graph.input[number] for number in places]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in fixed.items())
    sets = [([inputs[i] for i in places if i < len(inputs)], outputs) for inputs, outputs in case.sets]
    return Case(case.name, model, sets, case.rtol, case.atol)


def _unread(case: Case) -> set[str]:
    """Empty inputs that nothing reads: what is left of a CastLike, whose second input is there for its type alone."""
    read = {name for node in case.model.graph.node for name in node.input} | {o.name for o in case.model.graph.output}
    return {name for name, shape in case.shapes.items() if 0 in shape and name not in read}


def _data_inputs(node: Any) -> list[int]:
    return [i for i in range(len(node.input)) if i not in PARAMETERS.get(node.op_type, ())]


def _agreed(case: Case, name: str) -> bool:
    place = [port.name for port in case.model.graph.input].index(name)
    first = case.sets[0][0][place]
    return all(np.array_equal(first, inputs[place]) for inputs, _ in case.sets)


def _read(place: Path, kind: str, ports: Any) -> list[Any]:
    found = []
    for number, port in enumerate(ports):
        path = place / f"{kind}_{number}.pb"
        if port.type.HasField("tensor_type") and path.exists():
            found.append(numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes())))
        else:
            found.append(None)
    return found


def _arrays(values: Any) -> list[Any]:
    return [_array(value) for value in values]


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return None if value is None or isinstance(value, (list, dict)) else np.asarray(value)
