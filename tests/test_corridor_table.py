"""Corridors compared between optimizers: the same numbers by hand."""

import numpy as np
import pytest
import torch
from dense import quadratic

from analysis import corridor
from landscape.intervals import mean_interval
from landscape.results import Corridor
from landscape.summary import change_table, corridor_table


def run(label: str, rate: float, steps: int, start: float = 1.0) -> Corridor:
    """Descent on ½·4x² + ½·0.01y²: a corridor once x is gone."""
    values = torch.tensor([4.0, 0.01], dtype=torch.float64)
    theta = torch.tensor([start, 1.0], dtype=torch.float64)
    points = theta * (1 - rate * values) ** torch.arange(steps + 1)[:, None]
    return corridor(quadratic(torch.diag(values)), points, lr=rate, label=label)


def test_means_over_seeds_with_their_intervals():
    runs = [
        run("fast/0", 0.1, 40),
        run("fast/1", 0.1, 40, 2.0),
        run("slow/0", 0.01, 30),
        run("slow/1", 0.02, 40),
    ]
    table = corridor_table(runs, kappa=0.05)
    assert table.groups == ("fast", "slow")
    assert table.about == {"kappa": 0.05, "linearity": 0.1}
    tolerances = {"kappa": 0.05, "linearity": 0.1}
    numbers = {
        "corridor_steps": [r.share_of_steps(**tolerances) for r in runs],
        "corridor_decrease": [r.share_of_decrease(**tolerances) for r in runs],
        "corridor_longest": [r.longest(**tolerances) for r in runs],
        "kappa": [np.median(r.kappa) for r in runs],
    }
    assert table.metrics == tuple(numbers)
    for row, (name, values) in enumerate(numbers.items()):
        for column, part in enumerate((values[:2], values[2:])):
            mean, low, high = mean_interval(np.array(part))
            assert table.center[row, column] == pytest.approx(mean), name
            assert table.low[row, column] == pytest.approx(
                max(low, 0) if name != "corridor_decrease" else low
            )
            assert table.high[row, column] == pytest.approx(
                min(high, 1) if name == "corridor_steps" else high
            )
    assert numbers["corridor_steps"][0] != numbers["corridor_steps"][1]
    assert (table.counts == 2).all()


def test_a_run_whose_loss_did_not_fall_is_left_out_of_the_share_it_has_not():
    up = run("a/0", 0.01, 20)
    rising = Corridor(**{**vars(up), "loss": up.loss[::-1].copy(), "label": "a/1"})
    table = corridor_table([up, rising, Corridor(label="none")])
    row = table.metrics.index("corridor_decrease")
    assert table.counts[row].tolist() == [1, 0]
    assert table.center[row, 0] == pytest.approx(up.share_of_decrease())
    assert np.isnan(table.low[row, 0])
    assert np.isnan(table.center[:, 1]).all()
    assert table.counts[0].tolist() == [2, 0]


def test_what_the_loss_did_adds_up():
    objective = quadratic(torch.diag(torch.tensor([3.0, 0.5, 1.0], dtype=torch.float64)))
    torch.manual_seed(0)
    runs = []
    for seed in range(3):
        steps = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        runs.append(corridor(objective, steps.cumsum(0), label=f"walk/{seed}"))
    table = change_table([*runs, corridor(objective, torch.eye(3, dtype=torch.float64), label="other/0")])
    found = dict(zip(table.metrics, table.center[:, 0], strict=True))
    assert table.groups == ("walk", "other")
    np.testing.assert_array_equal(table.counts, [[3, 1]] * 5)
    expected = np.mean([run.loss[0] - run.loss[-1] for run in runs])
    assert found["fall"] == pytest.approx(expected, rel=1e-12)
    taken_back = found["change_along"] + found["change_beside"] + found["change_beyond"]
    assert found["fall"] == pytest.approx(found["foretold"] - taken_back, rel=1e-12)
    assert found["change_along"] > 0
    assert found["change_beyond"] == pytest.approx(0, abs=1e-12)  # a quadratic has none
