"""fit: the same steps as a plain training loop, reproducible, with what later stages need; recorded, killed, resumed."""

from collections.abc import Callable
from dataclasses import fields, replace
from itertools import count

import numpy as np
import pytest
import torch
from torch import nn

from landscape import Checkpoint, InputError, Problem, Recording, Solution, Trajectory, load
from optimizers import CLR, LBFGS, NSO, RECIPES, SAM, E, SmoothedPerturbation, fit, parse_recipe

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(50, 4, generator=GENERATOR)
Y = (X[:, 0] > 0).long()
CE = nn.functional.cross_entropy


def net(*layers: Callable[[], nn.Module]):
    return lambda: nn.Sequential(
        nn.Linear(4, 6), *(make() for make in layers), nn.Softplus(), nn.Linear(6, 2)
    )


PROBLEM = Problem("small", net(), CE, (X[:30], Y[:30]), (X[30:40], Y[30:40]), (X[40:], Y[40:]))


def sgd(params):
    return torch.optim.SGD(params, lr=0.1, momentum=0.9)


def test_mini_batches_equal_a_plain_loop():
    solution = fit(PROBLEM, sgd, epochs=3, batch_size=8, seed=5, show_progress=False)
    model = PROBLEM.build(5).double()
    optimizer = sgd(model.parameters())
    order = torch.Generator().manual_seed(5)
    for _ in range(3):
        for index in torch.randperm(30, generator=order).split(8):
            optimizer.zero_grad()
            CE(model(X[:30].double()[index]), Y[:30][index]).backward()
            optimizer.step()
    theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy()
    np.testing.assert_allclose(solution.theta, theta, rtol=1e-12, atol=1e-14)
    assert solution.gradients == pytest.approx(3)
    assert solution.label == "sgd/5"
    assert solution.status == "ran 3 epochs"


def test_full_batch_in_pieces_equals_full_batch_at_once():
    whole = fit(PROBLEM, sgd, epochs=4, show_progress=False)
    pieces = fit(replace(PROBLEM, batch_size=7), sgd, epochs=4, show_progress=False)
    np.testing.assert_allclose(whole.theta, pieces.theta, rtol=1e-12, atol=1e-14)
    assert whole.gradients == pieces.gradients == 4


def test_losses_are_those_of_the_objective_and_the_curve_ends_there():
    solution = fit(PROBLEM, sgd, epochs=10, batch_size=8, seed=1, show_progress=False)
    for split in ("train", "validation", "test"):
        objective = PROBLEM.objective(split, solution=solution)
        assert float(objective(torch.from_numpy(solution.theta))) == getattr(solution, f"{split}_loss")
    assert solution.curve_epoch[0] == 0
    assert solution.curve_epoch[-1] == 10
    assert solution.curve_train[-1] == pytest.approx(solution.train_loss, rel=1e-12)
    assert solution.curve_validation[-1] == pytest.approx(solution.validation_loss, rel=1e-12)
    assert np.isnan(solution.train_accuracy)  # the problem has no metric


@pytest.mark.parametrize("batch_size", [8, None])
def test_the_tail_holds_the_last_consecutive_points(batch_size):
    solution = fit(PROBLEM, sgd, epochs=6, batch_size=batch_size, tail=5, show_progress=False)
    assert solution.tail.shape == (6, solution.theta.size)
    assert solution.tail_lr.tolist() == [0.1] * 5
    np.testing.assert_array_equal(solution.tail[-1], solution.theta)
    before = fit(PROBLEM, sgd, epochs=5, batch_size=batch_size, tail=5, show_progress=False)
    if batch_size is None:
        np.testing.assert_array_equal(solution.tail[-2], before.theta)
    else:
        np.testing.assert_array_equal(solution.tail[1], before.theta)  # an epoch has four steps


