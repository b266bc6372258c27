"""Topology and roughness of surfaces: planted wells and rings, known potentials, a naive union–find, eigenvector planes."""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from analysis import eigenvector_plane, roughness, topology
from landscape import InputError, Objective, Plane, load, scan
from landscape.potentials import four_well, muller_brown
from landscape.results import Surface, Topology

pytest.importorskip("gudhi")


def surface(f: Callable[..., np.ndarray], n1: int = 81, n2: int = 61, reach: float = 2.0) -> Surface:
    x, y = np.linspace(-reach, reach, n1), np.linspace(-reach, reach, n2)
    return Surface(steps1=x, steps2=y, loss=f(x[:, None], y[None, :]) + np.zeros((n1, n2)))


def of(values: Any) -> Surface:
    loss = np.array(values, dtype=float)
    return Surface(steps1=np.arange(loss.shape[0]) * 1.0, steps2=np.arange(loss.shape[1]) * 1.0, loss=loss)


def merge_tree(values: np.ndarray) -> dict[tuple[int, ...], tuple[float, tuple[int, ...] | None]]:
    """Death and parent of every minimum of positive persistence: samples are flooded in order, the elder survives."""
    seen: dict[tuple[int, ...], tuple[int, ...]] = {}  # sample -> minimum of its component
    order = sorted(
        np.ndindex(values.shape), key=lambda at: values[at]
    )  # stable: ties in the order of indices
    age = {at: i for i, at in enumerate(order)}
    dead: dict[tuple[int, ...], tuple[float, tuple[int, ...] | None]] = {}
    for i, j in order:
        near = [at for at in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)) if at in seen]
        minima = sorted({seen[at] for at in near}, key=age.__getitem__)
        seen[i, j] = minima[0] if minima else (i, j)
        for younger in minima[1:]:
            if values[i, j] > values[younger]:
                dead[younger] = float(values[i, j]), minima[0]
            for at, minimum in seen.items():
                if minimum == younger:
                    seen[at] = minima[0]
    for minimum in set(seen.values()):
        dead[minimum] = np.inf, None
    return dead


def tree_of(found: Topology) -> dict[tuple[int, ...], tuple[float, tuple[int, ...] | None]]:
    minima = [tuple(int(k) for k in at) for at in found.minima]
    parents = [None if p < 0 else minima[p] for p in found.parents]
    return {m: (float(d), p) for m, d, p in zip(minima, found.deaths, parents, strict=True)}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("integers", [False, True])
def test_the_merge_tree_of_random_fields_is_that_of_flooding(seed, integers):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 6, (12, 9)).astype(float) if integers else rng.normal(size=(12, 9))
    kept = values.copy()
    found = topology(of(values))
    assert tree_of(found) == merge_tree(values)
    np.testing.assert_array_equal(found.births, values[tuple(found.minima.T)])
    np.testing.assert_array_equal(found.deaths[1:], values[tuple(found.saddles[1:].T)])
    assert (np.diff(found.births) >= 0).all()
    np.testing.assert_array_equal(values, kept)
    # Euler characteristic of {f ≤ c}: vertices − edges + squares = components − loops
    for c in np.quantile(values, [0.2, 0.5, 0.8]):
        inside = values <= c
        edges = (inside[1:] & inside[:-1]).sum() + (inside[:, 1:] & inside[:, :-1]).sum()
        squares = (inside[1:, 1:] & inside[1:, :-1] & inside[:-1, 1:] & inside[:-1, :-1]).sum()
        components = ((found.births <= c) & (found.deaths > c)).sum()
        loops = ((found.loop_births <= c) & (found.loop_deaths > c)).sum()
        assert inside.sum() - edges + squares == components - loops


