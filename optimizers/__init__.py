"""Optimizers that explore landscapes, and fit, which makes solutions with any optimizer."""

from .alto import ALTO as ALTO
from .e import E as E
from .fit import fit as fit
from .lbfgs import LBFGS as LBFGS
from .recipes import RECIPES as RECIPES
from .recipes import Recipe as Recipe
from .recipes import parse_recipe as parse_recipe
