"""The network of minima: chains by brute force, known landscapes, what is not searched, resuming, intervals by simulation."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
import torch
from reference import CROSSINGS, LENNARD_JONES_7, STATIONARY
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.optimize import minimize
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.spatial.distance import squareform
from test_potentials import polyhedra

from analysis import find_path, group_statistics, linear_path, minima_network, network_of
from analysis.networks.group_statistics import _averages, _Column
from analysis.networks.known import Known
from landscape import InputError, Objective
from landscape.potentials import four_well, lennard_jones, ring
from landscape.results import MinimaNetwork

float64 = torch.float64
WELLS = [s.point for s in STATIONARY if s.potential is four_well and s.index == 0]
PASSES = {(0, 2): -1.25131237, (1, 2): -3.98030324}  # of the four wells: deepest, second, third


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def synthetic(heights, loss=None, groups=None, status=None, converged=True):
    """A network of these heights (n, n), whose straight lines are higher by 1."""
    n = len(heights)
    loss = np.zeros(n) if loss is None else np.asarray(loss, dtype=float)
    heights = np.array(heights, dtype=float)
    np.fill_diagonal(heights, loss)
    groups = tuple(groups or [""] * n)
    return MinimaNetwork(
        labels=tuple(str(i) for i in range(n)),
        groups=groups,
        loss=loss,
        lines=np.where(np.eye(n, dtype=bool), heights, heights + 1),
        heights=heights,
        converged=np.full((n, n), converged),
        status=np.full((n, n), "searched", dtype="U16") if status is None else status,
        method="fourier",
        gradients=0,
        losses=0,
        rounding=1e-14,
    )


def random_network(seed, n=6, missing=0.0, infinite=0.0):
    """Heights at random, with chance ``missing`` that of a pair only the line is known, or nothing finite."""
    rng = np.random.default_rng(seed)
    loss = rng.uniform(-1, 0, n)
    heights = np.zeros((n, n))
    for i, j in combinations(range(n), 2):
        heights[i, j] = heights[j, i] = rng.choice(
            [rng.uniform(0, 3), np.nan, np.inf], p=[1 - missing - infinite, missing, infinite]
        )
    network = synthetic(heights, loss)
    lines = rng.uniform(1, 4, (n, n))
    network.lines[:] = np.where(np.eye(n, dtype=bool), network.lines, np.minimum(lines, lines.T))
    return network


def chains(network):
    """The minimax by going through every chain of different minima: the definition."""
    direct, n = network.direct, len(network.loss)
    least = np.diag(network.loss)
    for i, j in permutations(range(n), 2):
        rest = [k for k in range(n) if k not in (i, j)]
        least[i, j] = min(
            max(direct[a, b] for a, b in zip((i, *links), (*links, j), strict=True))
            for count in range(n - 1)
            for links in permutations(rest, count)
        )
    return least


# ---------------------------------------------------------------- the record

networks = pytest.mark.parametrize(
    "network",
    [
        random_network(0),
        random_network(1, missing=0.5),
        random_network(2, infinite=0.6),
        random_network(3, n=2),
    ],
    ids=["full", "lines too", "infinite", "two"],
)


def test_a_barrier_of_rounding_is_none():
    low = 0.1
    network = synthetic([[low, low + 2e-17], [low + 2e-17, low]], np.array([low, low]))
    assert network.heights[0, 1] > low
    assert not network.direct_barriers[0, 1]
    assert not network.barriers[0, 1]
    higher = synthetic([[low, low + 1e-12], [low + 1e-12, low]], np.array([low, low]))
    assert higher.barriers[0, 1] == higher.direct_barriers[0, 1] == pytest.approx(1e-12, rel=1e-3)


@networks
def test_the_minimax_is_that_of_all_chains(network):
    np.testing.assert_array_equal(network.minimax, chains(network))
    higher = np.maximum.outer(network.loss, network.loss)
    np.testing.assert_array_equal(network.barriers, chains(network) - higher)


def test_only_lines_that_are_not_finite_join_nothing():
    network = random_network(2, infinite=0.6)
    network.lines[:] = np.where(np.eye(6, dtype=bool), network.lines, np.inf)
    assert np.isinf(network.minimax).any()
    np.testing.assert_array_equal(network.minimax, chains(network))


@pytest.mark.parametrize("seed", range(3))
def test_the_minimax_is_single_linkage_and_the_tree_the_spanning_one(seed):
    network = random_network(seed, n=12)
    condensed = squareform(network.direct - np.diag(network.loss))
    off = ~np.eye(12, dtype=bool)
    np.testing.assert_allclose(network.minimax[off], squareform(cophenet(linkage(condensed)))[off])
    assert sum(merge.height for merge in network.merges) == pytest.approx(
        minimum_spanning_tree(squareform(condensed)).sum()
    )
    for merge in network.merges:
        assert network.direct[merge.edge] == merge.height


def test_a_height_that_is_not_known_is_that_of_the_line_and_the_lower_of_both_counts():
    network = synthetic([[0, np.nan, 5], [np.nan, 0, 2], [5, 2, 0]])
    network.lines[:] = [[0, 3, 4], [3, 0, 9], [4, 9, 0]]
    np.testing.assert_array_equal(network.direct, [[0, 3, 4], [3, 0, 2], [4, 2, 0]])
    np.testing.assert_array_equal(network.minimax, [[0, 3, 3], [3, 0, 2], [3, 2, 0]])
    np.testing.assert_array_equal(network.direct_barriers, network.heights)


@networks
def test_merges_rise_and_join_what_the_minimax_says_at_their_height(network):
    heights = [merge.height for merge in network.merges]
    assert heights == sorted(heights)
    assert len(heights) == len(network.loss) - 1
    order = network.order
    assert sorted(order) == list(range(len(network.loss)))
    for merge in network.merges:
        assert (network.minimax[np.ix_(merge.left, merge.right)] == merge.height).all()
        assert len({*merge.edge} & {*merge.left}) == len({*merge.edge} & {*merge.right}) == 1
        assert network.loss[list(merge.left)].min() <= network.loss[list(merge.right)].min()
        start = order.index(merge.left[0])  # neighbours, so that no branches cross
        assert order[start : start + len(merge.left + merge.right)] == merge.left + merge.right


@pytest.mark.parametrize("level", [-0.5, 0.2, 0.7, 1.5, 4.0])
def test_clusters_are_the_components_below_a_level(level):
    network = random_network(5, n=9)
    found = network.clusters(level)
    below = network.loss <= level
    np.testing.assert_array_equal(found < 0, ~below)
    count, expected = connected_components((network.direct <= level)[np.ix_(below, below)])
    assert found.max() == count - 1
    np.testing.assert_array_equal(
        found[below][:, None] == found[below][None], expected[:, None] == expected[None]
    )
    deepest = [network.loss[found == k].min() for k in range(count)]
    assert deepest == sorted(deepest)


def test_a_merge_is_settled_where_its_search_converged_or_its_end_is_reached():
    status = np.array(
        [["", "searched", "at its bound"], ["searched", "", "off the tree"], ["", "", ""]], dtype="U16"
    )
    network = synthetic([[0, 1, 0], [1, 0, 3], [0, 3, 0]], status=status, converged=False)
    assert [(merge.edge, merge.settled) for merge in network.merges] == [((0, 2), True), ((0, 1), False)]


def test_a_network_is_saved_and_loaded(tmp_path):
    network = random_network(1, missing=0.5)
    again = MinimaNetwork.load(network.save(tmp_path / "network.npz"))
    for name in ("loss", "lines", "heights", "converged", "status", "found", "minimax"):
        np.testing.assert_array_equal(getattr(again, name), getattr(network, name))
    assert again.labels == network.labels
    assert again.merges == network.merges


# ---------------------------------------------------------------- known landscapes


def test_four_wells_merge_at_their_passes():
    network = minima_network(four_well(), WELLS, steps=500, generator=seeded())
    np.testing.assert_allclose(network.loss, [-6.76245257, -6.36895651, -4.13720312], atol=1e-8)
    assert network.minimax[0, 1] == pytest.approx(CROSSINGS["four_well"].height, abs=1e-3)
    for pair, height in PASSES.items():
        assert network.minimax[pair] == pytest.approx(height, abs=1e-3)
    assert [merge.left + merge.right for merge in network.merges] == [(1, 2), (0, 1, 2)]
    np.testing.assert_array_equal(network.clusters(-2.0), [0, 1, 1])
    np.testing.assert_array_equal(network.clusters(-5.0), [0, 1, -1])


def test_a_minimum_that_a_path_dips_to_is_found():
    network = minima_network(four_well(), WELLS[:2], discover=5, steps=500, generator=seeded())
    assert network.labels == ("0", "1", "found/0")
    assert network.groups == ("", "", "found")
    np.testing.assert_allclose(network.found, [WELLS[2]], atol=1e-6)
    for pair, height in PASSES.items():
        assert network.minimax[pair] == pytest.approx(height, abs=1e-3)


@pytest.mark.parametrize(("most", "pairs"), [(1, "open"), (5, "open"), (1, [(0, 1)])])
def test_no_more_minima_are_added_than_asked_for_and_their_pairs_are_searched(most, pairs):
    waves = Objective([lambda x: 1 - torch.cos(2 * torch.pi * x[0]) + x[1] ** 2], 2)
    network = minima_network(waves, [(0.0, 0.0), (3.0, 0.0)], discover=most, pairs=pairs, steps=20)
    assert sorted(network.found[:, 0].round(6)) == [1, 2][: min(most, 2)]
    assert set(statuses(network)) == {"searched"}
    assert [merge.height for merge in network.merges] == pytest.approx([2] * (1 + min(most, 2)), abs=1e-5)


def relaxed(start):
    objective = lennard_jones()

    def value_and_grad(theta):
        value, gradient = objective.value_and_grad(torch.from_numpy(theta))
        return float(value), gradient.numpy()

    settings = {"ftol": 0.0, "gtol": 0.0, "maxiter": 1000}
    return minimize(value_and_grad, start.ravel(), jac=True, method="L-BFGS-B", options=settings).x


def beside(a, b):
    """Cluster b moved, turned, mirrored and its atoms relabelled so as to be nearest to a (Kabsch 1976, over all labels)."""
    a, b = (x.reshape(7, 3) - x.reshape(7, 3).mean(axis=0) for x in (a, b))
    labelled = b[np.array(list(permutations(range(7))))]
    u, s, vt = np.linalg.svd(np.einsum("kni,nj->kij", labelled, a))
    best = s.sum(axis=1).argmax()
    return (labelled[best] @ u[best] @ vt[best]).ravel()


@pytest.fixture(scope="module")
def clusters():
    """The three deepest minima of seven atoms, the second beside the first and the third beside the second."""
    first, second, third = (relaxed(polyhedra()[name]) for name in list(LENNARD_JONES_7)[:3])
    second = beside(first, second)
    return np.stack([beside(second, first), second, beside(second, third)])


def test_seven_atoms_go_from_the_first_to_the_third_minimum_over_the_second(clusters):
    network = minima_network(lennard_jones(), clusters, generator=seeded())
    np.testing.assert_allclose(network.loss, list(LENNARD_JONES_7.values())[:3], atol=1e-6)
    assert network.minimax[0, 2] == pytest.approx(-15.319864, abs=1e-3)
    assert network.minimax[0, 1] == pytest.approx(-15.4447, abs=1e-3)
    assert [merge.edge for merge in network.merges] == [(0, 1), (1, 2)]


def test_seven_atoms_find_the_second_minimum_between_the_first_and_the_third(clusters):
    network = minima_network(lennard_jones(), clusters[[0, 2]], discover=1, generator=seeded())
    assert network.loss[2] == pytest.approx(LENNARD_JONES_7["capped octahedron"], abs=1e-6)
    assert network.minimax[0, 1] == pytest.approx(-15.319864, abs=1e-3)
    assert [merge.edge for merge in network.merges] == [(0, 2), (1, 2)]


# ---------------------------------------------------------------- what is searched


def on_the_ring(n):
    angle = 2 * np.pi * (np.arange(n) + 0.3) / n
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def statuses(network):
    n = len(network.loss)
    return Counter(str(network.status[i, j]) for i, j in combinations(range(n), 2))


def test_pairs_that_a_chain_joins_at_their_bound_are_not_searched():
    network = minima_network(ring(), on_the_ring(5), steps=2000, generator=seeded())
    assert statuses(network) == {"searched": 4, "at its bound": 6}
    assert network.barriers.max() < 1e-4
    assert all(merge.settled for merge in network.merges)
    assert np.isnan(network.heights[network.status == "at its bound"]).all()
    np.testing.assert_array_equal(network.status, network.status.T)


def test_all_pairs_are_searched_where_asked_for():
    network = minima_network(ring(), on_the_ring(4), pairs="all", steps=50, generator=seeded())
    assert statuses(network) == {"searched": 6}
    assert np.isfinite(network.heights).all()


def test_a_list_of_pairs_is_searched_whatever_is_known():
    network = minima_network(
        ring(), on_the_ring(4), pairs=[(0, 1), (2, 1), (0, 2)], steps=50, generator=seeded()
    )
    assert statuses(network) == {"searched": 3, "not asked for": 3}
    assert np.isfinite(network.lines).all()


def test_the_tree_rule_searches_until_its_tree_is_searched():
    points = np.concatenate([on_the_ring(3), 3 * on_the_ring(3)])

    def two_rings(theta):
        r2 = theta.square().sum()
        return (r2 - 1) ** 2 * (r2 - 9) ** 2 / 64

    network = minima_network(
        Objective([two_rings], 2), points, pairs="tree", minima=False, steps=300, generator=seeded()
    )
    for merge in network.merges:
        assert network.status[merge.edge] in ("searched", "at its bound")
    assert statuses(network)["searched"] == 5
    assert set(statuses(network)) <= {"searched", "at its bound", "off the tree"}
    assert network.merges[-1].height == pytest.approx(
        (4 * -4) ** 2 / 64, rel=1e-4
    )  # at r² = 5, between the rings


def test_no_search_starts_beyond_the_budget():
    free = minima_network(four_well(), WELLS, steps=50, generator=seeded())
    first = minima_network(four_well(), WELLS, budget=1, steps=50, generator=seeded())
    assert statuses(first) == {"searched": 1, "out of budget": 2}
    assert first.status[0, 2] == "searched"  # on the tree, and its line is highest above its ends
    assert first.heights[0, 2] == free.heights[0, 2]
    assert statuses(minima_network(four_well(), WELLS, budget=0)) == {"out of budget": 3}
    lines = minima_network(four_well(), WELLS, method="linear")
    assert statuses(lines) == {"not asked for": 3}
    np.testing.assert_array_equal(lines.lines, free.lines)


def sampled(start, end, *loss, method="fourier"):
    """A path of these losses."""
    path = linear_path(four_well(), WELLS[0], WELLS[1], start=start, end=end)
    return replace(path, loss=np.array(loss, dtype=float), t=np.linspace(0, 1, len(loss)), method=method)


def test_the_bound_is_the_loss_of_the_higher_end():
    known = Known(["a", "b"], ["", ""], [-1.0, 0.0])
    known.add((0, 1), sampled("a", "b", -1, 2, 0, method="linear"))
    assert known.at_bound((0, 1), 1.9e-5, 1e-5)  # of the line's barrier, 2
    assert known.at_bound((0, 1), 2.9e-6, 0.0)  # to which tops are bracketed, of the line's range, 3
    assert not known.at_bound((0, 1), 2.1e-5, 1e-5)
    assert not known.at_bound((0, 1), 3.1e-6, 0.0)


def test_pairs_of_the_tree_come_first_then_those_with_most_room_then_those_of_lower_lines():
    known = Known(list("abcd"), [""] * 4, [0.0] * 4)
    lines = {(0, 1): 1, (0, 2): 1, (1, 2): 1.5, (0, 3): 3, (1, 3): 4, (2, 3): 5}
    for pair, height in lines.items():
        known.add(pair, sampled("", "", 0, height, 0, method="linear"))
    asked = []
    while pairs := known.open_pairs():
        pair = pairs[0]
        asked.append(pair)
        known.add(pair, sampled("", "", 0, 2 if pair == (0, 3) else 0.1, 0))
    assert asked == [(0, 3), (0, 1), (0, 2), (1, 3), (1, 2), (2, 3)]


def test_of_several_paths_the_lowest_counts_and_of_several_losses_of_an_end_the_smallest():
    paths = [sampled("a", "b", 0, 3, 1), sampled("b", "a", 1, 2, -1), sampled("a", "b", 0, 4, 1)]
    network = network_of(paths)
    assert network.heights[0, 1] == 2
    assert network.loss.tolist() == [-1, 1]
    assert np.isnan(network.lines[0, 1])
    assert network.gradients == sum(path.gradients for path in paths)


def test_what_a_pair_finds_does_not_depend_on_the_others():
    three = minima_network(four_well(), WELLS, pairs="all", steps=50, generator=seeded())
    two = minima_network(four_well(), WELLS[:2], steps=50, generator=seeded())
    last = minima_network(four_well(), WELLS, pairs=[(0, 1)], steps=50, generator=seeded())
    assert three.heights[0, 1] == two.heights[0, 1] == last.heights[0, 1]
    other = minima_network(four_well(), WELLS[:2], steps=50, generator=seeded(1))
    assert other.heights[0, 1] != two.heights[0, 1]


def test_the_lines_and_paths_are_those_of_the_public_calls():
    seen = []
    network = minima_network(
        four_well(), WELLS, labels=["a/0", "b/0", "b/1"], on_path=seen.append, modes=4, steps=100
    )
    assert network.groups == ("a", "b", "b")
    line = linear_path(four_well(), WELLS[0], WELLS[2])
    assert network.lines[0, 2] == line.height
    assert [(p.start, p.end, p.method) for p in seen[:3]] == [
        (*ends, "linear") for ends in (("a/0", "b/0"), ("a/0", "b/1"), ("b/0", "b/1"))
    ]
    assert {len(path.coefficients) for path in seen[3:]} == {4}
    assert {path.method for path in seen[3:]} == {"fourier"}
    assert network.gradients == sum(path.gradients for path in seen)
    assert network.losses == 3 + sum(path.losses for path in seen)
    assert seen[3].height == network.heights[0, 2]
    again = network_of(seen)
    for name in ("loss", "lines", "heights", "converged", "status", "minimax"):
        np.testing.assert_array_equal(getattr(again, name), getattr(network, name))
    assert again.labels == network.labels
    assert again.groups == network.groups


# ---------------------------------------------------------------- resuming


class Killed(Exception):
    pass


def counted(counts):
    (f,) = four_well().terms

    def term(theta):
        counts.append(1)
        return f(theta)

    return Objective([term], 2)


@pytest.mark.parametrize(("kill_at", "steps", "discover"), [(2, 60, 0), (5, 60, 0), (4, 300, 3)])
def test_a_killed_run_goes_on_where_it_was(tmp_path, kill_at, steps, discover):
    whole, part, rest, none, seen = [], [], [], [], []
    wells = WELLS[: 2 if discover else 3]

    def run(counts, **more: Any):
        settings: dict[str, Any] = {"steps": steps, "discover": discover, **more}
        return minima_network(counted(counts), wells, generator=seeded(), **settings)

    def kill(path):
        seen.append(path)
        if len(seen) == kill_at:
            raise Killed

    expected = run(whole)
    with pytest.raises(Killed):
        run(part, folder=tmp_path, on_path=kill)
    resumed = run(rest, folder=tmp_path)
    assert len(part) + len(rest) == len(whole) + len(wells)  # the losses at the minima, once more
    for name in ("loss", "lines", "heights", "status", "converged"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(expected, name))
    assert resumed.gradients == expected.gradients
    run(none, folder=tmp_path)
    assert len(none) == len(wells)
    assert not list(tmp_path.glob(".*"))


def test_other_settings_in_the_same_folder_are_searched_anew(tmp_path):
    found = [
        minima_network(four_well(), WELLS[:2], steps=steps, folder=tmp_path).gradients
        for steps in (20, 60, 20)
    ]
    assert found[0] == found[2] < found[1]


def test_paths_that_are_there_are_taken_in_either_direction():
    path = find_path(four_well(), WELLS[2], WELLS[0], steps=50, generator=seeded())
    network = minima_network(four_well(), WELLS, paths={(2, 0): path}, budget=1)
    assert network.heights[0, 2] == path.height
    assert statuses(network) == {"searched": 1, "out of budget": 2}


def test_a_path_of_another_loss_is_refused(tmp_path):
    path = find_path(four_well(), WELLS[2], WELLS[0], generator=seeded(), steps=20)
    with pytest.raises(
        InputError,
        match=r"to join 0 and 2 has losses -4.1372 and -6.76245 at its ends, but the .* have -6.76",
    ):
        minima_network(four_well(), WELLS, paths={(0, 2): path})
    minima_network(four_well(), WELLS[:2], steps=20, folder=tmp_path)
    other = Objective([lambda theta: 2 * four_well()(theta)], 2)
    with pytest.raises(InputError, match=r"it is of others, or of another loss; .* another folder"):
        minima_network(other, WELLS[:2], steps=20, folder=tmp_path)


@pytest.mark.parametrize(
    ("thetas", "settings", "sentence"),
    [
        (WELLS[:1], {}, r"thetas must be at least two minima \(n, 2\), got shape \(1, 2\)"),
        (WELLS[0], {}, r"thetas must be at least two minima \(n, 2\), got shape \(2,\)"),
        ([*WELLS, (np.nan, 0)], {}, "thetas must be finite, but row 3 holds values that are NaN"),
        ([*WELLS, WELLS[1]], {}, "thetas must be different minima, but rows 1 and 3 are the same"),
        ([(0.0, 1.0), (-0.0, 1.0)], {}, "rows 0 and 1 are the same"),
        (
            WELLS,
            {"labels": ["a", "b"]},
            "labels must be 3 different names and groups 3 names, .* got 2 labels",
        ),
        (WELLS, {"labels": ["a", "b", "a"]}, "got 3 labels, 2 of them different"),
        (WELLS, {"groups": ["a"]}, "and 1 groups"),
        (
            WELLS,
            {"pairs": [(0, 3)]},
            r"pairs must be of two different minima, each from 0 to 2, got \(0, 3\)",
        ),
        (WELLS, {"pairs": [(1, 1)]}, r"pairs must be of two different minima.*got \(1, 1\)"),
        (WELLS, {"pairs": "some"}, "pairs must be tree, open, all, or a list of pairs .*got 'some'"),
        (WELLS, {"method": "walk"}, "no path method 'walk'; choose one of linear, fourier"),
        (WELLS, {"negligible": -1}, "negligible and discover must be at least 0.*got negligible=-1"),
        (WELLS, {"discover": 1, "hold_norm": True}, "discover must be 0 where norms are held"),
        ([(0.5, 0.5), WELLS[0]], {"pairs": "all"}, "a must be near a minimum"),
    ],
)
def test_what_is_no_network_is_refused(thetas, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        minima_network(four_well(), thetas, **settings)


def test_a_loss_that_is_not_finite_is_refused():
    with pytest.raises(InputError, match="loss at thetas must be finite, but at row 1 it is inf"):
        minima_network(Objective([lambda x: 1 / x.square().sum()], 2), [(1.0, 0.0), (0.0, 0.0)])


def test_paths_without_names_make_no_network():
    path = linear_path(four_well(), WELLS[0], WELLS[1])
    with pytest.raises(InputError, match=r"must name its two ends .* got '' and ''"):
        network_of([path])
    with pytest.raises(InputError, match="at least one path, got none"):
        network_of([])
    named = linear_path(four_well(), WELLS[0], WELLS[1], start="a", end="b")
    with pytest.raises(InputError, match=r"groups must name .* has nothing for 'b'"):
        network_of([named], groups={"a": "x"})


# ---------------------------------------------------------------- statistics


def two_groups(rng, n, noise, value=np.add):
    """Values of pairs made of a number for each minimum, and noise; two groups of n."""
    ends = rng.normal(size=2 * n)
    heights = value.outer(ends, ends) + noise * rng.normal(size=(2 * n, 2 * n))
    heights = np.triu(heights, 1) + np.triu(heights, 1).T
    return synthetic(heights, np.full(2 * n, -100.0), ["a"] * n + ["b"] * n)


@pytest.mark.parametrize("average", ["median", "mean"])
def test_averages_are_those_of_the_pairs_and_differences_theirs(average):
    network = two_groups(np.random.default_rng(0), 5, 1.0)
    found = group_statistics(network, what="height", average=average)
    assert found.groups == (
        "a – a",
        "b – b",
        "a – b",
        "(a – a) − (b – b)",
        "(a – a) − (a – b)",
        "(b – b) − (a – b)",
    )
    i, j = np.triu_indices(5, 1)
    take = {"median": np.median, "mean": np.mean}[average]
    h = network.heights
    expected = take(h[i, j]), take(h[i + 5, j + 5]), take(h[:5, 5:])
    np.testing.assert_allclose(found.center[0, :3], expected)
    a, b, ab = expected
    np.testing.assert_allclose(found.center[0, 3:], [a - b, a - ab, b - ab])
    np.testing.assert_array_equal(found.counts, [[10, 10, 25, 10, 10, 10]])
    barriers = group_statistics(network, average=average)
    np.testing.assert_allclose(barriers.center[0, :3], np.array(expected) + 100)


@pytest.mark.parametrize("average", ["median", "mean", "geometric mean"])
def test_a_draw_averages_pairs_as_often_as_both_ends_were_drawn(average):
    rng = np.random.default_rng(1)
    i, j = np.triu_indices(6, 1)
    values, drawn = rng.uniform(1, 2, len(i)), rng.multinomial(6, np.full(6, 1 / 6), size=50).astype(float)
    found = _averages(_Column(("a", "a"), values, i, j, 6), drawn, average)
    take = np.median if average == "median" else np.mean
    change = np.log if average.startswith("geometric") else np.asarray
    for row, counts in zip(found, drawn.astype(int), strict=True):
        listed = [
            v for v, a, b in zip(change(values), i, j, strict=True) for _ in range(counts[a] * counts[b])
        ]
        assert row == pytest.approx(take(listed))


def test_geometric_averages_are_ratios_and_chains_are_chains():
    network = two_groups(np.random.default_rng(2), 4, 0.5)
    logs = group_statistics(network, average="geometric mean", generator=seeded())
    assert logs.groups[3] == "(a – a) / (b – b)"
    np.testing.assert_allclose(logs.center[0, 3], logs.center[0, 0] / logs.center[0, 1])
    np.testing.assert_allclose(logs.low * logs.high, logs.center**2)
    joined = group_statistics(network, what="height", over="chains", average="mean")
    i, j = np.triu_indices(4, 1)
    assert joined.center[0, 0] == pytest.approx(network.minimax[i, j].mean())


@pytest.mark.parametrize("average", ["median", "mean"])
@pytest.mark.parametrize(("value", "noise"), [(np.add, 0.3), (np.maximum, 0.0), (np.add, 1.0)])
def test_intervals_hold_the_truth_as_often_as_they_say(average, value, noise):
    rng = np.random.default_rng(3)
    many = value(*rng.normal(size=(2, 400_000))) + noise * rng.normal(size=400_000)
    truth = {"median": np.median, "mean": np.mean}[average](many)
    repeats, hits = 200, np.zeros(6)
    for _ in range(repeats):
        found = group_statistics(
            two_groups(rng, 6, noise, value), what="height", average=average, repeats=200
        )
        true = np.array([truth, truth, truth, 0, 0, 0])
        hits += ((found.low <= true) & (true <= found.high))[0]
    assert (hits / repeats >= 0.88).all()
    assert (hits[:3] / repeats).mean() < 0.995  # and not by being endless


def test_draws_come_from_the_generator_and_are_the_same_without_one():
    network = two_groups(np.random.default_rng(0), 5, 1.0)
    low = [group_statistics(network, generator=g).low for g in (None, None, seeded(), seeded(), seeded(1))]
    np.testing.assert_array_equal(low[0], low[1])
    np.testing.assert_array_equal(low[2], low[3])
    assert (low[3] != low[4]).any()


def test_a_lower_bound_of_barriers_is_not_negative_but_that_of_a_difference_may_be():
    heights = np.zeros((8, 8))
    for i, j in combinations(range(8), 2):
        heights[i, j] = heights[j, i] = 10.0 * (i == 0 or i == 4 < j)
    network = synthetic(heights, groups=["a"] * 4 + ["b"] * 4)
    bounds = {
        what: group_statistics(network, what=what, average="mean").low[0] for what in ("height", "barrier")
    }
    assert (bounds["height"][:3] < 0).all()
    np.testing.assert_array_equal(bounds["barrier"][:3], 0)
    np.testing.assert_array_equal(bounds["barrier"][3:], bounds["height"][3:])
    assert (bounds["barrier"][3:] < 0).all()


def test_a_single_pair_has_no_interval():
    network = synthetic(1 - np.eye(5), groups=["a", "a", "b", "b", "b"])
    found = group_statistics(network)
    assert found.groups[:4] == ("a – a", "b – b", "a – b", "(a – a) − (b – b)")
    assert np.isnan(found.low[0]).tolist() == [True, False, False, True, True, False]
    np.testing.assert_array_equal(np.isnan(found.low), np.isnan(found.high))


def test_groups_of_one_have_no_interval():
    network = synthetic([[0, 1, 2], [1, 0, 3], [2, 3, 0]], groups=["a", "a", "b"])
    found = group_statistics(network)
    assert found.groups == ("a – a", "a – b", "(a – a) − (a – b)")
    assert found.center[0].tolist() == [1, 2.5, -1.5]
    assert np.isnan(found.low[0, 1])


@pytest.mark.parametrize(
    ("change", "settings", "sentence"),
    [
        ({}, {"what": "depth"}, "what must be one of barrier, height, got 'depth'"),
        ({}, {"over": "pairs"}, "over must be one of paths, chains, got 'pairs'"),
        ({}, {"average": "mode"}, "average must be one of median, .* got 'mode'"),
        ({}, {"repeats": 1}, "repeats be at least 2, got 0.95 and 1"),
        ({"status": "at its bound"}, {}, "15 pairs were not searched because of what was known of them"),
        ({"heights": np.nan}, {}, "no pair of minima whose path was searched"),
        ({"heights": np.inf}, {}, "some pairs of a – a have no path of finite loss"),
        ({"heights": -200.0}, {"average": "geometric mean"}, "a – a have values that are not positive"),
    ],
)
def test_statistics_that_cannot_be_are_refused(change, settings, sentence):
    network = two_groups(np.random.default_rng(0), 3, 1.0)
    for name, value in change.items():
        getattr(network, name)[~np.eye(6, dtype=bool)] = value
    with pytest.raises(InputError, match=sentence):
        group_statistics(network, **settings)
