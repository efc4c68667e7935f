"""The README's main job: a dataset from real input, and a job that learns from it."""
