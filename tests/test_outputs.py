"""Outputs on probe examples against plain forward passes, and embeddings that see functions rather than weights."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import own_problem
import pytest
import torch
from torch import Tensor, nn

from analysis import function_embedding, kernel_pca, project_solutions
from landscape import InputError, Parameters, Problem, Solution
from landscape.outputs import outputs, probe_index
from landscape.results import Checkpoint
from landscape.trajectories import Trajectory

PROBLEM = own_problem.small(batchnorm=True)


def solution(problem: Problem, seed: int, optimizer: str = "sgd") -> Solution:
    """A model as it is initialised, with running statistics of its own."""
    model = problem.build(seed)
    parameters = Parameters.of(model)
    theta = parameters.theta(model).double().numpy()
    buffers = {
        n: b.double().numpy() + seed if b.is_floating_point() else b.numpy() for n, b in model.named_buffers()
    }
    return Solution(
        problem=problem.name, optimizer=optimizer, seed=seed, theta=theta, names=parameters.names,
        shapes=parameters.shapes, buffers=buffers,
    )  # fmt: skip


def forward(problem: Problem, found: Solution, x: Tensor) -> Tensor:
    model = found.load_into(problem.build(9).double().eval())
    with torch.no_grad():
        return model(x.double())


def test_outputs_are_those_of_the_model_with_the_solutions_buffers():
    one, x = solution(PROBLEM, 3), PROBLEM.test[0]
    z = forward(PROBLEM, one, x)
    kept = one.theta.copy()
    for kind, expected in {
        "raw": z,
        "probabilities": z.softmax(1),
        "logits": z - z.mean(1, keepdim=True),
    }.items():
        found = outputs(PROBLEM, one, kind=kind)  # pyright: ignore[reportArgumentType]
        assert found.shape == (30, 2)
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12)
    np.testing.assert_array_equal(
        outputs(PROBLEM, one, kind="raw", count=7), outputs(PROBLEM, one, kind="raw")[:7]
    )
    single = outputs(PROBLEM, one, kind="raw", dtype=torch.float32)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, z.numpy(), rtol=1e-4, atol=1e-5)
    small_batches = replace(PROBLEM, batch_size=4)
    np.testing.assert_allclose(
        outputs(small_batches, one, kind="raw", split="train"), forward(PROBLEM, one, PROBLEM.train[0])
    )
    np.testing.assert_array_equal(one.theta, kept)


def test_the_same_examples_for_all_drawn_by_a_generator():
    index = probe_index(PROBLEM, "test", 9, generator=torch.Generator().manual_seed(1))
    again = probe_index(PROBLEM, "test", 9, generator=torch.Generator().manual_seed(1))
    assert index.equal(again)
    assert len(set(index.tolist())) == 9
    one = solution(PROBLEM, 3)
    np.testing.assert_array_equal(
        outputs(PROBLEM, one, index=index), outputs(PROBLEM, one, count=None)[index.numpy()]
    )


class Structured(nn.Module):
    """Logits a token (B, T, C) in a mapping, as a language model's."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 3)

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Any]:
        z = torch.stack([self.inner(inputs), self.inner(2 * inputs)], dim=1)
        return {"loss": nn.functional.cross_entropy(z[:, 0], labels), "logits": z}


class Fields:
    def __init__(self, **found: Tensor) -> None:
        self.__dict__.update(found)


class Attributes(Structured):
    def forward(self, inputs: Tensor, labels: Tensor) -> Any:
        return Fields(**super().forward(inputs, labels))


@pytest.mark.parametrize("model", [Structured, Attributes])
def test_models_whose_output_holds_logits(model):
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    problem = Problem("tokens", model, None, {"inputs": x, "labels": torch.zeros(8).long()})
    one = solution(problem, 0)
    found = outputs(problem, one, split="train", count=6)
    w, b = (torch.from_numpy(part) for part in (one.theta[:15].reshape(3, 5), one.theta[15:]))
    z = torch.stack([x.double() @ w.T + b, 2 * x.double() @ w.T + b], dim=1)[:6]
    np.testing.assert_allclose(found, z.softmax(-1).reshape(12, 3).numpy(), rtol=1e-12)
    assert outputs(problem, one, split="train", count=6, kind="raw").shape == (6, 6)


def test_classes_before_pixels_and_single_outputs():
    x = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    pixels = Problem(
        "pixels", lambda: nn.Conv2d(2, 5, 1), nn.functional.cross_entropy, (x, torch.zeros(4, 3, 3).long())
    )
    one = solution(pixels, 0)
    expected = forward(pixels, one, x).softmax(1).permute(0, 2, 3, 1).reshape(36, 5)
    np.testing.assert_allclose(outputs(pixels, one, split="train"), expected.numpy(), rtol=1e-12)
    flat = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    binary = Problem(
        "binary",
        lambda: nn.Linear(3, 1),
        nn.functional.binary_cross_entropy_with_logits,
        (flat, torch.zeros(6, 1)),
    )
    one = solution(binary, 0)
    z = forward(binary, one, flat)
    np.testing.assert_allclose(outputs(binary, one, split="train"), z.sigmoid().numpy(), rtol=1e-12)
    np.testing.assert_allclose(outputs(binary, one, split="train", kind="logits"), z.numpy(), rtol=1e-12)


