"""Traces of blocks: against dense Hessians, their variance as stated, errors over error bars, and partitions of θ by hand."""

import math

import numpy as np
import pytest
import torch
from dense import quadratic, reference, rotated
from torch import Tensor, nn

from analysis import block_traces
from analysis.curvature.blocks import Probes
from analysis.curvature.partition import Groups, partition_of
from analysis.points import NOT_FINITE
from landscape import InputError, Objective
from landscape.parameters import Parameters
from landscape.results import BlockTraces

PROBES: list[Probes] = ["joint", "exact"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def in_blocks(matrix: Tensor, *sizes: int) -> Objective:
    """½θᵀAθ with θ in tensors of these sizes, called a, b, …"""
    names = tuple("abcdefgh"[: len(sizes)])
    parameters = Parameters(names, tuple((size,) for size in sizes))
    term = quadratic(matrix).terms[0]
    return Objective([term], len(matrix), dtype=matrix.dtype, parameters=parameters)


def dense_block(hessian: Tensor, objective: Objective, names: list[str]) -> Tensor:
    """∇²L with respect to these tensors, cut out of the dense one by name."""
    inside = torch.cat(
        [
            torch.full((size,), name in names)
            for name, size in zip(objective.parameters.names, objective.parameters.sizes, strict=True)
        ]
    )
    return hessian[inside][:, inside]


@pytest.mark.parametrize("name", ["mlp", "layernorm", "conv"])
@pytest.mark.parametrize("probes", PROBES)
def test_exact_blocks_of_networks(name, probes):
    net = reference(name)
    theta, before, dim = net.theta, net.theta.clone(), len(net.theta)
    tensors = net.objective.parameters.names
    layers = {
        n.rpartition(".")[0]: [m for m in tensors if m.startswith(n.rpartition(".")[0])] for n in tensors
    }
    cases: list[tuple[Groups, dict[str, list[str]]]] = [
        ("parameter", {n: [n] for n in tensors}),
        ("layer", layers),
        (layers, layers),
    ]
    for by, groups in cases:
        found = block_traces(net.objective, theta, by=by, probes=probes, matvecs=dim)
        blocks = [dense_block(net.hessian, net.objective, groups[block]) for block in found.names]
        assert found.names == tuple(groups)
        np.testing.assert_allclose(found.values, [float(b.trace()) for b in blocks], rtol=1e-9)
        np.testing.assert_allclose(found.means * found.sizes, found.values, rtol=1e-12)
        assert found.sizes.tolist() == [len(b) for b in blocks]
        assert (found.stderr == 0).all()
        assert np.isnan(found.samples).all()
        assert found.matvecs == dim
        assert found.values.sum() == pytest.approx(float(net.hessian.trace()), rel=1e-9)
        assert found.by == (by if isinstance(by, str) else "groups")
    assert theta.equal(before)


def test_exact_filters_of_a_network():
    net = reference("conv")
    found = block_traces(net.objective, net.theta, by="filter", matvecs=len(net.theta))
    tensors = net.objective.parameters.unpack(net.hessian.diagonal())
    expected = {
        f"{layer}.weight[{i}]": float(tensors[f"{layer}.weight"][i].sum() + tensors[f"{layer}.bias"][i])
        for layer, filters in (("1", 3), ("3", 4), ("6", 3))
        for i in range(filters)
    }
    assert found.names == tuple(expected)
    np.testing.assert_allclose(found.values, list(expected.values()), rtol=1e-9)


def test_blocks_of_the_parts_of_the_hessian():
    net = reference("mlp")
    whole, gauss_newton, residual = (
        block_traces(net.objective, net.theta, of=of, matvecs=len(net.theta))
        for of in ("hessian", "gauss-newton", "residual")
    )
    np.testing.assert_allclose(gauss_newton.values + residual.values, whole.values, rtol=1e-9)
    assert (gauss_newton.values > 0).all()
    assert (gauss_newton.of, residual.of) == ("gauss-newton", "residual")


def test_joint_probes_are_signs_for_all_blocks_at_once():
    a = rotated(torch.linspace(-1, 3, 48, dtype=torch.float64), generator(1))
    found = block_traces(in_blocks(a, 8, 30, 10), torch.zeros(48), matvecs=16, generator=generator(3))
    v = torch.randn(16, 48, generator=generator(3), dtype=torch.float64).sign()
    parts = (v * (v @ a)).split((8, 30, 10), dim=1)
    expected = torch.stack([part.sum(1) for part in parts], dim=1)
    np.testing.assert_allclose(found.samples, expected, rtol=1e-12)
    np.testing.assert_allclose(found.values, expected.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.stderr, expected.std(0) / 4, rtol=1e-12)
    np.testing.assert_allclose(found.samples.sum(1), ((v @ a) * v).sum(1), rtol=1e-12)  # Hutchinson's
    assert (found.probes, found.matvecs, found.names) == ("joint", 16, ("a", "b", "c"))


@pytest.mark.parametrize("probes", PROBES)
def test_errors_and_variances_are_as_stated(probes):
    a = rotated(torch.linspace(-1, 3, 90, dtype=torch.float64), generator(1))
    objective, g, sizes = in_blocks(a, 25, 40, 25), generator(2), (25, 40, 25)
    repeats = [
        block_traces(objective, torch.zeros(90), probes=probes, matvecs=24, generator=g) for _ in range(200)
    ]
    rows = [block.split(sizes, dim=1) for block in a.split(sizes)]
    exact = np.array([float(rows[b][b].trace()) for b in range(3)])
    z = np.array([(r.values - exact) / r.stderr for r in repeats])
    assert (np.abs(z.mean(0)) < 0.25).all()
    assert ((z.std(0, ddof=1) > 0.8) & (z.std(0, ddof=1) < 1.25)).all()
    variances = np.concatenate([r.samples for r in repeats]).var(axis=0)
    for b in range(3):
        own = rows[b][b]
        stated = 2 * (own.square().sum() - own.diagonal().square().sum())
        if probes == "joint":
            stated += sum(rows[b][c].square().sum() for c in range(3) if c != b)
        assert variances[b] == pytest.approx(float(stated), rel=0.08)
    assert repeats[0].matvecs == (24 if probes == "joint" else 72)


def test_exact_probes_take_small_blocks_entry_by_entry():
    a = rotated(torch.linspace(-1, 3, 60, dtype=torch.float64), generator(1))
    objective = in_blocks(a, 5, 45, 10)
    found = block_traces(objective, torch.zeros(60), probes="exact", matvecs=10, generator=generator())
    np.testing.assert_allclose(found.values[[0, 2]], [a[:5, :5].trace(), a[50:, 50:].trace()], rtol=1e-12)
    assert (found.stderr > 0).tolist() == [False, True, False]
    assert np.isnan(found.samples).all(axis=0).tolist() == [True, False, True]
    assert found.matvecs == 5 + 10 + 10


@pytest.mark.parametrize("probes", PROBES)
def test_what_is_in_no_group_is_left_out(probes):
    a = rotated(torch.linspace(-1, 3, 60, dtype=torch.float64), generator(1))
    groups = {"ends": ["c", "a"], "one": "d"}
    found = block_traces(in_blocks(a, 5, 30, 10, 15), torch.zeros(60), by=groups, probes=probes, matvecs=60)
    ends = a.diagonal()[:5].sum() + a.diagonal()[35:45].sum()
    assert found.names == ("ends", "one")
    np.testing.assert_allclose(found.values, [ends, a.diagonal()[45:].sum()], rtol=1e-12)
    assert found.sizes.tolist() == [15, 15]


def blocks_by_name(parameters: Parameters, by) -> dict[str, list[int]]:
    partition = partition_of(parameters, by)
    return {name: (partition.index == i).nonzero()[:, 0].tolist() for i, name in enumerate(partition.names)}


def test_partitions_by_hand():
    model = nn.ModuleDict(
        {
            "conv": nn.Conv2d(1, 2, (1, 2)),  # weight 0-3, bias 4-5
            "norm": nn.BatchNorm2d(2),  # 6-7, 8-9
            "rnn": nn.RNN(1, 2),  # weight_ih_l0 10-11, weight_hh_l0 12-15, bias_ih_l0 16-17, bias_hh_l0 18-19
        }
    )
    model.register_parameter("scale", nn.Parameter(torch.ones(1)))  # first in named_parameters
    parameters = Parameters.of(model)
    assert parameters.names[0] == "scale"
    shifted = {
        by: {block: [i - 1 for i in entries] for block, entries in blocks_by_name(parameters, by).items()}
        for by in ("layer", "filter", "parameter")
    }
    assert shifted["layer"] == {
        "scale": [-1],
        "conv": [*range(6)],
        "norm": [*range(6, 10)],
        "rnn": [*range(10, 20)],
    }
    assert shifted["filter"] == {
        "scale": [-1],
        "conv.weight[0]": [0, 1, 4],
        "conv.weight[1]": [2, 3, 5],
        "norm.weight": [6, 7],
        "norm.bias": [8, 9],
        "rnn.weight_ih_l0[0]": [10, 16],
        "rnn.weight_ih_l0[1]": [11, 17],
        "rnn.weight_hh_l0[0]": [12, 13, 18],
        "rnn.weight_hh_l0[1]": [14, 15, 19],
    }
    assert list(shifted["parameter"]) == list(parameters.names)


def test_a_bias_that_does_not_fit_is_a_block_of_its_own():
    parameters = Parameters(("up.weight", "up.bias"), ((2, 3), (3,)))  # as of a transposed convolution
    assert blocks_by_name(parameters, "filter") == {
        "up.weight[0]": [0, 1, 2],
        "up.weight[1]": [3, 4, 5],
        "up.bias": [6, 7, 8],
    }


def test_single_precision_and_values_that_are_not_finite():
    a = rotated(torch.linspace(-1, 3, 60, dtype=torch.float64), generator(1))
    single = block_traces(in_blocks(a.float(), 20, 40), torch.zeros(60), matvecs=60)
    np.testing.assert_allclose(single.values, [a.diagonal()[:20].sum(), a.diagonal()[20:].sum()], rtol=1e-5)
    broken = Objective([lambda theta: (theta - 1).sqrt().sum()], 100)
    for probes in PROBES:
        for matvecs in (10, 100):
            found = block_traces(broken, torch.zeros(100), probes=probes, matvecs=matvecs)
            assert math.isnan(found.values[0])
            assert math.isnan(found.stderr[0])
            assert found.message == NOT_FINITE


def test_a_record_is_saved_and_a_generator_decides(tmp_path):
    net = reference("mlp")
    state = torch.get_rng_state()
    first, second = (block_traces(net.objective, net.theta, generator=generator(1)) for _ in range(2))
    assert first.values.tolist() == second.values.tolist()
    assert state.equal(torch.get_rng_state())
    again = BlockTraces.load(first.save(tmp_path / "blocks.npz"))
    assert (again.names, again.values.tolist(), again.of) == (first.names, first.values.tolist(), "hessian")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "tensor"}, r"by must be 'layer', 'parameter', 'filter', or a mapping .*, got 'tensor'"),
        ({"by": {"x": ["a", "z"]}}, r"by must name parameters .*, got 'z' in the group 'x'; they are a, b"),
        ({"by": {"x": ["a"], "y": ["b", "a"]}}, r"into one group, got 'a' in 'x' and in 'y'"),
        ({"by": {"x": []}}, r"at least one parameter for every group, got none for 'x'"),
        ({"by": {}}, r"at least one group of parameter names, got an empty mapping"),
        ({"probes": "both"}, r"probes must be 'joint' or 'exact', got 'both'"),
        ({"matvecs": 1}, r"matvecs must be at least 2 for an error bar, got 1"),
    ],
)
def test_bad_input_says_what_to_do(options, message):
    objective = in_blocks(torch.eye(9, dtype=torch.float64), 4, 5)
    with pytest.raises(InputError, match=message):
        block_traces(objective, torch.zeros(9), **options)
