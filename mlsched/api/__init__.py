"""The Python API, and the client of the local service that the command line uses too.

Users reach it as ``import mlsched as ml``; the modules here are not for import by users.
"""
