"""Tests of what the command line can build from."""
