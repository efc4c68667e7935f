"""From a submit request to the MLJob that is created. No I/O."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from mlsched.adapters.kubernetes.pods import check_runnable
from mlsched.api.clusters.names import invent_name, local_dependency, name_for_key
from mlsched.errors import SpecError
from mlsched.model.jobs import Job
from mlsched.model.specs import JobSpec, Metadata
from mlsched.server.views import JsonObject
from mlsched.specs.documents import JobDocument, load_document, to_document
from mlsched.specs.names import derive_base
from mlsched.specs.records import KEY_ANNOTATION, USER_ANNOTATION, Identity, jobs_from
from mlsched.specs.sizes import check_size
from mlsched.specs.sources import FILE_ANNOTATION

KEY_CHARACTERS_MAX = 256
_chance = random.SystemRandom()


class Submission:
    """One submit or preview request for a cluster, read and checked.

    Args:
        args: ``document``, and perhaps ``idempotency_key`` and ``user``. The environment and the
            working directory of whoever submits stay where they are.
        namespace: For a document that names none.
        image: For a job that names none; empty where the context has no default.
        controller_image: Tells what the controller takes then; asked only where it matters.

    Raises:
        SpecError: the document is wrong, or cannot be run in containers.
    """

    def __init__(
        self,
        args: Mapping[str, Any],
        namespace: str,
        image: str = "",
        controller_image: Callable[[], str] = str,
    ) -> None:
        document = args.get("document")
        if not isinstance(document, dict):
            raise SpecError("submit needs a document: an MLJob as a JSON object.")
        found: JobDocument = load_document(document)
        self.key = str(args.get("idempotency_key") or "")
        if len(self.key) > KEY_CHARACTERS_MAX:
            raise SpecError(f"an idempotency key has at most {KEY_CHARACTERS_MAX} characters.")
        if not _is_text(self.key):
            raise SpecError(f"idempotency key: {self.key[:60]!r} is no UTF-8 text.")
        self.user = str(args.get("user") or "")
        self.namespace = found.metadata.namespace or namespace
        self.given_name = found.metadata.name
        self.annotations = found.metadata.annotations
        self.spec = self._fit(found.spec, image)
        self.base = derive_base(self.spec, self.annotations.get(FILE_ANNOTATION, ""))
        check_pods(self.spec, self.namespace, self.spec.image or controller_image())

    def _fit(self, spec: JobSpec, image: str) -> JobSpec:
        """The spec as a cluster takes it.

        Raises:
            SpecError: a relative directory, or a dependency that cannot be.
        """
        if spec.workdir and not spec.workdir.startswith("/"):
            raise SpecError(
                f"spec.workdir: expected a directory inside the image, found {spec.workdir!r}.",
                "Such as /workspace; a directory of this machine does not travel to the cluster.",
            )
        if spec.output:
            raise SpecError(
                "spec.output: a job on a cluster writes to no file of this machine.",
                "Leave it out: 'mlsched logs' has the output.",
            )
        after = tuple(local_dependency(one, self.namespace) for one in spec.after)
        return replace(spec, image=spec.image or image, after=after)

    def name_for_key(self) -> str:
        """The name that follows from the key."""
        return name_for_key(self.base, self.key)

    def invent_name(self) -> str:
        """A name by chance."""
        return invent_name(self.base, _chance)

    def document(self, name: str) -> JsonObject:
        """The MLJob to create."""
        told = {USER_ANNOTATION: self.user, KEY_ANNOTATION: self.key}
        annotations = {**self.annotations, **{key: text for key, text in told.items() if text}}
        return to_document(self.spec, Metadata(name, self.namespace, annotations=annotations))

    def body(self, name: str) -> bytes:
        """The same as JSON."""
        return msgspec.json.encode(self.document(name))


def _is_text(text: str) -> bool:
    return text == text.encode("utf-8", "replace").decode()


def check_pods(spec: JobSpec, namespace: str, image: str) -> None:
    """Refuse what a container runtime cannot do, before it is sent.

    Raises:
        SpecError: with what to change.
    """
    check_size(spec)
    check_runnable(first_job(spec, namespace, "job"), image)


def first_job(spec: JobSpec, namespace: str, name: str, seq: int = 1 << 62) -> Job:
    """The job of a spec, or the first element of its array, as if it were accepted now."""
    return jobs_from(Identity(namespace, name, ""), spec, None, seq)[0]
