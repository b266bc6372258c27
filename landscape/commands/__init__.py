"""What the command line can do: each command is a function; its signature and docstring are its options and help."""

from .corridors import corridor as corridor
from .curvature import flatness as flatness
from .geometry import embed as embed
from .geometry import scan as scan
from .paths import barrier as barrier
from .paths import network as network
from .studies import compare_optimizers as compare_optimizers
from .studies import report as report
from .studies import train as train
from .surfaces import surface as surface
