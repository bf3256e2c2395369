# SPDX-License-Identifier: Apache-2.0
"""A back end of plain numpy: runs a Program call by call, so that lowering is tested without a compiler."""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

from sparsec.compiler.lowering import ops
from sparsec.compiler.lowering.groups import split
from sparsec.compiler.lowering.kernel import Backend, Fallback, FallbackCall, KernelSpec

SIZES = {"channel": None, "scalar": 1}


@dataclass(frozen=True)
class Numpy:
    """Accepts one kind of op; its "packed" weight is the weight itself."""

    family: str
    kind: type

    def candidates(self, op, pattern, lanes):
        if isinstance(op, self.kind):
            yield KernelSpec(self.family, op, "dense", (), *LAYOUTS.get(self.kind, PLAIN)(op))

    def prepare(self, spec):
        return None

    def pack(self, spec, weight):
        return [weight]

    def cost(self, spec, weight, profile):
        return 1.0


def PLAIN(op):
    return (("plain",), "plain")


def _packed(op):
    inside = "channels4" if op.dtype == "uint8" else "plain"
    return ((inside,), "channels4" if op.epilogue.dtype == "uint8" else "plain")


LAYOUTS = {ops.Convolution: _packed, ops.Linear: _packed}


def _unpack(data, channels, positions):
    return data.reshape(-1, positions, 4).transpose(0, 2, 1).reshape(-1, positions)[:channels]


