# SPDX-License-Identifier: Apache-2.0
"""The table of recipes is what its script writes, and says what is not in it."""

import json

from benchmarks import recipes
from sparsec.compiler.errors import DataError, PassError
from sparsec.compiler.recipe import built_in
from sparsec.models.catalog import MODELS

RAN = {"correlation": 0.5, "weights": 0.25, "macs": 1.0, "seconds": 2.0}


def test_the_page_is_what_the_script_writes():
    results = json.loads(recipes.RESULTS.read_text("utf-8"))
    assert (
        recipes.DOC.read_text("utf-8").partition(recipes.MARK)[2] == recipes._table(results).partition(recipes.MARK)[2]
    )


def test_too_few_samples_are_told_apart_from_what_does_not_apply(monkeypatch):
    found = {}
    for kind in (DataError, PassError):
        monkeypatch.setattr(recipes.driver, "compress", _raising(kind("Pass 'recover': why. Ran before it: quantize.")))
        found[kind] = recipes._tried("int8", MODELS["tiny-cnn"])
    assert recipes._line("int8", "tiny-cnn", found[DataError]) == (
        "| int8 | tiny-cnn | too few samples: Pass 'recover': why. | | | |"
    )
    assert recipes._line("int8", "tiny-cnn", found[PassError]) == (
        "| int8 | tiny-cnn | does not apply: Pass 'recover': why. | | | |"
    )


def test_a_recipe_whose_passes_leave_all_layers_alone_does_not_apply(monkeypatch):
    passes, job = ["quantize{ignore=[*]}"], recipes.driver.job
    monkeypatch.setattr(
        recipes.driver, "job", lambda model, target, recipe, *more: job(model, target, None, *more, passes=passes)
    )
    assert recipes._tried("int8", MODELS["tiny-cnn"]) == {
        "refused": "'quantize' left all layers alone: it is in 'ignore'"
    }


def _raising(error):
    def compress(job):
        raise error

    return compress


def test_a_partial_table_says_what_is_left_out_and_why():
    pairs = {f"{recipe} {model}": RAN for recipe in built_in() for model in MODELS}
    assert recipes._gaps(pairs) == ""
    some = {key: RAN for key in pairs if "smollm2" not in key and key not in ("int8 digits", "tome digits")}
    assert recipes._gaps(some) == (
        f"The table is partial: it has {len(some)} of {len(pairs)} pairs. Left out:\n\n"
        "- digits, int8, tome: a run takes, or is expected to take, longer than the three minutes it was given.\n"
        "- smollm2, all recipes: a run takes up to an hour and a half and 22 GB of memory; its rows are in "
        "[accuracy](accuracy.md).\n"
    )
