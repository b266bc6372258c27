"""Recording a training run: what is kept, what is in it, budgets, kills, going on; and sketches of gradients."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from landscape import Checkpoint, InputError, Recorder, Recording, Solution, Trajectory, load
from landscape.sketches import count_sketch, sketched_cosine, sketched_inner
from landscape.solution_files import SolutionFile
from landscape.thinning import MANIFEST

TESTS = Path(__file__).parent
F64 = torch.float64
X = torch.randn(24, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
Y = (X[:, 0] > 0).long()


def network(*, normalized: bool = False, width: int = 4) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        layers = [nn.Linear(3, width), *([nn.BatchNorm1d(width)] if normalized else []), nn.Tanh()]
        return nn.Sequential(*layers, nn.Linear(width, 2)).double()


def flat(tensors) -> np.ndarray:
    return torch.cat([t.detach().reshape(-1) for t in tensors]).float().double().numpy()


def theta_of(model: nn.Module) -> np.ndarray:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters() if p.requires_grad]).numpy()


class Run:
    """A plain loop that records, and notes by itself what should have been recorded."""

    def __init__(self, directory: Path, model: nn.Module | None = None, **settings):
        self.model = model or network()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.95)
        self.directory, self.settings = directory, settings
        self.recorder = Recorder(directory, self.model, self.optimizer, **settings)
        self.done = 0
        self.thetas, self.losses, self.rates, self.gradients = [theta_of(self.model)], [], [], []
        self.most_bytes = 0

    def steps(self, count: int) -> Run:
        for _ in range(count):
            self.optimizer.zero_grad()
            part = slice(self.done % 4 * 6, self.done % 4 * 6 + 6)
            dtype = next(self.model.parameters()).dtype
            loss = nn.functional.cross_entropy(self.model(X[part].to(dtype)), Y[part])
            loss.backward()
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.trained]
            self.gradients.append(torch.cat([g.reshape(-1) for g in gradients]).numpy().copy())
            self.optimizer.step()
            self.done += 1
            self.recorder.step(loss, epoch=self.done / 4)
            self.losses.append(float(loss.detach()))
            self.rates.append(self.optimizer.param_groups[0]["lr"])
            self.thetas.append(theta_of(self.model))
            self.most_bytes = max(self.most_bytes, held_bytes(self.directory))
            self.scheduler.step()
        return self

    @property
    def trained(self) -> list[Tensor]:
        return [p for p in self.model.parameters() if p.requires_grad]

    @property
    def travelled(self) -> np.ndarray:
        lengths = [float(np.linalg.norm(b - a)) for a, b in zip(self.thetas, self.thetas[1:], strict=False)]
        return np.cumsum([0.0, *lengths])

    def killed(self) -> Run:
        """Its directory is free, as if its process had gone."""
        self.recorder._files.lock.release()
        return self

    def copy_going_on(self, **settings) -> Run:
        """The same run, killed, in a model and an optimizer made anew, as from a user's own checkpoint."""
        if hasattr(self, "recorder"):
            self.killed()
        other = object.__new__(Run)
        other.__dict__.update(copy.deepcopy({k: v for k, v in vars(self).items() if k != "recorder"}))
        other.recorder = Recorder(
            self.directory, other.model, other.optimizer, **{**self.settings, **settings}
        )
        return other


def held_bytes(directory: Path) -> int:
    """Bytes of all files there, also of hidden ones that are being written."""
    return sum(file.stat().st_size for file in directory.iterdir())


def contents(directory: Path) -> dict[str, dict[str, np.ndarray]]:
    found = {}
    for file in sorted(directory.glob("step-*.npz")):
        with np.load(file) as archive:
            found[file.name] = {name: archive[name].copy() for name in archive.files}
    return found


def model_bytes(model: nn.Module) -> int:
    return 8 * sum(p.numel() for p in model.parameters())


def same(a: dict[str, dict[str, np.ndarray]], b: dict[str, dict[str, np.ndarray]]) -> None:
    assert list(a) == list(b)
    for name, arrays in a.items():
        assert list(arrays) == list(b[name])
        for key, array in arrays.items():
            np.testing.assert_array_equal(array, b[name][key], err_msg=f"{name} {key}")


