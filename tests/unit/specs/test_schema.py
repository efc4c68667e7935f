from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mlsched.errors import SpecError
from mlsched.specs.documents import load_document
from mlsched.specs.fields import FIELDS, field_table
from mlsched.specs.schema import build_schema, format_schema

DOCS = Path(__file__).parents[3] / "docs"


def job(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "mlsched.io/v1alpha1",
        "kind": "MLJob",
        "metadata": {"name": "train"},
        "spec": {"command": ["true"], **spec},
    }


VALID = [
    job(),
    job(command="python train.py", args=["--lr", "0.1"]),
    job(memoryPerNode="64Gi", cpusPerTask=0.5, gpusPerNode=2, timeLimit="2h"),
    job(memoryPerNode="all", cpusPerTask="500m", gpuMemoryMin="80GB", priority="high"),
    job(array="0-9%4", after=["a:ok", {"job": "b"}], signal="B:USR1@120"),
    job(array={"first": 0, "last": 9}, signal={"name": "USR2", "to": "shell"}, priority=-3),
    job(image="busybox:1", layer="data", nodeSelector={"zone": "a"}),
    job(tolerations=[{"key": "dedicated", "value": "ml", "effect": "NoSchedule"}]),
    job(tolerations=[{"operator": "Exists"}]),
    job(array={"indices": [1, 5]}, env={"A": "1"}, labels={"team": "nlp"}, mig=False),
]
INVALID = [
    job(gpusPerNod=1),
    job(nodes=0),
    job(nodes="2"),
    job(env={"A": 1}),
    job(priority="urgent"),
    job(array={"frist": 0}),
    job(after="a"),
    job(launch="twice"),
    job(nodeSelector={"zone": 1}),
    job(tolerations={"operator": "Exists"}),
    job(tolerations=[{"key": "a", "effect": "Never"}]),
    job(tolerations=[{"key": "a", "operator": "In"}]),
    job(memoryPerNode="lots"),
    {**job(), "kind": "Job"},
    {**job(), "sepc": {}},
]


def test_the_published_schema_is_up_to_date() -> None:
    published = (DOCS / "schema" / "mljob.v1alpha1.json").read_text()
    assert published == format_schema(), "run: python -m mlsched.specs.schema"


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(build_schema())


@pytest.mark.parametrize("document", VALID)
def test_what_is_valid_by_the_schema_is_accepted(document: dict[str, Any]) -> None:
    jsonschema.validate(document, build_schema())
    load_document(document)


@pytest.mark.parametrize("document", INVALID)
def test_what_is_refused_is_invalid_by_the_schema(document: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, build_schema())
    with pytest.raises(SpecError):
        load_document(document)


def test_the_guide_holds_the_table_of_fields() -> None:
    guide = (DOCS / "guides" / "job-spec.md").read_text()
    assert field_table() in guide, "paste mlsched.specs.fields.field_table() into the guide"


def test_every_field_is_described_once() -> None:
    names = [field.name for field in FIELDS]
    assert len(names) == len(set(names))
    assert all(field.doc.endswith(".") for field in FIELDS)
