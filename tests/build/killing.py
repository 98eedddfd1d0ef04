"""Run one command of `personalllm build`, kill it at random moments, resume it, and compare what comes out.

Called by test_kill.py in a process of its own: `python killing.py COMMAND RECIPE PREPARED SCRATCH MOMENTS`. Answers in
JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import personalllm.analysis
import personalllm.backends.llm
import personalllm.build
import personalllm.users  # noqa: F401
from personalllm.cli import build as commands

STEPS = {"prompts": commands.prompts, "pack": commands.pack, "all": commands.all_steps}
SPEEDOMETERS = ("rates.json", "ledger.json")


def slow_renames() -> None:
    """Make the moments just before and after a file appears long enough to be hit."""
    replace = Path.replace

    def slowly(self: Path, target: Path) -> Path:
        time.sleep(0.01)
        found = replace(self, target)
        time.sleep(0.01)
        return found

    Path.replace = slowly


def start(command: str, recipe: Path, out: Path) -> int:
    child = os.fork()
    if child:
        return child
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    status = 1
    try:
        STEPS[command](recipe, out=out)
        status = 0
    finally:
        if status:
            traceback.print_exc()
        os._exit(status)


def finish(command: str, recipe: Path, out: Path) -> float:
    started = time.monotonic()
    _, status = os.waitpid(start(command, recipe, out), 0)
    if status:
        sys.exit(f"the run in {out} failed with status {status}")
    return time.monotonic() - started


def contents(out: Path) -> dict[str, str]:
    """Digests of what a user reads; of a journal without regard to the order of its lines."""
    found = {}
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.name not in SPEEDOMETERS and not path.name.startswith("."):
            data = path.read_bytes()
            if path.parent.name == "responses":
                data = b"".join(sorted(data.splitlines(keepends=True)))
            found[path.relative_to(out).as_posix()] = hashlib.sha256(data).hexdigest()
    return found


def main(command: str, recipe: Path, prepared: Path, scratch: Path, moments: int) -> None:
    sys.path.insert(0, str(Path.cwd()))
    slow_renames()
    shutil.copytree(prepared, scratch / "warm")
    finish(command, recipe, scratch / "warm")
    shutil.copytree(prepared, scratch / "calm")
    whole = finish(command, recipe, scratch / "calm")
    expected, killed, partial, unequal = contents(scratch / "calm"), 0, 0, []
    chance = random.Random(command)
    for i in range(moments):
        out = scratch / f"killed-{i}"
        shutil.copytree(prepared, out)
        child = start(command, recipe, out)
        time.sleep(chance.random() * whole)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
        partial += contents(out) != expected
        finish(command, recipe, out)
        if contents(out) != expected:
            unequal.append(i)
    found = {"files": sorted(expected), "killed": killed, "partial": partial, "unequal": unequal}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
