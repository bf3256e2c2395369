# SPDX-License-Identifier: Apache-2.0
"""Front ends: what a user hands in becomes an onnx_ir.Model of one opset, static shapes, constants folded."""
