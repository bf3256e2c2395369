# SPDX-License-Identifier: Apache-2.0
"""Small transformers in ONNX's text form, as several exporters would write them, for the tests of token merging."""

import numpy as np

from sparsec.compiler.oracle import Oracle
from sparsec.compiler.pass_manager import PassManager
from sparsec.compiler.registry import parse_pass

WIDTH, HEADS = 8, 2
SEPARATE = """
  q{i} = MatMul (n{i}, wq{i})  qh{i} = Reshape (q{i}, split)  qt{i} = Transpose <perm = [0, 2, 1, 3]> (qh{i})
  k{i} = MatMul (n{i}, wk{i})  kh{i} = Reshape (k{i}, split)  kt{i} = Transpose <perm = [0, 2, 3, 1]> (kh{i})
  v{i} = MatMul (n{i}, wv{i})  vh{i} = Reshape (v{i}, split)  vt{i} = Transpose <perm = [0, 2, 1, 3]> (vh{i})
"""
FUSED = """
  all{i} = MatMul (n{i}, wqkv{i})  parts{i} = Reshape (all{i}, three)
  turned{i} = Transpose <perm = [2, 0, 3, 1, 4]> (parts{i})
  qt{i} = Gather <axis = 0> (turned{i}, zero)  kr{i} = Gather <axis = 0> (turned{i}, one)
  vt{i} = Gather <axis = 0> (turned{i}, two)  kt{i} = Transpose <perm = [0, 1, 3, 2]> (kr{i})
"""
HEADS_FIRST = """
  q{i} = MatMul (n{i}, wq{i})  qh{i} = Reshape (q{i}, rows)  qt{i} = Transpose <perm = [1, 0, 2]> (qh{i})
  k{i} = MatMul (n{i}, wk{i})  kh{i} = Reshape (k{i}, rows)  kt{i} = Transpose <perm = [1, 2, 0]> (kh{i})
  v{i} = MatMul (n{i}, wv{i})  vh{i} = Reshape (v{i}, rows)  vt{i} = Transpose <perm = [1, 0, 2]> (vh{i})
"""
TOKENS_FIRST = "  f{i} = Transpose <perm = [1, 0, 2]> (n{i})" + HEADS_FIRST.replace("(n{i}, ", "(f{i}, ")
FORMS = {"separate": SEPARATE, "fused": FUSED, "heads first": HEADS_FIRST, "tokens first": TOKENS_FIRST}
ATTEND = """
  s{i} = MatMul (qt{i}, kt{i})  a{i} = Mul (s{i}, root)  {mask}
  p{i} = Softmax <axis = -1> (m{i})
  c{i} = MatMul (p{i}, vt{i})  ct{i} = Transpose <perm = {back}> (c{i})  cj{i} = Reshape (ct{i}, join)
  o{i} = MatMul (cj{i}, wo{i})  r{i} = Add (o{i}, x{i})
  l{i} = LayerNormalization <axis = -1> (r{i}, scale)
  h{i} = MatMul (l{i}, w1{i})  g{i} = Relu (h{i})  y{i} = MatMul (g{i}, w2{i})
  x{next} = Add (y{i}, r{i})
"""
TAILS = {
    "tokens": "y = Identity (x{last})",
    "class": "y = Gather <axis = 1> (x{last}, zero)",
    "mean": "y = ReduceMean <keepdims = 0> (x{last}, token_axis)",
    "turned": "y = Transpose <perm = [0, 2, 1]> (x{last})",
    "flat": "z = Reshape (x{last}, flat) f = Relu (z) y = CumSum (f, zero)",
}
SHAPES = {"tokens": "1,{t},8", "class": "1,8", "mean": "1,8", "turned": "1,8,{t}", "flat": "{t},8"}


WEIGHTS = ("wq", "wk", "wv", "wo", "w1", "w2")


def builder(model_of, normal):
    """Builds a model of pre-norm blocks on an input x [1, tokens, 8]; their Softmax nodes are called p0, p1, ..."""

    def build(blocks=2, tokens=9, tail="tokens", form="separate", mask="m{i} = Identity (a{i})", masked="", **extra):
        flat = form.endswith("first")
        attend = ATTEND.replace("{mask}", mask).replace("{back}", "[1, 0, 2]" if flat else "[0, 2, 1, 3]")
        lines = ["n{i} = LayerNormalization <axis = -1> (x{i}, scale)" + FORMS[form] + attend] * blocks
        body = "\n".join(line.replace("{i}", str(i)).replace("{next}", str(i + 1)) for i, line in enumerate(lines))
        shape = SHAPES[tail].replace("{t}", str(tokens))
        end = TAILS[tail].replace("{last}", str(blocks))
        text = f"g (float[1,{tokens},8] x0{masked}) => (float[{shape}] y) {{\n{body}\n{end}\n}}"
        weights = {f"{w}{i}": normal(8, 8, seed=10 * i + n) for i in range(blocks) for n, w in enumerate(WEIGHTS)}
        weights |= {f"wqkv{i}": normal(8, 24, seed=10 * i + 9) for i in range(blocks)}
        numbers = {
            "split": np.array([1, tokens, HEADS, 4]),
            "rows": np.array([tokens, HEADS, 4]),
            "three": np.array([1, tokens, 3, HEADS, 4]),
            "join": np.array([1, tokens, WIDTH]),
            "root": np.float32(0.5),
            "scale": np.ones(8, np.float32),
            "token_axis": np.array([1]),
            "flat": np.array([tokens, WIDTH]),
            **{name: np.array(value) for value, name in enumerate(("zero", "one", "two"))},
        }
        return model_of(text, **{k: a for k, a in {**weights, **numbers, **extra}.items() if _used(k, text)})

    return build


def _used(name, text):
    return any(f"{name}{end}" in text for end in ("),", ")", ","))


def merge(model, options="r=2"):
    return PassManager([parse_pass(f"merge-tokens{{{options}}}")]).run(model)


def calls(model, op_type):
    return [node for node in model.graph if node.domain == "sparsec" and node.op_type == op_type]


def inputs(tokens=9, seed=5):
    return np.random.RandomState(seed).standard_normal((1, tokens, 8)).astype(np.float32)


def values_of(model, names, **feeds):
    found = Oracle(model, names).run(feeds)
    return [found[name] for name in names]
