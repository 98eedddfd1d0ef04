"""The full size opens quickly and in little memory, in a fresh process, the first time and later."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from personalllm.data import make_synthetic, write_benchmark

MEASURE = """
import json, resource, sys, time
import numpy, pyarrow, pyarrow.compute, pyarrow.parquet
import personalllm.data
def peak():
    value = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return value / (2**20 if sys.platform == "darwin" else 2**10)
before, start, cpu = peak(), time.perf_counter(), time.process_time()
bench = personalllm.data.load(sys.argv[1])
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
print(json.dumps({"shape": bench.scores.shape, "seconds": seconds, "cpu": cpu, "mib": peak() - before}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_full_size_opens_in_two_seconds_and_400_megabytes(tmp_path: Path) -> None:
    path = write_benchmark(make_synthetic(10_402, seed=0), tmp_path / "synthetic.parquet")
    environment = os.environ | {"PERSONALLLM_CACHE": str(tmp_path / "cache")}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(path)], env=environment, capture_output=True, text=True, check=True
        )
        figures = json.loads(done.stdout)
        assert figures["shape"] == [10_402, 8, 10]
        assert figures["cpu"] < 2, figures
        assert figures["mib"] < 400, figures
