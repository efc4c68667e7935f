"""The record of one machine: a SQLite file that one service owns.

`Store` is the door: writes are grouped into transactions by one thread, reads go beside them.
"""

from mlsched.adapters.store.stores import Store

__all__ = ["Store"]
