"""The same tests on every world that the controller can run in: sim, one machine, Kubernetes."""