def test_planted_wells_have_their_depths_saddles_and_parents():
    # three wells in a row, depths −3, −1, −2, walls of 1 and 4 between them, higher outside
    row = [9, -3, 1, -1, 4, -2, 9]
    found = topology(of([[9] * 7, row, [9] * 7]))
    np.testing.assert_array_equal(found.births, [-3, -2, -1])
    np.testing.assert_array_equal(found.deaths, [np.inf, 4, 1])
    np.testing.assert_array_equal(found.minima, [[1, 1], [1, 5], [1, 3]])
    np.testing.assert_array_equal(found.saddles, [[-1, -1], [1, 4], [1, 2]])
    np.testing.assert_array_equal(found.parents, [-1, 0, 0])
    np.testing.assert_array_equal(found.persistence, [np.inf, 6, 2])
    np.testing.assert_array_equal(found.minima_coordinates, found.minima)
    assert np.isnan(found.saddle_coordinates[0]).all()
    assert (found.lowest, found.highest) == (-3, 9)
    assert len(found.loop_births) == 0


def test_the_parent_is_who_was_elder_where_they_met():
    found = topology(of([[-3, 5, -1, 2, -2], [9] * 5]))
    np.testing.assert_array_equal(found.births, [-3, -2, -1])
    np.testing.assert_array_equal(found.deaths, [np.inf, 5, 2])
    np.testing.assert_array_equal(found.parents, [-1, 0, 1])
    pruned = found.significant(3.0)
    np.testing.assert_array_equal(pruned.births, [-3, -2])
    np.testing.assert_array_equal(pruned.parents, [-1, 0])
    np.testing.assert_array_equal(found.significant(0).births, found.births)
    np.testing.assert_array_equal(found.significant(100).births, [-3])
    with pytest.raises(InputError, match="persistence must be a number of at least 0, got -1"):
        found.significant(-1)


def test_a_child_of_what_is_left_out_goes_to_the_nearest_ancestor():
    found = topology(of([[-3.5, 8, -4, 5, -2, 2, -1], [9] * 7]))
    np.testing.assert_array_equal(found.parents, [-1, 0, 0, 2])
    changed = replace(found, birth_errors=np.array([0, 0, 99.0, 0]), death_errors=np.zeros(4))
    np.testing.assert_array_equal(changed.significant().births, [-4, -3.5, -1])
    np.testing.assert_array_equal(changed.significant().parents, [-1, 0, 0])


def test_a_ring_has_one_loop():
    found = topology(surface(lambda x, y: (x**2 + y**2 - 1) ** 2 + 0.1 * x, n1=81, n2=81), value="loss")
    kept = found.significant(0.2)
    assert len(kept.births) == 1
    assert len(kept.loop_births) == 1
    # born at the pass of the rim opposite to the minimum, near (1, 0), filled at the hill, near (0, 0)
    assert kept.loop_births[0] == pytest.approx(0.1, abs=0.02)
    assert kept.loop_deaths[0] == pytest.approx(1.0, abs=0.01)
    np.testing.assert_allclose(found.steps1[kept.loop_saddles[0, 0]], 1.0, atol=0.06)
    np.testing.assert_allclose(found.steps2[kept.loop_saddles[0, 1]], 0.0, atol=0.2)  # the rim is flat there
    np.testing.assert_allclose(found.steps1[kept.loop_maxima[0, 0]], 0.0, atol=0.06)
    assert kept.loop_persistence[0] == kept.loop_deaths[0] - kept.loop_births[0]


def test_a_loop_of_a_grid_is_exact():
    found = topology(of([[0, 1, 2], [7, 9, 3], [6, 5, 4]]))
    np.testing.assert_array_equal([found.loop_births, found.loop_deaths], np.reshape([[7], [9]], (2, 1)))
    np.testing.assert_array_equal(found.loop_saddles, [[1, 0]])
    np.testing.assert_array_equal(found.loop_maxima, [[1, 1]])
    assert len(found.births) == 1


@pytest.mark.parametrize("slope", [(1, 0), (0.3, -2), (0, 0)])
def test_a_slope_has_one_minimum_and_nothing_else(slope):
    found = topology(surface(lambda x, y: slope[0] * x + slope[1] * y))
    assert len(found.births) == 1
    assert len(found.loop_births) == 0
    assert found.parents.tolist() == [-1]