def test_the_same_seed_gives_the_same_solution_and_leaves_global_randomness():
    problem = Problem("noisy", net(lambda: nn.Dropout(0.3)), CE, (X, Y))
    torch.manual_seed(9)
    state = torch.get_rng_state()
    one = fit(problem, sgd, epochs=3, batch_size=16, seed=2, show_progress=False)
    assert torch.get_rng_state().equal(state)
    torch.manual_seed(10)
    two = fit(problem, sgd, epochs=3, batch_size=16, seed=2, show_progress=False)
    other = fit(problem, sgd, epochs=3, batch_size=16, seed=3, show_progress=False)
    np.testing.assert_array_equal(one.theta, two.theta)
    assert not np.array_equal(one.theta, other.theta)


def test_batchnorm_trains_in_train_mode_and_is_measured_with_its_statistics():
    problem = Problem("bn", net(lambda: nn.BatchNorm1d(6)), CE, (X, Y))
    solution = fit(problem, sgd, epochs=3, batch_size=25, show_progress=False)
    assert solution.buffers["1.num_batches_tracked"] == 6
    model = solution.load_into(problem.build(7).double()).eval()
    assert float(CE(model(X.double()), Y).detach()) == pytest.approx(solution.train_loss, rel=1e-12)


def test_frozen_parameters_belong_to_the_solution():
    def model() -> nn.Module:
        made = net()()
        made[0].requires_grad_(False)
        return made

    problem = Problem("frozen", model, CE, (X, Y))
    solution = fit(problem, sgd, epochs=3, seed=4, show_progress=False)
    assert solution.curve_train[-1] == pytest.approx(solution.train_loss, rel=1e-12)
    assert set(solution.buffers) == {"0.weight", "0.bias"}


def test_lbfgs_uses_loss_only_evaluations_in_its_search():
    solution = fit(PROBLEM, LBFGS, epochs=20, show_progress=False)
    assert solution.gradients <= 20
    assert solution.losses > solution.gradients
    assert solution.train_loss < 0.01


def test_divergence_is_survived_and_said():
    solution = fit(
        PROBLEM, lambda p: torch.optim.SGD(p, lr=1e200), epochs=5, batch_size=8, show_progress=False
    )
    assert solution.status.startswith("diverged in epoch")
    assert np.isfinite(solution.theta).all()
    assert solution.tail.shape == (0, solution.theta.size)
    start = PROBLEM.build(0).double()
    assert solution.status.endswith("these are the parameters of epoch 0")
    np.testing.assert_array_equal(solution.theta, PROBLEM.objective().parameters.theta(start).numpy())
    assert solution.curve_epoch.tolist() == [0]


NOISY = replace(PROBLEM, train=(X[:30], torch.where(torch.arange(30) % 3 == 0, 1 - Y[:30], Y[:30])))


def test_parameters_of_the_lowest_validation_loss_are_kept():
    whole = fit(NOISY, sgd, epochs=60, batch_size=8, show_progress=False)
    stopped = fit(NOISY, sgd, epochs=60, batch_size=8, keep="validation", show_progress=False)
    best = int(np.argmin(whole.curve_validation))
    assert 0 < best < 60
    until = fit(NOISY, sgd, epochs=best, batch_size=8, show_progress=False)
    np.testing.assert_array_equal(stopped.theta, until.theta)
    np.testing.assert_array_equal(stopped.curve_train, whole.curve_train[: best + 1])
    assert stopped.validation_loss == pytest.approx(whole.curve_validation.min(), rel=1e-12)
    assert stopped.status == (
        f"ran 60 epochs; these are the parameters of epoch {best}, of lowest validation loss"
    )
    assert stopped.tail.shape == (0, stopped.theta.size)
    assert stopped.gradients == pytest.approx(60)  # all that were spent


def test_keeping_by_validation_needs_validation_data():
    with pytest.raises(InputError, match="needs validation data, which the problem 'small' has not"):
        fit(replace(PROBLEM, validation=None), sgd, epochs=1, keep="validation", show_progress=False)


