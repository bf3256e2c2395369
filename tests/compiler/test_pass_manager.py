# SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as ir_passes
import pytest

from sparsec.compiler.calibration import Calibration
from sparsec.compiler.errors import DataError, ModelError, PassError, RecipeError
from sparsec.compiler.options import build, parse_call, unknown
from sparsec.compiler.pass_manager import (
    Instrument,
    LayerRecord,
    Pass,
    PassContext,
    PassManager,
    PassResult,
)

TEXT = '<ir_version: 10, opset_import: ["": 21]>\ng (float[2] x) => (float[2] y) { h = Relu(x) y = Neg(h) }'


@dataclass(frozen=True)
class Tune(Pass):
    name: ClassVar[str] = "tune"
    steps: int
    rate: float = 0.5
    fast: bool = False
    mode: Literal["near", "far"] = "near"
    label: str = "x"
    ignore: tuple[str, ...] = ()

    def run(self, model, context):
        model.graph[0].name = f"tuned by {self.steps}"
        return PassResult(model, True, (LayerRecord("h", "tuned"),))


@dataclass(frozen=True)
class Fail(Pass):
    name: ClassVar[str] = "fail"
    kind: ClassVar[Exception] = ValueError("boom")

    def run(self, model, context):
        raise self.kind


@pytest.fixture
def model():
    return ir.from_onnx_text(TEXT)


@pytest.mark.parametrize(
    "step",
    [
        Tune(3),
        Tune(-1, rate=1e-7, fast=True, mode="far", label="two words", ignore=("a", "b c", "*[0]", 'q"', "ö", "")),
        Tune(0, label="null", ignore=("true", "1")),
    ],
)
def test_text_form_is_read_back(step):
    name, options = parse_call(str(step))
    assert name == "tune"
    assert build(Tune, name, options) == step


def test_text_form_looks_so():
    assert str(Tune(3, ignore=("a", "b*"))) == "tune{steps=3 rate=0.5 fast=false mode=near label=x ignore=[a,b*]}"
    assert parse_call(" prune-blocks{ rows = 4,cols=1 ignore=[a, b] } ") == (
        "prune-blocks",
        {"rows": "4", "cols": "1", "ignore": ["a", "b"]},
    )
    assert parse_call("fold-constants{}") == ("fold-constants", {})


HINT = "; expected a form such as 'prune-blocks{rows=4 density=0.5}'."
MALFORMED = {
    "": "a pass name comes first",
    "{a=1}": "a pass name comes first",
    "tune{steps=1": "options stand between '{' and '}'",
    "tune steps=1": "options stand between '{' and '}'",
    "tune{steps}": "'steps' is not of the form option=value",
    "tune{steps=}": "option 'steps' has no value, or a list without its ']'",
    "tune{ignore=[a}": "option 'ignore' has no value, or a list without its ']'",
    "tune{steps=1 steps=2}": "option 'steps' is given twice",
    'tune{label="open}': "the character '\"' does not fit",
}


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_text_gives_this_message(text):
    with pytest.raises(RecipeError) as caught:
        parse_call(text)
    assert str(caught.value) == f"Pass text '{text}': {MALFORMED[text]}{HINT}"


