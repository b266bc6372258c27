"""Pictures of planes, trajectories and their topology hold the records' numbers."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import LogNorm, Normalize, to_hex

import landscape.plots as plots
from landscape import InputError
from landscape.plots.planes import THINNEST, WIDEST
from landscape.plots.scans import even_levels
from landscape.results import Profile, Projection, Surface, Topology


def surface(**more: Any) -> Surface:
    x, y = np.linspace(-2, 3, 11), np.linspace(-1, 1, 9)
    loss = 0.1 + x[:, None] ** 2 + y**2
    values = {"test accuracy": 1 / (1 + loss), "signed": loss - 2, "wide": loss}
    drawn = "plane through three points; steps are distances"
    return Surface(**({"steps1": x, "steps2": y, "loss": loss, "values": values, "direction": drawn} | more))


def projection(label: str, seed: int = 0, count: int = 6) -> Projection:
    rng = np.random.default_rng(seed)
    reach = rng.uniform(1, 2, count)
    return Projection(
        label=label,
        steps=np.arange(count) * 10.0,
        coordinates=rng.uniform(-1, 1, (count, 2)),
        distance=reach * np.linspace(1, 0, count),
        reach=reach,
        loss=rng.uniform(1, 2, count),
        loss_on_plane=rng.uniform(0, 1, count),
    )


def topology() -> Topology:
    none, pair = np.zeros(0), np.zeros((0, 2), dtype=int)
    return Topology(
        value="loss",
        label="",
        steps1=np.arange(5.0),
        steps2=np.arange(3.0),
        births=np.array([-3.0, -2, -1, 0]),
        deaths=np.array([np.inf, 5, 2, np.inf]),
        minima=np.array([[1, 1], [4, 0], [2, 1], [4, 1]]),
        saddles=np.array([[-1, -1], [1, 0], [3, 0], [-1, -1]]),
        parents=np.array([-1, 0, 1, -1]),
        birth_errors=np.full(4, 0.1),
        death_errors=np.array([0, 0.3, np.inf, 0]),
        loop_births=none,
        loop_deaths=none,
        loop_saddles=pair,
        loop_maxima=pair,
        loop_birth_errors=none,
        loop_death_errors=none,
        lowest=-3.0,
        highest=9.0,
        not_finite=1,
    )


def scatters(ax: Axes) -> list[PathCollection]:
    return [c for c in ax.collections if isinstance(c, PathCollection)]


def hollow(points: PathCollection) -> list[bool]:
    """Whether each is white with its colour around it, rather than the reverse."""
    count, white = len(np.asarray(points.get_offsets())), np.ones(4)
    face, edge = (np.broadcast_to(c, (count, 4)) for c in (points.get_facecolor(), points.get_edgecolor()))
    found = [bool((f == white).all()) for f in face]
    assert found == [bool((e != white).any()) for e in edge]
    return found


def legend_of(ax: Axes) -> list[str]:
    return [t.get_text() for t in cast(Any, ax.get_legend()).get_texts()]


def texts(ax: Axes) -> list[str]:
    return [t.get_text() for t in ax.texts]


def test_trajectories_are_drawn_where_they_are_and_thinner_off_the_plane():
    paths = [projection("sgd/0"), projection("alto/1", seed=1), projection("sgd/1", seed=2)]
    ax = plots.plot_plane(surface(), paths)
    drawn = [c for c in ax.collections if isinstance(c, LineCollection)]
    assert len(drawn) == 6
    colors = plots.optimizer_colors(["sgd", "alto"])
    farthest = max(path.reach.max() for path in paths)
    for i, path in enumerate(paths):
        line = drawn[2 * i + 1]
        pieces = np.stack(cast(Any, line.get_segments()))
        np.testing.assert_array_equal(pieces[:, 0], path.coordinates[:-1])
        np.testing.assert_array_equal(pieces[:, 1], path.coordinates[1:])
        widths = np.asarray(cast(Any, line).get_linewidths())
        share = (path.distance[:-1] + path.distance[1:]) / 2 / farthest
        np.testing.assert_allclose(widths, WIDEST + share * (THINNEST - WIDEST))
        assert to_hex(cast(Any, line.get_color())[0]) == colors[path.label.partition("/")[0]].lower()
        first, last = scatters(ax)[2 * i : 2 * i + 2]
        np.testing.assert_array_equal(np.asarray(first.get_offsets())[0], path.coordinates[0])
        np.testing.assert_array_equal(np.asarray(last.get_offsets())[0], path.coordinates[-1])
    assert ax.get_xlim() == (-2, 3)
    (legend,) = cast(Any, ax.figure).legends
    assert [t.get_text() for t in legend.get_texts()] == ["sgd", "alto"]
    cast(Any, ax.figure).canvas.draw()


def test_a_plane_without_trajectories_is_its_surface():
    ax = plots.plot_plane(surface(), value="test accuracy")
    assert not scatters(ax)
    assert not cast(Any, ax.figure).legends
    same = plots.plot_plane(surface(), [projection("x")], plots.plot_surface(surface()))
    assert not cast(Any, same.figure).legends  # in someone else's axes there is no legend


def test_marks_are_named_and_hollow_off_the_plane():
    places = np.array([[0.0, 0], [2, 0.5]])
    given = surface(
        mark_labels=("sgd/0", "off$"),
        mark_coordinates=places,
        mark_distance=np.array([0, 0.3]),
        mark_loss=np.zeros(2),
    )
    ax = plots.plot_surface(given)
    on, off = scatters(ax)
    np.testing.assert_array_equal(np.asarray(on.get_offsets()), places[:1])
    np.testing.assert_array_equal(np.asarray(off.get_offsets()), places[1:])
    assert len(on.get_facecolor())
    assert not len(off.get_facecolor())
    assert texts(ax) == ["sgd/0", r"off\$"]
    assert not ax.lines  # no cross where the marks are
    assert "(distance)" in ax.get_xlabel()


@pytest.mark.parametrize(
    ("value", "norm"),
    [("loss", LogNorm), ("test accuracy", Normalize), ("wide", LogNorm), ("signed", Normalize)],
)
def test_other_values_have_their_own_scale_and_name(value, norm):
    ax = plots.plot_surface(surface(), value=value)
    filled = cast(Any, ax.collections[0])
    assert type(filled.norm) is norm
    bar = cast(Any, ax.figure).axes[1]
    assert bar.get_ylabel().startswith("train loss" if value == "loss" else value)
    assert ("logarithmic" in bar.get_ylabel()) == (norm is LogNorm)
    with pytest.raises(
        InputError,
        match=r"value must be one of those recorded \(loss, test accuracy, signed, wide\), got 'x'",
    ):
        plots.plot_surface(surface(), value="x")


def test_accuracies_near_one_are_on_an_even_scale():
    given = surface(values={"test accuracy": surface().values["test accuracy"] * 0.1 + 0.9})
    filled = cast(Any, plots.plot_surface(given, value="test accuracy").collections[0])
    np.testing.assert_allclose(filled.levels, even_levels([given.values["test accuracy"]]))
    assert (np.diff(even_levels([np.full(3, 2.0)])) > 0).all()
    assert len(even_levels([np.full(3, np.nan)])) == 19


def test_a_surface_with_negative_losses_is_drawn_as_it_is():
    given = surface(loss=surface().loss - 5)
    filled = cast(Any, plots.plot_surface(given).collections[0])
    assert filled.levels[0] == given.loss.min()
    assert filled.levels[-1] == given.loss.max()


def test_residuals_and_gaps():
    paths = [projection("sgd/0"), projection("alto/0", seed=1)]
    ax = plots.plot_residuals(paths)
    for i, path in enumerate(paths):
        np.testing.assert_array_equal(cast(Any, ax.lines[2 * i].get_xydata()).T, [path.steps, path.distance])
        np.testing.assert_array_equal(cast(Any, ax.lines[2 * i + 1].get_xydata()).T, [path.steps, path.reach])
    assert ax.get_ylabel() == "distance from the plane"
    ax = plots.plot_gaps(paths)
    for i, path in enumerate(paths):
        np.testing.assert_array_equal(cast(Any, ax.lines[2 * i].get_xydata()).T, [path.steps, path.loss])
        below = cast(Any, ax.lines[2 * i + 1].get_xydata()).T
        np.testing.assert_array_equal(below, [path.steps, path.loss_on_plane])


def test_a_profile_of_another_value_and_its_marks():
    steps = np.linspace(-0.5, 1.5, 5)
    profile = Profile(
        steps=steps,
        loss=steps**2,
        values={"test loss": steps + 7},
        mark_labels=("a", "b"),
        mark_coordinates=np.array([[0.0], [1]]),
        mark_distance=np.zeros(2),
        mark_loss=np.array([0.0, 1]),
    )
    ax = plots.plot_profile(profile)
    assert texts(ax) == ["a", "b"]
    offsets = [np.asarray(c.get_offsets())[0].tolist() for c in scatters(ax)]
    assert offsets == [[0, 0], [1, 1]]
    ax = plots.plot_profile(profile, value="test loss")
    np.testing.assert_array_equal(np.asarray(ax.lines[1].get_ydata()), steps + 7)
    assert ax.get_ylabel() == "test loss"
    assert not texts(ax)


def test_the_persistence_diagram_holds_births_and_deaths():
    ax = plots.plot_persistence(topology())
    dying, lasting = scatters(ax)[:2]
    np.testing.assert_array_equal(np.asarray(dying.get_offsets()), [[-2, 5], [-1, 2]])
    last = np.asarray(lasting.get_offsets())
    np.testing.assert_array_equal(last[:, 0], [-3, 0])
    assert (last[:, 1] > 5).all()
    assert hollow(dying) == [True, False]
    assert hollow(lasting) == [False, True]
    assert "minima on the edge" in legend_of(ax)
    inside = replace(topology(), minima=np.ones((4, 2), dtype=int))
    assert not any(map(any, map(hollow, scatters(plots.plot_persistence(inside))[:2])))
    assert "minima on the edge" not in legend_of(plots.plot_persistence(inside))


def test_the_merge_tree_has_a_branch_a_minimum_and_no_crossings():
    given = topology()
    ax = plots.plot_merge_tree(given, color="red")
    places = np.asarray(scatters(ax)[0].get_offsets())
    np.testing.assert_array_equal(places[:, 1], given.births)
    assert sorted(places[:, 0]) == [0, 1, 2, 3]
    branches = [np.asarray(line.get_xydata()) for line in ax.lines if len(np.asarray(line.get_xdata())) > 1]
    for i, branch in enumerate(branches):
        np.testing.assert_array_equal(branch[0], places[i])
        if np.isfinite(given.deaths[i]):
            x = places[given.parents[i], 0]
            np.testing.assert_array_equal(branch[1:], [[places[i, 0], given.deaths[i]], [x, given.deaths[i]]])
    assert {line.get_color() for line in ax.lines} == {"red"}
    assert hollow(scatters(ax)[0]) == [False, True, False, True]
    assert ax.get_xlabel() == "hollow: on the edge of the grid"
    inside = replace(given, minima=np.ones((4, 2), dtype=int))
    assert plots.plot_merge_tree(inside).get_xlabel() == ""
    cast(Any, ax.figure).canvas.draw()


@pytest.mark.parametrize("seed", range(5))
def test_no_branch_crosses_another(seed):
    """On random trees: under every joint, no other branch between the two ends reaches up to it."""
    rng = np.random.default_rng(seed)
    m = 12
    births, deaths = np.arange(m) * 0.1, np.full(m, np.inf)
    parents = np.full(m, -1)
    for i in range(1, m):
        parents[i] = rng.integers(0, i)
        deaths[i] = min(rng.uniform(2, 9), deaths[parents[i]])  # children die before their parents
    empty = topology()
    fields = {name: getattr(empty, name) for name in empty.__dict__}
    tree = {"births": births, "deaths": deaths, "parents": parents, "minima": np.ones((m, 2), dtype=int)}
    given = Topology(**(fields | tree))
    places = np.asarray(scatters(plots.plot_merge_tree(given))[0].get_offsets())[:, 0]
    for i in range(1, m):
        low, high = sorted((places[i], places[parents[i]]))
        between = (places > low) & (places < high)
        assert (deaths[between] <= deaths[i]).all()
