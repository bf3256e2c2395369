# SPDX-License-Identifier: Apache-2.0
"""The ONNX front end: file or model in, onnx_ir.Model of one opset with static shapes out."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx import version_converter
from onnx_ir.passes import common

from sparsec.compiler.errors import ModelError
from sparsec.compiler.importers.folding import fold
from sparsec.compiler.importers.light import light_proto, restore_weights
from sparsec.compiler.importers.limits import IR_VERSION, OPSET
from sparsec.compiler.importers.shapes import check_static, pin_inputs


def load_onnx(
    source: str | Path | onnx.ModelProto | ir.Model,
    shapes: Mapping[str, Sequence[int]] | None = None,
    reporter: Callable[[str], None] | None = None,
) -> ir.Model:
    """Import an ONNX model.

    Args:
        source: a file's path, or a model in memory, which is left as it was.
        shapes: whole shapes by input name, for inputs with dynamic dimensions.
        reporter: is told what was decided without being asked, one sentence a call.

    Returns:
        A model of opset :data:`OPSET`: weights are initializers, each value of the main graph has a type and a
        static shape, shape arithmetic is folded.

    Raises:
        ModelError: the model is malformed, too large, or needs shapes.
        UnsupportedError: the model uses an operator or a type that sparsec refuses.
    """
    model = _read(source)
    _normalise(model)
    model = _convert(model)
    pin_inputs(model, shapes, reporter)
    objection = fold(model)
    _clean(model)
    check_static(model, objection)
    return model


def _read(source: str | Path | onnx.ModelProto | ir.Model) -> ir.Model:
    if isinstance(source, ir.Model):
        return source.clone()
    if isinstance(source, onnx.ModelProto):
        return ir.from_proto(source)
    return ir.from_proto(onnx.load(source))


def _normalise(model: ir.Model) -> None:
    model.ir_version = IR_VERSION
    common.RemoveInitializersFromInputsPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.LiftSubgraphInitializersToMainGraphPass()(model)
    common.InlinePass(lambda function: function.domain != "sparsec")(model)


def _convert(model: ir.Model) -> ir.Model:
    proto, weights = light_proto(model)
    if model.opset_imports.get("") != OPSET:
        try:
            proto = version_converter.convert_version(proto, OPSET)
        except Exception as error:
            msg = f"Conversion to opset {OPSET} failed: {error}"
            raise ModelError(msg) from error
    return restore_weights(proto, weights)


def _clean(model: ir.Model) -> None:
    common.IdentityEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    common.OutputFixPass()(model)
    for node in model.graph.all_nodes():
        if not node.name:
            node.name = next((v.name for v in node.outputs if v.name), node.op_type)
    common.NameFixPass()(model)
