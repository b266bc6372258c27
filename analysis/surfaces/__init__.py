"""What can be said of a surface: its topology, its roughness, and planes that show curvature."""
