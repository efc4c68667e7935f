"""Creates the objects of an attempt, each at most once, however often it is tried."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from mlsched.adapters.kubernetes.apis import Api, ApiError, NoAnswerError
from mlsched.adapters.kubernetes.objects import Pod, decode_pod
from mlsched.adapters.kubernetes.persistence import insist
from mlsched.adapters.kubernetes.pods import GROUP_LABEL, Json
from mlsched.adapters.kubernetes.reflectors import Reflector
from mlsched.adapters.kubernetes.tracks import Track
from mlsched.model.jobs import EndCause, Outcome

UNREADABLE = frozenset({"secrets"})
"""What we may create and not read: one that exists is taken for ours, by its name."""


class Creator:
    """Creates pods, services and secrets.

    Args:
        api: Where they are made.
        pods: The copy of all pods; it is told of those that were made.
        on_problem: Takes one line for the log.
    """

    def __init__(self, api: Api, pods: Reflector[Pod], on_problem: Callable[[str], None]) -> None:
        self._api = api
        self._pods = pods
        self._on_problem = on_problem

    async def create(self, track: Track, plural: str, body: Json) -> None:
        """Create an object; whatever the API server decides for good is the attempt's verdict."""
        path = f"/api/v1/namespaces/{track.owner.namespace}/{plural}"
        try:
            found = await insist(self._creation(track, path, body), self._on_problem)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                track.rule(_refusal(error))
            elif plural not in UNREADABLE:
                await self._check_ours(track, path, body)
            return
        if plural == "pods":
            self._pods.put(found)

    def _creation(self, track: Track, path: str, body: Json) -> Callable[[], Awaitable[bytes]]:
        """A create that may be tried again until it is known what became of it.

        A try without an answer may have been carried out: a pod that was seen since, and is gone
        perhaps, is not made a second time, and neither is one of an attempt that must end.
        """
        encoded = msgspec.json.encode(body)
        group = body["metadata"]["labels"].get(GROUP_LABEL, "")
        tries = 0

        async def create() -> bytes:
            nonlocal tries
            tries += 1
            is_seen = group.isdecimal() and int(group) not in track.missing
            if tries > 1 and (is_seen or track.verdict is not None):
                raise ApiError(409, "AlreadyExists", "an earlier try may have made it")
            try:
                return await self._api.create(path, encoded)
            except ApiError as error:
                if error.code == 409 and error.reason != "AlreadyExists":
                    raise NoAnswerError(f"POST {path}: {error}") from error
                raise

        return create

    async def _check_ours(self, track: Track, path: str, body: Json) -> None:
        """An object of this name that belongs to this MLJob is what we wanted, whoever made it."""
        kind, name = body["kind"].lower(), body["metadata"]["name"]
        try:
            found = await insist(lambda: self._api.get(f"{path}/{name}"), self._on_problem)
        except ApiError:
            text = f"{kind} {name} was deleted, and not by mlsched"
            track.rule(Outcome(EndCause.DELETED, message=text))
            return
        one = decode_pod(found)
        if track.owner.uid not in [owner.uid for owner in one.metadata.owner_references]:
            text = f"a {kind} named {name} exists that is not of this job"
            track.rule(Outcome(EndCause.CANNOT_START, message=text))
        elif kind == "pod":
            self._pods.put(found)
            wanted = track.job.placements[int(body["metadata"]["labels"][GROUP_LABEL])].node
            if one.spec.node_name not in ("", wanted):
                text = f"pod {name} was placed on {one.spec.node_name} by another controller"
                track.rule(Outcome(EndCause.REVOKED, message=text))


def _refusal(error: ApiError) -> Outcome:
    """What a refused create makes of the attempt: quotas and missing rights pass, all else not.

    Source: the messages of Kubernetes' quota admission, and of its authorization filter.
    """
    if error.code == 403 and "exceeded quota" in error.message:
        return Outcome(EndCause.REVOKED, message=f"the namespace has no room: {error.message}")
    if error.code == 403 and "cannot create resource" in error.message:
        return Outcome(
            EndCause.REVOKED, message=f"mlsched has no right to start it: {error.message}"
        )
    return Outcome(EndCause.CANNOT_START, message=f"the API server refused it: {error.message}")
