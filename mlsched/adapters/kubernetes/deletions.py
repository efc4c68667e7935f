"""Deleting what nobody else would end or remove: tried again, whatever refuses it for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mlsched.adapters.kubernetes.apis import Api, ApiError
from mlsched.adapters.kubernetes.leases import LeaseLostError
from mlsched.adapters.kubernetes.objects import Pod
from mlsched.adapters.kubernetes.persistence import REFUSED_S, insist


async def delete_pod(
    api: Api,
    pod: Pod,
    is_due: Callable[[], Awaitable[bool]],
    on_problem: Callable[[str], None],
    grace_s: int | None = None,
) -> bool:
    """Delete a pod, by uid; a missing right or a policy may change its mind.

    Args:
        is_due: Asked before each try; when it fails, it is asked again.
        grace_s: None for that of the pod.

    Returns:
        Whether the API server said that the pod is gone already.

    Raises:
        LeaseLostError: nothing may be written any more.
    """
    while True:
        try:
            return await is_due() and not await _is_deleted(api, pod, on_problem, grace_s)
        except LeaseLostError:
            raise
        except ApiError as error:
            on_problem(f"pod {pod.metadata.key} is still there: {error}")
        except Exception as error:  # noqa: BLE001 - nothing else would ever end it
            on_problem(f"pod {pod.metadata.key} is still there: {error!r}")
        await asyncio.sleep(REFUSED_S)


async def _is_deleted(
    api: Api, pod: Pod, on_problem: Callable[[str], None], grace_s: int | None
) -> bool:
    """Delete it; False when there is no such pod any more."""
    metadata = pod.metadata
    path = f"/api/v1/namespaces/{metadata.namespace}/pods/{metadata.name}"
    try:
        await insist(lambda: api.delete(path, metadata.uid, grace_s), on_problem)
    except ApiError as error:
        if error.code not in (404, 409):
            raise
        return False
    return True


async def delete_named(api: Api, path: str, on_problem: Callable[[str], None]) -> None:
    """Delete an object whose name only one attempt has, and whose uid we may not read.

    What refuses it for good is told: the object goes with its owner.

    Raises:
        LeaseLostError: nothing may be written any more.
    """
    try:
        await insist(lambda: api.delete(path, ""), on_problem)
    except ApiError as error:
        if error.code != 404:
            on_problem(f"{path} stays until its job is deleted: {error}")
