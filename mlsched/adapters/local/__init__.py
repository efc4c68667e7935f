"""Jobs as processes of one machine: each attempt under a small supervisor that outlives us."""

from mlsched.adapters.local.nodes import LocalNode

__all__ = ["LocalNode"]
