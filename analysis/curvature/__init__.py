"""Products with curvature matrices, their traces, diagonals, blocks and spectra."""