@pytest.mark.parametrize(("keep", "split"), [("last", "train"), ("validation", "validation")])
def test_a_loss_that_is_nan_from_the_start_is_refused(keep, split):
    inputs = torch.cat([X, X])
    inputs[-1] = float("nan")  # beyond what a problem is tried with
    spoilt = replace(PROBLEM, **{split: (inputs, torch.cat([Y, Y]))})
    with pytest.raises(InputError, match=f"the {split} loss of the problem 'small' is nan at initialisation"):
        fit(spoilt, sgd, epochs=2, keep=keep, show_progress=False)


def test_a_tail_shorter_than_an_epoch_holds_its_last_steps():
    long = fit(PROBLEM, sgd, epochs=2, batch_size=8, tail=4, show_progress=False)
    short = fit(PROBLEM, sgd, epochs=2, batch_size=8, tail=3, show_progress=False)
    assert short.tail.shape[0] == 4
    np.testing.assert_array_equal(short.tail, long.tail[1:])


def test_a_run_that_converges_ends_there_with_its_curve_and_without_idle_steps():
    tolerant = parse_recipe("lbfgs(gradient_tolerance=1e-3)").on(PROBLEM)
    solution = fit(PROBLEM, tolerant.optimizer, epochs=500, show_progress=False)
    assert solution.status == f"converged in epoch {int(solution.curve_epoch[-1])}"
    assert solution.curve_train[-1] == pytest.approx(solution.train_loss, rel=1e-12)
    assert (np.abs(np.diff(solution.tail, axis=0)).max(axis=1) > 0).all()


def test_the_tail_knows_the_rates_that_an_optimizer_chose():

    rates = []

    def clr(params):
        optimizer = CLR(params)
        optimizer.register_step_post_hook(lambda *_: rates.append(optimizer.rate))
        return optimizer

    solution = fit(PROBLEM, clr, epochs=3, batch_size=None, tail=2, show_progress=False)
    assert len(set(rates)) == 3
    np.testing.assert_array_equal(solution.tail_lr, rates[-2:])


def test_a_chosen_iterate_becomes_the_solution():
    iterates = []

    def rs(params):
        generator = torch.Generator().manual_seed(2)  # draws one before the last
        optimizer = SmoothedPerturbation(params, 0.05, 0.05, iterate="random", generator=generator)
        optimizer.register_step_post_hook(
            lambda *_: iterates.append(torch.cat([p.detach().reshape(-1) for p in params]).numpy())
        )
        return optimizer

    solution = fit(PROBLEM, rs, epochs=20, show_progress=False)
    chosen = [np.array_equal(solution.theta, theta) for theta in iterates]
    assert sum(chosen) == 1
    assert not chosen[-1]
    assert len(solution.tail) == 0  # it does not lead there


def test_recipes_of_e_hand_on_both_its_settings_and_those_of_its_base():
    adaptor = parse_recipe("e-sgd(alpha=-3.0, beta=0.9, lr=0.2, momentum=0.5)").optimizer(
        [nn.Parameter(torch.zeros(1))]
    )
    assert isinstance(adaptor, E)
    assert (adaptor.alpha, adaptor.beta) == (-3.0, 0.9)
    assert (adaptor.param_groups[0]["lr"], adaptor.param_groups[0]["momentum"]) == (0.2, 0.5)


