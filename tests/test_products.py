"""Hessian-vector products by every engine, against dense Hessians."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from dense import NETWORKS, quadratic, reference
from torch import Tensor, nn

from landscape import HessianProducts, InputError, Objective, model_objective, products
from landscape.measuring import EQUAL, Choice, Trial
from landscape.objective import Term
from landscape.potentials import muller_brown
from landscape.products import Engine

F64 = torch.float64
EXACT = ("double-backward", "rebuild", "replay", "tangent", "replay x2", "tangent x4")


def vectors(count: int, dim: int) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(3), dtype=F64)


@pytest.mark.parametrize("engine", EXACT)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_engine_gives_the_dense_hessian(name: str, engine: str) -> None:
    net = reference(name)
    before, v = net.theta.clone(), vectors(5, net.objective.dim)
    times = HessianProducts(net.objective, net.theta, engine=engine)
    expected = v @ net.hessian
    for _ in range(2):  # the second time from what is kept
        torch.testing.assert_close(times(v), expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(times(v[0]), expected[0], rtol=1e-9, atol=1e-11)
    assert net.theta.equal(before)


class Attention(nn.Module):
    """Tied embedding, causal attention and layer normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mix, self.norm = nn.Embedding(5, 4), nn.Linear(4, 12), nn.LayerNorm(4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        q, k, v = self.mix(self.norm(x)).chunk(3, dim=-1)
        return (x + F.scaled_dot_product_attention(q, k, v, is_causal=True)) @ self.embedding.weight.T


@pytest.mark.parametrize("engine", EXACT)
def test_attention_with_tied_weights(engine: str) -> None:
    torch.manual_seed(0)
    model, tokens = Attention().double(), torch.randint(5, (3, 6), generator=torch.Generator().manual_seed(1))
    objective = model_objective(
        model,
        lambda output, target: F.cross_entropy(output.flatten(0, 1), target.flatten()),
        [(tokens, tokens.roll(1))],
    )
    theta, v = objective.parameters.theta(model), vectors(4, objective.dim)
    torch.testing.assert_close(
        HessianProducts(objective, theta, engine=engine)(v), objective.hvp(theta, v), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("engine", EXACT)
def test_losses_without_curvature_and_potentials(engine: str) -> None:
    point = torch.tensor([0.3, -0.2], dtype=F64)
    linear = Objective([lambda theta: theta.sum(), lambda theta: 2 * theta[0] ** 2], 2)
    found = HessianProducts(linear, point, engine=engine)(torch.eye(2, dtype=F64))
    assert found.tolist() == [[4, 0], [0, 0]]
    objective, v = muller_brown(), vectors(3, 2)
    torch.testing.assert_close(HessianProducts(objective, point, engine=engine)(v), objective.hvp(point, v))


def test_differences_where_nothing_exact_exists() -> None:
    net = reference("mlp")
    v = vectors(3, net.objective.dim)
    found = HessianProducts(net.objective, net.theta, engine="differences")(v)
    error = ((found - v @ net.hessian).norm(dim=1) / (v @ net.hessian).norm(dim=1)).max()
    assert 1e-14 < error < 1e-6


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled() -> None:
    net = reference("mlp")
    v = vectors(3, net.objective.dim)
    found = HessianProducts(net.whole, net.theta, engine="tangent x2 compiled")(v)
    torch.testing.assert_close(found, v @ net.hessian, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("memory", [0, 1, 10**9])
def test_terms_that_do_not_fit_are_made_anew(memory: int) -> None:
    net = reference("layernorm")
    v = vectors(3, net.objective.dim)
    times = HessianProducts(net.objective, net.theta, engine="double-backward", memory=memory)
    torch.testing.assert_close(times(v), v @ net.hessian, rtol=1e-9, atol=1e-11)
    assert len(times._kept) == {0: 0, 1: 1}.get(memory, len(net.objective.terms))


def test_the_choice_is_measured_where_that_pays_and_remembered() -> None:
    matrix = torch.diag(torch.arange(1.0, 41, dtype=F64))
    objective, v = quadratic(matrix), vectors(5, 40)
    once = HessianProducts(objective, torch.zeros(40, dtype=F64))
    torch.testing.assert_close(once(v), v @ matrix)
    assert once.choice is not None
    assert once.choice.engine.name == "double-backward"
    assert not once.choice.trials
    assert not objective.engines
    many = HessianProducts(objective, torch.zeros(40, dtype=F64), count=10**6)
    torch.testing.assert_close(many(v), v @ matrix)
    assert many.choice is not None
    names = [trial.engine.name for trial in many.choice.trials]
    assert names[:3] == ["double-backward", "replay", "tangent"]
    fastest = min((t for t in many.choice.trials if not t.note), key=lambda t: t.seconds)
    chosen = next(t for t in many.choice.trials if t.engine == many.choice.engine)
    assert chosen.seconds <= EQUAL * fastest.seconds
    assert chosen.at_once <= fastest.at_once
    said = many.choice.said()
    assert json.loads(json.dumps(said)) == said
    assert said["engine"] == chosen.engine.name
    again = HessianProducts(objective, torch.ones(40, dtype=F64), count=10**6)
    again(v)
    assert again.choice is many.choice


def test_an_engine_that_is_wrong_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    made = products._made

    def wrong(engine: Engine, *rest: object) -> object:
        product, size = made(engine, *rest)  # type: ignore[arg-type]
        return (lambda v: 1.001 * product(v) if engine.kind == "tangent" else product(v)), size

    monkeypatch.setattr(products, "_made", wrong)
    objective = quadratic(torch.eye(4, dtype=F64))
    times = HessianProducts(objective, torch.zeros(4, dtype=F64), count=10**6)
    times(vectors(2, 4))
    assert times.choice is not None
    notes = {trial.engine.kind: trial.note for trial in times.choice.trials}
    assert notes["tangent"].startswith("off by 1.0e-03")
    assert not notes["replay"]
    assert times.choice.engine.kind != "tangent"


@pytest.mark.parametrize(
    "name", ["double-backward", "replay", "tangent x8", "tangent compiled", "replay x2 compiled"]
)
def test_names(name: str) -> None:
    assert Engine.named(name).name == name


@pytest.mark.parametrize(
    "name", ["", "loop", "replay x0", "rebuild x2", "tangent fast", "differences compiled", "replay x"]
)
def test_unknown_names(name: str) -> None:
    with pytest.raises(InputError, match="engine must be auto, double-backward, rebuild"):
        Engine.named(name)


def test_a_term_that_the_chosen_engine_cannot_do_is_left_to_the_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Measured is the first term alone."""
    objective = Objective([lambda theta: theta.pow(4).sum(), lambda theta: theta.pow(3).sum()], 4)
    captured = products._captured

    def only_the_first(kind: str, term: Term, theta: Tensor) -> object:
        if term is objective.terms[1]:
            raise RuntimeError("it reads a number")
        return captured(kind, term, theta)

    monkeypatch.setattr(products, "_captured", only_the_first)
    objective.engines["products"] = Choice(
        Engine("replay"), (Trial(Engine(), 2.0), Trial(Engine("replay"), 1.0)), 0.0, 1.0
    )
    point, v = torch.arange(1.0, 5, dtype=F64), vectors(3, 4)
    times = HessianProducts(objective, point)
    for _ in range(2):
        torch.testing.assert_close(times(v), objective.hvp(point, v))
    assert times.choice is not None
    assert times.choice.engine == Engine()
    assert times.choice.said()["trials"]["replay"] == "RuntimeError: it reads a number"
    with pytest.raises(RuntimeError, match="it reads a number"):
        HessianProducts(objective, point, engine="replay")(v)


def test_bad_points() -> None:
    objective = quadratic(torch.eye(3, dtype=F64))
    with pytest.raises(InputError, match=r"one point \(P,\), got shape \(2, 3\)"):
        HessianProducts(objective, torch.zeros(2, 3))
    with pytest.raises(InputError, match=r"v must have shape \(3,\) or \(K, 3\), got \(4,\)"):
        HessianProducts(objective, torch.zeros(3))(torch.zeros(4))
    assert HessianProducts(objective, torch.zeros(3))(torch.zeros(0, 3)).shape == (0, 3)
