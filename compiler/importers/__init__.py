# SPDX-License-Identifier: Apache-2.0
"""Front ends: what a user hands in becomes an onnx_ir.Model of one opset, static shapes, constants folded."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ir


def load_model(
    source: Any,
    shapes: Mapping[str, Sequence[int]] | None = None,
    reporter: Callable[[str], None] | None = None,
) -> "ir.Model":
    """Import a model from whatever the user has.

    Args:
        source: path of an ONNX file, ``onnx.ModelProto`` or ``onnx_ir.Model``.
        shapes: whole shapes by input name, for inputs with dynamic dimensions.
        reporter: is told what was decided without being asked, one sentence a call.

    Returns:
        A model of one opset with static shapes; see :func:`sparsec.compiler.importers.onnx.load_onnx`.

    Raises:
        ModelError: the model is malformed, too large, needs shapes, or is of no kind known here.
    """
    from sparsec.compiler.importers.onnx import load_onnx

    return load_onnx(source, shapes, reporter)
