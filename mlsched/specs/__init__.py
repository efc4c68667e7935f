"""What people write, as values: MLJob documents, script directives and flags become a JobSpec.

Text or plain values in, values out; every fault is a `SpecError` that says where, what was found
and what is allowed. Only `sources` reads files. Called by the command line, the Python API and
the service; knows nothing of any of them.
"""
