"""Builders and a small language for tests: ours, and those of people who write policies."""