def budget_for(directory: Path, count: int, model: nn.Module | None = None, **settings) -> int:
    """Bytes that hold this many checkpoints and the last, as the refusal of too few says them for the fewest."""
    with pytest.raises(InputError) as refused:
        Recorder(directory, model or network(), budget=1, **settings)
    fewest = max(4, 2 * settings.get("consecutive", 1))
    size = Recorder(directory / "size", model or network(), **settings)._size()
    return int(str(refused.value).split()[5]) + (count - fewest) * size


def test_every_point_is_recorded_with_what_was_known_there(tmp_path):
    run = Run(tmp_path, label="sgd", seed=3, problem="p", gradients="full").steps(9)
    run.recorder.close()
    found = Trajectory(tmp_path)
    assert found.steps.tolist() == list(range(10))
    assert (found.label, found.optimizer, found.seed, found.problem, len(found)) == (
        "sgd/3",
        "sgd",
        3,
        "p",
        10,
    )
    np.testing.assert_array_equal(found.thetas(), run.thetas)
    np.testing.assert_array_equal(found.batch_losses, [*run.losses, np.nan])
    np.testing.assert_allclose(found.rates, [*(0.1 * 0.95 ** np.arange(9)), np.nan], rtol=1e-14)
    np.testing.assert_array_equal(found.epochs, np.arange(10) / 4)
    np.testing.assert_allclose(found.travelled, run.travelled, rtol=1e-14)
    for point, gradient in zip(found, [*run.gradients, np.zeros(0)], strict=True):
        np.testing.assert_array_equal(point.gradient, gradient)
    assert found.checkpoint(-1).label == "sgd/3@9"
    assert "torch" in found.about["versions"]


def test_gradients_are_those_of_the_batch_at_the_recorded_point(tmp_path):
    run = Run(tmp_path, gradients="full").steps(6)
    run.recorder.close()
    for point in list(Trajectory(tmp_path))[:-1]:
        model = point.load_into(network())
        part = slice(point.step % 4 * 6, point.step % 4 * 6 + 6)
        loss = nn.functional.cross_entropy(model(X[part]), Y[part])
        expected = torch.autograd.grad(loss, list(model.parameters()))
        np.testing.assert_allclose(
            point.gradient, torch.cat([g.reshape(-1) for g in expected]), rtol=1e-12, atol=1e-15
        )
        assert point.batch_loss == pytest.approx(float(loss.detach()), rel=1e-13)


def test_a_checkpoint_is_a_solution_wherever_one_is_taken(tmp_path):
    run = Run(tmp_path, label="sgd").steps(2)
    run.recorder.close()
    file = Trajectory(tmp_path).files[1]
    for found in (Solution.load(file), Checkpoint.load(file), load(file)):
        assert isinstance(found, Checkpoint)
        np.testing.assert_array_equal(found.theta, run.thetas[1])
    assert SolutionFile(file).label == "sgd/0@1"
    np.testing.assert_array_equal(next(SolutionFile(file).slices(1000)), run.thetas[1])
    path = Solution(
        problem="p", optimizer="sgd", seed=0, theta=np.ones(1), names=("w",), shapes=((1,),)
    ).save(tmp_path / "s.npz")
    with pytest.raises(InputError, match=r"holds a solution, but a checkpoint is needed here"):
        Checkpoint.load(path)
    assert SolutionFile(path).label == "sgd/0"


def kept(count: int, capacity: int, *, every: int, consecutive: int) -> list[int]:
    """The law itself, naively: after so many steps were made, which of their points are there beside the last."""
    made, stride = range(count), every
    while sum(t == 0 or t % stride < consecutive for t in made) > capacity:
        stride *= 2
    return [t for t in made if t == 0 or t % stride < consecutive]


