"""From the top of a path to the pass beside it."""
