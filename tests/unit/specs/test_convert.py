from __future__ import annotations

import json
from pathlib import Path

import typer
from typer.testing import CliRunner

from mlsched.cli.convert import convert
from mlsched.errors import SpecError
from mlsched.specs.trees import parse_tree

app = typer.Typer()
app.command()(convert)
runner = CliRunner()

SCRIPT = "#!/bin/bash\n#SBATCH -J relax -N 1 --mem=4G -t 10 --mail-type=END -w n1\n\ntrue\n"
DOCUMENT = {
    "apiVersion": "mlsched.io/v1alpha1",
    "kind": "MLJob",
    "metadata": {"name": "relax"},
    "spec": {
        "script": SCRIPT,
        "nodes": 1,
        "launch": "once",
        "memoryPerNode": 4 << 30,
        "timeLimitSeconds": 600,
    },
}


def test_the_document_is_on_stdout_and_warnings_are_on_stderr() -> None:
    result = runner.invoke(app, ["-", "-o", "json"], input=SCRIPT)
    assert result.exit_code == 0
    assert json.loads(result.stdout) == DOCUMENT
    assert result.stderr == "warning: mlsched has no --mail-type, --nodelist (-w): ignored\n"


def test_yaml_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "relax.sh"
    path.write_text(SCRIPT)
    result = runner.invoke(app, [str(path)])
    assert result.exit_code == 0
    document = parse_tree(result.stdout)
    assert document["metadata"].pop("annotations") == {"mlsched.io/file": "relax.sh"}
    assert document == DOCUMENT


def test_a_wrong_file_is_a_spec_error_that_exits_2() -> None:
    result = runner.invoke(app, ["/no/such/file"])
    assert isinstance(result.exception, SpecError)
    assert result.exception.exit_status == 2
    assert result.stdout == ""


def test_another_form_is_a_usage_error() -> None:
    assert runner.invoke(app, ["-", "-o", "table"], input=SCRIPT).exit_code == 2
