"""Tests of ``lmdbpipe bench``."""
