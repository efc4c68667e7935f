"""``mlsched pipeline plan``: what a run would do, read and need, without running it."""

from __future__ import annotations

from mlsched.cli.options import IntervalOption, ParametersOption, PipelineArgument
from mlsched.cli.session import Session

EXAMPLES = """
mlsched pipeline plan rides.py
mlsched pipeline plan rides.py:daily --interval 2026-11-26 -o json
"""


def plan(
    session: Session,
    target: PipelineArgument,
    interval: IntervalOption = "",
    settings: ParametersOption = None,
) -> int:
    """Show the stages of a pipeline, their tasks, the bytes to read and the memory of a task.

    FILE.py runs as it does for 'mlsched pipeline run', and the footers of its input are read. No
    task runs, nothing is written, and nothing is recorded.
    """
    import msgspec

    from mlsched.api.pipelines.loading import load_pipeline, parse_target
    from mlsched.api.pipelines.parameters import check_text, parse_settings
    from mlsched.cli.pipeline import refuse_cluster
    from mlsched.cli.pipeline_run import frames_shown, own_output
    from mlsched.cli.render.pipelines import plan_text
    from mlsched_pipelines.explains import explain

    refuse_cluster(session)
    found = parse_target(target)
    given = parse_settings(settings or [])
    check_text(interval, "--interval")
    with frames_shown(session), own_output(session):
        pipeline = load_pipeline(found)
        explanation = explain(pipeline.make_plan(given, interval))
    where = {"file": str(pipeline.target.file), "name": pipeline.target.name}
    plain = {**where, "interval": interval, **msgspec.to_builtins(explanation)}
    session.emit(
        plain, lambda: plan_text(str(pipeline.target), explanation), [explanation.plan_hash]
    )
    return 0
