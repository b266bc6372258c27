"""torch-landscape: which minima did my optimizers find?"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

from .adaptive import refine as refine
from .choosing import losses as losses
from .decayed import with_weight_decay as with_weight_decay
from .errors import InputError as InputError
from .families import Family as Family
from .networks import model_objective as model_objective
from .objective import Objective as Objective
from .parameters import Parameters as Parameters
from .planes import line_between as line_between
from .planes import plane_of as plane_of
from .planes import plane_through as plane_through
from .planes import random_plane as random_plane
from .probes import Line as Line
from .probes import Plane as Plane
from .probes import scan as scan
from .problems import Problem as Problem
from .problems import load_problem as load_problem
from .products import HessianProducts as HessianProducts
from .projections import project as project
from .recorder import Recorder as Recorder
from .recording import Recording as Recording
from .records import load as load
from .results import Checkpoint as Checkpoint
from .results import Solution as Solution
from .streaming import StreamedBatches as StreamedBatches
from .subsampling import sampled_losses as sampled_losses
from .trajectories import Trajectory as Trajectory


def __getattr__(name: str) -> Any:
    # Reached only when asked for, so that importing landscape loads neither sibling package nor matplotlib.
    if name == "compare":
        from .study import compare

        return compare
    raise AttributeError(f"module 'landscape' has no attribute {name!r}")
