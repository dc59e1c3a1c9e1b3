"""Data, the program to compare with, and a Ray cluster of processes of its own."""

from __future__ import annotations

import json
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "blt-python" / "examples"
#: A Hugging Face BLT directory, tiny, with random weights.
MODEL = ROOT / "tests" / "parity" / "k2_base"
#: Long enough for a machine that does other things as well.
PATIENCE = 300

# Of these tests' clusters alone: no usage reports, and a secret of their own instead of one in the user's home.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
_secret = tempfile.NamedTemporaryFile("w", prefix="ray-token-")
_secret.write(secrets.token_hex(32))
_secret.flush()
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=_secret.name)


def text(seed: int, n_bytes: int) -> str:
    """Text of about so many bytes, with some that are not ASCII."""
    words = ["the", "byte", "latent", "patch", "고양이", "on", "mat", "naïve", "\n", "entropy", "0x1f", "sat"]
    picked: list[str] = []
    size = 0
    while size < n_bytes:
        seed = (seed * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        picked.append(words[(seed >> 33) % len(words)])
        size += len(picked[-1].encode()) + 1
    return " ".join(picked)


def table(n_rows: int, n_bytes: int, seed: int = 0) -> pa.Table:
    """Rows with documents, nulls and empty ones, and columns of other types beside them."""
    def document(i: int) -> str | None:
        return None if i % 11 == 5 else "" if i % 13 == 7 else text(seed * 1000 + i, n_bytes * (1 + i % 3) // 2)

    columns = {
        "id": pa.array(range(n_rows), pa.int64()),
        "text": pa.array([document(i) for i in range(n_rows)], pa.large_string()),
        "lang": pa.array([["en", "ko", None][i % 3] for i in range(n_rows)]).dictionary_encode(),
        "tags": pa.array([[{"k": i, "v": None}] * (i % 3) for i in range(n_rows)]),
    }
    return pa.table(columns).replace_schema_metadata({"of": "tests"})


class Place:
    """A folder with a data set and a pipeline that scores it."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.pipeline = path / "pipeline.yaml"

    def data(self, name: str, rows: pa.Table, group_rows: int) -> pathlib.Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, path, row_group_size=group_rows)
        return path

    def write(self, score: str, *, source: str = "path: in/", before: str = "", model: pathlib.Path = MODEL) -> None:
        self.pipeline.write_text(
            f"""name: score
graph:
  docs: {{node: ParquetBytes, {source}, column: text, span_bytes: 2048}}
  blt: {{node: Blt, in: docs, checkpoint: {json.dumps(str(model))}}}
run:
{before}  - score: {{goal: blt, {score}}}
"""
        )

    def run(self, runs: str = "local", *arguments: str) -> pathlib.Path:
        """By `blt-run`, on this machine; the run's directory."""
        done = subprocess.run(
            [program(), self.pipeline, "--runs", self.path / runs, "--threads", "2", *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        return pathlib.Path(done.stdout.splitlines()[-1])


def program() -> pathlib.Path:
    """`blt-run`, as `cargo build --release` leaves it."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = pathlib.Path(os.environ.get("BLT_RUN", target / "release" / "blt-run"))
    assert path.is_file(), f"{path} is missing: run `cargo build --release`, or set BLT_RUN"
    return path


def outputs(run: pathlib.Path) -> dict[str, bytes]:
    """All parts of a run by name."""
    folder = run / "outputs"
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def results(run: pathlib.Path) -> dict:
    """results.json without the run's name and times."""
    def without_times(value: object) -> object:
        if isinstance(value, list):
            return [without_times(item) for item in value]
        if not isinstance(value, dict):
            return value
        kept = {key: item for key, item in value.items() if not key.endswith("_per_second") and not key.startswith("seconds")}
        return {key: without_times(item) for key, item in kept.items()}

    found = json.loads((run / "results.json").read_text())
    del found["id"]
    return without_times(found)


def same(ours: pathlib.Path, theirs: pathlib.Path) -> None:
    """Two runs left the same: parts, their footers included, and results."""
    parts = outputs(theirs)
    assert parts
    assert sorted(outputs(ours)) == sorted(parts)
    assert [name for name, part in outputs(ours).items() if part != parts[name]] == []
    assert results(ours) == results(theirs)


@pytest.fixture
def place(tmp_path: pathlib.Path) -> Place:
    return Place(tmp_path)


def wait(what: Callable[[], object], why: str, process: subprocess.Popen | None = None) -> object:
    """What it gives once it gives something."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        if process is not None and process.poll() is not None:
            pytest.fail(f"the process ended ({process.returncode}) before {why}")
        time.sleep(0.02)
    pytest.fail(f"waited too long for {why}")


def children(pid: int) -> Iterator[int]:
    """All processes below one, itself last."""
    parents: dict[int, list[int]] = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))

    def below(pid: int) -> Iterator[int]:
        for child in parents.get(pid, []):
            yield from below(child)
        yield pid

    yield from below(pid)


def title(pid: int) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


class Node:
    """A Ray node of its own processes."""

    def __init__(self, *arguments: str) -> None:
        ray = pathlib.Path(sys.executable).parent / "ray"
        command = [ray, "start", "--block", "--object-store-memory=100000000", "--disable-usage-stats", *arguments]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True)

    def scoring(self) -> list[int]:
        """Worker processes that score now."""
        return [pid for pid in children(self.process.pid) if title(pid).startswith("ray::") and "score" in title(pid)]

    def stop(self) -> None:
        """All at once and without a word, as a machine that loses its power."""
        for pid in list(children(self.process.pid)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        self.log.close()


class Cluster:
    """A head, which scores nothing, and two workers of a processor each, on loopback."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        # Sockets lie in it, whose paths are short.
        self.folder = tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True)
        head = ["--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=0", "--include-dashboard=false"]
        self.head = Node(*head, f"--temp-dir={self.folder.name}")
        self.workers: list[Node] = []
        try:
            wait(self.is_up, "the head of the cluster", self.head.process)
            # One after the other: two that start at the same time on one machine may choose the same sockets.
            for n in (1, 2):
                self.workers.append(self.join())
                self.wait_for(n)
        except BaseException:
            self.stop()
            raise

    def is_up(self) -> bool:
        with socket.socket() as probe:
            host, port = self.address.split(":")
            return probe.connect_ex((host, int(port))) == 0

    def join(self) -> Node:
        return Node(f"--address={self.address}", "--node-ip-address=127.0.0.1", "--num-cpus=1")

    def wait_for(self, n: int) -> None:
        """Until so many processors are there."""
        code = (
            "import ray, sys, time\n"
            f"ray.init({self.address!r}, log_to_driver=False, logging_level='ERROR')\n"
            f"while ray.cluster_resources().get('CPU', 0) != {n}: time.sleep(0.2)\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)

    def stop(self) -> None:
        for node in [*self.workers, self.head]:
            node.stop()
        self.folder.cleanup()

    def command(self, place: Place, runs: str, *arguments: str) -> list[str]:
        pipeline = [sys.executable, "-m", "blt.ray", str(place.pipeline), "--address", self.address]
        return [*pipeline, "--runs", str(place.path / runs), *arguments]

    def run(self, place: Place, runs: str = "ray", *arguments: str) -> pathlib.Path:
        done = subprocess.run(self.command(place, runs, *arguments), capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        return pathlib.Path(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.stop()
