"""Problems and their data: splits kept apart, files checked, names resolved or refused."""

import gzip
import struct
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

from landscape import InputError, Problem, Solution, datasets, load_problem
from landscape.calls import format_call, parse_call
from landscape.catalog import NAMED
from landscape.problems import batches, examples, select


@pytest.mark.parametrize(("name", "dim"), [("digits-mlp", 2410), ("digits-cnn", 3658)])
def test_digits_problems(name, dim):
    problem = load_problem(name)
    objective = problem.objective()
    assert objective.dim == dim
    assert problem.sizes == {"train": 1077, "validation": 360, "test": 360}
    model = problem.build(1)
    theta = objective.parameters.theta(model)
    x, y = problem.test
    expected = nn.functional.cross_entropy(model.double()(x), y).detach()
    torch.testing.assert_close(problem.objective("test")(theta), expected, rtol=1e-6, atol=0)
    right = problem.objective("test", measure=problem.metric)(theta)
    assert float(right) == pytest.approx(float((model(x).argmax(1) == y).double().mean()))


def test_digits_splits_are_disjoint_parts_of_the_whole():
    from sklearn.datasets import load_digits

    splits = datasets.digits()
    rows = [(*row, int(label)) for x, y in splits for row, label in zip((x * 16).tolist(), y, strict=True)]
    whole, labels = load_digits(return_X_y=True)
    assert sorted(rows) == sorted((*row, int(label)) for row, label in zip(whole, labels, strict=True))
    for x, y in splits:
        assert x.min() == 0
        assert x.max() == 1
        share = torch.bincount(y) / len(y)
        assert (share - 0.1).abs().max() < 0.01


