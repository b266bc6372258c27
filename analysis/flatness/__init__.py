"""How flat a solution is: sharpness, noise, invariant measures, certificates."""
