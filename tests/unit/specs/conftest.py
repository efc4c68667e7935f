from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlsched.specs.documents import JobDocument, load_document


@pytest.fixture
def load() -> Callable[..., JobDocument]:
    """Reads a document of the given spec fields; a command is added where nothing is to run."""

    def read(metadata: dict[str, Any] | None = None, **spec: Any) -> JobDocument:
        if not {"command", "script"} & set(spec):
            spec["command"] = ["true"]
        return load_document(
            {
                "apiVersion": "mlsched.io/v1alpha1",
                "kind": "MLJob",
                "metadata": metadata or {},
                "spec": spec,
            }
        )

    return read
