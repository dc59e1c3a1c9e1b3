"""A pipeline's `score` step on a Ray cluster.

The driver runs the pipeline as `blt-run` does: it divides the input into the same units, and keeps the same manifest and the same store of
finished steps. Each unit is a Ray task, which writes the part that `blt-run` would, bit for bit; a task whose process or machine was lost is
run again, and its part replaces the one that may be there. Started again after it was stopped, the driver goes on with the units that have no
part. Steps before `score` (training) run in the driver.

All machines have this package, and see input, checkpoints and the runs' folder under the same paths. With parts on an object store (`output`) and
no training before, the runs' folder may be the driver's own.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray

from blt import _blt, _ray_worker

__all__ = ["score"]

#: Tasks that are given to Ray before some have ended. Enough to keep a cluster busy and to have an autoscaler see what is wanted.
_AHEAD = 1000


def score(
    pipeline: str | os.PathLike[str],
    *,
    set: Mapping[str, Any] | Sequence[str] = (),
    output: str | os.PathLike[str] | None = None,
    address: str | None = None,
    runs: str | os.PathLike[str] = "runs",
    store: str | os.PathLike[str] | None = None,
    threads: int = 1,
    retries: int = 3,
    driver_threads: int | None = None,
    ray_options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> pathlib.Path:
    """Runs a pipeline, its `score` steps as tasks on a Ray cluster, and returns the run's directory.

    - `set`: overrides, as `{"graph.docs.path": "data/"}` or `["graph.docs.path=data/"]`.
    - `output`: where the parts go, a folder or a URL; into the run's own `outputs/` if not given.
    - `address`: the cluster, as `ray.init` takes it; the one that is connected to, if there is one.
    - `runs`, `store`: where runs and finished steps go, on storage that all machines see.
    - `threads`: threads, and so processors, of each task. They change no bit.
    - `retries`: how often a unit is tried again whose process or machine was lost.
    - `driver_threads`: threads of the steps before `score`; all of this machine's if not given.
    - `ray_options`: further options of the tasks, as `ray.remote` takes them (`{"memory": 2 << 30}`).

    `blt.Error` says what went wrong with the pipeline or a unit; parts that are finished stay, and the next run goes on with the others.

    >>> import blt.ray
    >>> run = blt.ray.score("pipeline.yaml", set={"graph.blt.checkpoint": "model"}, progress=False)
    >>> sorted(path.name for path in (run / "outputs").rglob("*.parquet"))
    ['rows.parquet']
    """
    run, _ = _score(pipeline, set, output, address, runs, store, threads, retries, driver_threads, ray_options, progress)
    return run


def _score(
    pipeline: str | os.PathLike[str],
    set: Mapping[str, Any] | Sequence[str],
    output: str | os.PathLike[str] | None,
    address: str | None,
    runs: str | os.PathLike[str],
    store: str | os.PathLike[str] | None,
    threads: int,
    retries: int,
    driver_threads: int | None,
    ray_options: Mapping[str, Any] | None,
    progress: bool,
) -> tuple[pathlib.Path, str]:
    if threads < 1:
        raise ValueError(f"threads is {threads}; expected 1 or more")
    if retries < 0:
        raise ValueError(f"retries is {retries}; expected 0 or more")
    assignments = [f"{path}={json.dumps(value)}" for path, value in set.items()] if isinstance(set, Mapping) else list(set)
    if not ray.is_initialized():
        _connect(address)
    options = {
        "num_cpus": threads,
        "max_retries": retries,
        # Units are large and read from storage: better on all machines than close together.
        "scheduling_strategy": "SPREAD",
        **(ray_options or {}),
    }
    task = ray.remote(**options)(_ray_worker.score)

    def schedule(step: str, units: list[str]) -> Iterator[tuple[int, str] | None]:
        step_ref = ray.put(step)
        waiting = collections.deque(enumerate(units))
        running: dict[Any, int] = {}
        try:
            while waiting or running:
                while waiting and len(running) < _AHEAD:
                    at, unit = waiting.popleft()
                    running[task.remote(step_ref, unit, threads)] = at
                done, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
                if not done:
                    yield None
                for ref in done:
                    at = running.pop(ref)
                    yield at, _answer(ref, units[at], retries)
        finally:
            for ref in running:
                ray.cancel(ref, force=True)

    place = None if output is None else os.fspath(output)
    run, table = _blt.run(
        pipeline, assignments, place, runs, store, driver_threads, schedule, quiet=not progress, library=_blt.__file__
    )
    return pathlib.Path(run), table


def _connect(address: str | None) -> None:
    """As `ray.init`; where it finds no way in, what the likely reason is."""
    try:
        ray.init(address=address)
    except ConnectionError as error:
        raise ConnectionError(
            f"{error} (help: see that the cluster runs, `ray status`. One that was started where there is a token, `~/.ray/auth_token`, asks for "
            "it, and Ray gives it where RAY_AUTH_MODE=token is set: in this shell too)"
        ) from error


def _answer(ref: Any, unit: str, retries: int) -> str:
    """A task's answer, or why there is none, in words."""
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        # What the worker itself said; Ray's text has the traceback of another machine around it.
        raise (error.cause if isinstance(error.cause, _blt.Error) else error) from None
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError) as error:
        part = json.loads(unit)["part"]
        raise _blt.Error(
            f"the process that scored {part} was lost, and so were those of {retries} further tries: {error} "
            "(help: parts that are finished stay, and the next run goes on; more memory a task, `ray_options={'memory': ...}`, or smaller "
            "units, `part_bytes`, may be what it wants)"
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line `python -m blt.ray`."""
    parser = argparse.ArgumentParser(prog="python -m blt.ray", description="Runs a pipeline, its score steps on a Ray cluster.")
    parser.add_argument("pipeline", help="the pipeline's YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="set a parameter; may be given again")
    parser.add_argument("--output", help="where the parts go, a folder or a URL; RUN/outputs if not given")
    parser.add_argument("--address", help="the cluster: HOST:PORT or auto; a local one is started if not given")
    parser.add_argument("--runs", default="runs", help="where runs go, on storage that all machines see (runs)")
    parser.add_argument("--store", help="where finished steps are kept; RUNS/.store if not given")
    parser.add_argument("--threads", type=int, default=1, help="threads, and so processors, of each task (1); changes no number")
    parser.add_argument("--retries", type=int, default=3, help="how often a unit is tried again whose process or machine was lost (3)")
    parser.add_argument("--driver-threads", type=int, help="threads of the steps before score; all if not given")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    args = parser.parse_args(arguments)
    try:
        run, table = _score(
            args.pipeline,
            args.set,
            args.output,
            args.address,
            args.runs,
            args.store,
            args.threads,
            args.retries,
            args.driver_threads,
            None,
            not args.quiet,
        )
    except (_blt.Error, ConnectionError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(error, file=sys.stderr)
        return 130
    print(f"{table}\n{run}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