def test_schedules_reach_the_optimizer():
    recipe = parse_recipe("sgd(lr=0.5, schedule='cosine', epochs=4, batch_size=None)").on(PROBLEM)
    solution = fit(PROBLEM, recipe.optimizer, epochs=4, schedule=recipe.scheduler, show_progress=False)
    np.testing.assert_allclose(solution.tail_lr, [0.25 * (1 + np.cos(np.pi * k / 4)) for k in range(4)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"epochs": 1, "batch_size": 0}, "batch_size must be at least 1"),
        ({"epochs": 1, "keep": "best"}, "keep must be 'last' or 'validation', got 'best'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        fit(PROBLEM, sgd, show_progress=False, **options)


@pytest.mark.parametrize("name", RECIPES)
def test_every_named_recipe_trains(name):
    recipe = parse_recipe(f"{name}(epochs=2)").on(PROBLEM)
    solution = fit(
        PROBLEM,
        recipe.optimizer,
        epochs=2,
        batch_size=recipe.batch_size,
        schedule=recipe.scheduler,
        show_progress=False,
    )
    assert solution.curve_train[-1] != solution.curve_train[0]


def test_recipes_are_read_and_written():
    recipe = parse_recipe("fast=sgd(lr=0.5, momentum=0.9, epochs=3)")
    assert recipe.label == "fast"
    assert recipe.settings == {"lr": 0.5, "momentum": 0.9}
    assert str(recipe) == "sgd(lr=0.5, momentum=0.9, epochs=3, batch_size=64, schedule='constant')"
    assert str(parse_recipe("sgd(keep='validation')")).endswith("schedule='constant', keep='validation')")
    assert parse_recipe("sgd").label == "sgd"
    assert parse_recipe("sgd(lr=0.5)").label == "sgd(lr=0.5)"
    assert parse_recipe("sgd").on(PROBLEM).epochs == 75
    own = parse_recipe("torch.optim:RMSprop(lr=0.01, batch_size=None)")
    assert isinstance(own.optimizer([nn.Parameter(torch.zeros(1))]), torch.optim.RMSprop)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sdg", "there is no optimizer 'sdg'; choose one of sgd"),
        ("builtins:list", "must make a torch.optim.Optimizer, got a list"),
        (":x", "is no name"),
        ("sgd(lr=-1)", "'sgd' cannot be made with.*Invalid learning rate"),
        ("sgd(speed=1)", "'sgd' cannot be made with"),
        ("sgd(epochs=0)", "epochs must be a whole number of at least 1, or None, got 0"),
        ("sgd(batch_size='all')", "batch_size must be a whole number"),
        ("sgd(keep='best')", "keep must be 'last' or 'validation', got 'best'"),
        ("sgd(schedule='step')", "schedule must be 'constant' or 'cosine', got 'step'"),
        ("torch.optim:Nothing", "no attribute 'Nothing'"),
    ],
)
def test_recipes_that_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse_recipe(text)


NORMALIZED = Problem(
    "normalized",
    net(lambda: nn.BatchNorm1d(6), lambda: nn.Dropout(0.3)),
    CE,
    (X[:30], Y[:30]),
    (X[30:40], Y[30:40]),
)


def cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)


RESUMED = {
    "sgd": (PROBLEM, sgd, {"batch_size": 8}),
    "adam": (NORMALIZED, lambda p: torch.optim.Adam(p, lr=0.01), {"batch_size": 8, "keep": "validation"}),
    "e-adamw": (
        NORMALIZED,
        lambda p: E(torch.optim.AdamW(p, lr=0.01)),
        {"batch_size": 7, "schedule": cosine},
    ),
    "lbfgs": (PROBLEM, LBFGS, {}),
    "nso": (PROBLEM, lambda p: NSO(torch.optim.SGD(p, lr=0.1)), {"batch_size": 15, "tail": 5}),
    "rs": (PROBLEM, lambda p: SmoothedPerturbation(p, 0.05, 0.05, iterate="random"), {}),
}


class Killed(BaseException):
    """Nothing is cleaned up after it, as after a kill."""


def killed_after(steps: int, optimizer):
    """The optimizer, in a process that is killed after so many steps in all."""

    def make(params):
        made = optimizer(params)
        number = count(1)

        def hook(*_):
            if next(number) > steps:
                raise Killed

        (made.base if hasattr(made, "base") else made).register_step_pre_hook(hook)
        return made

    return make


def same_records(a: Solution, b: Solution) -> None:
    for item in fields(a):
        one, two = getattr(a, item.name), getattr(b, item.name)
        if isinstance(one, dict) and one and isinstance(next(iter(one.values())), np.ndarray):
            assert list(one) == list(two)
            one, two = list(one.values()), list(two.values())
            for x, y in zip(one, two, strict=True):
                np.testing.assert_array_equal(x, y)
        else:
            np.testing.assert_equal(two, one, err_msg=item.name)


