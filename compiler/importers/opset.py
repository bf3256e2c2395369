# SPDX-License-Identifier: Apache-2.0
"""To one opset. ONNX's converter does most of it; here is what it leaves out or gets wrong.

Three ways: a model whose operators have the same form in both versions is only relabelled; operators newer than OPSET
are first expanded to the functions that define them; everything else goes through the converter.
"""

import onnx
import onnx_ir as ir
from onnx import defs, inliner, version_converter

from sparsec.compiler.errors import UnsupportedError
from sparsec.compiler.importers.forms import same_form, since
from sparsec.compiler.importers.functions import has_body, spell_defaults
from sparsec.compiler.importers.inference import infer_nodes
from sparsec.compiler.importers.legacy import LEGACY, modernise
from sparsec.compiler.importers.light import light_proto, restore_weights
from sparsec.compiler.importers.limits import IR_VERSION, OPSET
from sparsec.compiler.importers.structure import opset_of
from sparsec.compiler.importers.walk import all_nodes

_UNCONVERTIBLE = {("Scan", 8): "its inputs changed in opset 9"}
"""Operators that ONNX's converter hands on unchanged from this opset although they mean something else since."""


def convert_opset(model: ir.Model) -> ir.Model:
    """Bring a model to OPSET.

    Args:
        model: a model whose local functions are inlined, but for those of domain ``sparsec``. Its values get
            the types that can be inferred; else it is left as it was.

    Returns:
        A model of its own; it shares the weights' memory.

    Raises:
        UnsupportedError: an operator has no counterpart in OPSET.
    """
    proto, weights = light_proto(model)
    version = opset_of(proto) or OPSET
    if _changed(proto, version):
        infer_nodes(model.graph, model, strict=False)  # refuses attributes that the converter would trust
        proto, weights = light_proto(model)
    del proto.functions[:]
    legacy = {
        node.output[0]: node.op_type
        for node in all_nodes(proto)
        if node.output and version < LEGACY.get(node.op_type, 0)
    }
    proto = _downgrade(proto, version) if version > OPSET else _upgrade(proto, version)
    _label(proto)
    converted = restore_weights(proto, weights)
    modernise(converted, legacy)
    converted.functions.update(model.functions)
    return converted


def _label(model: onnx.ModelProto) -> None:
    others = [entry for entry in model.opset_import if entry.domain not in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.add(domain="", version=OPSET)
    model.opset_import.extend(others)
    model.ir_version = IR_VERSION


def _changed(model: onnx.ModelProto, version: int) -> list[onnx.NodeProto]:
    """The nodes that are to be spelled differently; going down, a new type may be what is new about an operator."""
    if version <= OPSET:
        return [node for node in all_nodes(model) if not same_form(node, version, OPSET)]
    return [node for node in all_nodes(model) if since(node, version) != since(node, OPSET)]


def _upgrade(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    for node in all_nodes(model):
        reason = _UNCONVERTIBLE.get((node.op_type, version))
        if reason is not None:
            msg = f"Operator {node.op_type!r} of opset {version}, node {node.name!r}: {reason}. Export with opset 9."
            raise UnsupportedError(msg)
    return _convert(model, version)


def _downgrade(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    newer = sorted({n.op_type for n in all_nodes(model) if n.domain == "" and not defs.has(n.op_type, OPSET, "")})
    ids = [("", op_type) for op_type in newer if has_body(op_type, version)]
    if ids:
        spell_defaults(model, newer, version)
        model = inliner.inline_selected_functions(model, ids, exclude=False, inline_schema_functions=True)
    return _convert(model, version)


def _convert(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    changed = _changed(model, version)
    if not changed:
        return model
    names = ", ".join(sorted({repr(node.op_type) for node in changed}))
    model.ir_version = IR_VERSION  # before version 4, weights had to be inputs as well
    try:
        return version_converter.convert_version(model, OPSET)
    except (RuntimeError, version_converter.ConvertError) as error:
        msg = f"Operator {names}: conversion from opset {version} to {OPSET} failed. {_reason(error)}"
        raise UnsupportedError(msg) from error


def _reason(error: Exception) -> str:
    """ONNX's own words, without the place in its source."""
    return "ONNX says: " + str(error).rpartition(" failed: ")[2].strip()