@pytest.mark.parametrize(
    ("capacity", "every", "consecutive"), [(4, 1, 1), (5, 1, 1), (7, 3, 1), (6, 1, 2), (9, 3, 2), (8, 2, 3)]
)
def test_thinning_keeps_what_the_law_says_and_never_exceeds_the_budget(
    tmp_path, capacity, every, consecutive
):
    how = {"every": every, "consecutive": consecutive, "gradients": "full"}
    budget = budget_for(tmp_path / "a", capacity, **how)
    run = Run(tmp_path / "a", budget=budget, **how)
    steps: list[int] = []
    for done in range(1, 70):
        run.steps(1)
        steps = Trajectory(run.directory).steps.tolist()
        assert steps == kept(done, capacity, every=every, consecutive=consecutive)
    run.recorder.close()
    assert Trajectory(run.directory).steps.tolist() == [*steps, *([] if 69 in steps else [69])]
    assert max(run.most_bytes, held_bytes(run.directory)) <= budget
    assert run.most_bytes > 0.4 * budget  # and it is not left unused, even where headers outweigh θ


def test_the_bytes_of_a_checkpoint_are_bounded_closely(tmp_path):
    model = network(normalized=True, width=2000)
    run = Run(tmp_path, model, label="a long name" * 20, gradients="full", about={"said": "é" * 300}).steps(2)
    size = run.recorder._size()
    run.recorder._epoch, run.recorder._step = -1.2345678901234567e-123, 10**9
    run.recorder._write(batch_loss=-1.2345678901234567e-123, rate=-1.2345678901234567e-123)
    written = Trajectory(tmp_path).files[-1].stat().st_size + model_bytes(
        model
    )  # the gradient is missing in it
    assert written <= size <= written + 4000


def test_no_write_exceeds_the_budget_even_for_a_moment(tmp_path, monkeypatch):
    budget = budget_for(tmp_path / "a", 4)
    seen = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append(held_bytes(Path(b).parent)), replace(a, b)))
    run = Run(tmp_path / "a", budget=budget).steps(40)
    run.recorder.close()
    again = run.copy_going_on(start=40)
    again.steps(30).recorder.close()
    assert len(seen) > 20
    assert max(seen) <= budget


def test_a_budget_too_small_is_refused_with_the_bytes_that_are_needed(tmp_path):
    with pytest.raises(
        InputError, match=r"budget must be at least (\d+) bytes, 4 checkpoints .* got 10000"
    ) as e:
        Recorder(tmp_path, network(), budget=10_000)
    needed = int(str(e.value).split()[5])
    with pytest.raises(InputError, match="budget must be at least"):
        Recorder(tmp_path, network(), budget=needed - 1)
    Recorder(tmp_path, network(), budget=needed)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("stop", [1, 7, 16, 17, 33, 50])
@pytest.mark.parametrize("closed", [True, False])
def test_a_run_that_goes_on_records_as_if_it_had_never_stopped(tmp_path, stop, closed, exact):
    how = {"gradients": "sketch", "sketch": 8, "consecutive": 2}
    budget = budget_for(tmp_path / "size", 7, **how)
    whole = Run(tmp_path / "whole", budget=budget, **how).steps(60)
    whole.recorder.close()
    run = Run(tmp_path / "parts", budget=budget, **how).steps(stop)
    position = run.recorder.position
    saved = copy.copy(run)
    saved.__dict__ = copy.deepcopy({k: v for k, v in vars(run).items() if k != "recorder"})
    if closed:
        run.recorder.close()
    else:
        run.steps(6).killed()  # beyond the user's own checkpoint
    again = saved.copy_going_on(start=position if exact else stop)
    again.steps(60 - stop)
    again.recorder.close()
    if exact:
        same(contents(tmp_path / "whole"), contents(tmp_path / "parts"))
    else:
        there, expected = Trajectory(tmp_path / "parts"), Trajectory(tmp_path / "whole")
        np.testing.assert_array_equal(there.thetas(), expected.thetas())
        assert (there.travelled <= expected.travelled * (1 + 1e-12)).all()
        if stop in expected.steps and closed:
            np.testing.assert_allclose(there.travelled, expected.travelled, rtol=1e-14)
    assert again.most_bytes <= budget


KILLED = """
import os, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import landscape.thinning as thinning
from test_recording import Run
where = {where!r}
run = Run(Path({directory!r}), budget={budget})
run.steps(20)
if where == "write":
    os.replace = lambda *_: os._exit(9)
elif where == "thin":
    thinning.Thinned._remove = lambda self, steps: steps and (self.file(max(steps)).unlink(), os._exit(9))
run.steps(40)
os._exit(9)
"""


