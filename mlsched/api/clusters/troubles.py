"""What keeps the pods of a job from starting, as their nodes and its record tell it."""

from __future__ import annotations

from mlsched.adapters.kubernetes.attempts import read_pod
from mlsched.adapters.kubernetes.connections import Connections
from mlsched.adapters.kubernetes.errors import ApiError
from mlsched.adapters.kubernetes.objects import decode_pod, decode_raw_list
from mlsched.api.clusters.names import parse_reference
from mlsched.api.clusters.outputs import pods_query
from mlsched.model.jobs import Job, JobState
from mlsched.specs.records import find_contradiction


def starting_troubles(connections: Connections, job: Job) -> list[str]:
    """A line for each pod that cannot start yet, or for a record that nobody can go on with.

    Raises:
        ApiError, NoAnswerError: the API server is in trouble.
    """
    if odd := find_contradiction(job):
        return [f"its status says {odd}: the controller leaves it alone"]
    reference = parse_reference(job.id, "")
    if job.state is not JobState.STARTING or reference is None:
        return []
    try:
        found = decode_raw_list(connections.get(*pods_query(reference, job.attempt)))
    except ApiError as error:
        if error.code == 403:
            return ["you may not list its pods, which know more"]
        raise
    pods = [decode_pod(item) for item in found.items]
    return [
        f"{pod.metadata.name} on {pod.spec.node_name}: {trouble.message}"
        for pod in pods
        if (trouble := read_pod(pod).trouble) is not None
    ]
