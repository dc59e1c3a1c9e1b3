"""What a Ray task does. A module of its own, so that worker processes import it by name and keep its one model."""

from __future__ import annotations

from blt._blt import Worker

# The step that this process scores, and its worker: a process that turns to another step lets go of the model before.
_workers: dict[str, Worker] = {}


def score(step: str, unit: str, threads: int) -> str:
    """Scores one unit with this process's model, which the first one loads."""
    worker = _workers.get(step)
    if worker is None:
        _workers.clear()
        worker = _workers[step] = Worker(step, threads)
    return worker.score(unit)
