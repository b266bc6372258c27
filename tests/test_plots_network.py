"""Pictures of a network hold its numbers: leaves at their losses, merges at their heights, no crossings, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, to_hex
from test_network import random_network, synthetic

import landscape.plots as plots
from landscape.results import MinimaNetwork


def grouped(n: int = 8, *, settled: bool = True) -> MinimaNetwork:
    """Positive losses over decades, of two optimizers that alternate."""
    rng = np.random.default_rng(0)
    loss = 10.0 ** rng.uniform(-5, -3, n)
    heights = 10.0 ** rng.uniform(-2, 1, (n, n))
    groups = ["sgd", "lbfgs"] * (n // 2)
    network = synthetic(np.maximum(heights, heights.T), loss, groups, converged=settled)
    return replace(network, labels=tuple(f"{g}/{i}" for i, g in enumerate(groups)))


def segments(ax: Axes) -> list[np.ndarray]:
    """Ends (2, 2) of the lines drawn, without invisible ones."""
    return [np.asarray(line.get_xydata()) for line in ax.lines if line.get_alpha() != 0]


def uprights(ax: Axes) -> list[np.ndarray]:
    return [s for s in segments(ax) if s[0, 0] == s[1, 0]]


def crossbars(ax: Axes) -> list[np.ndarray]:
    return [s for s in segments(ax) if s[0, 0] != s[1, 0]]


@pytest.mark.parametrize(
    "network", [random_network(0), grouped(), random_network(3, n=2)], ids=["linear", "log", "two"]
)
def test_every_merge_is_a_crossbar_at_its_height_between_uprights(network: MinimaNetwork) -> None:
    ax = plots.plot_disconnectivity(network)
    bars, posts = crossbars(ax), uprights(ax)
    assert [bar[0, 1] for bar in bars] == [merge.height for merge in network.merges]
    assert all(bar[0, 1] == bar[1, 1] for bar in bars)
    assert len(posts) == 2 * len(bars) + 1  # and the stem
    starts = sorted(post[0, 1] for post in posts if post[0, 1] in network.loss)
    assert starts == sorted(network.loss)
    for bar in bars:
        for x in bar[:, 0]:
            assert any((post[1] == (x, bar[0, 1])).all() for post in posts)
        assert any(
            (post[0] == bar.mean(axis=0)).all() for post in posts
        )  # the next branch starts in its middle


@pytest.mark.parametrize("seed", range(4))
def test_no_branches_cross(seed: int) -> None:
    ax = plots.plot_disconnectivity(random_network(seed, n=12))
    for bar in crossbars(ax):
        (left, y), (right, _) = bar
        for post in uprights(ax):
            x, low, high = post[0, 0], post[0, 1], post[1, 1]
            assert not (left < x < right and low < y < high)


def test_leaves_lie_at_their_losses_in_the_colour_of_their_group() -> None:
    network = grouped()
    ax = plots.plot_disconnectivity(network, optimizers=("sgd", "lbfgs"))
    colors = plots.optimizer_colors(["sgd", "lbfgs"])
    place = {i: k for k, i in enumerate(network.order)}
    for marks, group in zip(ax.collections, ("sgd", "lbfgs"), strict=True):
        mine = [i for i, g in enumerate(network.groups) if g == group]
        expected = [(place[i], network.loss[i]) for i in mine]
        np.testing.assert_array_equal(np.asarray(marks.get_offsets()), expected)
        assert to_hex(np.asarray(marks.get_facecolor())[0]) == colors[group].lower()
    names = {text.get_text(): text.xy for text in ax.texts}  # type: ignore[attr-defined]
    assert names == {str(i): (place[i], network.loss[i]) for i in range(8)}


def test_a_branch_has_its_groups_colour_until_it_mixes() -> None:
    heights = np.array([[0, 1, 3, 3], [1, 0, 3, 3], [3, 3, 0, 2], [3, 3, 2, 0]])
    ax = plots.plot_disconnectivity(synthetic(heights, groups=["sgd", "sgd", "lbfgs", "lbfgs"]))
    colors = plots.optimizer_colors(["sgd", "lbfgs"])
    drawn = [to_hex(line.get_color()) for line in ax.lines if line.get_alpha() != 0]
    assert drawn[:6] == [colors["sgd"].lower()] * 3 + [colors["lbfgs"].lower()] * 3
    assert drawn[6:8] == [colors["sgd"].lower(), colors["lbfgs"].lower()]
    assert len(set(drawn[8:])) == 1
    assert drawn[8] not in {c.lower() for c in colors.values()}


def test_scale_and_limits_fit_losses_over_decades() -> None:
    network = grouped()
    ax = plots.plot_disconnectivity(network)
    assert ax.get_yscale() == "log"
    low, high = ax.get_ylim()
    assert low < network.loss.min()
    assert high > max(segment[:, 1].max() for segment in segments(ax))
    assert plots.plot_disconnectivity(network, scale="linear").get_yscale() == "linear"
    assert plots.plot_disconnectivity(random_network(0)).get_yscale() != "log"


def test_minima_that_are_far_too_deep_are_triangles_at_the_bottom() -> None:
    network = grouped()
    network.loss[:2] = 1e-18, 1e-12
    ax = plots.plot_disconnectivity(network)
    marks = ax.collections[-1]
    assert marks.get_label() == "deeper than drawn"
    bottom = max(merge.height for merge in network.merges) / 1e6
    expected = [(network.order.index(i), bottom) for i in (0, 1)]
    np.testing.assert_array_equal(np.asarray(marks.get_offsets()), expected)
    assert [len(np.asarray(marks.get_offsets())) for marks in ax.collections] == [3, 3, 2]
    assert min(post[0, 1] for post in uprights(ax)) == bottom


def test_what_has_not_settled_is_marked() -> None:
    network = grouped(settled=False)
    marks = plots.plot_disconnectivity(network).collections[-1]
    assert marks.get_label() == "search not settled"
    offsets = np.asarray(marks.get_offsets())
    assert sorted(offsets[:, 1]) == pytest.approx([merge.height for merge in network.merges])
    assert len(plots.plot_disconnectivity(grouped()).collections) == 2


def test_what_nothing_joins_ends_in_dots() -> None:
    heights = np.array([[0, 1, np.inf], [1, 0, np.inf], [np.inf, np.inf, 0]])
    ax = plots.plot_disconnectivity(synthetic(heights))
    assert len(crossbars(ax)) == 1
    assert [line.get_linestyle() for line in ax.lines if line.get_alpha() != 0].count(":") == 2


def test_heights_hold_paths_above_and_chains_below_in_the_order_of_the_tree() -> None:
    network = grouped()
    network.heights[0, 1] = network.heights[1, 0] = np.nan
    image = plots.plot_heights(network).images[0]
    drawn = np.ma.filled(np.ma.asarray(image.get_array()).astype(float), np.nan)
    order = list(network.order)
    above, below = np.triu_indices(8, 1), np.tril_indices(8, -1)
    np.testing.assert_array_equal(drawn[above], network.heights[np.ix_(order, order)][above])
    np.testing.assert_array_equal(drawn[below], network.minimax[np.ix_(order, order)][below])
    assert np.isnan(np.diag(drawn)).all()
    assert isinstance(image.norm, LogNorm)
    flat = plots.plot_heights(synthetic([[0, 1, 2], [1, 0, 2], [2, 2, 0]])).images[0].norm
    assert type(flat) is Normalize


def test_names_colours_and_marks_of_heights_are_those_of_the_groups() -> None:
    network = grouped()
    ax = plots.plot_heights(network)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [str(i) for i in network.order]
    colors = plots.optimizer_colors(["sgd", "lbfgs"])
    assert [tick.get_color() for tick in ax.get_xticklabels()] == [
        colors[network.groups[i]] for i in network.order
    ]
    assert sorted(len(np.asarray(marks.get_offsets())) for marks in ax.collections[:2]) == [4, 4]


def test_axes_that_are_given_are_drawn_in_and_carry_no_legend() -> None:
    ax = plots.plot_disconnectivity(grouped())
    assert ax.get_legend() is not None
    mine = plots.style.new_axes()
    assert plots.plot_disconnectivity(grouped(), mine, linewidth=3.0) is mine
    assert mine.get_legend() is None
    assert {line.get_linewidth() for line in mine.lines if line.get_alpha() != 0} == {3.0}


@pytest.mark.parametrize("positive", [True, False])
def test_the_histogram_counts_every_pair_once_under_its_two_groups(positive: bool) -> None:
    network = grouped(8)
    network = network if positive else replace(network, heights=network.heights - 1, loss=network.loss - 1)
    ax = plots.plot_height_histogram(network)
    drawn = {patch.get_label(): patch.get_path().vertices[:, 1].max() for patch in ax.patches}  # pyright: ignore
    assert set(drawn) == {"sgd – sgd", "lbfgs – lbfgs", "sgd – lbfgs"}
    assert ax.get_xscale() == ("log" if positive else "linear")
    edges = np.histogram_bin_edges(
        (np.log10 if positive else np.asarray)(network.heights[np.triu_indices(8, 1)]), bins=40
    )
    groups = np.array(network.groups)
    across = groups[:, None] != groups
    values = network.heights[np.triu(across, 1)]
    counts = np.histogram(np.log10(values) if positive else values, edges)[0]
    assert drawn["sgd – lbfgs"] == counts.max()
    assert counts.sum() == 16
