# SPDX-License-Identifier: Apache-2.0
"""Every kernel of the CPU targets."""

from sparsec.backends.kernels.batch_matmul import BatchMatMulKernel
from sparsec.backends.kernels.convolution import ConvolutionKernel
from sparsec.backends.kernels.depthwise import DepthwiseKernel
from sparsec.backends.kernels.elementwise import ElementwiseKernel
from sparsec.backends.kernels.group_linear import GroupLinearKernel, SparseGroupLinearKernel
from sparsec.backends.kernels.interpolate import InterpolateKernel
from sparsec.backends.kernels.layernorm import LayerNormKernel
from sparsec.backends.kernels.linear import LinearKernel
from sparsec.backends.kernels.match_tokens import MatchTokensKernel
from sparsec.backends.kernels.matvec import MatvecKernel, SparseMatvecKernel
from sparsec.backends.kernels.merge_tokens import MergeTokensKernel, UnmergeTokensKernel
from sparsec.backends.kernels.pad import PadKernel
from sparsec.backends.kernels.pool import PoolKernel
from sparsec.backends.kernels.recurrent import RecurrentKernel
from sparsec.backends.kernels.reduce import ReduceKernel
from sparsec.backends.kernels.row_masks import RowMaskKernel
from sparsec.backends.kernels.softmax import SoftmaxKernel
from sparsec.backends.kernels.sparse import SparseKernel
from sparsec.backends.kernels.word_pairs import WordPairKernel
from sparsec.compiler.lowering.kernel import Kernel

KERNELS: tuple[Kernel, ...] = (
    BatchMatMulKernel(),
    ConvolutionKernel(),
    DepthwiseKernel(),
    ElementwiseKernel(),
    GroupLinearKernel(),
    InterpolateKernel(),
    LayerNormKernel(),
    LinearKernel(),
    MatchTokensKernel(),
    MatvecKernel(),
    MergeTokensKernel(),
    PadKernel(),
    PoolKernel(),
    RecurrentKernel(),
    ReduceKernel(),
    RowMaskKernel(),
    SoftmaxKernel(),
    SparseGroupLinearKernel(),
    SparseKernel(),
    SparseMatvecKernel(),
    UnmergeTokensKernel(),
    WordPairKernel(),
)