def mean_squares(z: Tensor, target: Tensor) -> Tensor:
    return (z - target).square().mean()


X = torch.randn(16, 5, generator=torch.Generator().manual_seed(2))
YES = (X[:, :3] > 0).float()
CLASS = X[:, :3].argmax(dim=1)
F = nn.functional


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (F.binary_cross_entropy_with_logits, YES),
        (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2, 3])), YES),
        (partial(F.binary_cross_entropy_with_logits, reduction="sum"), YES),
        (lambda z, t: F.binary_cross_entropy_with_logits(z, t.to(z.dtype)), YES.long()),
        (lambda z, t: F.softplus(-(2 * t - 1) * z).mean(), 0.1 + 0.8 * YES),
    ],
)
def test_every_output_that_is_a_yes_or_no_has_a_sigmoid(loss, target):
    problem = Problem("labels", lambda: nn.Linear(5, 3), loss, (X, target))
    one = solution(problem, 0)
    z = forward(problem, one, X)
    found = outputs(problem, one, split="train")
    np.testing.assert_allclose(found, z.sigmoid().numpy(), rtol=1e-12)
    np.testing.assert_array_equal(outputs(problem, one, split="train", kind="logits"), z.numpy())


@pytest.mark.parametrize(
    ("model", "loss", "target"),
    [
        (lambda: nn.Linear(5, 3), F.cross_entropy, CLASS),
        (lambda: nn.Linear(5, 3), F.cross_entropy, YES),
        (lambda: nn.Linear(5, 3), nn.CrossEntropyLoss(label_smoothing=0.1), CLASS),
        (lambda: nn.Linear(5, 3), lambda z, t: F.nll_loss(z.log_softmax(1), t), CLASS),
        (lambda: nn.Sequential(nn.Linear(5, 3), nn.LogSoftmax(1)), F.nll_loss, CLASS),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_classes_have_a_softmax(model, loss, target, dtype):
    problem = Problem("classes", model, loss, (X, target), batch_size=7)
    one = solution(problem, 0)
    z = forward(problem, one, X)
    found = outputs(problem, one, split="train", dtype=dtype)
    np.testing.assert_allclose(found, z.softmax(1).numpy(), rtol=1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("kind", ["probabilities", "logits"])
@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (F.mse_loss, YES),
        (mean_squares, YES),
        (mean_squares, X[:, :3]),
        (F.l1_loss, YES),
        (nn.SmoothL1Loss(), X[:, :3]),
        (lambda z, t: mean_squares(z, F.one_hot(t, 3)), CLASS),
        (lambda z, t: F.binary_cross_entropy(z, t), YES),
    ],
)
def test_a_loss_of_no_classification_has_neither(loss, target, kind):
    bounded = loss.__class__ is not nn.SmoothL1Loss
    problem = Problem(
        "plain",
        lambda: nn.Sequential(nn.Linear(5, 3), nn.Sigmoid() if bounded else nn.Identity()),
        loss,
        (X, target),
    )
    one = solution(problem, 0)
    with pytest.raises(
        InputError, match=rf"kind must be 'raw' for 'plain', whose loss is no classification's, got '{kind}'"
    ):
        outputs(problem, one, split="train", kind=kind)
    assert outputs(problem, one, split="train", kind="raw").shape == (16, 3)


def test_logits_beside_real_targets_have_neither():
    problem = Problem("scores", Scores, None, {"inputs": X, "labels": X[:, :3]})
    with pytest.raises(
        InputError, match=r"kind must be 'raw' for 'scores', whose loss is no classification's"
    ):
        outputs(problem, solution(problem, 0), split="train")


class Scores(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 3)

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Any]:
        z = self.inner(inputs)
        return {"loss": F.mse_loss(z, labels), "logits": z}


def permuted(one: Solution, order: list[int]) -> Solution:
    """Another order of the four hidden units of the problem without normalization."""
    parts = {n: one.theta[a : a + s] for n, a, s in zip(
        one.names, np.cumsum([0, *one.parameters.sizes]), one.parameters.sizes, strict=False)}  # fmt: skip
    w, b, v, c = (parts[n].reshape(s) for n, s in zip(one.names, one.shapes, strict=True))
    return replace(one, theta=np.concatenate([w[order].ravel(), b[order], v[:, order].ravel(), c]))