@pytest.mark.parametrize("where", ["write", "thin", "between"])
def test_a_killed_run_leaves_a_readable_trajectory_that_can_go_on(tmp_path, where):
    budget = budget_for(tmp_path / "size", 6)
    code = KILLED.format(tests=str(TESTS), where=where, directory=str(tmp_path / "killed"), budget=budget)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    whole = Run(tmp_path / "whole", budget=budget).steps(20)
    found = Trajectory(tmp_path / "killed")
    assert len(found) >= 4
    assert [p.theta.shape for p in found] == [(26,)] * len(found)
    again = whole.copy_going_on(start=whole.recorder.position)
    again.directory = tmp_path / "killed"
    again.recorder = Recorder(
        again.directory, again.model, again.optimizer, budget=budget, start=whole.recorder.position
    )
    again.steps(41)
    again.recorder.close()
    reference = Run(tmp_path / "reference", budget=budget).steps(61)
    reference.recorder.close()
    same(contents(tmp_path / "reference"), contents(tmp_path / "killed"))
    # What the killed process was writing is gone.
    assert [file.name for file in again.directory.glob(".*")] == [".recording.lock"]


def test_a_smaller_budget_thins_what_is_there(tmp_path):
    run = Run(tmp_path / "a").steps(40)
    budget = budget_for(tmp_path / "size", 5)
    again = run.copy_going_on(start=40, budget=budget)
    assert held_bytes(again.directory) <= budget
    again.steps(1).recorder.close()
    assert Trajectory(again.directory).steps.tolist() == [*kept(41, 5, every=1, consecutive=1), 41]


def test_what_cannot_be_gone_on_with_is_refused(tmp_path):
    run = Run(tmp_path, label="sgd").steps(3).killed()
    go_on = {"label": "sgd", "start": 3}
    with pytest.raises(InputError, match=r"already holds a trajectory of 3 checkpoints; .* give start="):
        Recorder(tmp_path, run.model, label="sgd")
    with pytest.raises(
        InputError, match=r"was recorded with label='sgd', which this recording has as 'adam'"
    ):
        Recorder(tmp_path, run.model, **{**go_on, "label": "adam"})
    with pytest.raises(InputError, match=r"was recorded with gradients='none', .* as 'full'"):
        Recorder(tmp_path, run.model, gradients="full", **go_on)
    with pytest.raises(InputError, match="holds a trajectory of another model"):
        Recorder(tmp_path, network(width=5), **go_on)
    assert Trajectory(tmp_path).steps.tolist() == [0, 1, 2]


@pytest.mark.parametrize("stop", [10, 11, 12])
@pytest.mark.parametrize("capacity", [4, 5, 50])
def test_going_on_with_a_number_keeps_the_end_that_is_there_until_the_next_point(tmp_path, stop, capacity):
    how: dict[str, Any] = {"every": 3, "budget": budget_for(tmp_path / "size", capacity, every=3)}
    whole = Run(tmp_path / "whole", **how).steps(25)
    whole.recorder.close()
    run = Run(tmp_path / "parts", **how).steps(stop)
    run.recorder.close()
    there = Trajectory(run.directory).steps.tolist()
    again = run.copy_going_on(start=stop)
    assert Trajectory(run.directory).steps.tolist() == there
    assert again.recorder.position["travelled"] == pytest.approx(run.travelled[-1], rel=1e-14)
    assert again.recorder.position["epoch"] == stop / 4
    if stop != 12:  # the next point belongs at 12
        again.steps(12 - stop)
        assert Trajectory(run.directory).steps.tolist() == there
    again.steps(25 - again.done).recorder.close()
    found, expected = Trajectory(run.directory), Trajectory(whole.directory)
    assert found.steps.tolist() == expected.steps.tolist()
    np.testing.assert_allclose(found.travelled, expected.travelled, rtol=1e-14)
    assert max(again.most_bytes, held_bytes(again.directory)) <= how["budget"]


