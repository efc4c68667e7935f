"""The only importers of third-party clients and of the operating system, one client each."""
