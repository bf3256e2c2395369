# SPDX-License-Identifier: Apache-2.0
"""The JavaScript side of a WebAssembly artifact: `model.mjs` and its types, from templates beside this file."""

import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from importlib.resources import files
from math import prod
from typing import Any

import wasmtime

from sparsec.backends.entry import comment, describe
from sparsec.compiler.lowering.program import Port, Program

ARRAY_TYPES: dict[str, str] = {
    "bool": "Uint8Array", "int8": "Int8Array", "uint8": "Uint8Array", "int16": "Int16Array", "uint16": "Uint16Array",
    "int32": "Int32Array", "uint32": "Uint32Array", "int64": "BigInt64Array", "uint64": "BigUint64Array",
    "float16": "Uint16Array", "float32": "Float32Array", "float64": "Float64Array",
}  # fmt: skip
"""JavaScript's typed array of each port type."""


def module(program: Program) -> str:
    """The text of `model.mjs`."""
    return _fill(
        "model.mjs.in",
        {
            "EXAMPLE": _example(program),
            "INPUTS": _ports(program.inputs),
            "OUTPUTS": _ports(program.outputs),
            "WEIGHT_BYTES": str(len(program.weights)),
            "PROBE": b64encode(probe()).decode("ascii"),
        },
    )


def probe() -> bytes:
    """The WebAssembly module by which `model.mjs` finds out whether an engine computes relaxed SIMD exactly."""
    return bytes(wasmtime.wat2wasm(_text("probe.wat")))


def types(program: Program) -> str:
    """The text of `model.d.ts`, with the model's own names."""
    return _fill("model.d.ts.in", {"INPUTS": _members(program.inputs), "OUTPUTS": _members(program.outputs)})


def _fill(template: str, values: Mapping[str, str]) -> str:
    return re.sub(r"@([A-Z_]+)@", lambda match: values[match[1]], _text(template))


def _text(name: str) -> str:
    return files("sparsec.backends.wasm").joinpath(name).read_text("utf-8")


def _example(program: Program) -> str:
    arguments = ", ".join(f"{_key(p)}: new {ARRAY_TYPES[p.dtype]}({prod(p.shape)})" for p in program.inputs)
    results = "".join(f"\n//   outputs[{json.dumps(p.name)}];  // {describe(p)}" for p in program.outputs)
    return f"//   const outputs = model.run({{ {arguments} }});{results}"


def _key(port: Port) -> str:
    return port.name if port.name.isidentifier() and port.name.isascii() else json.dumps(port.name)


def _ports(ports: Sequence[Port]) -> str:
    return json.dumps([_describe(port) for port in ports])


def _describe(port: Port) -> dict[str, Any]:
    return {"name": port.name, "type": port.dtype, "shape": list(port.shape), "length": prod(port.shape)}


def _members(ports: Sequence[Port]) -> str:
    return "\n".join(
        f"  /** {comment(describe(port))} */\n  {json.dumps(port.name)}: {ARRAY_TYPES[port.dtype]};" for port in ports
    )
