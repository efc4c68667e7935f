"""``mlsched pipeline submit``: a pipeline as a job, on a cluster of its engine that is that job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlsched.cli.options import IntervalOption, ParametersOption, PipelineArgument
from mlsched.cli.session import Session

if TYPE_CHECKING:
    from mlsched.api.pipelines.loading import Target
    from mlsched.cli.requests import Request

ImageOption = Annotated[
    str, typer.Option("--image", metavar="IMAGE", help="Has mlsched and the engine.")
]
EnvOption = Annotated[
    list[str] | None,
    typer.Option("--env", "-e", metavar="NAME[=VALUE]", help="Environment variable."),
]
EnvSecretOption = Annotated[
    list[str] | None,
    typer.Option("--env-secret", metavar="NAME", help="Secret on Kubernetes with variables."),
]
QueueOption = Annotated[
    str, typer.Option("--queue", "-q", metavar="NAME", help="Queue to wait in.")
]
PriorityOption = Annotated[
    str, typer.Option("--priority", metavar="LEVEL", help="low, normal, high or a number.")
]
RetriesOption = Annotated[
    int, typer.Option("--retries", metavar="N", help="Run a failed job again so often.")
]
TimeOption = Annotated[
    str, typer.Option("--time", "-t", metavar="TIME", help="End the job after 2h or 1h30m.")
]
NameOption = Annotated[str, typer.Option("--name", "-n", metavar="NAME", help="Name of the job.")]

EXAMPLES = """
mlsched pipeline submit rides.py:daily --engine dask --nodes 2 --cpus-per-node 4
mlsched pipeline submit rides.py:daily --engine ray --nodes 4 --memory-per-node 16GiB --follow
mlsched -c prod pipeline submit rides.py:daily --nodes 8 --image team/pipelines:1 --retries 2
mlsched -c prod pipeline submit rides.py:daily --env-secret s3-keys --set out=s3://lake/rides
"""


def submit(  # noqa: PLR0913, PLR0917 - one parameter an option
    session: Session,
    target: PipelineArgument,
    engine: Annotated[str, typer.Option("--engine", metavar="NAME", help="dask or ray.")] = "dask",
    nodes: Annotated[int, typer.Option("--nodes", metavar="N", help="Nodes of the cluster.")] = 2,
    cpus: Annotated[
        str, typer.Option("--cpus-per-node", metavar="N", help="CPUs, so tasks at once, of each.")
    ] = "1",
    memory: Annotated[
        str, typer.Option("--memory-per-node", metavar="SIZE", help="Memory of each: 8GiB.")
    ] = "",
    interval: IntervalOption = "",
    settings: ParametersOption = None,
    image: ImageOption = "",
    env: EnvOption = None,
    env_secret: EnvSecretOption = None,
    queue: QueueOption = "",
    priority: PriorityOption = "",
    retries: RetriesOption = 0,
    time: TimeOption = "",
    name: NameOption = "",
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Make the plan here first.")
    ] = True,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for its end, and exit with its exit code.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print its output as it comes.")
    ] = False,
) -> int:
    """Run a pipeline as a job: a gang of nodes that is a cluster of Dask or Ray for this run alone.

    Rank 0 runs scheduler or head, a worker and the pipeline; each other rank is a worker. Members
    let nobody in who does not have the secret of the job. All of it ends with the run. A retry
    goes on from finished tasks.

    In a cluster (-c) the text of FILE.py goes with the job, up to 200 KiB, and nothing beside it;
    data must be where all nodes reach it. Before it is sent, the plan is made here, which shows
    errors at once and reads what plans read; --no-check leaves that to the job.
    """
    from mlsched.api.pipelines.jobs import MemberArguments
    from mlsched.api.pipelines.loading import parse_target

    _check_choice(engine, nodes)
    found = parse_target(target)
    if check:
        _check_plan(session, found, settings or [], interval)
    arguments = MemberArguments(
        engine,
        _whole_cpus(cpus),
        _memory_bytes(memory),
        interval,
        tuple(settings or ()),
        "json" if session.output == "json" else "",
    )
    pairs = [
        ("--name", name or _job_name(found)),
        ("--cpus", cpus),
        ("--memory", memory),
        ("--image", image),
        ("--queue", queue),
        ("--priority", priority),
        ("--retries", str(retries) if retries else ""),
        ("--time", time),
        *(("--env", one) for one in env or ()),
        *(("--env-secret", one) for one in env_secret or ()),
    ]
    request = _build_request(session, found, arguments, nodes, [one for one in pairs if one[1]])
    return _send(session, request, nodes, wait=wait, follow=follow)


def _check_choice(engine: str, nodes: int) -> None:
    from mlsched.errors import SpecError
    from mlsched_pipelines.members import ENGINES

    if engine not in ENGINES:
        raise SpecError(
            f"--engine: expected {' or '.join(ENGINES)}, found {engine[:40]!r}.",
            "The engine 'local' runs in one process: mlsched run -- mlsched pipeline run ...",
        )
    if nodes < 1:
        raise SpecError(f"--nodes: expected a number above 0, found {nodes}.")


def _whole_cpus(text: str) -> int:
    from mlsched.units import MILLI, parse_milli_cpus

    return max(1, parse_milli_cpus(text, what="--cpus-per-node") // MILLI)


def _memory_bytes(text: str) -> int:
    from mlsched.units import parse_bytes

    return parse_bytes(text, what="--memory-per-node") if text else 0


def _job_name(target: Target) -> str:
    """From the pipeline's name, or that of its file; empty for one that a job cannot have."""
    import re

    return re.sub(r"[^a-z0-9]+", "-", (target.name or target.file.stem).lower()).strip("-")[:50]


