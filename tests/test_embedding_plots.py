"""Pictures of embeddings draw what the record holds: points, lines along trajectories, their ends, shares, distances."""

from typing import Any, cast

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from analysis import kernel_pca, trajectory_pca
from landscape import plots

RNG = np.random.default_rng(0)
RUNS = [np.cumsum(RNG.standard_normal((n, 50)), axis=0) for n in (9, 6)]
ALONE = RNG.standard_normal((4, 50))
GROUPS = ["sgd"] * 9 + ["alto"] * 6


def drawn(ax: Axes) -> list[np.ndarray]:
    """What lines go through, those of legends left out."""
    return [np.asarray(line.get_xydata()) for line in ax.lines if len(np.asarray(line.get_xdata()))]


def marks(ax: Axes) -> list[tuple[np.ndarray, str, str]]:
    """Places, filling and edge of scattered marks."""
    found = []
    for c in cast(Any, ax.collections):
        found.append(
            (np.asarray(c.get_offsets()), to_hex(c.get_facecolor()[0]), to_hex(c.get_edgecolor()[0]))
        )
    return found


@pytest.mark.parametrize("control", [False, True])
def test_trajectories_are_lines_with_open_first_and_filled_last_points(control):
    found = kernel_pca(RUNS, groups=GROUPS, gamma="median")
    ax = plots.plot_embedding_control(found) if control else plots.plot_embedding(found)
    at = np.stack([found.norms, found.coordinates[:, 0]], 1) if control else found.coordinates
    colors = [plots.optimizer_colors(["sgd", "alto"])[name].lower() for name in ("sgd", "alto")]
    for line, which in zip(drawn(ax), (slice(9), slice(9, 15)), strict=True):
        np.testing.assert_array_equal(line, at[which])
    for (where, face, edge), i, color, opened in zip(
        marks(ax), (0, 8, 9, 14), np.repeat(colors, 2), (True, False) * 2, strict=True
    ):
        np.testing.assert_array_equal(where[0], at[i])
        assert (edge if opened else face) == color
        assert (face == "#ffffff") == opened
    assert [t.get_text() for t in cast(Any, ax.get_legend()).get_texts()] == ["sgd", "alto"]


def test_solutions_by_themselves_are_marks_beside_lines():
    found = kernel_pca(np.concatenate([ALONE]), groups=["sgd"] * 4, components=1)
    ax = plots.plot_embedding(found)
    np.testing.assert_array_equal(marks(ax)[0][0], np.pad(found.coordinates, ((0, 0), (0, 1))))
    assert drawn(ax) == []
    outputs = kernel_pca(ALONE, space="outputs")
    assert plots.plot_embedding_control(outputs).get_xlabel() == "norm of the outputs"
    assert plots.plot_embedding_control(found).get_xlabel() == "norm ‖θ‖"


def test_scree_shows_shares_and_a_random_walks():
    for record, walk in (
        (kernel_pca(RUNS, groups=GROUPS), None),
        (trajectory_pca(RUNS[0]), trajectory_pca(RUNS[0]).random_walk_shares),
        (trajectory_pca(RUNS), None),
    ):
        ax = plots.plot_scree(record)
        heights = [cast(Any, bar).get_height() for bar in ax.patches]
        np.testing.assert_allclose(heights, 100 * record.shares[:12])
        filled = [to_hex(cast(Any, bar).get_facecolor()) == "#222222" for bar in ax.patches]
        assert sum(filled) == filled.index(False) == 2
        lines = drawn(ax)
        np.testing.assert_allclose(lines[0][:, 1], 100 * np.cumsum(record.shares)[:12])
        assert len(lines) == (1 if walk is None else 2)
        if walk is not None:
            np.testing.assert_allclose(lines[1][:, 1], 100 * walk)


def test_a_trajectory_in_its_plane_with_its_distances_beneath():
    pca = trajectory_pca(RUNS, groups=GROUPS)
    ax = plots.plot_trajectory_pca(pca)
    *paths, center = drawn(ax)
    for line, which in zip(paths, (slice(9), slice(9, 15)), strict=True):
        np.testing.assert_array_equal(line, pca.coordinates[which])
    np.testing.assert_array_equal(center, [[0, 0]])
    assert ax.get_xlabel() == f"PC1 ({100 * pca.explained[0]:.1f} % of the squared distance)"
    assert ax.get_title(loc="left") == ""
    beneath = cast(Any, ax.figure).axes[1]
    for line, (values, which) in zip(
        drawn(beneath),
        [(v, w) for w in (slice(9), slice(9, 15)) for v in (pca.residual, pca.distances)],
        strict=True,
    ):
        np.testing.assert_array_equal(line, np.stack([pca.steps[which], values[which]], 1))
    one = trajectory_pca(RUNS[0], center="mean", components=1)
    walk = one.random_walk_shares
    title = plots.plot_trajectory_pca(one).get_title(loc="left")
    assert title == f"shares of a random walk: {100 * walk[0]:.1f} % and {100 * walk[1]:.1f} %"


def test_given_axes_are_drawn_into():
    pca, first = trajectory_pca(RUNS[0]), plots.plot_embedding(kernel_pca(ALONE))
    ax = cast(Any, first.figure).add_subplot()
    assert plots.plot_trajectory_pca(pca, ax) is ax
    assert plots.plot_trajectory_residual(pca, ax) is ax
    assert plots.plot_scree(pca, ax) is ax
    assert len(cast(Any, first.figure).axes) == 2
