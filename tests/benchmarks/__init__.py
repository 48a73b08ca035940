"""The benchmark: lmdbpipe, its peers and two floors, measured in one interleaved run.

    python -m tests.benchmarks --out RESULTS            # everything, some tens of minutes
    python -m tests.benchmarks --out RESULTS --tiny     # the same steps on a few images, some seconds

prints one table, and leaves it in RESULTS as ``table.md``, ``results.json`` and ``plot.png``. Peers that are not
installed are named as missing; ``peers.txt`` beside this file says how to install them. A long run can be done in parts
(``--only small --add``, ``--only medium --add``, ...), with ``--data DIR`` so that nothing is built twice.

Where things are: ``workloads.py`` says what is measured (plain data), ``contenders/`` has one adapter a file and the
table of them, ``built.py`` keeps what they build, ``runner.py`` interleaves the rounds, ``check.py`` proves first that
everybody does the same work, ``cold.py`` and ``footprint.py`` measure what needs a process of its own, ``report.py``
and ``plot.py`` show it.
"""
