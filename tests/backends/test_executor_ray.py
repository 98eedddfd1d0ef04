"""A Ray cluster of several nodes, reached by its address; a node is killed while it works."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")

HERE = Path(__file__).parent
NODES = """
import functools, os, sys, time
sys.path.insert(0, {here!r})
os.environ.update(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)
import executor_units as work
from personalllm.backends.executor import build_executor

if __name__ == "__main__":
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 1, "include_dashboard": False}})
    other = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    executor = build_executor("ray:" + cluster.address)
    results = executor.map(functools.partial(work.slow_square, 0.1), range(60))
    done = [next(results) for _ in range(8)]
    cluster.remove_node(other, allow_graceful=False)
    done += list(results)
    print(done == [unit * unit for unit in range(60)], flush=True)
    import ray

    deadline = time.monotonic() + 60
    while sum(node["Alive"] for node in ray.nodes()) > 1 and time.monotonic() < deadline:
        time.sleep(0.2)
    print(sum(node["Alive"] for node in ray.nodes()), "of", len(ray.nodes()), "nodes alive", flush=True)
    ray.shutdown()
    cluster.shutdown()
"""


@pytest.mark.slow
def test_a_node_that_dies_changes_nothing(tmp_path):
    script = tmp_path / "nodes.py"
    script.write_text(NODES.format(here=str(HERE)))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    assert "True" in lines, done.stderr
    assert "1 of 2 nodes alive" in lines


def test_no_cluster_at_the_address(tmp_path):
    script = tmp_path / "nowhere.py"
    script.write_text(
        "from personalllm.backends.executor import RayExecutor\n"
        "from personalllm.core.errors import UserError\n"
        "try:\n"
        "    list(RayExecutor('127.0.0.1:1').map(abs, [1]))\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert "No Ray cluster can be reached at '127.0.0.1:1'" in done.stdout, done.stderr
    assert "ray start --head" in done.stdout


def test_a_local_cluster_that_does_not_start(tmp_path):
    script = tmp_path / "busy.py"
    script.write_text(
        "import ray\n"
        "from personalllm.backends.executor import RayExecutor\n"
        "from personalllm.core.errors import RunError\n"
        "tries = []\n"
        "def busy(**settings):\n"
        "    tries.append(settings['_temp_dir'])\n"
        "    raise Exception('The current node timed out during startup.')\n"
        "ray.init = busy\n"
        "try:\n"
        "    list(RayExecutor().map(abs, [1]))\n"
        "except RunError as error:\n"
        "    print(len(tries), error)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith("2 Ray did not start on this machine: The current node timed out"), done.stderr
    assert not done.stderr


FOLDERS = """
import os, pathlib, sys
from personalllm.backends.executor import RayExecutor

if __name__ == "__main__":
    executor = RayExecutor()
    list(executor.map(abs, [1]))
    for folder in sorted(pathlib.Path({parent!r}).glob("*/")):
        print(folder.name, oct(folder.stat().st_mode & 0o777), flush=True)
    if "die" in sys.argv:
        os.kill(os.getpid(), 9)
    executor.close()
    print(len(list(pathlib.Path({parent!r}).iterdir())), "left")
"""


@pytest.mark.slow
def test_a_local_cluster_s_files_are_ours_alone_and_go_with_it_or_with_the_next_one():
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as parent:
        script = Path(parent).with_suffix(".py")
        script.write_text(FOLDERS.format(parent=parent))
        try:
            runs = [
                subprocess.run(
                    [sys.executable, script, *more],
                    capture_output=True,
                    text=True,
                    timeout=300,
                    env={**os.environ, "RAY_TMPDIR": parent},
                )
                for more in (["die"], [])
            ]
        finally:
            script.unlink()
    killed, other = (run.stdout.splitlines() for run in runs)
    assert len(killed) == 1, runs[0].stderr
    assert len(other) == 2, runs[1].stderr
    assert killed[0].startswith("plm-ray-")
    assert killed[0] != other[0], "the folder of the killed one is gone"
    assert {line.split()[1] for line in (killed[0], other[0])} == {"0o700"}
    assert other[1] == "0 left"
