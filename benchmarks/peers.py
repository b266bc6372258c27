"""Other packages at our work: the losses on a plane and Hessian-vector products, by each package's own public code.

    PLANES["losscape"](case, d1, d2, steps1, steps2)      # losses (n1, n2) at θ + s·d1 + t·d2
    HVPS["pyhessian"](case)(vectors)                      # (K, P) -> (K, P), Hessian of the batch's mean loss

Only installed peers have an entry; missing() says how to get the others. A peer is imported, works on a copy of the case's model
and is given the whole data as one batch in a list, the cheapest loader it takes. What it prints goes nowhere, its figures are
not drawn. The first call also pays for the import, so time the second. HVPS[name](case) does what is done once: the
operator or the retained graph. Attention runs on PyTorch's math kernel for Hessian-vector products; the fused ones have none.
"""

import contextlib
import copy
import importlib
import importlib.util
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .models import Case

Plane = Callable[[Case, Tensor, Tensor, Tensor, Tensor], np.ndarray]
Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Peer:
    """What a package imports that may be absent, and the command that brings it."""

    modules: tuple[str, ...]
    install: str

    @property
    def installed(self) -> bool:
        return all(importlib.util.find_spec(module) for module in self.modules)


PEERS = {
    "loss-landscape-3d": Peer(("loss_landscape_3d",), "pip install loss-landscape-3d==0.1.3"),
    "losscape": Peer(("losscape", "h5py"), "pip install losscape==1.5.10"),
    "landscaper": Peer(
        ("landscaper", "topopy", "nglpy", "gudhi", "pandas", "coloraide", "drawsvg", "tqdm"),
        # topopy and nglpy ask for numpy below 2 and a package that no longer builds, and need neither
        "pip install --no-deps landscaper==1.3.1 topopy==1.0.4 nglpy==1.1.7 && "
        "pip install gudhi pandas coloraide drawsvg tqdm",
    ),
    "pyhessian": Peer(("pyhessian",), "pip install pyhessian==0.1"),
    "curvlinops": Peer(
        ("curvlinops", "einops", "einconv", "linear_operator", "tqdm"),
        # its requirements bring torchvision, and with it another torch
        "pip install --no-deps curvlinops-for-pytorch==3.0.1 && pip install einops einconv linear_operator tqdm",
    ),
    "hessian-eigenthings": Peer(("hessian_eigenthings", "tqdm"), "pip install hessian-eigenthings==1.0.0a5"),
}


def missing() -> dict[str, str]:
    """The peers that are not installed: name -> command that installs them."""
    return {name: peer.install for name, peer in PEERS.items() if not peer.installed}


def loss_landscape_3d(case: Case, d1: Tensor, d2: Tensor, steps1: Tensor, steps2: Tensor) -> np.ndarray:
    """``LossLandscapeCalculator.calculate`` of loss-landscape-3d: builds and loads a state_dict at every point."""
    module = importlib.import_module("loss_landscape_3d")
    model = copy.deepcopy(case.model)
    names = [name for name, _ in model.named_parameters()]
    directions = [dict(zip(names, _tensors(model, d), strict=True)) for d in (d1, d2)]
    center = {name: value.clone() for name, value in model.state_dict().items()}
    calculator = module.LossLandscapeCalculator(model, [case.batch], case.loss_fn)
    return calculator.calculate(steps1.tolist(), steps2.tolist(), *directions, center)


def losscape(case: Case, d1: Tensor, d2: Tensor, steps1: Tensor, steps2: Tensor) -> np.ndarray:
    """``create_3D_losscape``, which takes even steps, as many along d1 as along d2; ``plt`` stands aside: no figure is drawn."""
    create = importlib.import_module("losscape.create_landscape")
    compute = importlib.import_module("losscape.compute_loss")
    model, device = copy.deepcopy(case.model), d1.device
    (x_min, x_max), (y_min, y_max), points = _ends(steps1), _ends(steps2), _side(steps1, steps2)
    with (
        mock.patch.object(create, "plt"),
        mock.patch.object(create, "device", device),  # it would take a GPU whenever there is one
        mock.patch.object(compute, "device", device),
        _silence(),
    ):
        _, _, losses = create.create_3D_losscape(
            model,
            [case.batch],
            directions=[_tensors(model, d1), _tensors(model, d2)],
            criterion=case.loss_fn,
            num_batches=1,
            save_only=True,
            output_h5=False,
            x_min=x_min,
            x_max=x_max,
            y_min=y_min,
            y_max=y_max,
            num_points=points,
        )
    return losses.T  # its rows follow the second direction


def landscaper(case: Case, d1: Tensor, d2: Tensor, steps1: Tensor, steps2: Tensor) -> np.ndarray:
    """``compute_loss_landscape``, which walks from θ to every point by repeated additions.

    It rescales the directions itself: each tensor to the same root mean square, both directions to the same length. Here
    that is d1's, so the plane is ours where d1 and d2 already are so, the steps are even and centred on 0, and their number is
    odd; elsewhere it is as many points of another plane. The largest loss comes back with noise (from NumPy's global generator).
    """
    compute = importlib.import_module("landscaper.compute")
    model, points = copy.deepcopy(case.model), _side(steps1, steps2)
    low, high = _ends(steps1)
    stride = (high - low) / max(points - 1, 1)
    norm = torch.cat([p.detach().flatten() for p in model.parameters()]).double().norm()

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> float:
        inputs, targets = batch
        return case.loss_fn(model(inputs), targets).item()

    with _silence():
        losses, _ = compute.compute_loss_landscape(
            model,
            case.batch,
            [_tensors(model, d1), _tensors(model, d2)],
            loss,
            steps=points,
            distance=float(stride * d1.double().norm() * points / (2 * norm)),
            dim=2,
            device=d1.device.type,
        )
    return losses