def same_trajectories(a, b) -> None:
    one, two = Trajectory(a), Trajectory(b)
    assert one.steps.tolist() == two.steps.tolist()
    for x, y in zip(one, two, strict=True):
        same_records(x, y)


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("often", [0.0, 1e9])
def test_a_killed_run_ends_where_one_that_was_never_killed_does(tmp_path, name, often):
    problem, optimizer, options = RESUMED[name]
    how = {"budget": 80_000, "gradients": "full", "state_every": often}

    def run(make, directory):
        record = Recording(directory, **how)
        return fit(problem, make, epochs=6, seed=2, label=name, record=record, show_progress=False, **options)

    alone = fit(problem, optimizer, epochs=6, seed=2, label=name, show_progress=False, **options)
    whole = run(optimizer, tmp_path / "whole")
    same_records(alone, whole)
    for steps in (0, 3, 2):
        with pytest.raises(Killed):
            run(killed_after(steps, optimizer), tmp_path / "parts")
    torch.manual_seed(5)  # what the process draws otherwise is of no matter
    state = torch.get_rng_state()
    same_records(whole, run(optimizer, tmp_path / "parts"))
    assert torch.equal(torch.get_rng_state(), state)
    same_trajectories(tmp_path / "whole", tmp_path / "parts")
    assert (
        name not in ("sgd", "adam", "e-adamw") or len(Trajectory(tmp_path / "parts")) < 10
    )  # of 25: thinned
    same_records(whole, run(killed_after(0, optimizer), tmp_path / "parts"))  # it has ended: no step is made


def test_the_recorded_points_are_those_of_the_run(tmp_path):
    solution = fit(PROBLEM, sgd, epochs=4, batch_size=8, seed=1, record=tmp_path, show_progress=False)
    found = Trajectory(tmp_path)
    assert found.steps.tolist() == list(range(17))
    np.testing.assert_array_equal(found.thetas(), solution.tail)
    np.testing.assert_array_equal(found.rates[:-1], solution.tail_lr)
    np.testing.assert_allclose(found.epochs[:6], [0, 8 / 30, 16 / 30, 24 / 30, 1, 1 + 8 / 30])
    assert found.label == solution.label
    PROBLEM.check(found.checkpoint(3))
    assert isinstance(load(found.files[3]), Checkpoint)


@pytest.mark.parametrize(
    ("optimizer", "batch_size"),
    [
        (sgd, 8),
        (lambda p: E(torch.optim.AdamW(p, lr=0.01)), 8),  # leaves another vector in p.grad
        (lambda p: SAM(torch.optim.SGD(p, lr=0.1)), 8),  # leaves the gradient elsewhere
        (LBFGS, None),
    ],
)
def test_recorded_gradients_are_those_of_the_batch_at_the_point(tmp_path, optimizer, batch_size):
    record = Recording(tmp_path, gradients="full")
    fit(PROBLEM, optimizer, epochs=2, batch_size=batch_size, seed=5, record=record, show_progress=False)
    order = torch.Generator().manual_seed(5)
    size = batch_size or 30
    batches = [i for _ in range(2) for i in torch.randperm(30, generator=order).split(size)]
    for point, index in zip(list(Trajectory(tmp_path))[:-1], batches, strict=True):
        model = point.load_into(PROBLEM.build(5).double())
        loss = CE(model(X[:30].double()[index]), Y[:30][index])
        expected = torch.autograd.grad(loss, list(model.parameters()))
        np.testing.assert_allclose(
            point.gradient, torch.cat([g.reshape(-1) for g in expected]), rtol=1e-10, atol=1e-14
        )
        assert point.batch_loss == pytest.approx(float(loss.detach()), rel=1e-12)


