"""Tests of recipes for trainers."""