KNOWN = {
    "four_well": (
        four_well(),
        (-1.8, 1.8),
        (-2.2, 2.2),
        [(-6.76245257, np.inf), (-6.36895651, -1.25131237), (-4.13720312, -3.98030324)],
    ),
    "muller_brown": (
        muller_brown(),
        (-1.5, 1.1),
        (-0.4, 2.0),
        [(-146.69951721, np.inf), (-108.16672412, -40.66484351), (-80.76781813, -72.24894011)],
    ),
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("points", [81, 161])
def test_known_minima_and_saddles_are_met_to_the_error_stated(name, points):
    objective, along, across, expected = KNOWN[name]
    first, second = (torch.linspace(*ends, points, dtype=torch.float64) for ends in (along, across))
    eye = torch.eye(2, dtype=torch.float64)
    record = scan(objective, Plane(torch.zeros(2), eye[0], eye[1], first, second), engine="loop")
    whole = topology(record)
    found = whole.significant()
    births, deaths = np.transpose(expected)
    assert len(found.births) == 3
    for missed, error in (
        (found.births - births, found.birth_errors),
        (found.deaths[1:] - deaths[1:], found.death_errors[1:]),
    ):
        assert (np.abs(missed) <= 1.2 * error).all(), (missed, error)
    assert (found.births >= births).all()  # a sample is never lower than the minimum


def test_the_error_stated_bounds_that_of_parabolas():
    """Minima anywhere between the samples of a turned parabola lie within the error, and reach nearly all of it."""
    rng = np.random.default_rng(0)
    shares = []
    for turn in np.linspace(0, np.pi, 9):
        for _ in range(40):
            shift = rng.uniform(-0.5, 0.5, 2)
            grid = np.stack(np.meshgrid(np.arange(-6, 7.0), np.arange(-6, 7.0), indexing="ij"))
            u, v = grid - shift[:, None, None]
            u, v = np.cos(turn) * u + np.sin(turn) * v, -np.sin(turn) * u + np.cos(turn) * v
            found = topology(of(u**2 + 0.5 * v**2))
            shares.append(found.births[0] / found.birth_errors[0])
    assert max(shares) <= 1 + 1e-12
    assert max(shares) > 0.8


@pytest.mark.parametrize("seed", range(5))
def test_the_error_stated_is_the_most_that_half_a_step_can_add(seed):
    """max ½ δᵀHδ over |δᵢ| ≤ ½, at a corner, of convex parabolas: second differences are exact."""
    h = np.random.default_rng(seed).normal(size=(2, 2))
    h = h @ h.T + 0.1 * np.eye(2)
    x, y = np.meshgrid(np.arange(-6, 7.0), np.arange(-6, 7.0), indexing="ij")
    found = topology(of(0.5 * (h[0, 0] * x**2 + h[1, 1] * y**2) + h[0, 1] * x * y))
    corners = np.array([[0.5, 0.5], [0.5, -0.5]])
    assert found.birth_errors[0] == pytest.approx(max(0.5 * d @ h @ d for d in corners), rel=1e-12)
    assert not found.on_edge[0]


def test_the_deepest_minimum_counts_whatever_its_error_is():
    found = topology(of([[3, 2, np.nan], [4, 0, np.nan], [5, 6, 7]]))
    assert found.birth_errors.tolist() == [np.inf]
    np.testing.assert_array_equal(found.significant().births, [0])
    np.testing.assert_array_equal(found.significant(np.inf).births, [0])


def test_minima_on_the_edge_are_told():
    values = np.full((5, 6), 9.0)
    for i, (at, depth) in enumerate({(2, 3): -1, (0, 2): -2, (4, 4): -3, (2, 0): -4, (1, 5): -5}.items()):
        values[at] = depth + 0.1 * i
    found = topology(of(values))
    inside = (found.minima == [2, 3]).all(axis=1)
    assert len(found.births) == 5
    np.testing.assert_array_equal(found.on_edge, ~inside)
    np.testing.assert_array_equal(found.significant(9.5).on_edge, found.on_edge[found.persistence > 9.5])
    rough = roughness(of(values), persistence=1.0)
    assert (rough.minima, rough.edge_minima) == (1, 4)


def test_a_slope_has_no_minimum_but_that_of_its_edge():
    rough = roughness(surface(lambda x, y: x + 0.3 * y))
    assert (rough.minima, rough.edge_minima) == (0, 1)


def test_what_is_not_finite_is_in_no_sublevel_set():
    values = np.array([[0, 5, 1, np.nan, -1], [9, np.inf, 7, np.nan, 3], [9, 9, 9, np.inf, 8]])
    found = topology(of(values))
    np.testing.assert_array_equal(found.births, [-1, 0, 1])
    np.testing.assert_array_equal(found.deaths, [np.inf, np.inf, 5])
    np.testing.assert_array_equal(found.parents, [-1, -1, 1])
    assert found.not_finite == 4
    assert np.isnan(values).sum() == 2
    assert len(found.significant(1).births) == 3
    hole = np.ones((5, 5))
    hole[2, 2] = np.inf
    around = topology(of(hole))
    assert around.loop_deaths.tolist() == [np.inf]
    assert around.loop_maxima.tolist() == [[-1, -1]]
    with pytest.raises(
        InputError, match=r"at least 2 × 2 samples of which some are finite, got \(3, 3\) with 0"
    ):
        topology(of(np.full((3, 3), np.nan)))


def test_a_missing_gudhi_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "gudhi", None)
    with pytest.raises(
        InputError, match=r"needs the package gudhi.*pip install 'torch-landscape\[topology\]'"
    ):
        topology(of([[0, 1], [2, 3]]))


