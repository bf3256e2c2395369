# SPDX-License-Identifier: Apache-2.0
"""Front ends: what a user hands in becomes an onnx_ir.Model of one opset, static shapes, constants folded."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["load_model"]


def load_model(
    source: Any,
    shapes: Mapping[str, Sequence[int]] | None = None,
    reporter: Callable[[str], None] | None = None,
    example_inputs: Sequence[Any] | None = None,
) -> "ir.Model":
    """Import a model from whatever the user has.

    Args:
        source: path of an ONNX file, ``onnx.ModelProto``, ``onnx_ir.Model``, ``torch.nn.Module`` or
            ``torch.export.ExportedProgram``; left as it was.
        shapes: whole shapes by input name, for inputs with dynamic dimensions.
        reporter: is told what was decided without being asked, one sentence a call.
        example_inputs: for a ``torch.nn.Module``: one tensor for each of its arguments.

    Returns:
        A model of one opset with static shapes; see :func:`sparsec.compiler.importers.onnx.load_onnx`.

    Raises:
        ModelError: the model is malformed, too large, needs shapes, or is of no kind known here.
        UnsupportedError: the model uses an operator or a type that sparsec refuses.
        ToolchainError: a torch module was given, and torch is not installed.
    """
    if any(kind.__module__.partition(".")[0] == "torch" for kind in type(source).__mro__):
        from sparsec.compiler.importers.torch import load_torch

        return load_torch(source, example_inputs, shapes, reporter)
    from sparsec.compiler.importers.onnx import load_onnx

    return load_onnx(source, shapes, reporter)
