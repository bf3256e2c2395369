# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from sparsec.compiler.calibration import Calibration
from sparsec.compiler.errors import RecipeError
from sparsec.compiler.layers import layers
from sparsec.compiler.pass_manager import PassContext, PassManager
from sparsec.compiler.pattern import Block
from sparsec.compiler.registry import parse_pass
from sparsec.passes.column_sweep import damped, inverse_diagonal, output_error, refit
from sparsec.passes.greedy_blocks import greedy_mask, spend, trace, traces_within


def normal(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape)


def correlated(inputs, seed=1):
    x = (
        normal(400, inputs, seed=seed)
        @ np.linalg.cholesky(0.8 ** np.abs(np.subtract.outer(*[np.arange(inputs)] * 2))).T
    )
    return 2 / len(x) * x.T @ x


def test_each_step_costs_what_refitting_without_the_block_costs():
    panel, hessian = normal(2, 12), correlated(12)
    safe = damped(hessian)
    steps = trace(panel, np.linalg.inv(safe), 2, 5)
    mask, before = np.ones((2, 12), bool), 0.0
    for block, cost in steps:
        costs = {}
        for other in range(6):
            if mask[0, 2 * other]:
                tried = mask.copy()
                tried[:, 2 * other : 2 * other + 2] = False
                change = panel - refit(panel, hessian, tried)
                costs[other] = np.einsum("oi,ij,oj->", change, safe, change)
        assert min(costs, key=costs.get) == block
        assert cost == pytest.approx(costs[block] - before, rel=1e-6)
        before = costs[block]
        mask[:, 2 * block : 2 * block + 2] = False


def test_without_correlation_the_smallest_blocks_go():
    weights = normal(8, 24)
    found = greedy_mask(weights, 2 * np.eye(24), Block(2, 4), 0.5)
    np.testing.assert_array_equal(found, Block(2, 4).project(weights**2, 0.5))


@pytest.mark.parametrize("pattern", [Block(4, 4), Block(1, 4), Block(4, 1), Block(1, 1)])
def test_makes_less_error_than_choosing_all_at_once(pattern):
    weights, hessian = normal(16, 48), correlated(48)
    masks = (
        pattern.project(weights**2 / inverse_diagonal(hessian), 0.4),
        greedy_mask(weights, hessian, pattern, 0.4),
    )
    assert pattern.check(masks[1])
    assert masks[1].sum() == masks[0].sum()
    errors = [output_error(weights - refit(weights, hessian, mask), hessian) for mask in masks]
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize(("out", "inputs"), [(7, 13), (8, 12), (3, 5)])
def test_edges_that_cut_blocks(out, inputs):
    pattern = Block(4, 4)
    found = greedy_mask(normal(out, inputs), correlated(inputs), pattern, 0.5)
    assert pattern.check(found)
    total = -(-out // 4) * -(-inputs // 4)
    assert pattern.blocks(found).sum() == max(1, round(0.5 * total))


def test_a_row_scope_keeps_as_many_in_each_row():
    found = greedy_mask(normal(8, 32), correlated(32), Block(2, 4), 0.25, scope="row")
    assert (Block(2, 4).blocks(found).sum(axis=1) == 2).all()


def test_a_budget_is_spent_on_the_cheapest_next_steps():
    traces = [[(0, 1.0), (1, 5.0)], [(2, 2.0), (0, 2.5)], []]
    assert [spend(traces, budget) for budget in range(6)] == [
        [0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 2, 0], [2, 2, 0], [2, 2, 0],
    ]  # fmt: skip


def test_in_a_pass(model_of):
    weight = normal(32, 24).astype(np.float32)
    model = model_of("g (float[1,6,32] x) => (float[1,6,24] y) { y = MatMul(x, w) }", w=weight)
    data = Calibration({"x": (normal(16, 1, 6, 32, seed=3) @ normal(32, 32, seed=4)).astype(np.float32)})
    errors = []
    for options in ("score=hessian update=refit", "update=greedy"):
        step = parse_pass(f"prune-blocks{{rows=2 cols=4 density=0.5 min_weights=1 {options}}}")
        result = PassManager([step]).run(model, PassContext(calibration=data))
        (layer,) = layers(result.model)
        assert layer.encoded.density == 0.5
        errors.append(np.square(data.arrays["x"] @ (layer.matrix().T - weight)).sum())
    assert errors[1] < errors[0]


def test_runs_of_m_are_refused():
    with pytest.raises(RecipeError) as caught:
        parse_pass("prune-nm{update=greedy}")
    assert str(caught.value) == (
        "Pass 'prune-nm': option 'update' is 'greedy', which knows no runs; expected none, sweep, refit."
    )


@pytest.mark.parametrize("sampled", [1.0, 0.05])
@pytest.mark.parametrize("budget", [0, 1, 100, 600, 999, 2000])
def test_traces_go_as_far_as_the_budget(budget, sampled):
    scale = np.exp(normal(64, 1, seed=5))
    scale[::16] *= sampled  # where the panels of the sample are cheaper than the others, the limit is too low
    panels, inverse = list((normal(64, 60) * scale)[:, None]), np.linalg.inv(damped(correlated(60)))
    whole, cut = [trace(panel, inverse, 3, 16) for panel in panels], traces_within(panels, inverse, 3, 16, budget)
    taken = [[steps[:n] for steps, n in zip(traces, spend(traces, budget), strict=True)] for traces in (cut, whole)]
    assert taken[0] == taken[1]
    if sampled == 1 and budget <= 600:
        assert sum(map(len, cut)) < 0.9 * sum(map(len, whole))