def _check_plan(session: Session, target: Target, settings: list[str], interval: str) -> None:
    """Make the plan, as the job will, and warn of data that only this machine has."""
    from mlsched.api.pipelines.loading import load_pipeline
    from mlsched.api.pipelines.parameters import check_text, parse_settings
    from mlsched.cli.pipeline_run import frames_shown, own_output

    check_text(interval, "--interval")
    with frames_shown(session), own_output(session):
        plan = load_pipeline(target).make_plan(parse_settings(settings), interval)
    dataset = str(plan.writes().dataset)
    if not session.is_local and "://" not in dataset:
        session.tell(
            f"warning: the dataset {dataset} is a path: all nodes must share it; "
            "s3://BUCKET/PATH is reached from everywhere."
        )


def _build_request(
    session: Session,
    target: Target,
    arguments: Any,
    nodes: int,
    pairs: list[tuple[str, str]],
) -> Request:
    from mlsched.api.layering import combine
    from mlsched.api.pipelines.jobs import build_spec
    from mlsched.api.submissions import submit_args
    from mlsched.cli.requests import Request, warn_of_unused
    from mlsched.specs.documents import JobDocument, to_document

    spec = build_spec(target, arguments, nodes=nodes, travels=not session.is_local)
    document = combine(JobDocument(spec), pairs, session.settings.defaults)
    warn_of_unused(session, document.spec)
    return Request(document, submit_args(to_document(document.spec, document.metadata)))


def _send(session: Session, request: Request, nodes: int, *, wait: bool, follow: bool) -> int:
    from mlsched.cli.completing import remember
    from mlsched.cli.requests import submit as send

    job = send(session, request)["jobs"][0]
    remember(session, [job["name"]])
    session.emit(job, lambda: str(job["name"]), [job["name"]])
    if follow:
        from mlsched.cli.following import follow as stream

        return stream(session, job, several_ranks=nodes > 1)
    if wait:
        from mlsched.cli.submit import wait_for

        return wait_for(session, job)
    session.hint(f"follow: {session.next_command('logs -f', job)}")
    return 0
