# SPDX-License-Identifier: Apache-2.0
"""The ONNX front end: file or model in, onnx_ir.Model of one opset with static shapes out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir

from sparsec.compiler.errors import ModelError, SparsecError
from sparsec.compiler.importers.cleaning import separate_outputs
from sparsec.compiler.importers.finish import finish, lift_weights
from sparsec.compiler.importers.functions import check_calls, inline_local_functions
from sparsec.compiler.importers.light import light_proto, restore_weights
from sparsec.compiler.importers.opset import convert_opset
from sparsec.compiler.importers.reading import read_proto
from sparsec.compiler.importers.shapes import forget_shapes, pin_inputs
from sparsec.compiler.importers.structure import check_structure
from sparsec.compiler.importers.tensors import check_tensors, densify
from sparsec.compiler.importers.walk import all_nodes, title


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
        A model of opset :data:`~sparsec.compiler.importers.limits.OPSET`: weights are initializers, each value of
        the main graph has a type and a static shape, shape arithmetic is folded, pads are explicit, each node has a
        name of its own, each graph output is the output of a node.

    Raises:
        ModelError: the model is malformed, too large, or needs shapes.
        UnsupportedError: the model uses an operator or a type that sparsec refuses.
    """
    name = f"Model '{source}'" if isinstance(source, (str, Path)) else "The model"
    with _stage(name, "reading"):
        model = _checked(source)
    with _stage(name, "checking"):
        model = _inline(model)
    with _stage(name, "conversion to one opset"):
        forget_shapes(model.graph)
        model = convert_opset(model)
        lift_weights(model)
    with _stage(name, "pinning shapes"):
        separate_outputs(model.graph)
        forget_shapes(model.graph)
        pin_inputs(model, shapes, reporter)
    with _stage(name, "folding constants"):
        return finish(model)


@contextmanager
def _stage(title: str, stage: str) -> Iterator[None]:
    """Turn whatever the ONNX libraries raise into one error that names model and stage."""
    try:
        yield
    except SparsecError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        msg = f"{title}: {stage} failed: {reason[:500]}"
        raise ModelError(msg) from error


def _checked(source: str | Path | onnx.ModelProto | ir.Model) -> ir.Model:
    """A model of our own, whose structure and weights hold what they promise."""
    if isinstance(source, ir.Model):
        return _checked_ir(source)
    if not isinstance(source, (str, Path, onnx.ModelProto)):
        msg = f"A path, an onnx.ModelProto or an onnx_ir.Model was expected, not {type(source).__name__!r}."
        raise ModelError(msg)
    proto = read_proto(Path(source)) if isinstance(source, (str, Path)) else _owned(source)
    _check(proto)
    model = ir.from_proto(proto)
    model.ir_version = max(model.ir_version, 4)  # before, weights had to be inputs as well
    lift_weights(model)
    return model


def _check(proto: onnx.ModelProto) -> None:
    """Check a model, and make it ready to be talked about: no sparse weights, no nameless nodes."""
    for node in all_nodes(proto):
        node.name = title(node)
    densify(proto)
    check_tensors(proto)
    check_structure(proto)
    check_calls(proto)


def _owned(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def _checked_ir(source: ir.Model) -> ir.Model:
    model = source.clone()
    ir.external_data.load_to_model(model)
    proto, weights = light_proto(model)
    _check(proto)
    return restore_weights(proto, weights)


def _inline(model: ir.Model) -> ir.Model:
    proto, weights = light_proto(model)
    inlined = inline_local_functions(proto)
    if inlined is proto:
        return model
    model = restore_weights(inlined, weights)
    lift_weights(model)
    return model
