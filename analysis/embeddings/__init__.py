"""Embeddings: solutions as points in few dimensions, with the controls a picture must be read beside."""
