"""Paths between two points, and searches for low ones."""
