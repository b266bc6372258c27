"""Pictures hold the records' numbers and nothing else; sentences follow the numbers; files are the same every time."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from fake_comparison import fake_comparison
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import LogNorm, to_hex
from matplotlib.image import AxesImage

import landscape.plots as plots
from landscape.comparison import Comparison
from landscape.errors import InputError
from landscape.plots.captions import TITLES
from landscape.plots.figures import pair_groups
from landscape.plots.findings import apart, standings, verdict
from landscape.plots.flatness import FLATNESS, flatness_value
from landscape.plots.labels import METRICS, metric, number, percent
from landscape.plots.paths import barrier_matrix
from landscape.plots.scans import log_levels
from landscape.plots.style import fit_scale, new_axes, optimizer_of, plain
from landscape.results import Summary, Surface


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return fake_comparison(tmp_path_factory.mktemp("comparison"), seeds=2)


def lines(ax: Axes) -> list[np.ndarray]:
    """Data (n, 2) of the lines of an axes, without the rulers."""
    return [np.asarray(line.get_xydata()) for line in ax.lines if len(np.asarray(line.get_xdata())) > 2]


def same_lines(ax: Axes, xs: list[np.ndarray], ys: list[np.ndarray]) -> None:
    expected = [np.stack([x, y], axis=1) for x, y in zip(xs, ys, strict=True)]
    assert len(lines(ax)) == len(expected)
    for drawn, true in zip(lines(ax), expected, strict=True):
        np.testing.assert_array_equal(drawn, true)


def traces(figure: Any) -> list[Any]:
    """The traces of a plotly figure, which has no useful types."""
    return list(figure.data)


def scatters(ax: Axes) -> list[PathCollection]:
    return [c for c in ax.collections if isinstance(c, PathCollection)]


# one look per optimizer


def test_colors_are_distinct_and_the_same_in_every_picture() -> None:
    names = ["sgd", "lbfgs", "alto", "adamw", "mine"]
    colors = plots.optimizer_colors(names)
    assert len(set(colors.values())) == len(names)
    assert plots.optimizer_colors(["alto"])["alto"] == colors["alto"]
    assert plots.optimizer_colors(["alto", "sgd"])["sgd"] == colors["sgd"]
    assert plots.optimizer_colors(["sgd(lr=0.1)"])["sgd(lr=0.1)"] == colors["sgd"]


def test_recipe_with_settings_leaves_the_color_to_the_plain_name() -> None:
    colors = plots.optimizer_colors(["sgd(lr=0.1)", "sgd"])
    assert colors["sgd"] == plots.optimizer_colors(["sgd"])["sgd"]
    assert colors["sgd(lr=0.1)"] != colors["sgd"]


def test_color_and_marker_together_do_not_repeat() -> None:
    names = [f"o{i}" for i in range(40)]
    colors, markers = plots.optimizer_colors(names), plots.optimizer_markers(names)
    assert len({(colors[n], markers[n]) for n in names}) == 40


@pytest.mark.parametrize(("label", "name"), [("sgd/0", "sgd"), ("a/b/3", "a/b"), ("alone", "alone")])
def test_optimizer_of_label(label: str, name: str) -> None:
    assert optimizer_of(label) == name


def test_plain_text_starts_no_formula_and_is_cut() -> None:
    assert plain("a$b$") == r"a\$b\$"
    assert plain("x" * 50, 10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([1e-8, 1.0], "log"),
        ([1.0, 2.0], "linear"),
        ([0.0, 1e-6, 1.0], "symlog"),
        ([-1.0, 1e-3], "symlog"),
        ([np.nan], "linear"),
    ],
)
def test_scale_fits_the_values(values: list[float], scale: str) -> None:
    ax = new_axes()
    fit_scale(ax, [np.array(values)])
    assert ax.get_yscale() == scale
    assert ax.get_xscale() == "linear"


# how numbers are written


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0123456, "0.0123"),
        (1.2, "1.20"),
        (12.345, "12.3"),
        (123.45, "123"),
        (999.6, "1,000"),
        (45678, "45,700"),
        (1.2649e-8, "1.26×10⁻⁸"),
        (2.5e7, "2.50×10⁷"),
        (-0.5, "−0.500"),
        (0.0, "0"),
        (9.999e-4, "0.00100"),
        (np.nan, "–"),
        (np.inf, "∞"),
    ],
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text


def test_percent_and_unknown_metric() -> None:
    assert percent(0.9731) == "97.3 %"
    assert percent(np.nan) == "–"
    assert metric("new_thing").axis == "new thing"
    assert metric("trace").axis == "Hessian trace tr ∇²L (loss / θ²)"
    assert all(m.meaning and m.key == key for key, m in METRICS.items())


# every picture holds the record's numbers


def test_profiles(comparison: Comparison) -> None:
    profiles = comparison.profiles
    ax = plots.plot_profiles(profiles)
    same_lines(ax, [p.steps for p in profiles], [p.loss for p in profiles])
    assert ax.get_yscale() == "log"
    assert "filter norms" in ax.get_xlabel()
    assert [t.get_text() for t in cast(Any, ax.get_legend()).get_texts()] == ["sgd", "lbfgs", "alto"]
    single = plots.plot_profile(profiles[2], color="red")
    same_lines(single, [profiles[2].steps], [profiles[2].loss])
    assert [line.get_color() for line in single.lines if len(np.asarray(line.get_xdata())) > 2] == ["red"]


@pytest.mark.parametrize("axis", [0, 1])
def test_surface_is_neither_transposed_nor_flipped(axis: int) -> None:
    steps = np.linspace(-1, 1, 11), np.linspace(-2, 2, 21)
    loss = np.exp(np.expand_dims(steps[axis], 1 - axis) + np.zeros((11, 21)))
    before = loss.copy()
    surface = Surface(steps1=steps[0], steps2=steps[1], loss=loss, label="sgd/0")
    ax = plots.plot_surface(surface, levels=np.exp([-0.5, 0.0, 0.7]))
    # of the first and the last level, where log loss is the step along ``axis``
    vertices = np.concatenate([np.asarray(p.vertices).reshape(-1, 2) for p in ax.collections[1].get_paths()])
    np.testing.assert_allclose(np.unique(vertices[:, axis].round(2)), [-0.5, 0.7], atol=0.011)
    other = vertices[:, 1 - axis]
    assert (other.min(), other.max()) == (steps[1 - axis][0], steps[1 - axis][-1])
    np.testing.assert_array_equal(np.asarray(ax.lines[0].get_xydata()), [[0, 0]])
    np.testing.assert_array_equal(loss, before)
    assert len(cast(Any, ax.figure).axes) == 2  # the picture and its colour bar


def test_levels_are_logarithmic_and_common() -> None:
    levels = log_levels([np.array([1e-9] + [1e-2] * 199), np.array([10.0, np.nan, 0.0])])
    np.testing.assert_allclose(np.diff(np.log(levels)), np.log(levels[1] / levels[0]))
    assert levels[0] == pytest.approx(1e-2)
    assert levels[-1] == pytest.approx(10)
    assert (np.diff(log_levels([np.full(4, 3.0)])) > 0).all()


def test_path_and_its_top(comparison: Comparison) -> None:
    path = comparison.paths[1]
    ax = plots.plot_path(path)
    same_lines(ax, [path.t], [path.loss])
    np.testing.assert_array_equal(np.asarray(ax.lines[-1].get_xydata()), [[path.top, path.height]])
    both = plots.plot_paths(comparison.paths[:2])
    assert [line.get_label() for line in both.lines] == ["straight line", "Fourier path"]


def test_barriers_above_and_below_the_diagonal(comparison: Comparison) -> None:
    labels = [s.label for s in comparison.solutions][::-1]  # so that every pair is named the other way round
    image = next(a for a in plots.plot_barriers(comparison.paths, labels=labels).images)
    assert isinstance(image, AxesImage)
    drawn = np.ma.filled(cast(Any, image.get_array()), np.nan)
    barriers = {(p.method, frozenset((p.start, p.end))): p.barrier for p in comparison.paths}
    for i, row in enumerate(labels):
        for j, column in enumerate(labels):
            if i == j:
                assert np.isnan(drawn[i, j])
            else:
                method = "linear" if i < j else "fourier"
                assert drawn[i, j] == pytest.approx(
                    max(barriers[method, frozenset((row, column))], image.norm.vmin or 0.0)
                )
    assert isinstance(image.norm, LogNorm)


def test_barriers_of_zero_and_missing_pairs(comparison: Comparison) -> None:
    path = comparison.paths[0]
    flat = dataclasses.replace(path, loss=np.ones_like(path.loss))
    labels = ["sgd/0", "sgd/1", "lbfgs/0"]
    matrix = barrier_matrix([flat], labels=labels)
    assert matrix[0, 1] == 0
    assert np.isnan(matrix).sum() == 8
    assert plots.plot_barriers([flat], labels=labels).images[0].norm.vmin == 0.1


def test_embedding_and_its_control(comparison: Comparison) -> None:
    embedding = comparison.embedding
    assert embedding is not None
    groups = np.array(embedding.groups)
    for draw, x, y in (
        (plots.plot_embedding, embedding.coordinates[:, 0], embedding.coordinates[:, 1]),
        (plots.plot_embedding_control, embedding.norms, embedding.coordinates[:, 0]),
    ):
        ax = draw(embedding)
        for name, dots in zip(("sgd", "lbfgs", "alto"), scatters(ax), strict=True):
            mine = groups == name
            np.testing.assert_array_equal(
                np.asarray(dots.get_offsets()), np.stack([x[mine], y[mine]], axis=1)
            )
            color = to_hex(cast(Any, dots.get_facecolor())[0])
            assert color == plots.optimizer_colors(["sgd", "lbfgs", "alto"])[name].lower()
    assert plots.plot_embedding(embedding).get_xlabel() == "PC1 (34 % of the kernel's variance)"


@pytest.mark.parametrize("measure", ["kappa", "linearity", "cosine"])
def test_corridors(comparison: Comparison, measure: str) -> None:
    ax = plots.plot_corridors(comparison.corridors, measure=measure)
    values = [getattr(c, measure) for c in comparison.corridors]
    same_lines(ax, [np.arange(1, 41)] * len(values), values)
    assert f"{0 if measure == 'kappa' else 1} in a corridor" in ax.get_ylabel()
    assert len(lines(plots.plot_corridors(comparison.corridors[:1], measure=measure))) == 1


def test_curves(comparison: Comparison) -> None:
    solutions = comparison.solutions
    same_lines(
        plots.plot_curves(solutions), [s.curve_epoch for s in solutions], [s.curve_train for s in solutions]
    )
    ax = plots.plot_curves(solutions, part="validation")
    same_lines(ax, [s.curve_epoch for s in solutions], [s.curve_validation for s in solutions])


@pytest.mark.parametrize("name", FLATNESS)
def test_flatness_dots_errors_and_intervals(comparison: Comparison, name: str) -> None:
    ax = plots.plot_flatness(comparison.flatness, metric=name, summary=comparison.summary)
    for container, optimizer in zip(ax.containers, comparison.optimizers, strict=True):
        data, _, bars = cast(Any, container)
        mine = [flatness_value(f, name) for f in comparison.flatness if f.optimizer == optimizer]
        np.testing.assert_array_equal(data.get_ydata(), [v for v, _ in mine])
        for (value, error), bar in zip(mine, bars[0].get_segments(), strict=True):
            np.testing.assert_allclose(
                bar[:, 1], [value - np.nan_to_num(error), value + np.nan_to_num(error)]
            )
    s, row = comparison.summary, comparison.summary.metrics.index(name)
    spans = [np.asarray(line.get_ydata()) for line in ax.lines if line.get_color() == "#222222"]
    for i in range(3):
        np.testing.assert_array_equal(spans[2 * i], [s.low[row, i], s.high[row, i]])
        np.testing.assert_array_equal(spans[2 * i + 1], [s.center[row, i]])
    assert ax.get_title(loc="left") == (
        "invariant to rescaling" if name == "adaptive_sharpness" else "not invariant"
    )


def test_flatness_values_and_their_errors(comparison: Comparison) -> None:
    f = comparison.flatness[0]
    assert flatness_value(f, "trace") == (f.trace, f.trace_stderr)
    assert flatness_value(f, "eigenvalue") == (f.eigenvalues[0], f.residuals[0])
    for name in ("sam_sharpness", "adaptive_sharpness"):
        value, error = flatness_value(f, name)
        assert value == getattr(f, name)
        assert np.isnan(error)


def test_flatness_of_unknown_metric(comparison: Comparison) -> None:
    with pytest.raises(InputError, match=r"metric must be one of trace, eigenvalue, .*, got 'flat'"):
        plots.plot_flatness(comparison.flatness, metric="flat")


def test_spectrum_and_depth(comparison: Comparison) -> None:
    flatness = comparison.flatness
    same_lines(plots.plot_spectrum(flatness), [np.arange(1, 6)] * 6, [f.eigenvalues for f in flatness])
    backwards = plots.plot_depth(
        comparison.solutions, flatness[::-1], loss="test_loss", metric="sam_sharpness"
    )
    sharpness = {f.label: f.sam_sharpness for f in flatness}
    for name, dots in zip(comparison.optimizers, scatters(backwards), strict=True):
        expected = [(sharpness[s.label], s.test_loss) for s in comparison.solutions if s.optimizer == name]
        np.testing.assert_array_equal(np.asarray(dots.get_offsets()), expected)


def test_drawing_into_given_axes_leaves_no_legend_and_returns_them(comparison: Comparison) -> None:
    ax = new_axes()
    assert plots.plot_paths(comparison.paths, ax) is ax
    assert ax.get_legend() is None


def test_pyplot_is_never_loaded() -> None:
    code = (
        "import sys, numpy as np, landscape.plots as p; from landscape.results import Profile\n"
        "p.plot_profile(Profile(steps=np.arange(3.), loss=np.arange(3.))).figure.savefig(sys.argv[1])\n"
        "sys.exit('matplotlib.pyplot' in sys.modules or 'plotly' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code, "/dev/null"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# all pictures of a comparison


def test_figures_captions_and_titles_belong_together(comparison: Comparison) -> None:
    figures, captions = plots.comparison_figures(comparison), plots.comparison_captions(comparison)
    assert list(figures) == list(TITLES) == list(captions)
    assert all(text.endswith(".") and "nan" not in text for text in captions.values())
    panels = [ax.get_title(loc="left") for ax in figures["paths"].axes]
    assert panels == list(pair_groups(comparison)) == list(comparison.pair_summary.groups)


def test_every_panel_of_paths_is_scaled_for_all(comparison: Comparison) -> None:
    # The losses of the last group span two decades, all others eight: its panel must not set the shared ruler for itself.
    last = comparison.optimizers[-1]
    paths = tuple(
        dataclasses.replace(
            p,
            loss=np.geomspace(0.01, 1, len(p.t))
            if p.start.startswith(last)
            else np.geomspace(1e-8, 1, len(p.t)),
        )
        for p in comparison.paths
    )
    figure = plots.comparison_figures(dataclasses.replace(comparison, paths=paths))["paths"]
    assert sum(1e-8 <= tick <= 1 for tick in figure.axes[0].get_yticks()) in range(4, 10)


def test_surfaces_share_their_levels(comparison: Comparison) -> None:
    first, *others = [ax.collections[0] for ax in plots.comparison_figures(comparison)["surfaces"].axes[:3]]
    for other in others:
        np.testing.assert_array_equal(cast(Any, first).levels, cast(Any, other).levels)


def test_figures_of_a_single_solution(tmp_path: Path) -> None:
    single = fake_comparison(tmp_path, optimizers=["sgd"], seeds=1)
    figures = plots.comparison_figures(single)
    assert set(TITLES) - set(figures) == {"barriers", "paths", "network", "embedding"}
    assert list(plots.interactive_figures(single)) == ["surfaces"]
    assert all(f.evidence for f in plots.comparison_findings(single))
    assert all(not f.headline for f in plots.comparison_findings(single))


def test_files_are_the_same_every_time(comparison: Comparison, tmp_path: Path) -> None:
    def chosen() -> dict[str, Any]:
        return {
            k: f for k, f in plots.comparison_figures(comparison).items() if k in ("flatness", "surfaces")
        }

    first = plots.save_figures(chosen(), tmp_path / "a")
    second = plots.save_figures(chosen(), tmp_path / "b")
    assert [p.name for p in first] == ["flatness.png", "flatness.svg", "surfaces.png", "surfaces.svg"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(p.name for p in first)
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert b"<dc:date>" not in first[1].read_bytes()


# pictures to hover over


def test_interactive_figures_hold_the_records(comparison: Comparison) -> None:
    figures = plots.interactive_figures(comparison)
    assert {t.type for f in figures.values() for t in traces(f)} == {"scatter", "contour"}
    embedding = comparison.embedding
    assert embedding is not None
    left = [t for t in traces(figures["embedding"]) if t.xaxis == "x"]
    drawn = np.concatenate([np.stack([t.x, t.y], axis=1) for t in left])
    np.testing.assert_array_equal(drawn, embedding.coordinates[:, :2])
    texts = [text for t in left for text in t.hovertext]
    for solution, text in zip(comparison.solutions, texts, strict=True):
        for part in (solution.label, *map(number, (solution.train_loss, solution.test_loss, solution.norm))):
            assert part in text


def test_interactive_surface_is_not_transposed(comparison: Comparison) -> None:
    figure = plots.interactive_figures(comparison)["surfaces"]
    for surface, trace in zip(
        comparison.surfaces, [t for t in traces(figure) if t.type == "contour"], strict=True
    ):
        assert (len(trace.z), len(trace.z[0])) == (len(surface.steps2), len(surface.steps1))
        np.testing.assert_allclose(10 ** np.array(trace.z, dtype=float), surface.loss.T)
        assert trace.customdata[1][2] == number(surface.loss[2, 1])


# sentences follow the numbers


def summary(**rows: list[tuple[float, float, float]]) -> Summary:
    """A summary of groups a, b, … from (center, low, high) a group."""
    table = np.array(list(rows.values()), dtype=float)
    return Summary(
        metrics=tuple(rows),
        groups=tuple("abcdef"[: table.shape[1]]),
        scales=("mean",) * len(rows),
        center=table[..., 0],
        low=table[..., 1],
        high=table[..., 2],
        counts=np.where(np.isnan(table[..., 1]), 1, 5),
        confidence=0.95,
    )


A, A_WIDE, B, NONE = (1.0, 0.9, 1.1), (1.0, 0.5, 2.1), (2.0, 1.9, 2.2), (3.0, np.nan, np.nan)


@pytest.mark.parametrize(
    ("key", "row", "sentence"),
    [
        ("train_loss", [B, A], "b has the lowest train loss."),
        ("test_accuracy", [A, B], "b has the highest test accuracy."),
        (
            "train_loss",
            [A_WIDE, B],
            "The lowest train loss is not settled between a and b: their intervals overlap.",
        ),
        ("train_loss", [A, NONE], "a has the lowest train loss here, with no intervals to judge by."),
        (
            "train_loss",
            [A_WIDE, B, B, B],
            "The lowest train loss is not settled: the interval of a overlaps those of 3 others.",
        ),
        ("train_loss", [B, A, A], "b and c share the lowest train loss, 1.00."),
        ("train_loss", [A], ""),
        ("train_loss", [(np.nan, np.nan, np.nan), A], ""),
    ],
)
def test_verdict(key: str, row: list[tuple[float, float, float]], sentence: str) -> None:
    assert verdict(summary(**{key: row}), key) == sentence


def test_verdict_of_a_missing_metric() -> None:
    assert verdict(summary(trace=[A, B]), "kappa") == ""


def test_apart_needs_both_intervals() -> None:
    a, b, none = standings(summary(trace=[A, B, NONE]), "trace")
    assert apart(a, b) is True
    assert apart(a, a) is False
    assert apart(a, none) is None


@pytest.mark.parametrize(
    ("adaptive", "end"),
    [
        ([A, B], "names it first as well."),
        ([A_WIDE, B], "names it first as well, but not beyond doubt."),
        ([B, A], "says otherwise: by it, a is sharper than b."),
        ([B, A_WIDE], "does not tell a from b."),
    ],
)
def test_flatness_finding_names_the_invariant_measure(
    comparison: Comparison, adaptive: list[tuple[float, float, float]], end: str
) -> None:
    changed = dataclasses.replace(comparison, summary=summary(trace=[A, B], adaptive_sharpness=adaptive))
    found = {f.topic: f for f in plots.comparison_findings(changed)}["Flatness"]
    assert found.headline.startswith("a has the lowest Hessian trace.")
    assert found.headline.endswith(end)


@pytest.mark.parametrize(
    ("kernel", "norm", "words"),
    [
        (1.0, 0.5, "better than the norm"),
        (0.9, 0.9, "at least as well as kernel PCA"),
        (0.3, 0.8, "do not tell the optimizers apart; the norm ‖θ‖ does."),
        (0.3, 0.2, "do not tell the optimizers apart; nor does the norm ‖θ‖."),
    ],
)
def test_position_finding_is_held_against_the_norm(
    comparison: Comparison, kernel: float, norm: float, words: str
) -> None:
    assert comparison.embedding is not None
    accuracies = {"kernel": np.array([kernel]), "norm": np.array([norm]), "centroid": np.ones(1)}
    embedding = dataclasses.replace(comparison.embedding, accuracies=accuracies)
    found = plots.comparison_findings(dataclasses.replace(comparison, embedding=embedding))
    position = next(f for f in found if f.topic == "Position")
    assert words in position.headline
    assert percent(kernel) in position.evidence


def test_barrier_finding(comparison: Comparison) -> None:
    medians = {
        m: float(np.median([p.barrier for p in comparison.paths if p.method == m]))
        for m in ("linear", "fourier")
    }
    found = next(f for f in plots.comparison_findings(comparison) if f.topic == "Barriers")
    assert found.headline.startswith(
        "Bending the straight line lowers the median barrier by more than a factor of 1,000."
    )
    assert (
        f"over 15 pairs: {number(medians['linear'])} on the straight line, {number(medians['fourier'])} on"
        in found.evidence
    )
    early = sum(not p.converged for p in comparison.paths)
    assert (f"{early} of 15 searches" in found.evidence) == (early > 0)
    groups = standings(comparison.pair_summary, "barrier")
    assert f"Highest Fourier barrier: {groups[-1].group} {number(groups[-1].center)}" in found.evidence
    swapped = {"linear": "fourier", "fourier": "linear"}
    paths = tuple(dataclasses.replace(p, method=swapped[p.method]) for p in comparison.paths)
    worse = next(
        f
        for f in plots.comparison_findings(dataclasses.replace(comparison, paths=paths))
        if f.topic == "Barriers"
    )
    assert worse.headline.startswith("Bending the path does not lower the median barrier.")
