"""Recorders for the trainers of other libraries: import the module named after the library, which imports it."""
