"""Run the benchmark: ``python -m tests.benchmarks --out DIR``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
