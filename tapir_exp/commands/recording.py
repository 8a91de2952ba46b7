"""Record the start and the end of a job in its events, whichever command carries it out."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tapir_exp.core.disk import explain_disk_error
from tapir_exp.core.events import EventStream, Kind, Pruned
from tapir_exp.core.secrets import redact_secrets


@contextmanager
def recorded_job(stream: EventStream) -> Iterator[dict[str, Any]]:
    """Record the job in the block: its start, and its end as `recorded_end` does; its events go to the stream.

    Args:
        stream: Events of the job.

    Yields:
        The fields of the event of a finished job, to which the block adds its result.
    """
    fields: dict[str, Any] = {}
    with recorded_end(stream):
        stream.record(Kind.RUN_STARTED, pid=os.getpid())
        with stream.active():
            yield fields
    # The spend of the run is that of its last event.
    stream.record(Kind.RUN_FINISHED, **fields)


@contextmanager
def recorded_end(stream: EventStream) -> Iterator[None]:
    """Record how the block ends if it does not come to its end: failed with the reason, pruned, or stopped.

    Args:
        stream: Events of the job.
    """
    try:
        yield
    except Exception as error:
        reason = redact_secrets(str(explain_disk_error(error) or error)) or type(error).__name__
        with suppress(OSError):  # a full disk is reported by the error itself
            stream.record(Kind.RUN_FAILED, reason=reason)
        raise
    except Pruned as pruned:
        stream.record(Kind.RUN_PRUNED, figure=pruned.figure, value=pruned.value)
        raise
    except BaseException:
        with suppress(OSError):
            stream.record(Kind.RUN_STOPPED)
        raise
