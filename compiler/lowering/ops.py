# SPDX-License-Identifier: Apache-2.0
"""What has to be computed, free of ONNX and of any instruction set: the questions put to a back end's kernels.

Every op has static sizes and one output. Activations are float32, or uint8 codes in 0..127 (7 bits, so that every
instruction set's four-element dot product is exact). Layouts of a value seen as C channels x N positions:

- ``plain``: row-major in ONNX order: [C][N] for images, [N][C] for tokens;
- ``channels``: [C][N] (for images the same bytes as plain);
- ``channels4``: [ceil(C/4)][N][4], uint8; lanes beyond C hold any code, and weights there are zero.
"""

from dataclasses import dataclass, field

from sparsec.compiler.lowering.expression import IDENTITY, Expression

PLAIN, CHANNELS, CHANNELS4 = "plain", "channels", "channels4"


@dataclass(frozen=True, slots=True)
class Epilogue:
    """Elementwise work on a result before it is stored.

    Attributes:
        expression: Operand 0 is the result (for integer kernels: the int32 sum converted to float32, not scaled);
            operand i is `operands[i - 1]`.
        operands: How each is indexed: ``channel`` (float32 [C]), ``scalar`` (float32 [1]), ``full`` (the output's
            shape and layout, float32) or ``codes`` (the output's shape and layout, uint8).
        dtype: What is stored: ``float32`` or ``uint8`` (the value is already rounded and clamped to 0..127).
    """

    expression: Expression = IDENTITY
    operands: tuple[str, ...] = ()
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class Convolution:
    """A 2-D convolution of one image; sizes are (height, width), pads (top, left, bottom, right).

    `dtype` is the activations': float32, or uint8 codes (then the weight is int8 codes). Input [channels][h][w] float32
    or channels4 uint8; weight [filters][channels/groups][kh][kw] float32 or int8 codes;
    output [filters][oh][ow], plain float32, or channels4 when the epilogue stores uint8. The epilogue's channel is
    the filter. Padding reads as 0 in float32 and as the input's zero point `pad_code` in uint8.
    """

    dtype: str
    channels: int
    filters: int
    size: tuple[int, int]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    pad_code: int = 0
    epilogue: Epilogue = field(default_factory=Epilogue)

    @property
    def out_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        extents = (self.size[0] + self.pads[0] + self.pads[2], self.size[1] + self.pads[1] + self.pads[3])
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        height, width = ((e - r) // s + 1 for e, r, s in zip(extents, reach, self.stride, strict=True))
        return height, width


@dataclass(frozen=True, slots=True)
class Pad:
    """A padded copy of images of 32-bit elements, each column and row phase of a stride in a plane of its own.

    out[c, a, b, i, j] = in[c, i * stride[0] + a - origin[0], j * stride[1] + b - origin[1]], and `fill` where that is
    outside of the image: a convolution with this stride then reads neighbouring elements for neighbouring outputs.

    Attributes:
        dtype: ``float32``, or ``uint8`` for words of four codes (channels4).
        channels: Images: channels, or words of four channels.
        size: Height and width of each.
        stride: Rows and columns from one output to the next.
        origin: Rows of padding on top, columns on the left.
        phases: How many residues of the stride are kept, from 0 on, of rows and columns.
        plane: Rows and columns of each phase.
        fill: Bits of the element outside.
    """

    dtype: str
    channels: int
    size: tuple[int, int]
    stride: tuple[int, int]
    origin: tuple[int, int]
    phases: tuple[int, int]
    plane: tuple[int, int]
    fill: int = 0

    @property
    def out_elements(self) -> int:
        """32-bit elements of the result."""
        return self.channels * self.phases[0] * self.phases[1] * self.plane[0] * self.plane[1]

    @property
    def out_bytes(self) -> int:
        """Bytes of the result."""
        return 4 * self.out_elements


@dataclass(frozen=True, slots=True)
class Linear:
    """out[t, m] = sum_k x[t, k] w[m, k] with a constant weight [outputs][inputs].

    `dtype` is the activations': float32, or uint8 codes (then the weight is int8 codes).

    The epilogue's channel is m. Layouts are the kernel's choice: x and out plain ([T][K], [T][M]), or x channels /
    channels4 and out channels / channels4.
    """

    dtype: str
    positions: int
    inputs: int
    outputs: int
    epilogue: Epilogue = field(default_factory=Epilogue)


@dataclass(frozen=True, slots=True)
class GroupedLinear:
    """out[t, m] = sum_k x[t, k] w[m, k], float32, row-major, with a weight of at most 4 bits in groups along k.

    The weight is uint32 [outputs][inputs], see `groups.join`. The epilogue's channel is m.
    """

    positions: int
    inputs: int
    outputs: int
    group: int
    epilogue: Epilogue = field(default_factory=Epilogue)


@dataclass(frozen=True, slots=True)
class BatchMatMul:
    """out[b, m, n] = sum_k a[b, m, k] b[b, k, n], float32, row-major, both operands computed at run time.

    `a_batches` and `b_batches` are 1 where that operand is shared by the whole batch. The epilogue's channel is n.
    """

    batches: int
    m: int
    k: int
    n: int
    a_batches: int
    b_batches: int
    epilogue: Epilogue = field(default_factory=Epilogue)


@dataclass(frozen=True, slots=True)
class Operand:
    """How an elementwise kernel walks one operand: element strides per axis of the output (0 repeats), and a start."""

    dtype: str
    strides: tuple[int, ...]
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Elementwise:
    """out[i...] = expression(operands at i...), out row-major in `shape` unless `out_strides` says otherwise.

    Serves chains without an anchor, broadcasts, transposes, slices, concatenation (through `out_offset`), and changes
    of layout and precision. dtypes: float32, uint8, int8, int32, int64, bool for a pure copy (IDENTITY);
    float32 and uint8 codes otherwise. Where three computed codes of a position go to a word of four (strides 4 and 1,
    offset a multiple of 4), the fourth may be written as well.
    """

    shape: tuple[int, ...]
    operands: tuple[Operand, ...]
    expression: Expression = IDENTITY
    dtype: str = "float32"
    out_strides: tuple[int, ...] | None = None
    out_offset: int = 0


@dataclass(frozen=True, slots=True)
class Softmax:
    """Softmax (or its logarithm) over the last axis of float32 [rows][columns]."""

    rows: int
    columns: int
    log: bool = False


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis of float32 [rows][columns].

    Parameters: x, scale [columns], bias [columns], out.
    """

    rows: int
    columns: int
    epsilon: float


@dataclass(frozen=True, slots=True)
class Pool:
    """Max or average pooling of float32 [channels][h][w]; pads (top, left, bottom, right).

    `out_size` is given (ceil mode). An average counts padding if `count_pad`, else only what lies in the image.
    """

    kind: str
    channels: int
    size: tuple[int, int]
    out_size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: tuple[int, int, int, int]
    count_pad: bool = False


@dataclass(frozen=True, slots=True)
class Reduce:
    """Sum, mean, max or min over the middle axis of float32 [outer][axis][inner]; out [outer][inner]."""

    kind: str
    outer: int
    axis: int
    inner: int


@dataclass(frozen=True, slots=True)
class Interpolate:
    """Linear or nearest resize of the last two axes of float32 [channels][h][w] by tables made at compile time.

    Each output row (column) y reads `low[y]` and `low[y] + 1` with weights 1 - f[y], f[y] (nearest: f = 0); the
    tables are constants in the packed weights. Parameters: x, row starts int32 [oh], row fractions float32 [oh],
    column starts int32 [ow], column fractions float32 [ow], out.
    """

    channels: int
    size: tuple[int, int]
    out_size: tuple[int, int]
    linear: bool


@dataclass(frozen=True, slots=True)
class RecurrentCell:
    """One step of LSTM, GRU or RNN, after the input projection: all float32, ONNX gate order (iofc, zrh).

    Parameters: projected input [gates*hidden] of this step (both biases folded in, but for GRU's linear_before_reset),
    recurrent weight packed, recurrent bias [hidden] (GRU with linear_before_reset only), state h [hidden] in, state h
    out, and for LSTM cell c in, c out.
    """

    kind: str
    hidden: int
    linear_before_reset: bool = False


@dataclass(frozen=True, slots=True)
class MatchTokens:
    """Where each token goes when `merged` of those at even places join the most similar ones at odd places.

    See `sparsec.compiler.tokens`. The first `guarded` tokens stay as they are. Parameters: metric float32
    [batch][tokens][depth], size float32 [batch][tokens], slot out int64 [batch][tokens].
    """

    batch: int
    tokens: int
    depth: int
    merged: int
    guarded: int

    @property
    def rows(self) -> int:
        """Tokens at even places."""
        return self.tokens - self.columns

    @property
    def columns(self) -> int:
        """Tokens at odd places."""
        return self.tokens // 2


@dataclass(frozen=True, slots=True)
class MergeTokens:
    """Means of tokens with one slot, weighted by size, and the sums of their sizes.

    Parameters: x float32 [batch][tokens][width], size float32 [batch][tokens], slot int64 [batch][tokens] in 0..left-1,
    out float32 [batch][left][width], size out float32 [batch][left].
    """

    batch: int
    tokens: int
    left: int
    width: int


@dataclass(frozen=True, slots=True)
class UnmergeTokens:
    """out[b, t] = x[b, slot[b, t]]: tokens of `words` 32-bit words, slot int64 [batch][tokens] in 0..left-1."""

    batch: int
    tokens: int
    left: int
    words: int


Op = (
    Convolution
    | Pad
    | Linear
    | GroupedLinear
    | BatchMatMul
    | Elementwise
    | Softmax
    | LayerNorm
    | Pool
    | Reduce
    | Interpolate
    | RecurrentCell
    | MatchTokens
    | MergeTokens
    | UnmergeTokens
)
