"""``python -m lmdbpipe`` is the command ``lmdbpipe``."""

from lmdbpipe.cli import main

if __name__ == "__main__":
    main()