def test_records_are_saved_and_other_values_taken(tmp_path):
    values = np.random.default_rng(0).normal(size=(8, 7))
    record = Surface(
        steps1=np.arange(8.0), steps2=np.arange(7.0), loss=values * 0, values={"test loss": values}
    )
    found = topology(record, value="test loss", about={"seed": 1})
    kept = load(found.save(tmp_path / "topology.npz"))
    for name in ("births", "deaths", "parents", "minima", "loop_births"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(found, name))
    assert (kept.value, kept.about) == ("test loss", {"seed": 1})
    rough = roughness(record, value="test loss", persistence=0.1)
    again = load(rough.save(tmp_path / "roughness.npz"))
    assert again.minima + again.edge_minima == len(found.significant(0.1).births)
    assert rough.threshold == 0.1


# roughness


@pytest.mark.parametrize("seed", range(4))
def test_a_quadratic_bowl_is_not_rough(seed):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(2, 2))
    a = a @ a.T
    b = -2 * a @ rng.uniform(-1.5, 1.5, 2)  # its minimum is inside of the grid
    found = roughness(
        surface(lambda x, y: 7 + b[0] * x + b[1] * y + a[0, 0] * x**2 + 2 * a[0, 1] * x * y + a[1, 1] * y**2)
    )
    assert found.misfit == pytest.approx(0, abs=1e-14)
    assert (found.minima, found.edge_minima, found.convex, found.nonconvex) == (1, 0, 1, 0)


def test_a_saddle_is_nowhere_convex_and_a_valley_is():
    assert roughness(surface(lambda x, y: x**2 - y**2)).nonconvex == 1
    assert roughness(surface(lambda x, y: 3 * x * y)).nonconvex == 1
    assert roughness(surface(lambda x, y: (x + y) ** 2)).nonconvex == 0
    assert roughness(surface(lambda x, y: 0 * x)).misfit == 0


@pytest.mark.parametrize("reach", [1.0, 0.03, 0.01])
@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_a_bowl_computed_in_single_precision_is_convex(reach, offset):
    generator = torch.Generator().manual_seed(0)
    theta, d1, d2, weights = torch.randn(4, 50, generator=generator)
    bowl = Objective([lambda t: offset + (weights.abs() * t**2).mean()], 50, dtype=torch.float32)
    steps = torch.linspace(-reach, reach, 41, dtype=torch.float64)
    record = scan(bowl, Plane(theta, d1, d2, steps, steps), engine="loop")
    assert roughness(record).nonconvex == 0
    between = (record.loss[1:] + record.loss[:-1]) / 2 * (1 + 1e-12)  # no float32 numbers, but as rough
    said = {"objective": {"dtype": "torch.float32"}}
    smooth = Surface(steps1=record.steps1[1:], steps2=record.steps2, loss=between, about=said)
    assert roughness(smooth).nonconvex == 0
    saddle = Objective([lambda t: offset + (weights * t**2).mean()], 50, dtype=torch.float32)
    assert (
        roughness(
            scan(saddle, Plane(0 * theta, weights.clamp(max=0), d2, steps * 100, steps * 100))
        ).nonconvex
        > 0.9
    )


