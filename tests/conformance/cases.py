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
    return Case(test.name, model, [tuple(map(_arrays, pair)) for pair in sets], test.rtol, test.atol)


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
