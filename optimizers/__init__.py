"""Optimizers that explore landscapes, and fit, which makes solutions with any optimizer."""

from .alto import ALTO as ALTO
from .closures import DataClosure as DataClosure
from .closures import ObjectiveClosure as ObjectiveClosure
from .closures import scaled_closure as scaled_closure
from .e import E as E
from .fit import fit as fit
from .lamb import Lamb as Lamb
from .lbfgs import LBFGS as LBFGS
from .recipes import RECIPES as RECIPES
from .recipes import Recipe as Recipe
from .recipes import parse_recipe as parse_recipe
