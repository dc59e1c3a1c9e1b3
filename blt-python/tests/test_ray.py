"""Scoring on a Ray cluster leaves what `blt-run` leaves, whatever is lost on the way."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess

import pyarrow.parquet as pq
from conftest import PATIENCE, ROOT, Cluster, Place, outputs, same, table, wait

LISTS = "emit: [log_probs, entropies, patch_lengths], by: lang, context_bytes: 64"


def parts(place: Place, runs: str) -> dict[pathlib.Path, int]:
    """Finished parts of a step that runs or was stopped, and when each was written."""
    found = {}
    for path in (place.path / runs / ".store").glob("*.partial/outputs/**/*.parquet"):
        try:
            found[path] = path.stat().st_mtime_ns
        except FileNotFoundError:
            pass
    return found


def many_units(place: Place) -> None:
    """Three files of 24 row groups in all, a unit each, which take a moment."""
    place.data("in/lang=en/a.parquet", table(40, 6000, 1).drop_columns(["lang"]), 4)
    place.data("in/lang=ko/b.parquet", table(40, 6000, 2).drop_columns(["lang"]), 4)
    place.data("in/lang=ko/c.parquet", table(16, 6000, 3).drop_columns(["lang"]), 4)
    place.write(f"{LISTS}, part_bytes: 1")


def test_a_cluster_leaves_what_one_machine_leaves(place: Place, cluster: Cluster) -> None:
    many_units(place)
    ours, theirs = cluster.run(place), place.run()
    same(ours, theirs)
    assert len(outputs(ours)) == 24
    # Again: nothing is left to do.
    same(cluster.run(place), theirs)
    # And into a folder of the user's.
    cluster.run(place, "elsewhere", "--output", str(place.path / "scored"))
    found = {str(path.relative_to(place.path / "scored")): path.read_bytes() for path in (place.path / "scored").rglob("*.parquet")}
    assert found == outputs(theirs)


def test_steps_before_scoring_run_in_the_driver(place: Place, cluster: Cluster) -> None:
    # The shipped pipeline, shortened: an entropy model and a model over it are trained, a threshold is found, and documents are scored.
    pipeline = (ROOT / "pipelines" / "score_parquet.yaml").read_text()
    corpus = ROOT / "pipelines" / "corpus" / "sample.parquet"
    for old, new in [
        ("path: corpus/sample.parquet", f"path: {corpus}"),
        ("steps: 200", "steps: 5"),
        ("steps: 300", "steps: 5"),
        ("      by: domain ", "      part_bytes: 200000\n      limit: 60\n      by: domain "),
    ]:
        assert old in pipeline
        pipeline = pipeline.replace(old, new)
    place.pipeline.write_text(pipeline)
    same(cluster.run(place), place.run())


def test_a_worker_is_killed_and_a_machine_is_lost(place: Place, cluster: Cluster) -> None:
    many_units(place)
    place.write(f"{LISTS}, part_bytes: 1, batch_bytes: 512")
    expected = place.run()
    driver = subprocess.Popen(cluster.command(place, "ray"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first, second = cluster.workers
    wait(lambda: parts(place, "ray"), "the first part", driver)
    victims = wait(first.scoring, "a worker that scores", driver)
    os.kill(victims[0], signal.SIGKILL)
    done = len(parts(place, "ray"))
    wait(lambda: len(parts(place, "ray")) > done, "a part after that", driver)
    wait(second.scoring, "work on the other machine", driver)
    second.stop()
    assert driver.poll() is None, "it ended before the machine was lost"
    # Another machine takes its place, for this job and the tests after it.
    cluster.workers[1] = cluster.join()
    out, err = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, err
    run = pathlib.Path(out.splitlines()[-1])
    same(run, expected)
    ids = [i for path in sorted((run / "outputs").rglob("*.parquet")) for i in pq.read_table(path)["id"].to_pylist()]
    assert sorted(ids) == sorted([*range(40), *range(40), *range(16)])
    cluster.wait_for(2)


def test_a_document_that_cannot_be_read_fails_its_row(place: Place, cluster: Cluster) -> None:
    path = place.data("in/a.parquet", table(32, 3000), 4)
    damaged = pq.ParquetFile(path).metadata.row_group(3).column(1)
    data = bytearray(path.read_bytes())
    at = damaged.data_page_offset + damaged.total_compressed_size // 2
    data[at : at + 64] = bytes(64)
    path.write_bytes(data)
    place.write("part_bytes: 1, on_error: null")
    ours, theirs = cluster.run(place), place.run()
    same(ours, theirs)
    rows = [row for part in sorted((ours / "outputs").rglob("*.parquet")) for row in pq.read_table(part).to_pylist()]
    assert [row["id"] for row in rows] == list(range(32))
    lost = [row["id"] for row in rows if row["n_bytes"] is None and row["id"] % 11 != 5]
    assert lost and set(lost) <= {12, 13, 14, 15}

    # Without `on_error: null` the job fails, with one clear error, and keeps what is finished.
    place.write("part_bytes: 1")
    done = subprocess.run(cluster.command(place, "failing"), capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert "a.parquet is damaged" in done.stderr and "Traceback" not in done.stderr
    kept = parts(place, "failing")
    assert kept and not any("00003-00003" in path.name for path in kept)


def test_the_driver_is_killed_and_started_again(place: Place, cluster: Cluster) -> None:
    many_units(place)
    place.write(f"{LISTS}, part_bytes: 1, batch_bytes: 512")
    expected = place.run()
    for stopped_after in [1, 6]:
        driver = subprocess.Popen(cluster.command(place, "ray"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait(lambda: len(parts(place, "ray")) >= stopped_after, "some parts", driver)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    # The cluster stops its tasks; what they finish until then counts too.
    wait(lambda: not any(node.scoring() for node in cluster.workers), "the cluster to stop the tasks")
    before = parts(place, "ray")
    assert 6 <= len(before) < 24
    run = cluster.run(place)
    same(run, expected)
    again = {path.name: path.stat().st_mtime_ns for path in (run / "outputs").rglob("*.parquet")}
    assert {path.name: again[path.name] for path in before} == {path.name: at for path, at in before.items()}


def test_what_is_wrong_is_said_once_and_clearly(place: Place, cluster: Cluster) -> None:
    def fails(*arguments: str, **environment: str) -> str:
        command = cluster.command(place, "ray", *arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, **environment})
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    place.data("in/a.parquet", table(4, 100), 4)
    place.write("keep: 'bits_per_bite < 1'")
    assert "bits_per_byte" in fails()
    place.write("on_error: null")
    assert "+ graph.docs.column=x" in fails("--set", "graph.docs.colunm=x")
    assert "retries is -1" in fails("--retries", "-1")
    # The cluster asks for a token, and this shell gives none.
    assert "RAY_AUTH_MODE=token is set" in fails(RAY_AUTH_MODE="disabled")