def test_permuting_hidden_units_moves_weights_and_no_function():
    problem = own_problem.small()
    found = [solution(problem, i, optimizer) for i, optimizer in enumerate(["a", "b"] * 4)]
    moved = [permuted(s, [2, 0, 3, 1]) if i % 3 else s for i, s in enumerate(found)]
    for kind in ("probabilities", "logits"):
        one, other = (function_embedding(problem, s, kind=kind, components=3) for s in (found, moved))
        np.testing.assert_allclose(one.coordinates, other.coordinates, atol=1e-11)
        np.testing.assert_allclose(one.distances, other.distances, rtol=1e-6, atol=1e-9)
    weights = [kernel_pca(s, components=3, gamma="median").coordinates for s in (found, moved)]
    assert np.abs(np.abs(weights[0]) - np.abs(weights[1])).max() > 0.05
    assert (one.space, one.gamma_rule, one.about["outputs"], one.labels[1]) == (
        "outputs",
        "median",
        "logits",
        "b/1",
    )


def test_function_embedding_is_kernel_pca_of_flattened_outputs(tmp_path):
    points = [solution(PROBLEM, i, "ab"[i % 2]) for i in range(6)]
    x = np.stack([outputs(PROBLEM, s, count=12).ravel() for s in points])
    found = function_embedding(PROBLEM, points[:5], count=12)
    expected = kernel_pca(x[:5], gamma="median", groups=found.groups)
    np.testing.assert_array_equal(found.coordinates, expected.coordinates)
    np.testing.assert_allclose(found.norms, np.linalg.norm(x[:5], axis=1))
    assert found.gamma == pytest.approx(
        1 / np.median([((a - b) ** 2).sum() for i, a in enumerate(x[:5]) for b in x[:i]])
    )
    project_solutions(found, x[:5], x[5:])
    files = [s.save(tmp_path / f"{i}.npz") for i, s in enumerate(points[:5])]
    np.testing.assert_array_equal(function_embedding(PROBLEM, files, count=12).coordinates, found.coordinates)
    for i, s in enumerate(points[:3]):
        fields = {n: getattr(s, n) for n in ("problem", "theta", "names", "shapes", "buffers")}
        Checkpoint(**fields, optimizer="a", seed=0, step=i).save(tmp_path / "run" / f"step-{i:08d}.npz")
    way = function_embedding(PROBLEM, [Trajectory(tmp_path / "run"), *points[3:5]], count=12)
    np.testing.assert_array_equal(way.coordinates, found.coordinates)
    np.testing.assert_array_equal(way.trajectory, [0, 0, 0, -1, -1])
    assert way.labels == ("a/0@0", "a/0@1", "a/0@2", "b/3", "a/4")
    np.testing.assert_array_equal(way.steps, [0, 1, 2, np.nan, np.nan])
    run = Trajectory(tmp_path / "run")
    twice = function_embedding(PROBLEM, [run, points[3], run], count=12)
    np.testing.assert_array_equal(twice.trajectory, [0, 0, 0, -1, 1, 1, 1])


def test_bad_input_says_what_to_do():
    one = solution(PROBLEM, 0)
    with pytest.raises(InputError, match=r"kind must be 'probabilities', 'logits' or 'raw', got 'odds'"):
        outputs(PROBLEM, one, kind="odds")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"split must be one the problem 'bare' has data of, got 'test'"):
        outputs(own_problem.train_only(), one)
    with pytest.raises(InputError, match=r"count must be at least 1, got 0"):
        outputs(PROBLEM, one, count=0)
    with pytest.raises(
        InputError, match=r"count must be between 1 and the 30 test examples of 'small', got 31"
    ):
        probe_index(PROBLEM, "test", 31, generator=torch.Generator())
    with pytest.raises(InputError, match=r"sgd/0 has other parameters than the model of its problem"):
        outputs(own_problem.small(), one)
    squares = replace(PROBLEM, loss_fn=lambda z, _: z.square().mean())
    with pytest.raises(
        InputError, match=r"kind must be 'raw' for 'small', whose loss is no classification's"
    ):
        outputs(squares, one)
    with pytest.raises(InputError, match=r"outputs of sgd/0 on the test data must be finite"):
        outputs(PROBLEM, replace(one, theta=1e308 * np.sign(one.theta)))
    pair = replace(PROBLEM, model=lambda: _Pair(), loss_fn=None)
    with pytest.raises(InputError, match=r"must be a tensor or hold one named 'logits', got a tuple"):
        outputs(pair, solution(pair, 0))
    with pytest.raises(InputError, match=r"solutions must hold at least two, got 1"):
        function_embedding(PROBLEM, [one])


class _Pair(nn.Linear):
    def __init__(self) -> None:
        super().__init__(5, 2)

    def forward(self, input: Tensor) -> Any:
        return super().forward(input), None
