"""Tests of the streaming faces: iterable, DataPipe, node; alone, in loaders, and in ranks."""