BAD = {
    "tune": "Pass 'tune': option 'steps' is missing; it has no default.",
    "tune{steps=1.5}": "Pass 'tune': option 'steps' is 1.5, expected an integer.",
    "tune{steps=true}": "Pass 'tune': option 'steps' is true, expected an integer.",
    "tune{steps=1 rate=fast}": "Pass 'tune': option 'rate' is fast, expected a number.",
    "tune{steps=1 rate=nan}": "Pass 'tune': option 'rate' is nan, expected a number.",
    "tune{steps=1 fast=1}": "Pass 'tune': option 'fast' is 1, expected true or false.",
    "tune{steps=1 mode=nera}": "Pass 'tune', option 'mode': Unknown value 'nera'; expected one of: far, near. "
    "Did you mean 'near'?",
    "tune{steps=1 label=[a]}": "Pass 'tune': option 'label' is ['a'], expected a text.",
    "tune{step=1}": "Pass 'tune': Unknown option 'step'; expected one of: fast, ignore, label, mode, rate, steps. "
    "Did you mean 'steps'?",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_option_gives_this_message(text):
    with pytest.raises(RecipeError) as caught:
        build(Tune, *parse_call(text))
    assert str(caught.value) == BAD[text]


def test_typed_options_are_not_converted():
    assert build(Tune, "tune", {"steps": 1, "rate": 1, "ignore": ["a"]}) == Tune(1, 1.0, ignore=("a",))
    with pytest.raises(RecipeError, match="option 'steps' is 1, expected an integer"):
        build(Tune, "tune", {"steps": "1"})
    with pytest.raises(RecipeError, match=r"option 'ignore' is .*, expected a list of texts"):
        build(Tune, "tune", {"steps": 1, "ignore": [1]})


def test_manager_runs_in_order_on_a_copy(model):
    progress = []
    context = PassContext(reporter=lambda *seen: progress.append(seen))
    result = PassManager([Tune(1), Tune(2)]).run(model, context)
    assert next(node.name for node in result.model.graph) == "tuned by 2"
    assert not any((node.name or "").startswith("tuned") for node in model.graph)
    assert [(step.name, step.changed) for step in result.steps] == [("tune", True)] * 2
    assert result.steps[0].records == (LayerRecord("h", "tuned"),)
    assert result.changed
    assert progress == [("tune", 0, 2), ("tune", 1, 2)]


def test_passes_of_onnx_ir_stand_in_a_pipeline(model):
    manager = PassManager([ir_passes.CommonSubexpressionEliminationPass(), Tune(1)])
    assert str(manager).startswith("common-subexpression-elimination,tune{")
    assert [step.name for step in manager.run(model).steps] == ["common-subexpression-elimination", "tune"]


def test_empty_pipeline_changes_nothing(model):
    result = PassManager([]).run(model)
    assert not result.changed
    assert [node.op_type for node in result.model.graph] == ["Relu", "Neg"]


FAILURES = [
    (ValueError("boom"), PassError, "Pass 'fail' failed with ValueError: boom Ran before it: tune."),
    (PassError("Pass 'fail' on 'h': no."), PassError, "Pass 'fail' on 'h': no. Ran before it: tune."),
    (ModelError("Value 'h' is odd."), ModelError, "Pass 'fail': Value 'h' is odd. Ran before it: tune."),
    (KeyError(), PassError, "Pass 'fail' failed with KeyError: KeyError Ran before it: tune."),
]


@pytest.mark.parametrize(("error", "kind", "message"), FAILURES)
def test_failure_names_the_pass_and_what_had_run(error, kind, message, model):
    step = type("Broken", (Fail,), {"kind": error})()
    with pytest.raises(kind) as caught:
        PassManager([Tune(1), step]).run(model)
    assert type(caught.value) is kind
    assert str(caught.value) == message
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("functional", [False, True])
def test_a_pass_that_forgets_to_say_so_has_still_changed_the_model(functional, model):
    @dataclass(frozen=True)
    class Forget(Pass):
        name: ClassVar[str] = "forget"
        op_type: str

        def run(self, model, context):
            model = model.clone() if functional else model
            model.graph[0].op_type = self.op_type
            return PassResult(model, False)

    result = PassManager([Forget("Relu"), Forget("Abs"), Forget("Abs")]).run(model)
    assert [step.changed for step in result.steps] == [False, True, False]


def test_requirements_are_checked_before_anything_runs(model):
    ran = []

    class Watch(Instrument):
        def start(self, model, context):
            ran.append("start")

    needy = type("Needy", (Fail,), {"name": "needy", "requires": ("calibration",)})()
    with pytest.raises(PassError, match=r"Pass 'needy' needs calibration data\. Give --calibration FILE\.npz"):
        PassManager([Tune(1), needy], [Watch()]).run(model)
    odd = type("Odd", (Fail,), {"name": "odd", "requires": ("moon",)})()
    with pytest.raises(PassError, match="Pass 'odd' requires unknown 'moon'"):
        PassManager([odd], [Watch()]).run(model)
    assert ran == []


def test_instruments_see_every_pass(model):
    seen = []

    class Watch(Instrument):
        def start(self, model, context):
            seen.append("start")

        def before(self, step, model, context):
            seen.append(f"before {step.name}")

        def after(self, step, result, context):
            seen.append(f"after {step.name} {result.changed}")

    PassManager([Tune(1)], [Watch()]).run(model)
    assert seen == ["start", "before tune", "after tune True"]


@dataclass(frozen=True)
class Staged(Pass):
    name: ClassVar[str] = "prune-some"
    stage: ClassVar[str] = "prune"
    seen: ClassVar[list] = []

    def run(self, model, context):
        self.seen.append(context.original)
        model.graph[0].name = "pruned"
        return PassResult(model, True)


@dataclass(frozen=True)
class Late(Staged):
    name: ClassVar[str] = "quantize-some"
    stage: ClassVar[str] = "quantize"


@dataclass(frozen=True)
class Exact(Staged):
    name: ClassVar[str] = "rewrite"
    stage: ClassVar[str] = ""
    exact: ClassVar[bool] = True

    def run(self, model, context):
        model.graph[0].name = "rewritten"
        return PassResult(model, True)


def test_pruning_after_quantizing_is_refused_with_the_order_that_works(model):
    with pytest.raises(RecipeError) as caught:
        PassManager([Late(), Exact(), Staged()]).run(model)
    assert str(caught.value) == (
        "Pass 'prune-some' stands after 'quantize-some', which has to come later. "
        "This order works: prune-some, quantize-some."
    )
    assert PassManager([Staged(), Late(), Exact()]).run(model).changed


def test_passes_see_the_model_before_the_first_that_loses_anything(model):
    Staged.seen.clear()
    PassManager([Exact(), Staged(), Late()]).run(model)
    assert [seen.graph[0].name for seen in Staged.seen] == ["rewritten", "rewritten"]


@dataclass(frozen=True)
class Optional(Tune):
    name: ClassVar[str] = "optional"
    depth: int | None = None
    share: float | None = None


@pytest.mark.parametrize("step", [Optional(1), Optional(1, depth=0), Optional(1, share=0.5), Optional(1, 0.5, depth=3)])
def test_an_option_that_was_not_given_is_left_out_of_the_text(step):
    text = str(step)
    name, options = parse_call(text)
    assert build(Optional, name, options) == step
    assert ("depth" in text, "share" in text) == (step.depth is not None, step.share is not None)


def test_an_option_that_may_be_left_out_has_a_type_all_the_same():
    with pytest.raises(RecipeError) as caught:
        build(Optional, *parse_call("optional{steps=1 depth=deep}"))
    assert str(caught.value) == "Pass 'optional': option 'depth' is deep, expected an integer."


@dataclass(frozen=True)
class Measures(Staged):
    name: ClassVar[str] = "measure-some"
    requires: ClassVar[tuple[str, ...]] = ("calibration",)
    least: int = 3

    def least_samples(self):
        return self.least


def test_samples_are_counted_before_anything_runs(model):
    Staged.seen.clear()
    context = PassContext(calibration=Calibration({"x": np.float32([[1, 2], [3, 4]])}))
    with pytest.raises(DataError) as caught:
        PassManager([Staged(), Measures()]).run(model, context)
    assert str(caught.value) == "Pass 'measure-some': Calibration has 2 samples, expected at least 3."
    assert not Staged.seen
    assert PassManager([Staged(), Measures(least=2)]).run(model, context).changed


def test_samples_are_compared_with_the_inputs_before_anything_runs(model):
    Staged.seen.clear()
    context = PassContext(calibration=Calibration({"z": np.ones((9, 2), np.float32)}))
    with pytest.raises(DataError, match=r"^Pass 'measure-some': Calibration does not fit the model's inputs \(x\)"):
        PassManager([Staged(), Measures()]).run(model, context)
    assert not Staged.seen


def test_a_name_that_is_there_twice_is_listed_once():
    assert unknown("layer", "zz", ["b", "a", "b"]) == "Unknown layer 'zz'; expected one of: a, b."