def test_roughness_is_what_it_says_it_is():
    record = surface(lambda x, y: x**2 + y**2 + 0.6 * np.cos(4 * x) * np.cos(3 * y), n1=41, n2=31)
    found, f = roughness(record), record.loss
    h1, h2 = record.steps1[1] - record.steps1[0], record.steps2[1] - record.steps2[0]
    negative = []
    for i in range(1, 40):
        for j in range(1, 30):
            mixed = (f[i + 1, j + 1] - f[i + 1, j - 1] - f[i - 1, j + 1] + f[i - 1, j - 1]) / (4 * h1 * h2)
            h = [
                [(f[i + 1, j] - 2 * f[i, j] + f[i - 1, j]) / h1**2, mixed],
                [mixed, (f[i, j + 1] - 2 * f[i, j] + f[i, j - 1]) / h2**2],
            ]
            negative.append(np.linalg.eigvalsh(h)[0] < 0)
    assert 0 < found.nonconvex < 1
    assert found.nonconvex == pytest.approx(np.mean(negative), abs=1e-12)
    x, y = (m.ravel() for m in np.meshgrid(record.steps1, record.steps2, indexing="ij"))
    design = np.stack([x**0, x, y, x**2, x * y, y**2], axis=1)
    left = f.ravel() - design @ np.linalg.lstsq(design, f.ravel(), rcond=None)[0]
    assert found.misfit == pytest.approx(left.var() / f.var(), rel=1e-10)
    tree = topology(record)
    dims = tree.persistence[1:].sum() + tree.loop_persistence.sum()
    assert found.total_persistence == pytest.approx(dims / np.ptp(f), rel=1e-13)
    assert found.minima == (~tree.significant().on_edge).sum() > 1


def test_missing_values_are_left_out_of_roughness():
    record = surface(lambda x, y: x**2 + 2 * y**2, n1=21, n2=21)
    loss = record.loss.copy()
    loss[0], loss[15, 15] = np.nan, np.inf
    found = roughness(Surface(steps1=record.steps1, steps2=record.steps2, loss=loss))
    assert found.misfit == pytest.approx(0, abs=1e-14)
    assert found.convex == 1


def test_roughness_refuses_what_it_cannot_measure():
    with pytest.raises(InputError, match=r"at least 3 × 3 samples, got \(2, 2\)"):
        roughness(of([[0, 1], [2, 3]]))
    uneven = Surface(steps1=np.array([0, 1, 3.0]), steps2=np.arange(3.0), loss=np.zeros((3, 3)))
    with pytest.raises(InputError, match="steps1 must be evenly spaced"):
        roughness(uneven)
    with pytest.raises(InputError, match="no inner sample of the surface has finite neighbours"):
        roughness(of([[1, 2, 3], [4, np.nan, 5], [6, 7, 8]]))


# planes of eigenvectors


