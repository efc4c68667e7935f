"""The process that stays with one attempt of a job, from its start to its last process.

Run on its own as ``python -I -S PATH/__main__.py ATTEMPT_DIR``: without site-packages and
without the rest of mlsched, so that it starts in milliseconds, stays small, and goes on while the
service is replaced. Only light modules of the standard library may be imported here: ``json``,
``re``, ``typing``, ``pathlib``, ``subprocess`` and ``logging`` each cost more than all of the
supervisor's own code. What is light was measured by ``tests/perf/supervisor_bench.py``.

The service's side may import from here (`trees`, `jsons`), never the other way round.
"""
