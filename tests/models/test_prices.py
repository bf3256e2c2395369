# SPDX-License-Identifier: Apache-2.0
"""A sparse build is never dearer than the dense build of the same model and precision, on any target.

Only predicted prices are compared: every small model of the catalog is compressed both ways and lowered for every
target, and no kernel is built.
"""

from dataclasses import replace
from functools import cache

import pytest

from sparsec.compiler import driver, report
from sparsec.compiler.target import FEATURES, Target
from sparsec.models.catalog import find

SMALL = ("digits", "tiny-cnn", "tiny-transformer")
TARGETS = [Target(name, chosen) for name, features in FEATURES.items() for chosen in ((), features)]
PRUNED = "prune-blocks{rows=4 cols=4 density=0.5}"
WAYS = {
    "int8": (("int8", ()), ("sparse-int8", ())),
    "float32": ((None, ()), (None, (PRUNED,))),
}
"""By precision, recipe and passes of the dense build and of the sparse one."""


@cache
def compressed(name, recipe, passes):
    model = find(name)
    calibration = model.inputs("calibration", 32) if recipe or passes else None
    job = driver.job(model.build(), "x86", recipe, calibration, model.shapes, passes=passes)
    return driver.compress(job), job


def lowered(name, target, way):
    found, job = compressed(name, *way)
    return driver.lower(found, replace(job, target=target))


@pytest.mark.parametrize("precision", WAYS)
@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_sparse_is_never_dearer_than_dense(name, target, precision):
    dense, sparse = (report.totals(lowered(name, target, way).layers) for way in WAYS[precision])
    assert sparse["price"] <= dense["price"] * (1 + 1e-9)
    assert (sparse["layers"], sparse["unpriced"]) == (dense["layers"], dense["unpriced"])
    assert dense["sparse"] == 0


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_no_layer_is_dearer_than_its_rival(name, target):
    for layer in lowered(name, target, WAYS["int8"][1]).layers:
        if layer.rival_price is not None:
            assert layer.price <= layer.rival_price
        if layer.refused:
            assert layer.price == layer.rival_price