def test_closing_where_no_further_point_belongs_stays_within_the_budget(tmp_path, monkeypatch):
    budget = budget_for(tmp_path / "size", 4, every=3)
    run = Run(tmp_path / "a", every=3, budget=budget).steps(11)  # 0, 3, 6, 9: full
    run.recorder.close()
    again = run.copy_going_on(start=11)
    assert Trajectory(run.directory).steps.tolist() == [0, 3, 6, 9, 11]
    files, replace = [], os.replace
    monkeypatch.setattr(
        os, "replace", lambda a, b: (files.append(len(list(Path(b).parent.glob("*step-*")))), replace(a, b))
    )
    again.steps(1).recorder.close()
    assert Trajectory(run.directory).steps.tolist() == [0, 3, 6, 9, 12]
    assert max(files) == 5  # four and the last, as the budget is counted


def test_a_model_that_is_elsewhere_is_refused(tmp_path):
    run = Run(tmp_path).steps(5)
    run.recorder.close()
    files = sorted(file.name for file in tmp_path.glob("step-*"))
    apart = float(np.linalg.norm(theta_of(network()) - run.thetas[3]))
    message = (
        rf"not at step 3 of the trajectory in .* \(it lies {apart:.3g} from there\): load its state first"
    )
    for start in (3, {"step": 3, "epoch": 0.75, "travelled": 1.0}):
        with pytest.raises(InputError, match=message):
            Recorder(tmp_path, network(), start=start)
    assert sorted(file.name for file in tmp_path.glob("step-*")) == files  # nothing was removed
    Recorder(tmp_path, Trajectory(tmp_path).checkpoint(3).load_into(network()), start=3).close()
    assert Trajectory(tmp_path).steps.tolist() == [0, 1, 2, 3]


def test_a_directory_has_one_recorder_at_a_time(tmp_path):
    run = Run(tmp_path).steps(2)
    with pytest.raises(InputError, match=r"another run is recorded in .* just now; wait for its end, close"):
        Recorder(tmp_path, run.model, start=2)
    code = f"from test_recording import *; Recorder({str(tmp_path)!r}, network(), start=2)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=TESTS)
    assert "another run is recorded in" in other.stderr
    run.recorder.close()
    with pytest.raises(InputError, match="already holds a trajectory of 3") as refused:
        Recorder(tmp_path, run.model)
    Recorder(tmp_path, run.model, start=2)  # neither a refusal nor a recorder that was dropped holds it
    Recorder(tmp_path, run.model, start=2).close()
    assert refused
    assert Trajectory(tmp_path).steps.tolist() == [0, 1, 2]


def test_a_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file cannot be written .*; choose another directory"):
        Recorder(tmp_path / "file", network())


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_a_rate_that_a_line_search_chose_is_missing(tmp_path, line_search):
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), line_search_fn=line_search)
    with Recorder(tmp_path, model, optimizer) as recorder:
        recorder.step(1.0)
        recorder.step(1.0, rate=0.5)
    np.testing.assert_array_equal(Trajectory(tmp_path).rates, [np.nan, 0.5, np.nan])


def test_a_loss_that_is_held_is_that_of_the_point(tmp_path):
    model = network()
    recorder = Recorder(tmp_path, model)
    recorder.hold_gradient(torch.tensor(0.25))
    recorder.hold_gradient(0.5)  # the first one stays
    for told in (None, None, 2.0):
        with torch.no_grad():
            next(model.parameters()).add_(0.1)
        recorder.hold_gradient(1.0)  # no longer at θ_t
        recorder.step(told)
    np.testing.assert_array_equal(Trajectory(tmp_path).batch_losses, [0.25, np.nan, 2.0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "every must be a whole number of at least 1, got 0"),
        ({"consecutive": True}, "consecutive must be a whole number of at least 1, got True"),
        ({"budget": 1e9}, "budget must be a whole number of at least 1, got 1000000000.0"),
        ({"gradients": "all"}, "gradients must be 'none', 'sketch' or 'full', got 'all'"),
        ({"dtype": "float16"}, "dtype must be 'float32', or None for the model's own, got 'float16'"),
    ],
)
def test_bad_settings(tmp_path, settings, message):
    for make in (lambda: Recording(tmp_path, **settings), lambda: Recorder(tmp_path, network(), **settings)):
        with pytest.raises(InputError, match=message):
            make()
    with pytest.raises(InputError, match="state_every must be at least 0 seconds, got -1"):
        Recording(tmp_path, state_every=-1)
    with pytest.raises(
        InputError, match="start must be the number of steps made, or a recorder's position, got -1"
    ):
        Recorder(tmp_path, network(), start=-1)


