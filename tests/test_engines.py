"""Engines and their choice: whichever evaluates a family of points, the losses are those of the loop."""

import copy
import json
import shutil
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from landscape import InputError, Objective, choosing, model_objective, potentials
from landscape.engines import Engine, Workshop, evaluate
from landscape.families import Family

ENGINES = ("replay", "replay x2", "replay x5", "shared", "shared x2", "shared x5", "shared x5 channels-last")
CE = nn.functional.cross_entropy


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(n: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randint(0, classes, (n,), generator=torch.Generator().manual_seed(seed))


def trained(model: nn.Module, *inputs: Tensor) -> nn.Module:
    """In float64, with parameters from a fixed generator, buffers that are not the trivial ones, in eval mode."""
    model, generator = model.double(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for x in inputs[:1]:
            model(x)  # gives lazy layers their sizes
        for p in model.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
        for x in inputs:
            model(x)
    return model.eval()


def family(objective: Objective, *, k: int = 2, n: int = 7, size: float = 0.3, seed: int = 3) -> Family:
    origin = numbers(objective.dim, seed=seed)
    directions, coordinates = size * numbers(k, objective.dim, seed=seed + 1), numbers(n, k, seed=seed + 2)
    coordinates[n // 2] = 0
    return Family(origin, directions, coordinates)


def loop(objective: Objective, points: Family) -> Tensor:
    rows = [points.origin + (c[:, None] * points.directions).sum(0) for c in points.coordinates]
    return torch.stack([objective(row) for row in rows])


def found(objective: Objective, points: Family, name: str) -> Tensor:
    return evaluate(Workshop(objective), Engine.named(name), points)


def agree(losses: Tensor, reference: Tensor, rtol: float = 1e-12) -> None:
    torch.testing.assert_close(losses, reference, rtol=rtol, atol=1e-14)


class Attention(nn.Module):
    """A GPT of one layer: embedding, causal attention by split heads, output matrix tied to the embedding."""

    def __init__(self, words: int = 7, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(5, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width))
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        b, t = x.shape
        h = self.words(x) + self.places(torch.arange(t))
        q, k, v = self.qkv(self.norm1(h)).chunk(3, dim=-1)
        q, k, v = (z.view(b, t, self.heads, -1).transpose(1, 2) for z in (q, k, v))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.out(a.transpose(1, 2).reshape(b, t, -1))
        h = h + self.mlp(self.norm2(h))
        return self.head(self.norm3(h)).transpose(1, 2)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.short, self.head = nn.Conv2d(2, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)), inplace=True)
        h = F.relu(self.norm2(self.conv2(h)) + self.short(x))
        return self.head(F.adaptive_avg_pool2d(h, 1).flatten(1))


class Shapes(nn.Module):
    """View, permute, chunk, cat, stack, split, einsum, expand, flip, roll, unbind, unfold, slices and in-place sums."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.zeros(4, 6)), nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        w = (
            torch.einsum("ij,kj->ik", self.weight, self.weight.flip(0))
            + self.weight.view(2, 2, 6).sum(0).sum()
        )
        a, b = (x @ self.weight.t()).chunk(2, dim=1)
        c = torch.stack([a, b, a * 2 - b], dim=1).permute(0, 2, 1).reshape(len(x), 6)
        first, rest = self.scale.split([2, 4])
        d = c * torch.cat([rest, first]).expand(len(x), 6) + self.scale.roll(1)[None]
        d[:, 1:3] += first
        e = d.unfold(1, 3, 2).sum(-1)
        out = torch.zeros(len(x), 4, dtype=x.dtype)
        out[:, :2] = e
        out[:, 2:] = torch.stack(d.unbind(1)[::3], 1)
        return torch.einsum("bi,ij->bj", out.tanh(), w)[:, :3]


class Pair(nn.Module):
    """Both arguments of a product hang on the parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.product = nn.Linear(6, 4), nn.Linear(6, 2), nn.Bilinear(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(self.first(x), self.second(x)) * torch.where(self.second(x)[:, :1] > 0, 1.0, -0.5)


class LSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(3, 4, num_layers=2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Dict(nn.Module):
    """Takes keywords and computes its own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.inner(inputs)
        return {"loss": CE(logits, labels), "logits": logits}


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.inner(x)


def mlp(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), *between, nn.Tanh(), nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 3))


def frozen(model: nn.Module, *names: str) -> nn.Module:
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    return model


X, Y, IMAGES = numbers(11, 6), labels(11, 3), numbers(11, 2, 8, 8)
WORDS = torch.randint(0, 7, (11, 5), generator=torch.Generator().manual_seed(2))
SERIES = numbers(11, 5, 3)


def parts(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(x[:5], y[:5]), (x[5:10], y[5:10]), (x[10:], y[10:])]


def whole(model: nn.Module, x: Tensor = X, **settings: Any) -> Objective:
    return model_objective(trained(model, x), CE, [(x, Y)], **settings)


def images(*layers: nn.Module, **settings: Any) -> Objective:
    model = trained(nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3)).double(), IMAGES)
    return model_objective(model, CE, [(IMAGES, Y)], **settings)


def lenet() -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(2, 3, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 2),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(2),
    )


MODELS: dict[str, Callable[[], Objective]] = {
    "mlp": lambda: whole(mlp()),
    "uneven batches": lambda: model_objective(trained(mlp()), CE, parts(X, Y)),
    "sum over examples": lambda: model_objective(
        trained(mlp()), nn.CrossEntropyLoss(reduction="sum"), parts(X, Y), reduction="sum"
    ),
    "mean squares": lambda: model_objective(trained(mlp()), nn.functional.mse_loss, [(X, numbers(11, 3))]),
    "in-place relu": lambda: whole(mlp(nn.ReLU(inplace=True))),
    "dropout in eval mode": lambda: whole(mlp(nn.Dropout(0.5), nn.AlphaDropout(0.3))),
    "dicts, own loss": lambda: model_objective(
        trained(Dict()), None, [{"inputs": x, "labels": y} for x, y in parts(X, Y)]
    ),
    "dicts, loss of the output": lambda: model_objective(
        trained(Dict()),
        lambda out, batch: F.nll_loss(out["logits"].log_softmax(1), batch["labels"]),
        [{"inputs": X, "labels": Y}],
    ),
    "lenet": lambda: images(*lenet()),
    "resnet block": lambda: whole(Residual(), IMAGES),
    "resnet block, batch statistics": lambda: whole(Residual(), IMAGES, batchnorm="batch"),
    "batch norm first": lambda: images(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 2)),
    "layer norm": lambda: whole(mlp(nn.LayerNorm(5))),
    "group norm": lambda: images(nn.Conv2d(2, 4, 2), nn.GroupNorm(2, 4)),
    "instance norm": lambda: images(nn.Conv2d(2, 4, 2), nn.InstanceNorm2d(4, affine=True)),
    "instance norm, running": lambda: images(
        nn.Conv2d(2, 4, 2), nn.InstanceNorm2d(4, track_running_stats=True)
    ),
    "grouped convolution": lambda: images(
        nn.Conv2d(2, 4, 3, groups=2), nn.Tanh(), nn.Conv2d(4, 4, 3, groups=4)
    ),
    "dilated and strided": lambda: images(
        nn.Conv2d(2, 3, 3, dilation=2), nn.Tanh(), nn.Conv2d(3, 2, 2, stride=2)
    ),
    "transposed": lambda: images(
        nn.ConvTranspose2d(2, 3, 3, stride=2, output_padding=1), nn.Tanh(), nn.ConvTranspose2d(3, 2, 2)
    ),
    "circular padding": lambda: images(
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
        nn.Tanh(),
        nn.Conv2d(3, 2, 3, padding=1, padding_mode="reflect"),
    ),
    "one dimension": lambda: images(
        nn.Flatten(2), nn.Conv1d(2, 3, 2, stride=3), nn.Tanh(), nn.Conv1d(3, 2, 1, bias=False)
    ),
    "attention": lambda: model_objective(trained(Attention()), CE, [(WORDS, WORDS.roll(1, 1))]),
    "encoder layer": lambda: model_objective(
        trained(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)),
        F.mse_loss,
        [(numbers(3, 5, 4), numbers(3, 5, 4, seed=1))],
    ),
    "lstm": lambda: whole(LSTM(), SERIES),
    "shapes": lambda: whole(Shapes()),
    "weight norm": lambda: whole(
        nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 5)), nn.Tanh(), nn.Linear(5, 3))
    ),
    "spectral norm": lambda: whole(
        nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 5)), nn.Tanh(), nn.Linear(5, 3))
    ),
    "frozen first layer": lambda: whole(frozen(mlp(), "0.weight", "0.bias")),
    "frozen last layer": lambda: whole(frozen(mlp(), "4.weight", "4.bias")),
    "frozen biases": lambda: whole(frozen(mlp(), "0.bias", "2.bias", "4.bias")),
    "frozen weights": lambda: whole(frozen(mlp(), "0.weight", "2.weight", "4.weight")),
    "frozen convolution bias": lambda: whole(frozen(Residual(), "short.bias"), IMAGES),
    "padded embedding": lambda: model_objective(
        trained(nn.Sequential(nn.Embedding(7, 3, padding_idx=0), nn.Flatten(), nn.Linear(15, 3))),
        CE,
        [(WORDS, Y)],
    ),
    "embedding bag": lambda: model_objective(
        trained(nn.Sequential(nn.EmbeddingBag(7, 3, mode="mean"), nn.Tanh(), nn.Linear(3, 3))),
        CE,
        [(WORDS, Y)],
    ),
    "bilinear": lambda: model_objective(trained(Pair()), F.mse_loss, [(X, numbers(11, 3))]),
    "autocast inside": lambda: whole(Autocast()),
}


def weight_decay() -> Objective:
    model = whole(mlp())
    return Objective([lambda t: model.terms[0](t) + 0.1 * t @ t], model.dim)


A = numbers(4, 4)
ANALYTIC: dict[str, Callable[[], Objective]] = {
    "muller-brown": potentials.muller_brown,
    "four-well": potentials.four_well,
    "curvy valley": potentials.curvy_valley,
    "two wells": potentials.two_wells,
    "ring": lambda: potentials.ring(3),
    "ladder": potentials.ladder,
    "ravine": potentials.ravine,
    "cardioid": potentials.cardioid,
    "lennard-jones": lambda: potentials.lennard_jones(4),
    "weight decay": weight_decay,
    "linear": lambda: Objective([lambda t: 3 * t.sum() - t[0] / 2 + 1], 4),
    "constant": lambda: Objective([lambda t: torch.tensor(2.5, dtype=torch.float64)], 4),
    "constant and not": lambda: Objective(
        [lambda t: torch.tensor(2.5, dtype=torch.float64), lambda t: t @ A @ t], 4
    ),
    "where": lambda: Objective([lambda t: torch.where(t > 0, t, t**2).sum()], 4),
    "of shape (1,)": lambda: Objective([lambda t: (t @ A @ t).reshape(1), lambda t: t[:1] + 1], 4),
    "theta itself": lambda: Objective([lambda t: t], 1),
}
OBJECTIVES = MODELS | ANALYTIC


NOT_AT_ONCE = "resnet block, batch statistics"  # PyTorch has no rule for train-mode BatchNorm at many points


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_engine_gives_the_losses_of_the_loop(name: str) -> None:
    objective = OBJECTIVES[name]()
    points = family(objective, size=0.05 if name == "lennard-jones" else 0.3)
    reference = loop(objective, points)
    tolerance = (
        0.05 if name == "autocast inside" else 1e-12
    )  # autocast rounds the weights of what is near anew
    agree(found(objective, points, "loop"), reference, tolerance)
    for engine in ENGINES:
        if name == NOT_AT_ONCE and "x" in engine:
            with pytest.raises(RuntimeError, match="Batch norm got a batched tensor"):
                found(objective, points, engine)
        else:
            agree(found(objective, points, engine), reference, tolerance)


def test_under_autocast_the_shared_part_is_what_was_not_rounded() -> None:
    """At the origin replay and shared see the same numbers, in bfloat16 as well."""
    objective = MODELS["autocast inside"]()
    points = family(objective)
    points = Family(points.origin, points.directions, points.coordinates[3:4])
    assert not points.coordinates.any()
    reference = loop(objective, points)
    for engine in ("loop", "replay", "shared"):
        assert found(objective, points, engine).equal(reference)


@pytest.mark.parametrize("engine", ["loop", "replay", "shared", "replay x5", "shared x5", "shared x16"])
@pytest.mark.parametrize(("k", "n"), [(0, 3), (1, 1), (1, 11), (2, 0), (2, 5), (2, 10), (3, 12), (40, 11)])
def test_families_of_every_size(engine: str, k: int, n: int) -> None:
    objective = MODELS["uneven batches"]()
    points = Family(numbers(objective.dim), 0.2 * numbers(k, objective.dim, seed=1), numbers(n, k, seed=2))
    losses = found(objective, points, engine)
    assert losses.shape == (n,)
    if n:
        agree(losses, loop(objective, points))


@pytest.mark.parametrize("engine", ["loop", "replay", "shared"])
@pytest.mark.parametrize("name", ["mlp", "lenet", "attention", "resnet block", "muller-brown"])
def test_coordinates_zero_give_exactly_the_loss_at_the_origin(name: str, engine: str) -> None:
    objective = OBJECTIVES[name]()
    points = family(objective)
    alone = Family(points.origin, points.directions[:0], points.coordinates[:1, :0])
    at_origin = found(objective, points, engine)[len(points) // 2]
    agree(at_origin, objective(points.origin), 1e-14)
    if engine != "shared":
        assert at_origin == objective(points.origin)
    else:  # without directions all is shared, and nothing added
        agree(found(objective, alone, engine)[0], at_origin, 1e-14)


@pytest.mark.parametrize("name", ["mlp", "lenet", "attention", "layer norm"])
def test_far_coordinates_of_short_directions_agree(name: str) -> None:
    objective = OBJECTIVES[name]()
    points = family(objective, size=1e-3)
    points = Family(points.origin, points.directions, 1e3 * points.coordinates)
    reference = loop(objective, points)
    for engine in ("replay", "shared", "shared x5"):
        agree(found(objective, points, engine), reference, 1e-11)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_directions_that_leave_leading_layers_alone(layers: int) -> None:
    objective = MODELS["lenet"]()
    points = family(objective)
    assert objective.parameters is not None
    for row in points.directions:
        for name in objective.parameters.names[: 2 * layers]:
            objective.parameters.unpack(row)[name].zero_()
    assert points.directions.any() == (layers < 3)
    reference = loop(objective, points)
    for engine in ("shared", "shared x5", "shared channels-last"):
        agree(found(objective, points, engine), reference)


@pytest.mark.parametrize("engine", ["loop", "replay", "shared x5"])
def test_losses_that_are_not_finite_are_as_the_loop_gives_them(engine: str) -> None:
    objective = Objective([lambda t: t.log().sum() + 1 / t[0]], 2)
    points = Family(
        torch.ones(2).double(),
        torch.eye(2).double(),
        torch.tensor([[0.0, 0], [-1, 0], [0, -2], [1, 1]]).double(),
    )
    losses = found(objective, points, engine)
    torch.testing.assert_close(losses, loop(objective, points), equal_nan=True)
    assert losses.isfinite().tolist() == [True, False, False, True]


no_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")


@no_compiler
@pytest.mark.parametrize("engine", ["shared x3 compiled", "replay compiled"])
def test_compiled_engines_give_the_losses_of_the_loop(engine: str) -> None:
    objective = Objective([lambda t: (X[:, :2] @ t).tanh().square().mean()], 2)
    points = family(objective, n=7)
    agree(found(objective, points, engine), loop(objective, points))


@no_compiler
def test_compiled_engines_on_uneven_batches() -> None:
    """Their operators are the same, written out alike."""

    def mean(count: int) -> Callable[[Tensor], Tensor]:
        return lambda t: (X[:count, :2] @ t).square().mean()

    objective = Objective([mean(5), mean(3)], 2)
    points = family(objective, n=4)
    agree(found(objective, points, "replay x4 compiled"), loop(objective, points))


@pytest.mark.parametrize("engine", ["replay bfloat16", "shared bfloat16", "shared x5 bfloat16"])
def test_bfloat16_is_near_and_what_is_shared_is_not_rounded(engine: str) -> None:
    objective = model_objective(trained(mlp()).float(), CE, [(X, Y)])
    points = family(objective)
    points = Family(points.origin.float(), points.directions.float(), points.coordinates.float())
    workshop = Workshop(objective)
    reference, losses = loop(objective, points), evaluate(workshop, Engine.named(engine), points)
    assert losses.dtype == torch.float32
    exact = Engine.named(engine.removesuffix(" bfloat16"))
    torch.testing.assert_close(evaluate(workshop, exact, points), reference, rtol=1e-6, atol=0)
    torch.testing.assert_close(losses, reference, rtol=0.05, atol=0)
    assert (losses - reference).abs().max() > 1e-5 * reference.max()


# --- names and shapes


@pytest.mark.parametrize(
    "name",
    [
        "loop",
        "replay",
        "shared",
        "shared x16",
        "replay compiled",
        "shared x4 compiled channels-last bfloat16",
        "shared bfloat16",
    ],
)
def test_an_engine_is_known_by_its_name(name: str) -> None:
    assert Engine.named(name).name == name


def test_the_parts_of_a_name_may_come_in_any_order() -> None:
    engine = Engine.named("shared  bfloat16 x8 compiled")
    assert engine == Engine("shared", 8, compiled=True, bfloat16=True)
    assert engine.name == "shared x8 compiled bfloat16"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "fast",
        "loop x4",
        "loop compiled",
        "shared x0",
        "shared x",
        "shared x-1",
        "x4",
        "shared 4",
        "replay shared",
    ],
)
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InputError) as refused:
        Engine.named(name)
    assert str(refused.value) == (
        "engine must be auto, loop, replay or shared, the last two with any of x16 (points at once), compiled, channels-last "
        f"and bfloat16, got {name!r}."
    )


@pytest.mark.parametrize(
    ("origin", "directions", "coordinates"),
    [
        ((3,), (2, 4), (5, 2)),
        ((3,), (2, 3), (5, 1)),
        ((3,), (3,), (5, 1)),
        ((3,), (2, 3), (2,)),
        ((1, 3), (2, 3), (5, 2)),
        ((), (2, 3), (5, 2)),
    ],
)
def test_a_family_of_shapes_that_do_not_fit_is_refused(
    origin: Any, directions: Any, coordinates: Any
) -> None:
    with pytest.raises(InputError) as refused:
        Family(torch.zeros(origin), torch.zeros(directions), torch.zeros(coordinates))
    assert str(refused.value) == (
        "a family needs origin (P,), directions (k, P) and coordinates (n, k), got "
        f"{origin}, {directions} and {coordinates}."
    )


def test_the_points_of_a_family() -> None:
    points = family(potentials.ring(3), k=2, n=5)
    expected = [
        points.origin + a * points.directions[0] + b * points.directions[1] for a, b in points.coordinates
    ]
    torch.testing.assert_close(
        points.points(points.coordinates), torch.stack(expected), rtol=1e-14, atol=1e-15
    )
    assert points.points(points.coordinates)[2].equal(points.origin)
    assert len(points) == 5


def test_many_points_at_once_run_attention_in_operators_that_have_a_rule_for_them() -> None:
    objective = MODELS["attention"]()
    workshop, points = Workshop(objective), family(objective)
    for count in (1, 2):
        code = workshop.residual(Engine("shared", count), objective.terms[0], points).graph.code
        assert ("scaled_dot_product" in code) == (count == 1)


# --- memory


class Small(Workshop):
    """A device on which no more than so many points fit at once."""

    def __init__(self, objective: Objective, room: int) -> None:
        super().__init__(objective)
        self.room, self.sizes = room, []

    def losses(self, engine: Engine, term: Any, family: Family) -> Any:
        work = super().losses(engine, term, family)

        def limited(coordinates: Tensor) -> Tensor:
            self.sizes.append(len(coordinates))
            if len(coordinates) > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return work(coordinates)

        return limited


@pytest.mark.parametrize(
    ("room", "sizes"), [(16, [16, 3] * 3), (8, [16, 8, 8, 3] + [8, 8, 3] * 2), (1, [16, 8, 4, 2, *[1] * 57])]
)
def test_where_memory_runs_out_half_as_many_points_are_taken_from_there_on(
    room: int, sizes: list[int]
) -> None:
    objective = MODELS["uneven batches"]()
    points, workshop = family(objective, n=19), Small(objective, room)
    agree(evaluate(workshop, Engine.named("shared x16"), points), loop(objective, points))
    assert workshop.sizes == sizes


def test_what_filled_the_memory_is_let_go_before_less_is_tried() -> None:
    class Full(Workshop):
        filled: weakref.ref[Tensor] | None = None

        def losses(self, engine: Engine, term: Any, family: Family) -> Any:
            assert self.filled is None or self.filled() is None

            def work(coordinates: Tensor) -> Tensor:
                states = family.points(coordinates)
                if len(states) > 2:
                    self.filled = weakref.ref(states)
                    raise torch.OutOfMemoryError
                return torch.stack([term(state) for state in states])

            return work

    objective = potentials.ring(3)
    points, workshop = family(objective), Full(objective)
    agree(evaluate(workshop, Engine.named("shared x4"), points), loop(objective, points))
    assert workshop.filled is not None


def test_where_not_even_one_point_fits_the_error_is_pytorchs() -> None:
    objective = MODELS["mlp"]()
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        evaluate(Small(objective, 0), Engine.named("shared x2"), family(objective))


@pytest.mark.parametrize(("engine", "rows"), [("loop", 1), ("shared", 1), ("replay x8", 8), ("shared x8", 8)])
def test_memory_is_bounded_by_the_points_at_once_not_by_their_number(
    engine: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = 0
    kept = torch.addmm

    def watched(base: Tensor, *factors: Tensor) -> Tensor:
        nonlocal largest
        result = kept(base, *factors)
        largest = max(largest, len(result))
        return result

    objective = potentials.ring(3)
    points = family(objective, n=203)
    monkeypatch.setattr(torch, "addmm", watched)
    losses = found(objective, points, engine)
    monkeypatch.undo()
    assert largest == rows
    agree(losses, loop(objective, points))


def test_nothing_given_is_changed() -> None:
    model = trained(Residual(), IMAGES)
    kept_model, kept_images = copy.deepcopy(model.state_dict()), IMAGES.clone()
    random, mode = torch.get_rng_state(), [m.training for m in model.modules()]
    for policy in ("eval", "batch"):
        objective = model_objective(model, CE, [(IMAGES, Y)], batchnorm=policy)
        points = family(objective)
        kept = [t.clone() for t in (points.origin, points.directions, points.coordinates)]
        for engine in ("loop", "replay", "shared", "shared channels-last"):
            first = found(objective, points, engine)
            assert first.equal(found(objective, points, engine))
            assert not first.requires_grad
        choosing.losses(objective, points)
        assert all(
            a.equal(b)
            for a, b in zip(kept, (points.origin, points.directions, points.coordinates), strict=True)
        )
    assert all(a.equal(b) for a, b in zip(kept_model.values(), model.state_dict().values(), strict=True))
    assert mode == [m.training for m in model.modules()]
    assert not any(p.grad is not None for p in model.parameters())
    assert IMAGES.equal(kept_images)
    assert torch.get_rng_state().equal(random)


def test_one_workshop_keeps_terms_and_families_apart() -> None:
    objective = Objective([lambda t: (t**2).sum(), lambda t: t.prod(), lambda t: t.sin().sum()], 3)
    workshop = Workshop(objective)
    for seed in range(3):
        points = family(objective, seed=seed, k=seed + 1)
        for engine in ("shared x2", "shared", "replay x2"):
            agree(evaluate(workshop, Engine.named(engine), points), loop(objective, points))


# --- the choice


@pytest.fixture
def thorough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every candidate but compiled ones is tried, however little there is to do."""
    monkeypatch.setattr("landscape.measuring.SHARE", 1e9)


@pytest.mark.usefixtures("thorough")
@pytest.mark.parametrize(
    "name", ["mlp", "uneven batches", "lenet", NOT_AT_ONCE, "attention", "shapes", "muller-brown", "constant"]
)
def test_the_chosen_engine_gives_the_losses_of_the_loop(name: str) -> None:
    objective = OBJECTIVES[name]()
    points = family(objective, n=21)
    losses, choice = choosing.losses(objective, points)
    agree(losses, loop(objective, points))
    said = choice.said()
    assert json.loads(json.dumps(said)) == said
    assert said["engine"] == choice.engine.name
    assert {"loop", "shared", "replay"} <= said["trials"].keys()
    assert said["deviation"] <= 1e-12


@pytest.mark.usefixtures("thorough")
def test_what_was_chosen_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = MODELS["mlp"]()
    first, choice = choosing.losses(objective, family(objective))

    def measured_again(*_: Any, **__: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(choosing, "Measurement", measured_again)
    again, same = choosing.losses(objective, family(objective))
    assert same is choice
    assert again.equal(first)
    with pytest.raises(AssertionError, match="measured again"):  # nothing is remembered of another objective
        choosing.losses(MODELS["mlp"](), family(objective))


@pytest.mark.parametrize("engine", ["loop", "replay x3", "shared x2"])
def test_an_engine_that_is_named_is_used_and_nothing_measured(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = MODELS["mlp"]()
    points = family(objective)
    monkeypatch.delattr(choosing, "Measurement")
    losses, choice = choosing.losses(objective, points, engine=engine)
    assert choice.said()["engine"] == engine
    agree(losses, loop(objective, points))
    with pytest.raises(InputError, match="engine must be auto, loop, replay or shared"):
        choosing.losses(objective, points, engine="fastest")


@pytest.mark.usefixtures("thorough")
def test_an_engine_that_gives_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Workshop.losses

    def wrong(self: Workshop, engine: Engine, term: Any, family: Family) -> Any:
        work = honest(self, engine, term, family)
        return work if engine.kind != "shared" else lambda coordinates: work(coordinates) * (1 + 1e-9)

    monkeypatch.setattr(Workshop, "losses", wrong)
    objective = MODELS["mlp"]()
    points = family(objective, n=21)
    losses, choice = choosing.losses(objective, points)
    agree(losses, loop(objective, points))
    assert choice.engine.kind != "shared"
    assert choice.said()["trials"]["shared"].startswith("off by 1.0e-09, more than 2.2e-14")


CONTROL: dict[str, Callable[[Tensor], Tensor]] = {
    "a number": lambda t: t.square().sum() if t[0] > 0 else t.exp().sum(),
    "equal": lambda t: t.square().sum() if torch.equal(t.sign(), torch.ones_like(t)) else t.exp().sum(),
    "mask": lambda t: t[t > 0].sum() / t[t > 0].numel(),
}


@pytest.mark.usefixtures("thorough")
@pytest.mark.parametrize("name", CONTROL)
def test_control_flow_is_left_to_the_loop(name: str) -> None:
    objective = Objective([CONTROL[name]], 3)
    points = Family(torch.full((3,), 0.1).double(), numbers(2, 3), numbers(21, 2))
    losses, choice = choosing.losses(objective, points)
    torch.testing.assert_close(losses, loop(objective, points), rtol=1e-13, atol=0, equal_nan=True)
    assert choice.engine == Engine()
    for kind in ("replay", "shared"):
        assert "reads a number that hangs on the argument" in choice.said()["trials"][kind]
        with pytest.raises(RuntimeError, match="reads a number that hangs on the argument"):
            choosing.losses(objective, points, engine=kind)


@pytest.mark.usefixtures("thorough")
def test_control_flow_in_one_of_the_terms_is_left_to_the_loop() -> None:
    objective = Objective([lambda t: t.square().sum(), CONTROL["a number"]], 3)
    points = family(objective, n=21)
    agree(choosing.losses(objective, points)[0], loop(objective, points))


@pytest.mark.usefixtures("thorough")
def test_losses_that_are_not_finite_do_not_hinder_the_choice() -> None:
    objective = Objective([lambda t: t.log().sum() + 1 / t[0]], 2)
    points = Family(
        torch.ones(2).double(), torch.eye(2).double(), torch.linspace(-2, 1, 42).double().view(21, 2)
    )
    losses, choice = choosing.losses(objective, points)
    torch.testing.assert_close(losses, loop(objective, points), equal_nan=True)
    assert 0 < losses.isfinite().sum() < 21
    assert not choice.trials[1].note
    json.dumps(choice.said())


@pytest.mark.usefixtures("thorough")
def test_where_bfloat16_is_asked_for_its_deviation_is_said() -> None:
    objective = model_objective(trained(mlp()).float(), CE, [(X, Y)])
    points = family(objective, n=21)
    points = Family(points.origin.float(), points.directions.float(), points.coordinates.float())
    losses, choice = choosing.losses(objective, points, bfloat16=True)
    assert choice.engine.bfloat16
    off = ((losses - loop(objective, points)) / losses).abs()[[0, 10, 20]].max()
    assert choice.said()["deviation"] == pytest.approx(float(off), rel=0.01)
    assert 1e-5 < off < 0.05
    assert not choosing.losses(objective, points)[1].engine.bfloat16


def test_no_points_have_no_losses() -> None:
    objective = MODELS["mlp"]()
    points = Family(numbers(objective.dim), numbers(2, objective.dim), numbers(0, 2))
    losses, _ = choosing.losses(objective, points)
    assert losses.shape == (0,)