def quadratic() -> tuple[Objective, torch.Tensor, torch.Tensor]:
    values = torch.tensor([50.0, 8.0, 2.0, -1.0, 0.5], dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
    matrix = q @ torch.diag(values) @ q.T
    return Objective([lambda t: 3 + 0.5 * t @ matrix @ t], 5), values, q


@pytest.mark.parametrize(("pair", "signs"), [((0, 1), (1, 1)), ((0, 2), (1, 1)), ((1, 4), (1, -1))])
@pytest.mark.parametrize("rise", [None, 0.25])
def test_an_eigenvector_plane_rises_by_what_was_asked(pair, signs, rise):
    objective, values, q = quadratic()
    theta = torch.zeros(5, dtype=torch.float64)
    plane = eigenvector_plane(objective, theta, pair=pair, rise=rise, points=5)
    record = scan(objective, plane)
    s, t = record.steps1[:, None], record.steps2[None]
    np.testing.assert_allclose(record.loss, 3 + (rise or 3) * (signs[0] * s**2 + signs[1] * t**2), atol=1e-9)
    assert record.center_loss == 3
    order = values.argsort(descending=True)[list(pair)]
    for direction, k in zip((plane.d1, plane.d2), order, strict=True):
        assert abs(float(direction @ q[:, k])) == pytest.approx(float(direction.norm()), rel=1e-8)
        assert f"{float(values[k]):.6g} ±" in record.direction
    assert theta.equal(torch.zeros(5, dtype=torch.float64))


def test_an_eigenvector_plane_of_a_reach_has_unit_directions():
    objective, _, _ = quadratic()
    plane = eigenvector_plane(objective, torch.zeros(5), reach=0.1, points=4)
    torch.testing.assert_close(plane.d1.norm(), torch.tensor(1.0, dtype=torch.float64))
    assert (float(plane.steps1[0]), len(plane.steps1)) == (-0.1, 5)
    assert "steps are distances" in plane.drawn
    with pytest.raises(InputError, match="give rise or reach, not both"):
        eigenvector_plane(objective, torch.zeros(5), reach=0.1, rise=1)
    with pytest.raises(InputError, match=r"pair must be two different numbers from 0, got \(1, 1\)"):
        eigenvector_plane(objective, torch.zeros(5), pair=(1, 1))


def test_an_eigenvalue_within_its_residual_has_no_length():
    """A search that is told to stop early: 4e-5 ± 1e-3, known to be nothing."""
    generator = torch.Generator().manual_seed(0)
    values = torch.cat([torch.ones(1), 1e-3 * torch.randn(299, generator=generator)]).double()
    q = torch.linalg.qr(torch.randn(300, 300, generator=generator.manual_seed(1), dtype=torch.float64))[0]
    objective = Objective([lambda t: 1 + 0.5 * (values * (t @ q) ** 2).sum()], 300)
    options: dict[str, Any] = {"tolerance": 1, "max_matvecs": 6}
    with pytest.raises(InputError, match="an eigenvalue is 0 but for its error"):
        eigenvector_plane(objective, torch.zeros(300), generator=generator.manual_seed(0), **options)
    tiny = torch.tensor(
        [1.0, 1e-17, 0], dtype=torch.float64
    )  # a residual of 0, and yet rounding of the largest
    with pytest.raises(InputError, match="an eigenvalue is 0 but for its error"):
        eigenvector_plane(Objective([lambda t: 0.5 * (tiny * t**2).sum()], 3), torch.zeros(3), rise=1)


def test_an_eigenvalue_that_is_rounding_has_no_length():
    """Of rank one: the second eigenvalue is 0, computed as 1e-17 or so, along which a step would be 1e8 long."""
    generator = torch.Generator().manual_seed(2)
    for dtype in (torch.float64, torch.float32):
        direction = torch.randn(60, generator=generator, dtype=dtype)
        ridge = Objective([lambda t, d=direction: 1 + (d @ t) ** 2], 60, dtype=dtype)
        theta = torch.randn(60, generator=generator, dtype=dtype)
        with pytest.raises(InputError, match=r"an eigenvalue is 0 but for its error \(.* ± .*give reach"):
            eigenvector_plane(ridge, theta, generator=torch.Generator().manual_seed(0))
        plane = eigenvector_plane(ridge, theta, reach=0.1, generator=torch.Generator().manual_seed(0))
        assert float(plane.d2.norm()) == pytest.approx(1, rel=1e-5)
    small = torch.tensor([1.0, 1e-9, 0], dtype=torch.float64)
    plane = eigenvector_plane(Objective([lambda t: 0.5 * (small * t**2).sum()], 3), torch.zeros(3), rise=1)
    assert float(plane.d2.norm()) == pytest.approx(np.sqrt(2e9), rel=1e-6)
    flat = Objective([lambda t: t[0] ** 2], 3)
    with pytest.raises(InputError, match=r"rise must be greater than 0, got 0\.0; give rise or reach"):
        eigenvector_plane(flat, torch.zeros(3))
    with pytest.raises(InputError, match="an eigenvalue is 0"):
        eigenvector_plane(flat, torch.zeros(3), rise=1)
