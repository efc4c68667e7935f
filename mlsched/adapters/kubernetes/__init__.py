"""Kubernetes as the world of the controller: watches in, fenced writes out.

The hot path (watches, pods, bindings, statuses) is `apis` on aiohttp with typed partial decoding;
the ``kubernetes`` package loads configuration and credentials.
"""