def test_the_same_seed_builds_the_same_model_and_global_randomness_is_left_alone():
    problem = load_problem("digits-mlp")
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, two, other = problem.build(1), problem.build(1), problem.build(2)
    assert torch.get_rng_state().equal(state)
    assert all(a.equal(b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not all(a.equal(b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def idx(array: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}i", *array.shape)
        + array.astype(np.uint8).tobytes()
    )


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """Four idx files of MNIST's shape but made-up content, their checksums, and nothing to download from."""
    import hashlib

    generator = np.random.default_rng(0)
    shapes = {
        "train-images": (60_000, 2, 2),
        "train-labels": (60_000,),
        "t10k-images": (50, 2, 2),
        "t10k-labels": (50,),
    }
    files = {}
    for name, digest_name in zip(shapes, datasets.MNIST_FILES, strict=True):
        raw = idx(generator.integers(0, 10, shapes[name]))
        files[digest_name] = raw
    monkeypatch.setattr(
        datasets, "MNIST_FILES", {n: hashlib.sha256(raw).hexdigest() for n, raw in files.items()}
    )
    monkeypatch.setattr(datasets, "MNIST_MIRRORS", (tmp_path.joinpath("no-mirror").as_uri() + "/",))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LANDSCAPE_DATA", raising=False)
    return files


@pytest.mark.parametrize("folder", [".", "mnist"])
@pytest.mark.parametrize("packed", [True, False])
def test_mnist_is_read_from_landscape_data(small_mnist, tmp_path, monkeypatch, folder, packed):
    place = tmp_path / "data" / folder
    place.mkdir(parents=True)
    for name, raw in small_mnist.items():
        (place / (name + ".gz" * packed)).write_bytes(gzip.compress(raw) if packed else raw)
    monkeypatch.setenv("LANDSCAPE_DATA", str(tmp_path / "data"))
    (x, y), (x2, y2), (x3, y3) = datasets.mnist()
    assert (x.shape, x2.shape, x3.shape) == ((50_000, 4), (10_000, 4), (50, 4))
    images = np.frombuffer(small_mnist["train-images-idx3-ubyte"], np.uint8, offset=16).reshape(-1, 4) / 255
    labels = np.frombuffer(small_mnist["train-labels-idx1-ubyte"], np.uint8, offset=8)
    both = np.column_stack([torch.cat([x, x2]), torch.cat([y, y2])])
    whole = np.column_stack([images, labels])
    np.testing.assert_allclose(both[np.lexsort(both.T)], whole[np.lexsort(whole.T)], atol=1e-7)
    assert len(y3) == 50


def test_mnist_is_downloaded_to_the_cache_and_checked(small_mnist, tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for name, raw in small_mnist.items():
        (mirror / f"{name}.gz").write_bytes(gzip.compress(raw))
    monkeypatch.setattr(
        datasets, "MNIST_MIRRORS", ((tmp_path / "absent").as_uri() + "/", mirror.as_uri() + "/")
    )
    first = datasets.mnist()
    assert len(list((tmp_path / "cache" / "torch-landscape" / "mnist").glob("*.gz"))) == 4
    monkeypatch.setattr(datasets, "MNIST_MIRRORS", ())
    assert datasets.mnist()[2][0].equal(first[2][0])


def test_mnist_that_cannot_be_had_or_is_wrong_gets_a_clear_error(small_mnist, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"no mirror answered.*set LANDSCAPE_DATA"):
        datasets.mnist()
    monkeypatch.setenv("LANDSCAPE_DATA", str(tmp_path))
    with pytest.raises(InputError, match="neither there nor in its folder mnist"):
        datasets.mnist()
    for name in small_mnist:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(InputError, match="its SHA-256 differs"):
        datasets.mnist()
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"x" * 1000)[:-9])
    with pytest.raises(InputError, match="damaged gzip"):
        datasets.mnist()


def test_mnist_problems_have_the_papers_sizes(small_mnist, tmp_path, monkeypatch):
    images = torch.rand(30, 784)
    split = (images, torch.randint(0, 10, (30,)))
    monkeypatch.setattr("landscape.catalog.mnist", lambda: (split, split, split))
    assert NAMED["mnist-fcp"]().objective().dim == 42_200
    assert NAMED["mnist-lenet"]().objective().dim == 61_706
    assert NAMED["mnist-fcp"](train=7).sizes["train"] == 7
    with pytest.raises(InputError, match="train must be a number from 1 to 30, got 31"):
        NAMED["mnist-fcp"](train=31)


def test_objectives_of_problems_are_in_eval_mode_with_the_buffers_of_a_solution():
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1)).double()

    x, y = torch.randn(9, 3, dtype=torch.float64), torch.randn(9, 1, dtype=torch.float64)
    problem = Problem("p", model, nn.functional.mse_loss, (x, y))
    mine = problem.build(4).eval()
    mine.get_buffer("1.running_mean").add_(2)
    parameters = problem.objective().parameters
    theta = parameters.theta(mine)
    solution = Solution(
        problem="p", optimizer="o", seed=0, theta=theta.numpy(), names=parameters.names, shapes=parameters.shapes,
        buffers={name: b.numpy() for name, b in mine.named_buffers()},
    )  # fmt: skip
    expected = nn.functional.mse_loss(mine(x), y).detach()
    torch.testing.assert_close(problem.objective(solution=solution)(theta), expected)
    assert not torch.isclose(problem.objective()(theta), expected)


def test_structured_data_is_counted_selected_and_split():
    data = {"ids": torch.arange(7), "mask": torch.ones(7, 2)}
    assert examples(data) == 7
    assert [examples(b) for b in batches(data, 3)] == [3, 3, 1]
    assert select(data, torch.tensor([6, 0]))["ids"].tolist() == [6, 0]
    assert select((data["ids"], data), slice(2))[1]["mask"].shape == (2, 2)
    with pytest.raises(InputError, match="same first dimension"):
        examples((torch.zeros(3), torch.zeros(4)))


def test_a_problem_without_examples_is_refused():
    empty = (torch.zeros(0, 2), torch.zeros(0))
    with pytest.raises(InputError, match="no example in its train data"):
        Problem("p", lambda: nn.Linear(2, 1), nn.functional.mse_loss, empty)


