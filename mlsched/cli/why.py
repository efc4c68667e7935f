"""``mlsched why``: the one reason, its evidence, and what would help."""

from __future__ import annotations

from mlsched.cli.options import JobArgument
from mlsched.cli.session import Session

EXAMPLES = """
mlsched why train-1
mlsched why train-1 -o json
"""


def why(session: Session, job: JobArgument) -> int:
    """Tell why a job is where it is: waiting, running or ended, and what would start it now."""
    found = session.client.call("why", job=job)

    def text() -> str:
        from mlsched.api.texts import why_text
        from mlsched.cli.render.texts import printable

        return printable(why_text(found))

    session.emit(found, text, [found["job"]["name"]])
    return 0
