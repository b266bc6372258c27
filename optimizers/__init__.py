"""Optimizers that explore landscapes, and fit, which makes solutions with any optimizer."""

from .alto import ALTO as ALTO
from .closures import DataClosure as DataClosure
from .closures import ObjectiveClosure as ObjectiveClosure
from .closures import scaled_closure as scaled_closure
from .clr import CLR as CLR
from .e import E as E
from .fit import fit as fit
from .flat_settings import sharpness_aware_settings as sharpness_aware_settings
from .flat_settings import smoothed_settings as smoothed_settings
from .lamb import Lamb as Lamb
from .lbfgs import LBFGS as LBFGS
from .nso import NSO as NSO
from .qhm import QHM as QHM
from .qhm import equal_momentum as equal_momentum
from .qhm import nu_of as nu_of
from .recipes import RECIPES as RECIPES
from .recipes import Recipe as Recipe
from .recipes import parse_recipe as parse_recipe
from .sam import SAM as SAM
from .sharpness_aware import SharpnessAwarePerturbation as SharpnessAwarePerturbation
from .smoothed import SmoothedPerturbation as SmoothedPerturbation
