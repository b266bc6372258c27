"""Pictures of corridors hold the records' numbers and shade what the records say."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from dense import quadratic
from matplotlib.contour import QuadContourSet
from matplotlib.patches import Rectangle

import landscape.plots as plots
from analysis import corridor, corridor_map
from landscape import Objective, Plane
from landscape.plots.scans import even_levels, log_levels
from landscape.results import Corridor, CorridorNoise

VALUES = torch.tensor([4.0, 0.01], dtype=torch.float64)


def run(label: str = "sgd/0", start: float = 1.0) -> Corridor:
    """Descent on ½·4x² + ½·0.01y²: a corridor once x is gone."""
    points = torch.tensor([start, 1.0], dtype=torch.float64) * (1 - 0.1 * VALUES) ** torch.arange(41)[:, None]
    return corridor(quadratic(torch.diag(VALUES)), points, lr=0.1, label=label, steps=10 * np.arange(41))


def test_measures_tolerances_and_shaded_corridors():
    record = run()
    ax = plots.plot_corridor(record, kappa=0.2, linearity=0.05)
    kappa, defect, *rulers = ax.lines
    np.testing.assert_array_equal(kappa.get_xydata(), np.stack([record.steps[:-1], record.kappa], axis=1))
    np.testing.assert_array_equal(defect.get_ydata(), np.abs(1 - record.linearity))
    assert {float(np.asarray(r.get_ydata())[0]) for r in rulers} == {0.2, 0.05}
    (shade,) = (p for p in ax.patches if isinstance(p, Rectangle))
    (interval,) = record.intervals(kappa=0.2, linearity=0.05)
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == (interval.start, interval.end)
    assert ax.get_yscale() == "log"
    assert ax.get_title(loc="left") == "sgd/0"


def test_measures_of_an_exact_corridor_and_of_no_rows():
    exact = Corridor(
        steps=np.arange(3), loss=np.array([3.0, 2, 1]), gradient_norm=np.ones(3), rate=np.ones(2),
        image_norm=np.zeros(2), slope=-np.ones(2),
    )  # fmt: skip
    ax = plots.plot_corridor(exact)
    assert len(ax.patches) == 1
    assert len(plots.plot_corridor(Corridor()).patches) == 0


def test_loss_with_corridors_thick():
    runs = [run("sgd/0"), run("sgd/1", 2.0), run("adamw/0", 0.5)]
    ax = plots.plot_corridor_loss(runs)
    thin = [line for line in ax.lines if line.get_linewidth() < 2]
    thick = [line for line in ax.lines if line.get_linewidth() > 2]
    assert len(thin) == len(thick) == 3
    for record, line, part in zip(runs, thin, thick, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), record.loss)
        (interval,) = record.intervals()
        assert np.asarray(part.get_xdata())[[0, -1]].tolist() == [interval.start, interval.end]
        np.testing.assert_array_equal(part.get_ydata(), record.loss[interval.first : interval.last + 2])
    assert [t.get_text() for t in cast(Any, ax.get_legend()).get_texts()] == ["sgd", "adamw"]
    colors = plots.optimizer_colors(["sgd", "adamw"])
    assert [line.get_color() for line in thin] == [colors["sgd"], colors["sgd"], colors["adamw"]]


@pytest.mark.parametrize("rate", [0.1 / 6, None])
def test_map_of_kappa_with_its_boundary(rate: float | None):
    """Of ‖θ‖³, where κ = 6h‖θ‖: the boundary κ = 0.1 is a circle of radius 1."""
    eye, steps = torch.eye(2, dtype=torch.float64), torch.linspace(-2, 2, 40)
    plane = Plane(torch.zeros(2, dtype=torch.float64), eye[0], eye[1], steps, steps[:31])
    field = corridor_map(Objective([lambda theta: theta.norm() ** 3], 2), plane, label="cubic")
    ax = plots.plot_corridor_map(field, kappa_at=rate, kappa=0.1)
    filled, losses, *boundary = (cast(Any, c) for c in ax.collections if isinstance(c, QuadContourSet))
    shown = field.corridor_rate if rate is None else field.kappa(rate)
    assert (filled.zmin, filled.zmax) == pytest.approx((shown.min(), shown.max()))
    assert losses.zmax == pytest.approx(field.loss.max())
    assert len(boundary) == (rate is not None)
    if rate is not None:
        (path,) = boundary[0].get_paths()
        assert len(path.vertices) > 50
        np.testing.assert_allclose(np.linalg.norm(path.vertices, axis=1), 1, rtol=0.01)
        assert "κ = 0.1" in ax.get_title(loc="left")
    assert ax.get_xlabel() == "step along d₁"


@pytest.mark.parametrize("low", [1.0, 0.0, -1.0])
def test_contours_of_losses_are_spaced_as_those_of_surfaces(low: float):
    eye, steps = torch.eye(2, dtype=torch.float64), torch.linspace(-2, 2, 21)
    plane = Plane(torch.zeros(2, dtype=torch.float64), eye[0], eye[1], steps, steps)
    field = corridor_map(Objective([lambda theta: theta @ theta + low], 2), plane)
    ax = plots.plot_corridor_map(field)
    losses = [cast(Any, c) for c in ax.collections if isinstance(c, QuadContourSet)][1]
    spaced = even_levels if low < 0 else log_levels
    np.testing.assert_array_equal(losses.levels, spaced([field.loss], 10))


def test_noise_with_bands():
    t, rng = 6, np.random.default_rng(0)
    series = {n: rng.uniform(0.2, 0.9, t) for n in ("same_point", "same_batch", "both")}
    errors = {f"{n}_stderr": np.full(t, 0.05) for n in (*series, "spread", "signal")}
    numbers: dict[str, Any] = series | errors
    record = CorridorNoise(
        steps=np.arange(0, 70, 10), **numbers, spread=np.ones(t), signal=np.ones(t),
        noise_stderr=np.ones(t), draws=4, count=9, basis="fixed batches of 64", label="sgd/0",
    )  # fmt: skip
    ax = plots.plot_corridor_noise(record)
    for line, name in zip(ax.lines, ("same_batch", "same_point", "both"), strict=False):
        np.testing.assert_array_equal(line.get_xydata(), np.stack([record.steps[:-1], series[name]], axis=1))
    bottom = np.asarray(ax.collections[0].get_paths()[0].vertices)[:, 1].min()
    assert bottom == pytest.approx(series["same_batch"].min() - 0.05)
    assert "fixed batches of 64" in ax.get_title(loc="left")