def test_a_gradient_that_no_one_evaluated_is_missing(tmp_path):
    record = Recording(tmp_path, gradients="sketch")
    fit(PROBLEM, RESUMED["nso"][1], epochs=2, record=record, show_progress=False)
    found = Trajectory(tmp_path)
    assert [len(point.sketch) for point in found] == [0, 0, 0]
    assert np.isnan(found.batch_losses).all()  # what NSO says is the mean at θ ± U
    assert found.rates[:2].tolist() == [0.1, 0.1]


@pytest.mark.parametrize(
    ("optimizer", "rates"),
    [
        (LBFGS, [np.nan] * 3),
        (lambda p: SmoothedPerturbation(p, 0.05, 0.05), [0.05, 0.05, np.nan]),
        (lambda p: SmoothedPerturbation(p, 0.05, 0.05, descent_lr=0.01), [np.nan] * 3),
    ],
)
def test_a_rate_that_the_optimizer_chose_and_does_not_say_is_missing(tmp_path, optimizer, rates):
    solution = fit(PROBLEM, optimizer, epochs=2, record=tmp_path, show_progress=False)
    np.testing.assert_array_equal(Trajectory(tmp_path).rates, rates)
    np.testing.assert_array_equal(solution.tail_lr, rates[:2])
    np.testing.assert_array_less(0, Trajectory(tmp_path).batch_losses[:2])


def falling(power: int):
    return lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda e: 1 / (1 + e) ** power)


@pytest.mark.parametrize("optimizer", [sgd, lambda p: NSO(torch.optim.SGD(p, lr=0.1)), lambda p: E(sgd(p))])
def test_schedules_are_told_apart_by_their_rates(tmp_path, optimizer):
    how = {"epochs": 3, "show_progress": False}
    alone = fit(PROBLEM, optimizer, schedule=falling(1), **how)
    same_records(alone, fit(PROBLEM, optimizer, schedule=falling(1), record=tmp_path, **how))
    with pytest.raises(
        InputError, match=r"with rates=\[\[0.1\], \[0.05\], .*, which this call has as \[\[0.1\], \[0.0125"
    ):
        fit(PROBLEM, optimizer, schedule=falling(3), record=tmp_path, **how)


def test_looking_at_a_schedule_draws_nothing_random(tmp_path):
    def at_random(optimizer):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: float(torch.rand(())))

    how = {"schedule": at_random, "epochs": 3, "show_progress": False}
    same_records(fit(NORMALIZED, sgd, **how), fit(NORMALIZED, sgd, record=tmp_path, **how))


def test_a_run_that_has_ended_is_held_to_its_recording_and_checkpoints(tmp_path):
    how = {"epochs": 2, "show_progress": False}
    solution = fit(PROBLEM, sgd, record=tmp_path, **how)
    with pytest.raises(InputError, match="recorded with every=1, which this recording has as 7"):
        fit(PROBLEM, sgd, record=Recording(tmp_path, every=7), **how)
    same_records(solution, fit(PROBLEM, sgd, record=Recording(tmp_path, budget=10**8), **how))
    for name in ("step-00000002.npz", "step-00000000.npz"):
        (tmp_path / name).unlink()
        with pytest.raises(
            InputError, match=rf"whose checkpoints are gone \({name} is not there\); bring them back"
        ):
            fit(PROBLEM, sgd, record=tmp_path, **how)


def test_a_killed_run_whose_checkpoints_are_gone_is_refused(tmp_path):
    record = Recording(tmp_path, state_every=0)
    for steps in (0, 2):  # at first there is none to miss
        with pytest.raises(Killed):
            fit(PROBLEM, killed_after(steps, sgd), epochs=4, record=record, show_progress=False)
    for file in Trajectory(tmp_path).files:
        file.unlink()
    with pytest.raises(InputError, match=r"gone \(step-00000000.npz is not there\)"):
        fit(PROBLEM, sgd, epochs=4, record=record, show_progress=False)


