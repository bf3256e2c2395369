# SPDX-License-Identifier: Apache-2.0
"""Small networks, one for each way in which channels can hang together; weights from a seed."""

import numpy as np
import onnx_ir as ir

from sparsec.compiler.importers.onnx import load_onnx

_NETWORKS: dict[str, tuple[str, dict[str, tuple[int, ...]], dict[str, list[int]]]] = {
    "chain": (
        """g (float[1,3,6,6] x) => (float[1,5,6,6] y)
        { a = Conv <pads=[1,1,1,1]> (x, w1, b1) r = Relu(a) y = Conv (r, w2) }""",
        {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (5, 16, 1, 1)},
        {},
    ),
    "residual": (
        """g (float[1,3,6,6] x) => (float[1,7] y) {
        a = Conv <pads=[1,1,1,1]> (x, stem) n = BatchNormalization (a, scale, shift, mean, variance) s = Relu(n)
        e = Conv (s, expand, eb) h = HardSwish(e)
        d = Conv <group=24, pads=[1,1,1,1]> (h, depthwise, db) c = Clip(d, low, high)
        p = Conv (c, project) t = Add(p, s) g = GlobalAveragePool(t) f = Flatten(g)
        y = Gemm <transB=1> (f, head, hb) }""",
        {
            **{"stem": (12, 3, 3, 3), "scale": (12,), "shift": (12,), "mean": (12,), "+variance": (12,)},
            **{"expand": (24, 12, 1, 1), "eb": (24,), "depthwise": (24, 1, 3, 3), "db": (24,)},
            **{"project": (12, 24, 1, 1), "head": (7, 12), "hb": (7,)},
        },
        {"f:low": [0], "f:high": [6]},
    ),
    "concat": (
        """g (float[1,4,5,5] x) => (float[1,6,5,5] y) {
        a = Conv (x, w1) b = Conv (x, w2) ra = Relu(a) c = Concat <axis=1> (ra, b, x) y = Conv (c, w3) }""",
        {"w1": (8, 4, 1, 1), "w2": (12, 4, 1, 1), "w3": (6, 24, 1, 1)},
        {},
    ),
    "split": (
        """g (float[1,4,5,5] x) => (float[1,6,5,5] y) {
        a = Conv (x, w1, b1) u, v = Split <axis=1> (a, sizes) s = Sigmoid(v) m = Mul(u, s) y = Conv (m, w2) }""",
        {"w1": (16, 4, 1, 1), "b1": (16,), "w2": (6, 8, 1, 1)},
        {"sizes": [8, 8]},
    ),
    "uneven split": (
        """g (float[1,4,5,5] x) => (float[1,6,5,5] y, float[1,3,5,5] z) {
        a = Conv (x, w1) u, v = Split <axis=1> (a, sizes) y = Conv (u, w2) z = Conv (v, w3) }""",
        {"w1": (20, 4, 1, 1), "w2": (6, 8, 1, 1), "w3": (3, 12, 1, 1)},
        {"sizes": [8, 12]},
    ),
    "slice": (
        """g (float[1,4,5,5] x) => (float[1,6,5,5] y) {
        a = Conv (x, w1) u = Slice (a, zero, eight, one, one) v = Slice (a, eight, end, one, one)
        c = Concat <axis=1> (v, u) y = Conv (c, w2) }""",
        {"w1": (20, 4, 1, 1), "w2": (6, 20, 1, 1)},
        {"zero": [0], "eight": [8], "end": [1000], "one": [1]},
    ),
    "flatten": (
        """g (float[1,2,6,6] x) => (float[1,5] y) {
        a = Conv (x, w1, b1) r = Relu(a) p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (r) f = Flatten(p)
        h = Gemm <transB=1> (f, w2, b2) t = Tanh(h) y = Gemm (t, w3) }""",
        {"w1": (8, 2, 3, 3), "b1": (8,), "w2": (16, 32), "b2": (16,), "w3": (16, 5)},
        {},
    ),
    "grouped": (
        """g (float[1,6,5,5] x) => (float[1,5,5,5] y) {
        a = Conv (x, w1) g = Conv <group=4, pads=[1,1,1,1]> (a, w2, b2) r = Relu(g) y = Conv (r, w3) }""",
        {"w1": (12, 6, 1, 1), "w2": (16, 3, 3, 3), "b2": (16,), "w3": (5, 16, 1, 1)},
        {},
    ),
    "shuffle": (
        """g (float[1,6,5,5] x) => (float[1,5,5,5] y) {
        a = Conv <group=2> (x, w1) s = Reshape (a, apart) t = Transpose <perm=[0,2,1,3,4]> (s)
        m = Reshape (t, together) d = Conv <group=12> (m, w2) y = Conv (d, w3) }""",
        {"w1": (12, 3, 1, 1), "w2": (12, 1, 1, 1), "w3": (5, 12, 1, 1)},
        {"apart": [1, 2, 6, 5, 5], "together": [1, 12, 5, 5]},
    ),
    "transposed convolution": (
        """g (float[1,3,4,4] x) => (float[1,2,8,8] y) {
        a = Conv (x, w1) u = ConvTranspose <strides=[2,2], kernel_shape=[2,2]> (a, w2, b2) r = Relu(u)
        y = Conv (r, w3) }""",
        {"w1": (8, 3, 1, 1), "w2": (8, 12, 2, 2), "b2": (12,), "w3": (2, 12, 1, 1)},
        {},
    ),
    "depth to space": (
        """g (float[1,3,4,4] x) => (float[1,2,8,8] y) {
        a = Conv (x, w1, b1) u = DepthToSpace <blocksize=2> (a) y = Conv (u, w2) }""",
        {"w1": (32, 3, 1, 1), "b1": (32,), "w2": (2, 8, 1, 1)},
        {},
    ),
    "upsampled": (
        """g (float[1,3,4,4] x) => (float[1,2,8,8] y) {
        a = Conv (x, w1) u = Resize <mode="linear"> (a, , , sizes) t = Tile (u, once) p = Pad (t, amounts, zero, space)
        e = Expand (p, whole) y = Conv (e, w2) }""",
        {"w1": (16, 3, 1, 1), "w2": (2, 16, 3, 3)},
        {
            **{"sizes": [1, 16, 8, 8], "once": [1, 1, 1, 1], "amounts": [1, 1, 1, 1], "f:zero": [0], "space": [2, 3]},
            "whole": [1, 16, 10, 10],
        },
    ),
    "quantized activations": (
        """g (float[1,3,4,4] x) => (float[1,2,4,4] y) {
        a = Conv (x, w1) q = QuantizeLinear (a, s, z) d = DequantizeLinear (q, s, z) b = Conv (d, w2) r = Relu(b)
        p = QuantizeLinear <axis=1> (r, channel_scales) e = DequantizeLinear <axis=1> (p, channel_scales)
        y = Conv (e, w3) }""",
        {"w1": (8, 3, 1, 1), "w2": (12, 8, 1, 1), "+channel_scales": (12,), "w3": (2, 12, 1, 1)},
        {"f:s": [0.05], "u:z": [128]},
    ),
    "embedding": (
        """g (float[1,7] f) => (float[1,7,5] y) { x = Cast <to=7> (f)
        t = Gather (table, x) a = MatMul(t, w1) r = Tanh(a) b = MatMul(r, w2) s = Add(t, b) y = MatMul(s, head) }""",
        {"table": (9, 12), "w1": (12, 24), "w2": (24, 12), "head": (12, 5)},
        {},
    ),
    "maps normalized and spread": (
        """g (float[1,3,4,4] x) => (float[1,2,8,8] y) {
        a = Conv (x, w1) n = InstanceNormalization (a, s, b) u = DepthToSpace <blocksize=2, mode="CRD"> (n)
        z = Greater (u, zero) k = Where (z, u, c) y = Conv (k, w2) }""",
        {"w1": (32, 3, 1, 1), "s": (32,), "b": (32,), "c": (8, 1, 1), "w2": (2, 8, 1, 1)},
        {"f:zero": [0]},
    ),
    "vector": (
        """g (float[1,7,12] x) => (float[1,7] y) {
        a = MatMul(x, w1) r = Relu(a) b = MatMul(r, w2) t = Tanh(b) y = MatMul(t, v) }""",
        {"w1": (12, 16), "w2": (16, 24), "v": (24,)},
        {},
    ),
    "gate": (
        """g (float[1,3,4,4] x) => (float[1,2,4,4] y) {
        a = Conv (x, w1) p = GlobalAveragePool(a) s = Conv (p, w2, b2) r = Relu(s) e = Conv (r, w3, b3)
        h = HardSigmoid(e) m = Mul(a, h) y = Conv (m, w4) }""",
        {
            **{"w1": (16, 3, 1, 1), "w2": (8, 16, 1, 1), "b2": (8,), "w3": (16, 8, 1, 1), "b3": (16,)},
            "w4": (2, 16, 1, 1),
        },
        {},
    ),
    "attention": (
        """g (float[1,7,12] x) => (float[1,7,5] y) {
        n = LayerNormalization <axis=-1> (x, ln, lb)
        q0 = MatMul(n, wq) q1 = Add(q0, bq) q2 = Reshape(q1, apart) q = Transpose <perm=[0,2,1,3]> (q2)
        k0 = MatMul(n, wk) k1 = Add(bk, k0) k2 = Reshape(k1, apart) k = Transpose <perm=[0,2,3,1]> (k2)
        v0 = MatMul(n, wv) v1 = Add(v0, bv) v2 = Reshape(v1, apart) v = Transpose <perm=[0,2,1,3]> (v2)
        s0 = MatMul(q, k) s = Mul(s0, root) p = Softmax <axis=-1> (s) c0 = MatMul(p, v)
        c1 = Transpose <perm=[0,2,1,3]> (c0) c = Reshape(c1, together) o = MatMul(c, wo)
        t = Add(o, x) f0 = MatMul(t, w1) f1 = Add(f0, b1) e = Erf(f1) f = MatMul(e, w2) z = Add(f, t)
        y = MatMul(z, head) }""",
        {
            **{"ln": (12,), "lb": (12,), "wq": (12, 32), "bq": (32,), "wk": (12, 32), "bk": (32,)},
            **{"wv": (12, 32), "bv": (32,), "wo": (32, 12), "w1": (12, 24), "b1": (24,), "w2": (24, 12)},
            "head": (12, 5),
        },
        {"apart": [0, 0, 4, 8], "together": [0, 0, -1], "f:root": [0.35]},
    ),
    "fused attention": (
        """g (float[1,7,12] x) => (float[1,7,5] y) {
        a = MatMul(x, wqkv) b = Add(a, bqkv) r = Reshape(b, apart) t = Transpose <perm=[2,0,3,1,4]> (r)
        q = Gather <axis=0> (t, i0) k0 = Gather <axis=0> (t, i1) v = Gather <axis=0> (t, i2)
        k = Transpose <perm=[0,1,3,2]> (k0) s0 = MatMul(q, k) s = Mul(s0, root) p = Softmax <axis=-1> (s)
        c0 = MatMul(p, v) c1 = Transpose <perm=[0,2,1,3]> (c0) c = Reshape(c1, together) y = MatMul(c, wo) }""",
        {"wqkv": (12, 96), "bqkv": (96,), "wo": (32, 5)},
        {"apart": [1, 7, 3, 4, 8], "together": [1, 7, 32], "s:i0": [0], "s:i1": [1], "s:i2": [2], "f:root": [0.35]},
    ),
    "rotary, grouped queries": (
        """g (float[1,7,12] x) => (float[1,7,5] y) {
        a = MatMul(x, w) q0, k0, v0 = Split <axis=-1> (a, sizes)
        q1 = Reshape(q0, many) q = Transpose <perm=[0,2,1,3]> (q1)
        k1 = Reshape(k0, few) k = Transpose <perm=[0,2,1,3]> (k1)
        v1 = Reshape(v0, few) v = Transpose <perm=[0,2,1,3]> (v1)
        ql, qh = Split <axis=-1> (q, halves) qn = Neg(qh) qr = Concat <axis=-1> (qn, ql)
        qc = Mul(q, cos) qs = Mul(qr, sin) qo = Add(qc, qs)
        kl, kh = Split <axis=-1> (k, halves) kn = Neg(kh) kr = Concat <axis=-1> (kn, kl)
        kc = Mul(k, cos) ks = Mul(kr, sin) ko = Add(kc, ks)
        ku = Unsqueeze(ko, two) ke = Expand(ku, wide) kk = Reshape(ke, all)
        vu = Unsqueeze(v, two) ve = Expand(vu, wide) vv = Reshape(ve, all)
        kt = Transpose <perm=[0,1,3,2]> (kk) s = MatMul(qo, kt) p = Softmax <axis=-1> (s) c0 = MatMul(p, vv)
        c1 = Transpose <perm=[0,2,1,3]> (c0) c = Reshape(c1, together) y = MatMul(c, wo) }""",
        {"w": (12, 64), "cos": (7, 8), "sin": (7, 8), "wo": (32, 5)},
        {
            **{"sizes": [32, 16, 16], "many": [1, 7, 4, 8], "few": [1, 7, 2, 8], "halves": [4, 4], "two": [2]},
            **{"wide": [1, 2, 2, 7, 8], "all": [1, 4, 7, 8], "together": [1, 7, 32]},
        },
    ),
    "gated neurons": (
        """g (float[1,7,12] x) => (float[1,7,12] y) {
        a = MatMul(x, wg) s = Sigmoid(a) g = Mul(a, s) b = MatMul(x, wu) m = Mul(g, b) y = MatMul(m, wd) }""",
        {"wg": (12, 32), "wu": (12, 32), "wd": (32, 12)},
        {},
    ),
    "tokens of patches": (
        """g (float[1,3,8,8] x) => (float[1,17,5] y) {
        a = Conv <strides=[2,2]> (x, w1, b1) r = Reshape(a, flat) t = Transpose <perm=[0,2,1]> (r)
        c = Concat <axis=1> (cls, t) p = Add(c, pos) h0 = MatMul(p, w2) h = Relu(h0) y = MatMul(h, w3) }""",
        {
            **{"w1": (12, 3, 2, 2), "b1": (12,), "cls": (1, 1, 12), "pos": (1, 17, 12), "w2": (12, 16)},
            "w3": (16, 5),
        },
        {"flat": [1, 12, 16]},
    ),
}
NETWORKS = tuple(_NETWORKS)


def network(name: str, seed: int = 0) -> ir.Model:
    """One of `NETWORKS`, imported."""
    graph, weights, constants = _NETWORKS[name]
    random = np.random.RandomState(seed)
    tensors = []
    for key, shape in weights.items():
        array = random.standard_normal(shape).astype(np.float32)
        tensors.append(ir.tensor(np.abs(array) + 0.5 if key[0] == "+" else array, name=key.lstrip("+")))
    for key, numbers in constants.items():
        kind, _, bare = key.rpartition(":")
        array = np.array(numbers, {"f": np.float32, "u": np.uint8}.get(kind, np.int64))
        tensors.append(ir.tensor(array.reshape(()) if kind else array, name=bare))
    text = f'<ir_version: 10, opset_import: ["": 21]>\n{graph}'
    return load_onnx(ir.from_onnx_text(text, initializers=tensors))