def test_gradients_that_are_gone_are_missed(tmp_path):
    model = network()
    recorder = Recorder(tmp_path, model, gradients="full")
    with pytest.raises(
        InputError, match=r"gradients='full' needs p.grad, which no parameter has; call recorder.step after"
    ):
        recorder.step(0.0)
    recorder.close()
    with pytest.raises(InputError, match="this recorder was closed; make another one with start="):
        recorder.step(0.0)


def test_a_gradient_held_before_the_step_outlives_what_comes_after(tmp_path):
    model = network()
    recorder = Recorder(tmp_path, model, gradients="full")
    parameters = list(model.parameters())
    nn.functional.cross_entropy(model(X), Y).backward()
    true = flat_double([p.grad for p in parameters])
    recorder.hold_gradient()
    with torch.no_grad():
        for p in parameters:
            p.grad.mul_(2)  # pyright: ignore[reportOptionalMemberAccess]
    recorder.hold_gradient()  # the first one stays
    with torch.no_grad():
        for p in parameters:
            p.add_(0.1)
    recorder.step(1.0)
    with torch.no_grad():
        for p in parameters:
            p.add_(0.1)
    recorder.hold_gradient()  # no longer at θ_1
    recorder.step(1.0)
    first, second = Trajectory(tmp_path)
    np.testing.assert_array_equal(first.gradient, true)
    assert second.gradient.shape == (0,)


def flat_double(tensors) -> np.ndarray:
    return torch.cat([t.detach().reshape(-1) for t in tensors]).numpy().copy()


def test_buffers_and_frozen_parameters_are_those_at_the_point(tmp_path):
    model = network(normalized=True)
    model[0].requires_grad_(False)  # pyright: ignore[reportIndexIssue]
    states = [copy.deepcopy(model.state_dict())]
    run = Run(tmp_path, model)
    for _ in range(5):
        run.steps(1)
        states.append(copy.deepcopy(model.state_dict()))
    run.recorder.close()
    for point, state in zip(Trajectory(tmp_path), states, strict=True):
        restored = point.load_into(network(normalized=True)).state_dict()
        assert list(restored) == list(state)
        for name, tensor in state.items():
            assert torch.equal(restored[name], tensor), (point.step, name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_other_dtypes_are_stored_as_float32(tmp_path, dtype):
    model = network().to(dtype)
    run = Run.__new__(Run)
    recorder = Recorder(tmp_path, model, gradients="full")
    thetas = []
    for i in range(4):
        thetas.append(flat(model.parameters()))
        for p in model.parameters():
            p.grad = torch.full_like(p, i)
            with torch.no_grad():
                p.add_(0.25)
        recorder.step(0.5)
    del run
    found = Trajectory(tmp_path)
    np.testing.assert_array_equal(found.thetas(), thetas)
    assert found.thetas().dtype == np.float32
    assert found.checkpoint(3).gradient.tolist() == [3.0] * 26
    lengths = np.linalg.norm(np.diff(thetas, axis=0), axis=1)
    np.testing.assert_allclose(np.diff(found.travelled), lengths, rtol=1e-6)


def test_float64_can_be_stored_in_half_the_bytes(tmp_path):
    run = Run(tmp_path, dtype="float32", gradients="full").steps(3)
    found = Trajectory(tmp_path).checkpoint(2)
    assert (found.theta.dtype, found.gradient.dtype) == (np.float32, np.float32)
    np.testing.assert_array_equal(found.theta, run.thetas[2].astype(np.float32))
    np.testing.assert_allclose(found.travelled, run.travelled[2], rtol=1e-14)


@pytest.mark.parametrize(
    "wrap", [torch.compile, nn.DataParallel, lambda m: nn.DataParallel(cast(nn.Module, torch.compile(m)))]
)
def test_wrapped_models_have_their_plain_names(tmp_path, wrap):
    model = network(normalized=True)
    Recorder(tmp_path, wrap(model)).close()
    found = Trajectory(tmp_path).checkpoint(0)
    assert list(found.names) == [n for n, _ in model.named_parameters()]
    assert set(found.buffers) == {n for n, _ in model.named_buffers()}


def test_parts_that_were_compiled_have_their_plain_names(tmp_path):
    model = network()
    names = tuple(n for n, _ in model.named_parameters())
    model[0] = torch.compile(model[0])  # pyright: ignore[reportIndexIssue, reportArgumentType]
    Recorder(tmp_path, model).close()
    assert Trajectory(tmp_path).parameters.names == names


def test_recording_changes_neither_the_run_nor_randomness(tmp_path):
    free = Run(tmp_path / "a").steps(8)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
    torch.manual_seed(3)
    state, modes = torch.get_rng_state(), [m.training for m in model.modules()]
    recorder = Recorder(tmp_path / "b", model, optimizer, gradients="sketch")
    for i in range(8):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X[i % 4 * 6 :][:6]), Y[i % 4 * 6 :][:6])
        loss.backward()
        optimizer.step()
        held = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        recorder.step(loss)
        scheduler.step()
        assert all(
            torch.equal(p.grad, g)
            for p, g in zip(model.parameters(), held, strict=True)
            if p.grad is not None
        )
    np.testing.assert_array_equal(theta_of(model), free.thetas[-1])
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == modes