def pyhessian(case: Case) -> Product:
    """``hessian(model, criterion, data=batch)`` keeps the gradient's graph; ``hessian_vector_product`` goes through it
    once for each vector."""
    module, held = importlib.import_module("pyhessian"), pyhessian_of(case)

    def product(vectors: Tensor) -> Tensor:
        products = torch.empty_like(vectors)
        for v, row in zip(vectors, products, strict=True):
            parts = module.hessian_vector_product(held.gradsH, held.params, _tensors(held.model, v))
            torch.cat([part.reshape(-1) for part in parts], out=row)
        return products

    return product


def curvlinops(case: Case, columns: int | None = None) -> Product:
    """``HessianLinearOperator @ matrix``: vmap of jvp(jacrev(loss)) over so many columns at once, by default all of them.

    Its check for randomness is off. How many columns are best depends on the model, so HVPS offers two choices. jvp(jacrev) under
    no_grad is silently wrong in the weights of a LayerNorm, so on "gpt" its products are only nearly right.
    """
    operator = curvlinops_of(case)

    def product(vectors: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return torch.cat([(operator @ some.T).T for some in vectors.split(columns or len(vectors))])

    return product


def hessian_eigenthings(case: Case) -> Product:
    """``HessianOperator.matvec``, which builds the gradient's graph anew for every vector.

    Its other method takes the difference of two gradients. It is not asked here: a float32 step over the kinks of ReLU gives
    no Hessian-vector product (30 to 50 times its length away on "mlp" and "resnet20").
    """
    operator = hessian_eigenthings_of(case)

    def product(vectors: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return torch.stack([operator.matvec(v) for v in vectors])

    return product


def pyhessian_of(case: Case) -> Any:
    """pyhessian's ``hessian`` of one batch."""
    model = copy.deepcopy(case.model)
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
        warnings.filterwarnings("ignore", message="Using backward\\(\\) with create_graph=True")
        cuda = next(model.parameters()).is_cuda
        return importlib.import_module("pyhessian").hessian(model, case.loss_fn, data=case.batch, cuda=cuda)


def curvlinops_of(case: Case) -> Any:
    """curvlinops' ``HessianLinearOperator``, its check for randomness off."""
    model = copy.deepcopy(case.model)
    return importlib.import_module("curvlinops").HessianLinearOperator(
        model, case.loss_fn, list(model.parameters()), [case.batch], check_deterministic=False
    )


def hessian_eigenthings_of(case: Case) -> Any:
    """hessian-eigenthings' ``HessianOperator``."""
    module = importlib.import_module("hessian_eigenthings")
    loss = module.supervised_loss(case.loss_fn)
    # of one batch the same product, without a sum over batches
    return module.HessianOperator(copy.deepcopy(case.model), [case.batch], loss, full_dataset=False)


def _tensors(model: nn.Module, flat: Tensor) -> list[Tensor]:
    """Views of a flat vector (P,) in the shapes of the model's parameters."""
    parameters = list(model.parameters())
    pieces = flat.split([p.numel() for p in parameters])
    return [piece.view_as(p) for piece, p in zip(pieces, parameters, strict=True)]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _ends(steps: Tensor) -> tuple[float, float]:
    """The first and last of even steps."""
    first, last = float(steps[0]), float(steps[-1])
    if not torch.allclose(steps, torch.linspace(first, last, len(steps)).to(steps), atol=1e-6):
        raise ValueError("this peer takes only even steps; make them with torch.linspace.")
    return first, last


def _side(steps1: Tensor, steps2: Tensor) -> int:
    if len(steps1) != len(steps2):
        raise ValueError(f"this peer takes only square planes, got {len(steps1)} and {len(steps2)} steps.")
    return len(steps1)


ALL_PLANES: dict[str, Plane] = {
    "loss-landscape-3d": loss_landscape_3d,
    "losscape": losscape,
    "landscaper": landscaper,
}
ALL_HVPS: dict[str, Callable[[Case], Product]] = {
    "pyhessian": pyhessian,
    "curvlinops": curvlinops,
    "curvlinops, 10 columns": partial(curvlinops, columns=10),
    "hessian-eigenthings": hessian_eigenthings,
}
PLANES = {name: plane for name, plane in ALL_PLANES.items() if PEERS[name].installed}
HVPS = {name: make for name, make in ALL_HVPS.items() if PEERS[name.partition(",")[0]].installed}
INEXACT = {  # what a table should say beside a package; the others agree with a plain loop and double backward to rounding
    "landscaper": "as many points of another plane (it rescales the directions), with noise on the largest loss",
    "curvlinops": "wrong where the model has a LayerNorm: up to 7 % in its weights, 0.3 % in the whole product of gpt",
}
