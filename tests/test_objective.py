"""Objective and model_objective against autograd on the model itself, dense Hessians and closed forms."""

import copy

import pytest
import torch
from torch import nn

from landscape import Family, InputError, Objective, Parameters, losses, model_objective, with_weight_decay

torch.manual_seed(0)
X, Y = torch.randn(23, 6, dtype=torch.float64), torch.randint(0, 3, (23,))
T = torch.randn(23, 3, dtype=torch.float64)
UNEVEN = [(X[:10], Y[:10]), (X[10:20], Y[10:20]), (X[20:], Y[20:])]
UNEVEN_T = [(X[:15], T[:15]), (X[15:], T[15:])]


def mlp(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), *between, nn.Softplus(), nn.Linear(5, 3)).double()


def batchnorm_net() -> nn.Module:
    model = mlp(nn.BatchNorm1d(5))
    with torch.no_grad():
        for _ in range(3):
            model(X)  # running statistics that are not the trivial ones
    return model.eval()


class Dict(nn.Module):
    """Takes keywords and computes its own loss, as Hugging Face models do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.inner(inputs)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


DICTS = [{"inputs": x, "labels": y} for x, y in UNEVEN]
CASES = {
    "softplus mlp": (
        mlp(),
        nn.functional.cross_entropy,
        UNEVEN,
        lambda m: nn.functional.cross_entropy(m(X), Y),
    ),
    "mse": (mlp(), nn.functional.mse_loss, UNEVEN_T, lambda m: nn.functional.mse_loss(m(X), T)),
    "layer norm": (
        mlp(nn.LayerNorm(5)),
        nn.functional.cross_entropy,
        UNEVEN,
        lambda m: nn.functional.cross_entropy(m(X), Y),
    ),
    "batch norm": (
        batchnorm_net(),
        nn.functional.cross_entropy,
        UNEVEN,
        lambda m: nn.functional.cross_entropy(m(X), Y),
    ),
    "dict batches": (Dict(), None, DICTS, lambda m: m(X, Y)["loss"]),
}


@pytest.fixture(params=CASES, ids=str)
def case(request):
    model, loss_fn, batches, whole = CASES[request.param]
    return model, model_objective(model, loss_fn, batches), whole


def test_loss_and_gradient_are_those_of_the_model_on_all_data(case):
    model, objective, whole = case
    theta = objective.parameters.theta(model)
    loss = whole(model)
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])
    torch.testing.assert_close(objective(theta), loss.detach(), rtol=1e-13, atol=0)
    value, grad = objective.value_and_grad(theta)
    torch.testing.assert_close(value, loss.detach(), rtol=1e-13, atol=0)
    torch.testing.assert_close(grad, expected, rtol=1e-11, atol=1e-14)


def test_hvp_is_symmetric_and_agrees_with_differences_of_the_gradient(case):
    model, objective, _ = case
    theta = objective.parameters.theta(model)
    hessian = objective.hvp(theta, torch.eye(objective.dim))
    torch.testing.assert_close(hessian, hessian.T, rtol=0, atol=1e-13)
    h = 1e-5
    steps = h * torch.eye(objective.dim, dtype=torch.float64)
    differences = (objective.grad(theta + steps) - objective.grad(theta - steps)) / (2 * h)
    torch.testing.assert_close(hessian, differences, rtol=1e-6, atol=1e-8)
    one = objective.hvp(theta, hessian[0])
    torch.testing.assert_close(one, hessian @ hessian[0], rtol=1e-10, atol=1e-13)


def test_many_points_equal_one_at_a_time(case):
    _, objective, _ = case
    thetas = torch.randn(4, objective.dim, dtype=torch.float64)
    torch.testing.assert_close(objective(thetas), torch.stack([objective(t) for t in thetas]))
    torch.testing.assert_close(objective.grad(thetas), torch.stack([objective.grad(t) for t in thetas]))


def test_the_model_is_never_touched(case):
    model, objective, _ = case
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    theta = torch.randn(objective.dim, dtype=torch.float64)
    kept = theta.clone()
    for use in (objective, objective.grad, lambda t: objective.hvp(t, t)):
        use(theta)
    assert all(before[name].equal(tensor) for name, tensor in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert theta.equal(kept)
    assert not theta.requires_grad


def test_float32_follows_the_model_and_float64_can_be_asked_for():
    model = mlp().float()
    batches = [(x.float(), y) for x, y in UNEVEN]
    single = model_objective(model, nn.functional.cross_entropy, batches)
    double = model_objective(model, nn.functional.cross_entropy, batches, dtype=torch.float64)
    theta = single.parameters.theta(model)
    assert single(theta).dtype == torch.float32
    assert double(theta).dtype == torch.float64
    torch.testing.assert_close(single(theta).double(), double(theta), rtol=1e-6, atol=0)


def test_sum_reduction_and_counts_give_the_same_mean():
    model = mlp()
    mean = model_objective(model, nn.functional.cross_entropy, UNEVEN)
    total = model_objective(model, nn.CrossEntropyLoss(reduction="sum"), UNEVEN, reduction="sum")
    theta = mean.parameters.theta(model)
    torch.testing.assert_close(mean(theta), total(theta))
    weight = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    weighted = model_objective(
        model, nn.CrossEntropyLoss(weight=weight), UNEVEN, count=lambda b: float(weight[b[1]].sum())
    )
    torch.testing.assert_close(weighted(theta), nn.CrossEntropyLoss(weight=weight)(model(X), Y).detach())


def test_frozen_parameters_are_left_out_and_tied_ones_appear_once():
    model = mlp()
    model[0].bias.requires_grad_(False)
    objective = model_objective(model, nn.functional.cross_entropy, UNEVEN)
    assert objective.parameters.names == ("0.weight", "2.weight", "2.bias")
    tied = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)).double()
    tied[2].weight = tied[0].weight
    objective = model_objective(tied, nn.functional.cross_entropy, UNEVEN)
    theta = objective.parameters.theta(tied)
    assert objective.dim == 36 + 6 + 6
    loss = nn.functional.cross_entropy(tied(X), Y)
    own = [tied.get_parameter(name) for name in ("0.weight", "0.bias", "2.bias")]
    grads = torch.autograd.grad(loss, own)
    torch.testing.assert_close(objective.grad(theta), torch.cat([g.reshape(-1) for g in grads]))


def test_recomputed_batch_statistics_equal_train_mode_on_all_data():
    model = batchnorm_net()
    objective = model_objective(model, nn.functional.cross_entropy, [(X, Y)], batchnorm="batch")
    expected = nn.functional.cross_entropy(copy.deepcopy(model).train()(X), Y).detach()
    theta = objective.parameters.theta(model)
    torch.testing.assert_close(objective(theta), expected)
    assert objective.settings["batchnorm"] == "batch"
    torch.testing.assert_close(objective(theta), expected)  # running statistics have not moved
    assert not any(module.training for module in model.modules())


def test_buffers_can_be_given_and_stay_as_they_are():
    model = batchnorm_net()
    before = copy.deepcopy(model.state_dict())
    given = {"1.running_mean": torch.ones(5), "1.running_var": 4 * torch.ones(5)}
    objective = model_objective(model, nn.functional.cross_entropy, UNEVEN, buffers=given)
    other = copy.deepcopy(model)
    other.load_state_dict(given, strict=False)
    theta = objective.parameters.theta(model)
    torch.testing.assert_close(objective(theta), nn.functional.cross_entropy(other(X), Y).detach())
    assert all(before[name].equal(tensor) for name, tensor in model.state_dict().items())


def test_buffers_of_the_model_are_copied_at_the_start():
    model = batchnorm_net()
    objective = model_objective(model, nn.functional.cross_entropy, UNEVEN)
    theta = objective.parameters.theta(model)
    before = objective(theta)
    with torch.no_grad():
        model.get_buffer("1.running_mean").add_(1)
    assert objective(theta).equal(before)


def test_attention_has_second_derivatives():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(4, 12), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(x)[:, None].chunk(3, dim=-1)
            return self.out(nn.functional.scaled_dot_product_attention(q, k, v)[:, 0].mean(dim=1))

    x = torch.randn(6, 8, 4, dtype=torch.float64)
    model = Attention().double()
    objective = model_objective(model, nn.functional.cross_entropy, [(x, Y[:6])])
    theta = objective.parameters.theta(model)
    v = torch.randn(objective.dim, dtype=torch.float64)
    differences = (objective.grad(theta + 1e-5 * v) - objective.grad(theta - 1e-5 * v)) / 2e-5
    torch.testing.assert_close(objective.hvp(theta, v), differences, rtol=1e-5, atol=1e-8)


def test_refuses_batchnorm_in_train_mode():
    with pytest.raises(InputError, match=r"changes the buffer '1\..*call model\.eval\(\) first"):
        model_objective(batchnorm_net().train(), nn.functional.cross_entropy, UNEVEN)


def test_refuses_dropout():
    with pytest.raises(InputError, match=r"two evaluations.*dropout '1' is in train mode.*model\.eval\(\)"):
        model_objective(mlp(nn.Dropout(0.5)), nn.functional.cross_entropy, UNEVEN)


def test_refuses_random_augmentation():
    class Augmented(torch.utils.data.Dataset):
        def __len__(self):
            return 23

        def __getitem__(self, i):
            return X[i] + 0.1 * torch.randn(6), Y[i]

    loader = torch.utils.data.DataLoader(Augmented(), batch_size=8)
    with pytest.raises(InputError, match="differ between two passes"):
        model_objective(mlp(), nn.functional.cross_entropy, loader)


def test_a_shuffling_loader_is_fine():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=8, shuffle=True)
    model = mlp()
    objective = model_objective(model, nn.functional.cross_entropy, loader)
    torch.testing.assert_close(
        objective(objective.parameters.theta(model)), nn.functional.cross_entropy(model(X), Y).detach()
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: model_objective(mlp(), nn.functional.cross_entropy, []), "hold no example"),
        (lambda: model_objective(mlp(), nn.functional.cross_entropy, [(X[:0], Y[:0])]), "hold no example"),
        (lambda: model_objective(mlp(), nn.CrossEntropyLoss(reduction="none"), UNEVEN), "must be one number"),
        (lambda: model_objective(mlp(), None, UNEVEN), "no tensor named 'loss'"),
        (lambda: model_objective(nn.Softplus(), nn.functional.mse_loss, UNEVEN_T), "no trainable parameter"),
        (lambda: Objective([], 3), "at least one term"),
        (lambda: Objective([torch.sum], 0), "dim must be at least 1"),
        (
            lambda: Objective([torch.sum], 3)(torch.zeros(4)),
            r"theta must have shape \(3,\) or \(K, 3\), got \(4,\)",
        ),
        (lambda: Objective([torch.sum], 3).hvp(torch.zeros(3), torch.zeros(2)), r"v must have shape \(3,\)"),
    ],
)
def test_bad_input_gets_one_sentence(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_terms_of_an_analytic_objective_add_up():
    a = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    objective = Objective([lambda t: 0.5 * t @ a @ t, lambda t: t.sum(), lambda t: torch.ones(())], 2)
    theta = torch.tensor([0.3, -0.7], dtype=torch.float64)
    torch.testing.assert_close(objective(theta), 0.5 * theta @ a @ theta + theta.sum() + 1)
    torch.testing.assert_close(objective.grad(theta), a @ theta + 1)
    torch.testing.assert_close(objective.hvp(theta, torch.eye(2)), a)


def test_parameters_pack_what_they_unpack_and_name_what_is_wrong():
    model = mlp()
    parameters = Parameters.of(model)
    theta = parameters.theta(model)
    for name, tensor in parameters.unpack(theta).items():
        assert tensor.equal(model.get_parameter(name))
        assert tensor.data_ptr() >= theta.data_ptr()  # a view
    assert parameters.pack(model.state_dict()).equal(theta)
    with pytest.raises(InputError, match=r"'0\.weight' is missing"):
        parameters.pack({})
    with pytest.raises(InputError, match=r"'0\.weight' must have shape \(5, 6\), got \(1,\)"):
        parameters.pack([torch.zeros(1)] * 4)


@pytest.mark.parametrize("case", CASES)
def test_weight_decay_adds_half_its_square(case):
    model, loss_fn, batches, _ = CASES[case]
    plain = model_objective(model, loss_fn, batches)
    decayed = with_weight_decay(plain, 0.3)
    theta, v = torch.randn(2, plain.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert decayed(theta).item() == pytest.approx(plain(theta).item() + 0.15 * (theta @ theta).item())
    torch.testing.assert_close(decayed.grad(theta), plain.grad(theta) + 0.3 * theta)
    torch.testing.assert_close(decayed.hvp(theta, v), plain.hvp(theta, v) + 0.3 * v)
    for term, whole, share in zip(plain.terms, decayed.terms, plain.shares, strict=True):
        assert (whole(theta) - term(theta)).item() == pytest.approx(share * 0.15 * (theta @ theta).item())
    assert decayed.settings == {**plain.settings, "weight_decay": 0.3}
    assert decayed.parameters is plain.parameters


def test_weight_decay_is_that_of_sgd():
    model = mlp()
    objective = with_weight_decay(model_objective(model, nn.functional.cross_entropy, UNEVEN), 0.1)
    before = objective.parameters.theta(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.1)
    nn.functional.cross_entropy(model(X), Y).backward()
    optimizer.step()
    torch.testing.assert_close(objective.parameters.theta(model), before - 0.5 * objective.grad(before))


@pytest.mark.parametrize("engine", ["loop", "replay", "shared"])
def test_engines_see_weight_decay(engine):
    decayed = with_weight_decay(model_objective(mlp(), nn.functional.cross_entropy, UNEVEN), 0.2)
    generator = torch.Generator().manual_seed(1)
    start, *directions = torch.randn(3, decayed.dim, dtype=torch.float64, generator=generator)
    steps = torch.randn(5, 2, dtype=torch.float64, generator=generator)
    family = Family(start, torch.stack(directions), steps)
    found, _ = losses(decayed, family, engine=engine)
    torch.testing.assert_close(found, decayed(family.points(steps)))


@pytest.mark.parametrize("decay", [-1.0, float("nan"), float("inf")])
def test_weight_decay_must_be_a_number_of_at_least_0(decay):
    with pytest.raises(InputError, match="decay must be a finite number of at least 0, got"):
        with_weight_decay(Objective([torch.sum], 2), decay)