def test_two_runs_do_not_record_in_one_directory(tmp_path):
    def again(*_) -> None:
        fit(PROBLEM, sgd, epochs=2, record=tmp_path, show_progress=False)

    def meddle(params):
        made = sgd(params)
        made.register_step_pre_hook(again)
        return made

    with pytest.raises(InputError, match=r"another run is recorded in .* just now; wait for its end"):
        fit(PROBLEM, meddle, epochs=2, record=tmp_path, show_progress=False)
    again()  # it is free
    assert Trajectory(tmp_path).steps.tolist() == [0, 1, 2]


def test_a_state_that_was_being_written_is_removed(tmp_path):
    record = Recording(tmp_path, state_every=0)
    with pytest.raises(Killed):
        fit(PROBLEM, killed_after(1, sgd), epochs=3, record=record, show_progress=False)
    half = tmp_path / ".state.pt.123.part"
    half.write_bytes(b"half")
    fit(PROBLEM, sgd, epochs=3, record=record, show_progress=False)
    assert not half.exists()


def test_divergence_while_recording_is_survived_and_said(tmp_path):
    how = {"epochs": 5, "batch_size": 8, "record": tmp_path, "show_progress": False}
    with pytest.warns(RuntimeWarning, match="is not finite, and not recorded"):
        solution = fit(PROBLEM, lambda p: torch.optim.SGD(p, lr=1e200), **how)
    assert solution.status.startswith("diverged in epoch 1")
    assert np.isfinite(Trajectory(tmp_path).thetas()).all()
    same_records(solution, fit(PROBLEM, lambda p: torch.optim.SGD(p, lr=1e200), **how))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"epochs": 3},
            r"holds a run of fit with epochs=2, which this call has as 3; call it as before, or choose",
        ),
        ({"seed": 1}, "with seed=0, which this call has as 1"),
        ({"batch_size": 8}, "with batch_size=10, which this call has as 8"),
        ({"keep": "validation"}, "with keep='last', which this call has as 'validation'"),
        ({"dtype": torch.float32}, "with dtype='torch.float64', which this call has as 'torch.float32'"),
        ({"schedule": cosine}, "with schedule=None, which this call has as 'CosineAnnealingLR"),
        ({"optimizer": lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9)}, "with optimizer='SGD"),
        ({"problem": replace(PROBLEM, test=None)}, "with problem='"),
        (
            {"optimizer": lambda p: sgd(list(p)[:2])},
            r"with optimized=\[\['0.weight', '0.bias', '2.weight', '2.bias'\]\], which this call has as \[\['0.weight'",
        ),
    ],
)
def test_going_on_with_other_arguments_is_refused(tmp_path, changed, message):
    how = {"problem": PROBLEM, "optimizer": sgd, "epochs": 2, "batch_size": 10, "seed": 0, "label": "mine"}
    record = Recording(tmp_path, state_every=0)
    with pytest.raises(Killed):
        fit(**{**how, "optimizer": killed_after(4, sgd)}, record=record, show_progress=False)
    with pytest.raises(InputError, match=message):
        fit(**{**how, **changed}, record=record, show_progress=False)
    with pytest.raises(
        InputError, match=r"recorded with gradients='none', which this recording has as 'full'"
    ):
        fit(**how, record=replace(record, gradients="full"), show_progress=False)
    fit(**how, record=record, show_progress=False)
    with pytest.raises(InputError, match=message):  # also when it has ended
        fit(**{**how, **changed}, record=record, show_progress=False)


def test_a_state_that_cannot_be_read_is_refused(tmp_path):
    fit(PROBLEM, sgd, epochs=1, record=tmp_path, show_progress=False)
    state = tmp_path / "state.pt"
    state.write_bytes(state.read_bytes()[:200])
    with pytest.raises(
        InputError, match=r"state.pt is no state of fit that can be read .*; delete .* to begin anew"
    ):
        fit(PROBLEM, sgd, epochs=1, record=tmp_path, show_progress=False)
    state.unlink()
    with pytest.raises(InputError, match="already holds a trajectory of 2 checkpoints"):
        fit(PROBLEM, sgd, epochs=1, record=tmp_path, show_progress=False)
