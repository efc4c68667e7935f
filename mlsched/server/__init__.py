"""The service of one machine: one process a state directory, behind a Unix socket."""
