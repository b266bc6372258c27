"""Measures of solutions: curvature and flatness, paths and barriers, embeddings, corridors."""

from .corridor import corridor as corridor
from .embedding import kernel_pca as kernel_pca
from .flatness import flatness as flatness
from .paths import find_path as find_path
from .paths import linear_path as linear_path
from .spectrum import top_eigenpairs as top_eigenpairs
from .trace import hessian_trace as hessian_trace
