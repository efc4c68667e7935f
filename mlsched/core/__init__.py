"""Decisions: pure, synchronous, deterministic functions of values. No clock, no chance, no I/O."""
