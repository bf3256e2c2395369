# SPDX-License-Identifier: Apache-2.0
"""Matrix times vector: Linear with one token, and convolutions whose kernel covers the whole image.

Vectors run over rows of the weight; a word of the operand is broadcast. Each weight is used once, so the kernel
streams them, and several sums are in flight to hide the latency of adding.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsec.backends.isa import Isa
from sparsec.backends.kernels import emit, packing, vector
from sparsec.backends.kernels.blocks import Grid, Packed, grids, pack
from sparsec.backends.kernels.dot import Arithmetic, arithmetic
from sparsec.backends.kernels.epilogue import Tail, parameters
from sparsec.backends.kernels.plan import layouts
from sparsec.backends.kernels.positions import row_spans
from sparsec.backends.kernels.product_cost import matvec_cost
from sparsec.backends.kernels.reference import finish_channels, ungroup4
from sparsec.backends.kernels.rowwise import panel_spans, valid_lanes
from sparsec.compiler.lowering.kernel import Array, KernelSpec, Profile
from sparsec.compiler.lowering.ops import Convolution, Epilogue, Linear, Op

Expr = Any
_CHAINS = 4
_VECTORS = (8, 4, 2, 1)
_ROWS = 4
"""Rows of a block that sparse kernels take as one vector."""


@dataclass(frozen=True, slots=True)
class Product:
    """The sizes of a matrix-vector product.

    Attributes:
        dtype: Of the operand.
        rows: Of the weight.
        channels: Of the operand.
        taps: Positions of the operand under the kernel; 1 for a token.
        epilogue: What follows.
    """

    dtype: str
    rows: int
    channels: int
    taps: int
    epilogue: Epilogue

    @classmethod
    def of(cls, op: Op) -> "Product | None":
        """The op as such a product, if it is one."""
        if isinstance(op, Linear) and op.positions == 1:
            return cls(op.dtype, op.outputs, op.inputs, 1, op.epilogue)
        whole = isinstance(op, Convolution) and op.groups == 1 and op.kernel == op.size and not any(op.pads)
        if whole and isinstance(op, Convolution):
            return cls(op.dtype, op.filters, op.channels, op.size[0] * op.size[1], op.epilogue)
        return None

    @property
    def words(self) -> int:
        """32-bit elements of the operand."""
        return (-(-self.channels // 4) if self.dtype == "uint8" else self.channels) * self.taps

    @property
    def stored(self) -> int:
        """Elements of the output, filling ones of the last word included."""
        return -(-self.rows // 4) * 4 if self.epilogue.dtype == "uint8" else self.rows

    def elements(self, weight: Array) -> Array:
        """The weight as 32-bit elements [row][word]."""
        return packing.words(packing.rows_view(weight, self.rows, self.taps), self.dtype).reshape(self.rows, -1)

    def reference(self, weight: Array, operands: Sequence[Array]) -> Array:
        """By numpy, exact for codes, in float64 else."""
        flat = np.ascontiguousarray(operands[0]).ravel()
        if self.dtype == "uint8":
            x = ungroup4(flat.reshape(-1, self.taps, 4), self.channels).astype(np.int64)
        else:
            x = flat.reshape(self.channels, self.taps).astype(np.float64)
        sums = weight.reshape(self.rows, -1).astype(x.dtype) @ x.reshape(-1, 1)
        return finish_channels(self.epilogue, sums.astype(np.float32), operands[1:])

    def emit_filling(self, output: Expr) -> None:
        """Codes 0 behind the last row."""
        for i in range(self.rows, self.stored):
            emit.store(output, i, vector.const(0, "uint8"))


class MatvecKernel:
    """Dense. Parameters: x, packed weights, epilogue operands, out."""

    family = "matvec"

    def candidates(self, op: Op, pattern: str, lanes: int) -> Iterable[KernelSpec]:
        """Specs whose tile is (vectors, lanes); float32 tokens are the `linear` family's."""
        product = Product.of(op)
        if product is None or (isinstance(op, Linear) and op.dtype == "float32"):
            return
        source, target = layouts(op)
        wide = min(lanes, max(4, 1 << (product.rows - 1).bit_length()))
        most = -(-product.rows // wide)
        for vectors in sorted({min(v, most) for v in _VECTORS}):
            yield KernelSpec(self.family, op, "dense", (vectors, wide), (source,), target)

    def prepare(self, spec: KernelSpec) -> KernelSpec | None:
        """The input is read as it is."""
        return None

    def build(self, spec: KernelSpec, isa: Isa) -> Any:
        """The TIR PrimFunc."""
        product = _product(spec)
        way = arithmetic(isa, product.dtype)
        sizes = [(way.dtype, product.words), (way.dtype, _packed_rows(spec) * product.words)]

        def body(x: Expr, w: Expr, *rest: Expr) -> None:
            _emit_dense(spec, way, x, w, Tail(product.epilogue, rest[:-1], rest[-1], isa))
            product.emit_filling(rest[-1])

        return emit.function([*sizes, *parameters(product.epilogue, product.rows, product.stored)], body)

    def pack(self, spec: KernelSpec, weight: Array) -> Sequence[Array]:
        """Panels [word][row], the last filled up by zeros to whole vectors."""
        product = _product(spec)
        elements = product.elements(weight)
        padded = np.zeros((_packed_rows(spec), product.words), elements.dtype)
        padded[: product.rows] = elements
        return (packing.panels(padded, spec.tile[0] * spec.tile[1]),)

    def reference(self, spec: KernelSpec, weight: Array | None, *operands: Array) -> Array:
        """By numpy."""
        assert weight is not None
        return _product(spec).reference(weight, operands)

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """From the bytes of the weights, or the vectors computed; of equal ones, that of fewer panels."""
        product = _product(spec)
        vectors, lanes = spec.tile
        macs = _packed_rows(spec) // lanes * product.words * max(1.0, profile["mac_chains"] / vectors)
        nbytes = 4 * _packed_rows(spec) * product.words
        panels = -(-_packed_rows(spec) // (vectors * lanes))
        streams = matvec_cost(product.dtype, macs, nbytes, product.rows, product.epilogue, profile)
        return streams + panels * profile["tile_us"]


class SparseMatvecKernel:
    """Block-sparse. Parameters: x, values, block places, panel ends, epilogue operands, out."""

    family = "sparse-matvec"

    def candidates(self, op: Op, pattern: str, lanes: int) -> Iterable[KernelSpec]:
        """Specs whose tile is (rows of a block, steps of a block)."""
        product = Product.of(op)
        if product is None:
            return
        source, target = layouts(op)
        depth = product.words // product.taps
        for grid in grids(pattern, product.dtype, product.taps, depth):
            if grid.rows == _ROWS:
                yield KernelSpec(self.family, op, pattern, (grid.rows, grid.steps), (source,), target)

    def prepare(self, spec: KernelSpec) -> KernelSpec | None:
        """The input is read as it is."""
        return None

    def build(self, spec: KernelSpec, isa: Isa) -> Any:
        """The TIR PrimFunc; it serves any weight of the spec's shape."""
        product, grid = _product(spec), Grid(*spec.tile)
        way = arithmetic(isa, product.dtype)
        panels = -(-product.rows // grid.rows)
        most = panels * -(-product.words // grid.steps) + panels * _unroll(grid)
        sizes = [(way.dtype, product.words), (way.dtype, most * grid.rows * grid.steps)]
        sizes += [("int32", most), ("int32", panels + 1)]

        def body(x: Expr, values: Expr, places: Expr, ends: Expr, *rest: Expr) -> None:
            tail = Tail(product.epilogue, rest[:-1], rest[-1], isa)
            _emit_sparse(product, grid, way, (x, values, places, ends), tail)
            product.emit_filling(rest[-1])

        return emit.function([*sizes, *parameters(product.epilogue, product.rows, product.stored)], body)

    def pack(self, spec: KernelSpec, weight: Array) -> Sequence[Array]:
        """Values, block places and panel ends."""
        packed = _packed(spec, weight)
        return (packed.values, packed.places, packed.ends)

    def reference(self, spec: KernelSpec, weight: Array | None, *operands: Array) -> Array:
        """By numpy."""
        assert weight is not None
        return _product(spec).reference(weight, operands)

    def cost(self, spec: KernelSpec, weight: Array | None, profile: Profile) -> float:
        """From the blocks that the weight really has."""
        assert weight is not None
        product, grid = _product(spec), Grid(*spec.tile)
        blocks = grid.count(product.elements(weight))
        panels = -(-product.rows // grid.rows)
        macs = float(blocks * grid.steps + panels * _CHAINS)
        nbytes = blocks * (4 * grid.rows * grid.steps + 4) + 4 * panels
        walk = blocks * profile["block_us"]
        return walk + matvec_cost(product.dtype, macs, nbytes, product.rows, product.epilogue, profile)


def _product(spec: KernelSpec) -> Product:
    product = Product.of(spec.op)
    assert product is not None
    return product


def _packed_rows(spec: KernelSpec) -> int:
    return -(-_product(spec).rows // spec.tile[1]) * spec.tile[1]


def _emit_dense(spec: KernelSpec, way: Arithmetic, x: Expr, w: Expr, tail: Tail) -> None:
    product = _product(spec)
    vectors, lanes = spec.tile
    for panel in panel_spans(product.rows, vectors, lanes):
        width = len(panel.offsets) * lanes
        with emit.loop(panel.count) as i:
            row = panel.start + i * panel.step
            sums = emit.Registers(len(panel.offsets), way.dtype, lanes)
            with emit.loop(product.words) as k:
                activation = way.activation(emit.bind(vector.splat(x[k], lanes)))
                for v, offset in enumerate(panel.offsets):
                    weight = way.weight(emit.bind(vector.load(w, row * product.words + k * width + offset, lanes)))
                    sums[v] = way.accumulate(sums[v], activation, weight)
            channels = [row + offset for offset in panel.offsets]
            tail.store_plain([sums[v] for v in range(len(sums))], 0, channels, valid_lanes(panel))


def _unroll(grid: Grid) -> int:
    """Blocks a turn of the loop takes, so that as many sums as `_CHAINS` are in flight."""
    return max(1, _CHAINS // grid.steps)


def _packed(spec: KernelSpec, weight: Array) -> Packed:
    product, grid = _product(spec), Grid(*spec.tile)
    places = np.arange(product.words, dtype=np.int32)
    return pack(product.elements(weight), grid, places, _unroll(grid))


def _emit_sparse(product: Product, grid: Grid, way: Arithmetic, arrays: Sequence[Expr], tail: Tail) -> None:
    for span in row_spans(product.rows, grid.rows):
        with emit.loop(span.count) as i:
            panel = span.start // grid.rows + i
            total = _panel_sum(grid, way, arrays, panel)
            tail.store_plain([total], 0, [panel * grid.rows], [len(span.offsets) % grid.rows])


def _panel_sum(grid: Grid, way: Arithmetic, arrays: Sequence[Expr], panel: Expr) -> Expr:
    x, values, places, ends = arrays
    unroll = _unroll(grid)
    sums = emit.Registers(_CHAINS, way.dtype, grid.rows)
    with emit.loop_range(ends[panel] // unroll, ends[panel + 1] // unroll) as turn:
        for part in range(unroll):
            block = turn * unroll + part
            start = emit.bind(places[block])
            for step in range(grid.steps):
                chain = (part * grid.steps + step) % _CHAINS
                activation = way.activation(emit.bind(vector.splat(x[start + step], grid.rows)))
                at = (block * grid.steps + step) * grid.rows
                weight = way.weight(emit.bind(vector.load(values, at, grid.rows)))
                sums[chain] = way.accumulate(sums[chain], activation, weight)
    first, second = (emit.bind(sums[i] + sums[i + 1]) for i in (0, 2))
    return emit.bind(first + second)