OWN = """
    import torch
    from torch import nn
    from landscape import Problem

    X, Y = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(12, 1)

    def make(width=4):
        return Problem("mine", lambda: nn.Linear(3, 1), nn.functional.mse_loss, (X[:width], Y[:width]))

    problem = make()
    number = 3
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_module.py").write_text(textwrap.dedent(OWN))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_the_users_own_problem_by_name(own_module):
    assert load_problem("own_module:problem").sizes == {"train": 4}
    assert load_problem("own_module:make(width=6)").sizes == {"train": 6}
    assert load_problem("own_module:make(width=6)").name == "own_module:make(width=6)"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digits", "there is no problem 'digits'; choose one of digits-mlp"),
        ("own_module:problem(width=3)", "is a Problem, which takes no settings"),
        (":problem", "is no name of an attribute"),
        ("own_module:number", "is a int, but must be a landscape.Problem"),
        ("own_module:nothing", "has no attribute 'nothing'"),
        ("no_such_module:problem", "module 'no_such_module'.*cannot be found"),
        ("own_module:make(depth=2)", "cannot be made with {'depth': 2}"),
        ("digits-mlp(hidden=oops)", "cannot be read"),
        ("digits-mlp)", "is no name"),
    ],
)
def test_names_that_are_no_problem(own_module, name, message):
    with pytest.raises(InputError, match=message):
        load_problem(name)


def test_a_solution_of_another_problem_is_refused():
    problem = load_problem("digits-mlp")
    solution = Solution(
        problem="other", optimizer="sgd", seed=0, theta=np.zeros(2), names=("w",), shapes=((2,),),
        about={"problem_fingerprint": "abc"},
    )  # fmt: skip
    with pytest.raises(InputError, match=r"sgd/0 belongs to the problem 'other'.*not to 'digits-mlp'"):
        problem.check(solution)


def test_fingerprints_tell_data_models_and_losses_apart():
    x, y = torch.randn(5, 2), torch.randn(5, 1)

    def make(x, model=lambda: nn.Linear(2, 1), loss=nn.functional.mse_loss, metric=None):
        return Problem("p", model, loss, (x, y), metric=metric).fingerprint

    assert make(x) == make(x.clone())
    others = [
        make(x + 1),
        make(x.double()),
        make(x, lambda: nn.Linear(2, 1, bias=False)),
        make(x, lambda: nn.Sequential(nn.Linear(2, 1), nn.Tanh())),
        make(x, lambda: nn.Sequential(nn.Linear(2, 1), nn.ReLU())),
        make(x, loss=nn.functional.l1_loss),
        make(x, metric=nn.functional.l1_loss),
    ]
    assert len({make(x), *others}) == len(others) + 1


def test_a_model_that_is_shared_or_drawn_elsewhere_is_refused():
    shared, data = nn.Linear(2, 1), (torch.ones(5, 2), torch.ones(5, 1))
    problem = Problem("p", lambda: shared, nn.functional.mse_loss, data)
    with pytest.raises(
        InputError, match="must be a new module at every call, but 'weight' is the same tensor"
    ):
        _ = problem.fingerprint
    generator = torch.Generator().manual_seed(0)

    def drawn() -> nn.Module:
        model = nn.Linear(2, 1)
        nn.init.normal_(model.weight, generator=generator)
        return model

    with pytest.raises(InputError, match="'weight' differs between two models of one seed"):
        _ = Problem("p", drawn, nn.functional.mse_loss, data).fingerprint


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            (torch.ones(3), torch.ones(3), torch.ones(3)),
            r"must be \(inputs, targets\) or a mapping of tensors, got a tuple of 3",
        ),
        (torch.ones(3, 2), "got a Tensor"),
        ((np.ones((3, 2)), np.ones(3)), "must be tensors, got a ndarray"),
    ],
)
def test_data_of_another_form_is_refused(data, message):
    with pytest.raises(InputError, match=message):
        Problem("p", lambda: nn.Linear(2, 1), nn.functional.mse_loss, data)


@pytest.mark.parametrize("text", ["sgd", "alto(lr=0.01)", "a.b:c(x=(1, 2), y='s', z=None)"])
def test_calls_round_trip(text):
    assert format_call(*parse_call(text)) == text


@pytest.mark.parametrize("text", ["", "f(1)", "f(**{})", "f(x=y)", "f(x=1", "f(x=__import__('os'))"])
def test_calls_that_are_refused(text):
    with pytest.raises(InputError):
        parse_call(text)
