"""Pictures of curvature hold the records' numbers, and draw what could not be told apart as it is."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import pytest

from landscape import InputError
from landscape.plots import plot_density, plot_layers, plot_scales
from landscape.plots.flatness import MEASURES, flatness_value
from landscape.plots.labels import METRICS, metric
from landscape.results import BlockTraces, CurvatureScales, Flatness, SpectralDensity, SplitTrace


def split(blocks: int = 2) -> SplitTrace:
    rng = np.random.default_rng(0)
    gauss_newton, residual = rng.exponential(size=1 + blocks), 0.1 * rng.normal(size=1 + blocks)
    return SplitTrace(
        value=float(gauss_newton[0] + residual[0]),
        stderr=0.1,
        samples=np.zeros(3),
        method="split",
        matvecs=10,
        dim=5 * blocks,
        names=tuple(f"layer{i}" for i in range(blocks)),
        sizes=np.arange(1.0, blocks + 1),
        values=(gauss_newton + residual)[1:],
        stderrs=np.full(blocks, 0.1),
        gauss_newton=gauss_newton,
        gauss_newton_stderr=np.linspace(0, 0.02, 1 + blocks),
        residual=residual,
        residual_stderr=np.linspace(0.01, 0.05, 1 + blocks),
        known=1.0,
        affine=0.0,
        passes=9,
    )


def bars(ax: Any) -> list[Any]:
    """Containers of bars, without those of error bars."""
    return [c for c in ax.containers if hasattr(c, "patches")]


@pytest.mark.parametrize("per_parameter", [False, True])
def test_layers_have_a_bar_a_part_and_error_bars(per_parameter: bool) -> None:
    record = split()
    ax = plot_layers(record, per_parameter=per_parameter)
    scale = record.sizes if per_parameter else np.ones(2)
    parts = [(record.gauss_newton, record.gauss_newton_stderr), (record.residual, record.residual_stderr)]
    for container, (values, _) in zip(bars(ax), parts, strict=True):
        np.testing.assert_allclose([bar.get_width() for bar in container], values[1:] / scale)
    drawn = [cast(Any, c)[2][0].get_segments() for c in ax.containers if not hasattr(c, "patches")]
    for segments, (values, errors) in zip(drawn, parts, strict=True):
        ends = np.array([values[1:] - errors[1:], values[1:] + errors[1:]]).T / scale[:, None]
        np.testing.assert_allclose([segment[:, 0] for segment in segments], ends)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["layer0", "layer1"]
    assert ax.get_legend() is not None


def test_traces_that_are_not_split_have_one_bar_a_block_and_no_legend() -> None:
    record = BlockTraces(
        names=("a", "b"), values=np.array([1.0, -2.0]), stderr=np.array([0.1, 0.2]), sizes=np.ones(2),
        samples=np.zeros((3, 2)), by="layer", probes="joint", matvecs=60, dim=2, message="not split: why",
    )  # fmt: skip
    ax = plot_layers(record)
    (container,) = bars(ax)
    assert [bar.get_width() for bar in container] == [1.0, -2.0]
    assert ax.get_legend() is None


def test_of_many_blocks_the_largest_are_drawn_in_their_order() -> None:
    record = split(60)
    ax = plot_layers(record)
    size = np.abs([record.gauss_newton[1:], record.residual[1:]]).sum(0)
    largest = sorted(np.argsort(-size)[:40])
    assert [text.get_text() for text in ax.get_yticklabels()] == [f"layer{i}" for i in largest]
    assert ax.get_title(loc="left") == "the 40 largest of 60"


def test_scales_draw_what_rounding_does_not_make_up() -> None:
    steps = np.array([1e-6, 1e-3, 1e-1])
    seen = np.array([[5.0, 2.0, 3.0]])
    record = CurvatureScales(
        steps=steps, theta_norm=1.0, hessian=np.array([2.0]), of_losses=seen, losses=6, gradients=7, matvecs=1,
        of_losses_rounding=np.array([[4.0, 1e-3, 0.0]]), of_gradients=seen, of_gradients_rounding=np.zeros((1, 3)),
    )  # fmt: skip
    ruler, lines, points = plot_scales(record).lines[:3]
    assert list(np.asarray(ruler.get_ydata())) == [2.0, 2.0]
    np.testing.assert_array_equal(np.asarray(lines.get_ydata()), seen[0])
    np.testing.assert_array_equal(np.asarray(points.get_ydata()), [np.nan, 2.0, 3.0])


def density() -> SpectralDensity:
    nodes = np.array([[-0.5, 0.01, 1.0, 8.0], [-0.4, 0.02, 1.2, 8.0]])
    return SpectralDensity(nodes=nodes, weights=np.tile([0.1, 0.7, 0.1, 0.1], (2, 1)), dim=100)


@pytest.mark.parametrize("scale", ["log", "linear"])
def test_density_draws_what_the_record_says(scale: Any) -> None:
    record = density()
    ax = plot_density(record, scale=scale, smallest=0.05)
    x, y = np.asarray(ax.lines[-1].get_xydata()).T
    if scale == "log":
        expected = record.log_density(x, sign=1, width=0.1)[0]
        assert ax.get_legend_handles_labels()[1][-1] == "|λ| < 0.05: 70.0 % of all"
    else:
        expected = record.density(x, width=0.01 * (8.0 + 0.5))[0]
    np.testing.assert_allclose(y, expected)
    assert ax.get_yscale() == "log"


def test_density_shows_nothing_below_its_resolution() -> None:
    record = density()
    assert record.resolution == pytest.approx((0.51 + 0.42) / 2)
    left, right = (np.abs(np.asarray(line.get_xdata())) for line in plot_density(record).lines)
    assert left.min() == pytest.approx(record.resolution)  # -0.5 is beyond it, 0.01 and 0.02 are not
    assert right.min() == pytest.approx(record.resolution)


def test_density_marks_outliers_one_by_one() -> None:
    record = dataclasses.replace(density(), outliers=np.array([20.0, 9.0]))
    strokes = plot_density(record).lines[-1]
    np.testing.assert_array_equal(np.asarray(strokes.get_xdata()), [20.0, 9.0])
    assert strokes.get_label() == "2 eigenvalues, one by one"


def test_density_of_nothing_finite_says_so() -> None:
    record = dataclasses.replace(density(), message="not finite")
    assert plot_density(record).get_title(loc="left") == "not finite"


def test_density_of_unknown_scale() -> None:
    with pytest.raises(InputError, match="scale must be log or linear, got 'cubic'"):
        plot_density(density(), scale=cast(Any, "cubic"))


def test_every_measure_of_the_record_is_named_and_told_invariant_or_not() -> None:
    assert {key if key != "eigenvalue" else "eigenvalues" for key in MEASURES} == set(Flatness.invariant)
    for key in MEASURES:
        assert key in METRICS
        assert metric(key).invariant is Flatness.invariant["eigenvalues" if key == "eigenvalue" else key]


def test_every_error_bar_of_the_record_is_found() -> None:
    errors = [f.name for f in dataclasses.fields(Flatness) if f.name.endswith("_stderr")]
    numbers: dict[str, Any] = {f.name: 1.0 for f in dataclasses.fields(Flatness) if f.type == "float"}
    marks = {name: float(i) for i, name in enumerate(errors, 2)}
    record = Flatness(
        optimizer="a", seed=0, dim=4, trace_method="", eigenvalues=np.ones(1), residuals=np.full(1, 9.0),
        gradients=0, matvecs=0, **cast(Any, numbers | marks),
    )  # fmt: skip
    found = {error for _, error in (flatness_value(record, key) for key in MEASURES)}
    assert set(marks.values()) <= found
    assert flatness_value(record, "pac_bayes_sigma") == (1.0, marks["pac_bayes_stderr"])
    assert flatness_value(record, "mean_trace") == (0.25, marks["trace_stderr"] / 4)
