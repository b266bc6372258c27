"""Many minima, and what joins them at which height."""