def _pack(array):
    channels, positions = array.shape
    full = np.zeros((-(-channels // 4) * 4, positions), array.dtype)
    full[:channels] = array
    return full.reshape(-1, 4, positions).transpose(0, 2, 1).reshape(-1)


class View:
    """Typed windows into the memories of a run."""

    def __init__(self, memory, ref):
        self.memory, self.ref = memory, ref

    def read(self, dtype, count):
        base = self.memory[self.ref.space, self.ref.index]
        size = np.dtype(dtype).itemsize * count
        assert self.ref.offset + size <= len(base), (self.ref, size, len(base))
        return np.frombuffer(base, dtype, count, self.ref.offset)

    def write(self, array):
        data = np.ascontiguousarray(array).tobytes()
        base = self.memory[self.ref.space, self.ref.index]
        assert self.ref.offset + len(data) <= len(base)
        base[self.ref.offset : self.ref.offset + len(data)] = data


def finish(epilogue, result, operands, channel_axis, packed):
    """Apply an epilogue to [C][N] (axis 0) or [N][C] (axis 1) and store it."""
    values = []
    for kind, view in zip(epilogue.operands, operands[:-1], strict=True):
        if kind == "scalar":
            values.append(view.read("float32", 1))
        elif kind == "channel":
            vector = view.read("float32", result.shape[channel_axis])
            values.append(vector[:, None] if channel_axis == 0 else vector[None])
        else:
            dtype = "uint8" if kind == "codes" else "float32"
            channels = packed or channel_axis == 0
            transposed = channels and channel_axis == 1
            shape = result.shape[::-1] if transposed else result.shape
            words = channels and kind == "codes"
            count = -(-shape[0] // 4) * 4 * shape[1] if words else result.size
            data = view.read(dtype, count)
            data = _unpack(data, *shape) if words else data.reshape(shape)
            values.append(data.T if transposed else data)
    out = epilogue.expression(result, *values)
    out = np.broadcast_to(out, result.shape).astype(epilogue.dtype)
    operands[-1].write(_pack(out.T if channel_axis == 1 else out) if packed else out)


def _convolution(spec, views):
    op = spec.op
    h, w = op.size
    weight_shape = (op.filters, op.channels // op.groups, *op.kernel)
    dtype = "int8" if op.dtype == "uint8" else "float32"
    weight = views[1].read(dtype, int(np.prod(weight_shape))).reshape(weight_shape).astype(np.float64)
    if op.dtype == "uint8":
        x = _unpack(views[0].read("uint8", -(-op.channels // 4) * 4 * h * w), op.channels, h * w)
    else:
        x = views[0].read("float32", op.channels * h * w)
    x = x.reshape(op.channels, h, w).astype(np.float64)
    top, left, bottom, right = op.pads
    x = np.pad(x, ((0, 0), (top, bottom), (left, right)), constant_values=op.pad_code)
    oh, ow = op.out_size
    out = np.zeros((op.filters, oh, ow))
    per, share = op.filters // op.groups, op.channels // op.groups
    for f in range(op.filters):
        group = f // per
        for c in range(share):
            for i in range(op.kernel[0]):
                for j in range(op.kernel[1]):
                    y0, x0 = i * op.dilation[0], j * op.dilation[1]
                    part = x[group * share + c, y0 :: op.stride[0], x0 :: op.stride[1]][:oh, :ow]
                    out[f] += weight[f, c, i, j] * part
    finish(op.epilogue, out.reshape(op.filters, -1).astype(np.float32), views[2:], 0, spec.output == "channels4")


def _linear(spec, views):
    op = spec.op
    if op.dtype == "uint8":
        x = _unpack(views[0].read("uint8", -(-op.inputs // 4) * 4 * op.positions), op.inputs, op.positions).T
        weight = views[1].read("int8", op.inputs * op.outputs)
    else:
        x = views[0].read("float32", op.positions * op.inputs).reshape(op.positions, op.inputs)
        weight = views[1].read("float32", op.inputs * op.outputs)
    out = x.astype(np.float64) @ weight.reshape(op.outputs, op.inputs).T.astype(np.float64)
    finish(op.epilogue, out.astype(np.float32), views[2:], 1, spec.output == "channels4")


def _grouped(spec, views):
    op = spec.op
    x = views[0].read("float32", op.positions * op.inputs).reshape(op.positions, op.inputs)
    words = views[1].read("uint32", op.inputs * op.outputs).reshape(op.outputs, op.inputs)
    out = x.astype(np.float64) @ split(words, op.group).values.T.astype(np.float64)
    finish(op.epilogue, out.astype(np.float32), views[2:], 1, False)


def _batch(spec, views):
    op = spec.op
    a = views[0].read("float32", op.a_batches * op.m * op.k).reshape(op.a_batches, op.m, op.k)
    b = views[1].read("float32", op.b_batches * op.k * op.n).reshape(op.b_batches, op.k, op.n)
    finish(op.epilogue, (a @ b).reshape(-1, op.n), views[2:], 1, False)


def _elementwise(spec, views):
    op = spec.op
    values = []
    for operand, view in zip(op.operands, views[:-1], strict=True):
        last = operand.offset + sum((d - 1) * s for d, s in zip(op.shape, operand.strides, strict=True))
        data = view.read(operand.dtype, last + 1)
        size = data.itemsize
        values.append(as_strided(data[operand.offset :], op.shape, [s * size for s in operand.strides]))
    plain = op.expression == ops.IDENTITY
    out = values[0] if plain else np.broadcast_to(op.expression(*values), op.shape)
    out = out.astype(op.dtype)
    strides = op.out_strides
    if strides is None:
        views[-1].write(out)
        return
    last = op.out_offset + sum((d - 1) * s for d, s in zip(op.shape, strides, strict=True))
    data = views[-1].read(op.dtype, last + 1).copy()
    as_strided(data[op.out_offset :], op.shape, [s * data.itemsize for s in strides])[...] = out
    views[-1].write(data)


def _rows(spec, views):
    op = spec.op
    x = views[0].read("float32", op.rows * op.columns).reshape(op.rows, op.columns)
    if isinstance(op, ops.Softmax):
        e = np.exp(x - x.max(1, keepdims=True))
        out = e / e.sum(1, keepdims=True)
        out = np.log(out) if op.log else out
    else:
        scale, shift = (v.read("float32", op.columns) for v in views[1:3])
        centred = x - x.mean(1, keepdims=True)
        out = centred / np.sqrt((centred**2).mean(1, keepdims=True) + op.epsilon) * scale + shift
    views[-1].write(out.astype(np.float32))


def _reduce(spec, views):
    op = spec.op
    x = views[0].read("float32", op.outer * op.axis * op.inner).reshape(op.outer, op.axis, op.inner)
    views[1].write(getattr(np, op.kind)(x, axis=1).astype(np.float32))


def _pool(spec, views):
    op = spec.op
    h, w = op.size
    x = views[0].read("float32", op.channels * h * w).reshape(op.channels, h, w)
    out = np.zeros((op.channels, *op.out_size), np.float32)
    for i in range(op.out_size[0]):
        for j in range(op.out_size[1]):
            rows = [i * op.stride[0] - op.pads[0] + k * op.dilation[0] for k in range(op.kernel[0])]
            columns = [j * op.stride[1] - op.pads[1] + k * op.dilation[1] for k in range(op.kernel[1])]
            picked = x[:, [r for r in rows if 0 <= r < h]][:, :, [c for c in columns if 0 <= c < w]]
            flat = picked.reshape(op.channels, -1)
            count = op.kernel[0] * op.kernel[1] if op.count_pad else flat.shape[1]
            out[:, i, j] = flat.max(1) if op.kind == "max" else flat.sum(1) / count
    views[1].write(out)


def _interpolate(spec, views):
    op = spec.op
    h, w = op.size
    x = views[0].read("float32", op.channels * h * w).reshape(op.channels, h, w)
    rows, columns = (
        (views[i].read("int32", n), views[i + 1].read("float32", n)) for i, n in zip((1, 3), op.out_size, strict=True)
    )
    upper, lower = (x[:, np.minimum(rows[0] + i, h - 1)] for i in (0, 1))
    tall = upper + rows[1][:, None] * (lower - upper)
    left, right = (tall[:, :, np.minimum(columns[0] + i, w - 1)] for i in (0, 1))
    views[-1].write((left + columns[1] * (right - left)).astype(np.float32))


def _cell(spec, views):
    op = spec.op
    n = op.hidden
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[op.kind]
    views = list(views)
    x = views.pop(0).read("float32", gates * n)
    weight = views.pop(0).read("float32", gates * n * n).reshape(gates * n, n)
    inner = views.pop(0).read("float32", n) if op.linear_before_reset else np.zeros(n, np.float32)
    h = views.pop(0).read("float32", n)
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    if op.kind == "rnn":
        views[0].write(np.tanh(x + weight @ h).astype(np.float32))
    elif op.kind == "gru":
        z, r = (sigmoid(x[i * n : i * n + n] + weight[i * n : i * n + n] @ h) for i in (0, 1))
        last = weight[2 * n :]
        after = r * (last @ h + inner) if op.linear_before_reset else last @ (r * h) + inner
        views[0].write(((1 - z) * np.tanh(x[2 * n :] + after) + z * h).astype(np.float32))
    else:
        out, c_in, c_out = views
        i, o, f, g = np.split(x + weight @ h, 4)
        c = sigmoid(f) * c_in.read("float32", n) + sigmoid(i) * np.tanh(g)
        out.write((sigmoid(o) * np.tanh(c)).astype(np.float32))
        c_out.write(c.astype(np.float32))


RUN = {
    ops.Convolution: _convolution,
    ops.Linear: _linear,
    ops.GroupedLinear: _grouped,
    ops.BatchMatMul: _batch,
    ops.Elementwise: _elementwise,
    ops.Softmax: _rows,
    ops.LayerNorm: _rows,
    ops.Reduce: _reduce,
    ops.Pool: _pool,
    ops.Interpolate: _interpolate,
    ops.RecurrentCell: _cell,
}


def fallback(node, constants):
    """A node as one call that onnxruntime computes."""
    symbol = f"node_{node.name}"
    inputs = [("input", i) for i, v in enumerate(node.inputs) if v is not None]
    outputs = [("output", i) for i, _ in enumerate([v for v in node.outputs if v.name])]
    return Fallback((FallbackCall(symbol, (*inputs, *outputs)),), {symbol: node})


KNOWN = frozenset({"Sin", "Transpose", "ReduceSum", "Softmax", "Identity"})
BACKEND = Backend("numpy", 4, {kind.__name__: Numpy(kind.__name__, kind) for kind in RUN}, {}, "numpy", fallback, KNOWN)


def _node(node, views):
    import onnx_ir as ir
    import onnxruntime as ort

    from sparsec.compiler.graph import dtype_of, shape_of

    present = [v for v in node.inputs if v is not None]
    unique = list(dict.fromkeys(present))
    fresh = {v: ir.Value(name=v.name, type=v.type, shape=v.shape) for v in unique}
    outs = [ir.Value(name=v.name, type=v.type, shape=v.shape) for v in node.outputs]
    copy = ir.Node(
        node.domain, node.op_type, [None if v is None else fresh[v] for v in node.inputs],
        list(node.attributes.values()), outputs=outs, name=node.name,
    )  # fmt: skip
    imports = node.graph.opset_imports
    graph = ir.Graph(list(fresh.values()), [v for v in outs if v.name], nodes=[copy], opset_imports=imports, name="one")
    proto = ir.to_proto(ir.Model(graph, ir_version=10))
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {}
    for value, view in zip(present, views, strict=False):
        shape = shape_of(value)
        feeds[value.name] = view.read(dtype_of(value), int(np.prod(shape))).reshape(shape)
    results = session.run(None, feeds)
    for array, view in zip(results, views[len(present) :], strict=True):
        view.write(array)


def run(program, feeds):
    """Outputs of a program by name."""
    memory = {("arena", 0): bytearray(program.arena_bytes), ("weights", 0): bytearray(program.weights)}
    for i, port in enumerate(program.inputs):
        array = np.ascontiguousarray(feeds[port.name])
        assert (array.shape, array.dtype.name) == (port.shape, port.dtype)
        memory["input", i] = bytearray(array.tobytes())
    for i, port in enumerate(program.outputs):
        memory["output", i] = bytearray(b"\xcc" * port.nbytes)
    for call in program.calls:
        views = [View(memory, ref) for ref in call.args]
        if call.symbol in program.specs:
            spec = program.specs[call.symbol]
            RUN[type(spec.op)](spec, views)
        else:
            _node(program.functions[call.symbol], views)
    return {
        port.name: np.frombuffer(memory["output", i], port.dtype).reshape(port.shape)
        for i, port in enumerate(program.outputs)
    }
