"""Corridors: where steepest descent goes straight."""
