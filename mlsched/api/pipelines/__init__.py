"""Pipelines as files of Python: loading them, running them, and the records of their runs."""
