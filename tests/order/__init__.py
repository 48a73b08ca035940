"""Tests of the order: integers in, integers out."""