def test_points_that_are_not_finite_are_left_out(tmp_path):
    model = network()
    recorder = Recorder(tmp_path, model)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    recorder.step(1.0)
    with pytest.warns(RuntimeWarning, match="the point of step 1 is not finite, and not recorded"):
        recorder.step(1.0)
    recorder.close()  # says it no second time
    assert Trajectory(tmp_path).steps.tolist() == [0]


def test_trajectories_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"absent is no directory that can be read \(No such file"):
        Trajectory(tmp_path / "absent")
    with pytest.raises(InputError, match=r"holds no checkpoints \(step-\*\.npz\); name a directory"):
        Trajectory(tmp_path)
    Run(tmp_path / "a").steps(3)
    with pytest.raises(InputError, match="holds 3 checkpoints, so there is none of index 3"):
        Trajectory(tmp_path / "a").checkpoint(3)
    file = tmp_path / "a" / "step-00000001.npz"
    good = file.read_bytes()
    file.write_bytes(good[: len(good) // 2])
    with pytest.raises(InputError, match=r"step-00000001.npz cannot be read: it is truncated"):
        Trajectory(tmp_path / "a")
    Run(tmp_path / "b", network(width=5)).steps(1)
    file.write_bytes((tmp_path / "b" / "step-00000000.npz").read_bytes())
    with pytest.raises(
        InputError, match=r"step-00000001.npz has another model .* than step-00000000.npz; keep"
    ):
        Trajectory(tmp_path / "a")
    (tmp_path / "a" / MANIFEST).unlink()
    file.write_bytes(good)
    assert len(Trajectory(tmp_path / "a")) == 3  # the checkpoints tell everything themselves


def naive_sketch(vector: np.ndarray, k: int, seed: int) -> np.ndarray:
    """SplitMix64 in whole numbers, entry by entry."""
    mask = 2**64 - 1

    def mixed(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)

    found = np.zeros(k)
    for i, value in enumerate(vector):
        bits = mixed(((i + 1) * 0x9E3779B97F4A7C15 + mixed(seed)) & mask)
        found[(bits >> 1) % k] += value if bits & 1 else -value
    return found


def test_sketches_are_what_their_definition_says(monkeypatch):
    rng = np.random.default_rng(0)
    vector = rng.normal(size=700)
    for seed in (0, 1, -5, 2**70 + 3):
        np.testing.assert_allclose(
            count_sketch(vector, 37, seed=seed), naive_sketch(vector, 37, seed % 2**64), atol=1e-13
        )
    monkeypatch.setattr("landscape.sketches.BLOCK", 64)
    np.testing.assert_allclose(count_sketch(vector, 37), naive_sketch(vector, 37, 0), atol=1e-13)
    both = count_sketch(vector, 37) * 2 + count_sketch(vector[::-1], 37)
    np.testing.assert_allclose(count_sketch(2 * vector + vector[::-1], 37), both, atol=1e-12)


@pytest.mark.parametrize("cosine", [0.0, 0.6, 0.99, 1.0])
@pytest.mark.parametrize("k", [64, 400])
def test_sketched_products_are_unbiased_with_the_error_they_say(k, cosine):
    rng = np.random.default_rng(1)
    a, other = rng.normal(size=(2, 3000))
    other -= a * (a @ other) / (a @ a)
    other *= np.linalg.norm(a) / np.linalg.norm(other)
    b = 3 * (cosine * a + np.sqrt(1 - cosine**2) * other)
    truth, repeats = float(a @ b), 400
    found = []
    for seed in range(repeats):
        pair = count_sketch(a, k, seed=seed), count_sketch(b, k, seed=seed)
        found.append((*sketched_inner(*pair), *sketched_cosine(*pair)))
    values, errors, cosines, cosine_errors = np.array(found).T
    exact = np.sqrt(((a @ a) * (b @ b) + truth**2 - 2 * (a**2 * b**2).sum()) / k)
    assert abs(values.mean() - truth) < 4 * exact / np.sqrt(repeats)
    assert np.std(values) == pytest.approx(exact, rel=0.15)
    assert np.sqrt((errors**2).mean()) == pytest.approx(exact, rel=0.05)
    if cosine == 1.0:
        np.testing.assert_allclose(cosines, 1, rtol=1e-12)
        return
    z = (cosines - cosine) / cosine_errors
    assert abs(z.mean()) < 4 / np.sqrt(repeats) + 1 / np.sqrt(k)  # the bias is of order 1/k, the error 1/√k
    assert np.std(z) == pytest.approx(1, rel=0.15)


def test_sketches_of_few_large_entries_have_errors_that_are_at_most_too_large():
    a, b = np.zeros((2, 5000))
    a[[3, 70, 900]], b[[3, 70, 4000]] = (5.0, 1.0, 2.0), (4.0, -2.0, 1.0)
    found = np.array(
        [sketched_inner(count_sketch(a, 100, seed=s), count_sketch(b, 100, seed=s)) for s in range(300)]
    )
    assert np.std(found[:, 0]) < found[:, 1].mean()
    assert found[:, 0].mean() == pytest.approx(a @ b, abs=0.5)


def test_sketches_that_cannot_be_made_or_compared_are_refused():
    with pytest.raises(
        InputError, match="k, the length of a sketch, must be a whole number of at least 1, got 0"
    ):
        count_sketch(np.zeros(3), 0)
    with pytest.raises(InputError, match=r"must have shape \(P,\), got \(2, 2\)"):
        count_sketch(np.zeros((2, 2)), 3)
    with pytest.raises(InputError, match=r"must have one shape .* got \(3,\) and \(4,\)"):
        sketched_cosine(np.zeros(3), np.zeros(4))
    assert np.isnan(sketched_cosine(np.zeros(3), np.ones(3))).all()


def test_sketches_of_a_run_are_those_of_its_gradients(tmp_path):
    run = Run(tmp_path, gradients="sketch", sketch=16).steps(3)
    for point in Trajectory(tmp_path):
        np.testing.assert_allclose(point.sketch, count_sketch(run.gradients[point.step], 16), atol=1e-14)
        assert point.gradient.shape == (0,)


def test_a_checkpoint_whose_gradient_has_another_length_is_refused():
    with pytest.raises(
        InputError, match=r"run/0@2 has a gradient of shape \(2,\), .* that of theta, \(1,\), or"
    ):
        Checkpoint(
            problem="p",
            optimizer="run",
            seed=0,
            theta=np.ones(1),
            names=("w",),
            shapes=((1,),),
            step=2,
            gradient=np.ones(2),
        )
