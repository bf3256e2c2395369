# SPDX-License-Identifier: Apache-2.0
"""The transformations: one file each, found by name through the table below."""

PASSES: dict[str, str] = {
    "awq": "sparsec.passes.awq:Awq",
    "fold-batchnorm": "sparsec.passes.fold_batchnorm:FoldBatchnorm",
    "fold-constants": "sparsec.passes.fold_constants:FoldConstants",
    "fuse-layernorm": "sparsec.passes.fuse_layernorm:FuseLayernorm",
    "gqsa": "sparsec.passes.gqsa:Gqsa",
    "merge-tokens": "sparsec.passes.merge_tokens:MergeTokens",
    "permute-channels": "sparsec.passes.permute_channels:PermuteChannels",
    "prune-blocks": "sparsec.passes.prune_blocks:PruneBlocks",
    "prune-channels": "sparsec.passes.prune_channels:PruneChannels",
    "prune-kernels": "sparsec.passes.prune_kernels:PruneKernels",
    "prune-nm": "sparsec.passes.prune_nm:PruneNM",
    "prune-unstructured": "sparsec.passes.prune_unstructured:PruneUnstructured",
    "quantize": "sparsec.passes.quantize:Quantize",
    "recover": "sparsec.passes.recover:Recover",
    "smooth-quant": "sparsec.passes.smooth_quant:SmoothQuant",
}
"""Pass name -> ``module:Class``; modules are imported on first use."""
