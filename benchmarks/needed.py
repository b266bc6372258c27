"""How many products with vectors an estimator of the trace needs for a standard error, whoever's code it is: by runs of ours.

needed(spot, 0.01, generators)      # {"hutchinson": 5747, "xtrace": 24, "hutch++": 48}, and the trace itself
"""

from collections.abc import Iterator
from math import ceil, inf

import numpy as np
import torch
from torch import Tensor

from analysis.curvature.estimators import Estimator, Hutchinson, HutchPlusPlus
from analysis.curvature.matrices import products_of
from analysis.curvature.xtrace import XTrace
from analysis.points import draw_normal

from .solutions import Spot

LADDER, RUNS = (12, 24, 48, 96, 192), 10  # budgets, and runs at each
SAMPLES = 200  # of vᵀHv, for the variance of Hutchinson's estimator


def needed(
    spot: Spot, rtol: float, generators: Iterator[torch.Generator]
) -> tuple[dict[str, float], tuple[float, float]]:
    """Products to a standard error of rtol by each estimator; and the mean of the last runs of XTrace, with its standard error.

    Of Hutchinson's from the variance of its samples, n = var/(rtol·tr)². Of the others the first budget of LADDER at which runs
    have no greater standard deviation, since they have no bias; inf if none.
    """
    products = products_of(spot.objective, spot.theta, count=10 * SAMPLES)

    def spent(kind: type[Estimator], matvecs: int) -> Estimator:
        generator = next(generators)

        def normals(count: int) -> Tensor:
            return draw_normal(spot.objective, count, generator)

        estimator = kind(products, normals)
        estimator.spend(matvecs)
        return estimator

    def rung(kind: type[Estimator]) -> tuple[float, np.ndarray]:
        scout, values = spent(kind, LADDER[0]), np.empty(0)
        for matvecs in LADDER:
            scout.spend(matvecs - scout.matvecs)
            samples, error = scout.trace()
            in_vain = error > 2 * rtol * samples.mean().abs()  # by its own error bar
            if in_vain and not (kind is XTrace and matvecs == LADDER[-1]):  # whose runs are the reference
                continue
            values = np.array([float(spent(kind, matvecs).trace()[0].mean()) for _ in range(RUNS)])
            if values.std(ddof=1) <= rtol * abs(values.mean()):
                return matvecs, values
        return inf, values

    (xtrace, values), (hutch, _) = rung(XTrace), rung(HutchPlusPlus)
    samples = spent(Hutchinson, SAMPLES).trace()[0]
    plain = ceil(float(samples.var()) / (rtol * values.mean()) ** 2)
    reference = float(values.mean()), float(values.std(ddof=1)) / RUNS**0.5
    return {"hutchinson": plain, "xtrace": xtrace, "hutch++": hutch}, reference
