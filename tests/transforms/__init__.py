"""Tests of the transforms: every row of the table against torchvision itself."""
