"""Measures of solutions: curvature and flatness, paths and barriers, embeddings, corridors."""

from .blocks import block_traces as block_traces
from .certificate import flat_minimum_certificate as flat_minimum_certificate
from .corridor import corridor as corridor
from .density import spectral_density as spectral_density
from .diagonal import hessian_diagonal as hessian_diagonal
from .embedding import kernel_pca as kernel_pca
from .flatness import flatness as flatness
from .invariant import fisher_rao as fisher_rao
from .invariant import relative_flatness as relative_flatness
from .noise import lpf as lpf
from .noise import pac_bayes_sigma as pac_bayes_sigma
from .paths import find_path as find_path
from .paths import linear_path as linear_path
from .scales import curvature_at_scales as curvature_at_scales
from .sharpness import average_sharpness as average_sharpness
from .sharpness import worst_case_sharpness as worst_case_sharpness
from .spectrum import layer_eigenvalues as layer_eigenvalues
from .spectrum import top_eigenpairs as top_eigenpairs
from .split import split_trace as split_trace
from .trace import frobenius as frobenius
from .trace import hessian_trace as hessian_trace
