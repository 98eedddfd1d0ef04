"""Fixtures that the rooms share, and the switch that keeps tests offline."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from hypothesis import settings

from personalllm.core.errors import ModelFileError

os.environ["PERSONALLLM_OFFLINE"] = "1"
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:  # a worker for each processor: threads beside it would wait for one another
    for _library in ("OMP", "OPENBLAS", "MKL"):
        os.environ.setdefault(f"{_library}_NUM_THREADS", "1")
os.fsync = lambda _: None  # nobody pulls the plug on a test, and a small run waits for the disk a hundred times

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

ROOT = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items):
    """Skip, visibly, what needs torch where it is not installed."""
    if importlib.util.find_spec("torch") is None:
        for item in items:
            if item.get_closest_marker("torch") is not None:
                item.add_marker(pytest.mark.skip(reason="needs torch: make test-torch"))


@pytest.fixture(autouse=True)
def _own_cache(request, tmp_path_factory, monkeypatch):
    """Give each test a cache of its own, unless it needs the model files of the user's cache."""
    if request.node.get_closest_marker("models") is None:
        monkeypatch.setenv("PERSONALLLM_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the checkout; skips where it is absent."""
    path = Path(os.environ.get("PERSONALLLM_SHARED", ROOT.parent / "shared")) / "data"
    if not (path / "README.md").is_file():
        pytest.skip(f"real data is absent: no {path}")
    return path


@pytest.fixture(scope="session")
def embedder():
    """The embedder, with the user's cache; skips where its files are absent."""
    from personalllm.backends.embedding import default_embedder

    try:
        return default_embedder()
    except ModelFileError as error:
        pytest.skip(f"{error}")


@pytest.fixture(scope="session")
def chat_model():
    """The demo's chat model; skips where its file is absent."""
    from personalllm.backends.llm import LocalChatModel

    try:
        return LocalChatModel()
    except ModelFileError as error:
        pytest.skip(f"{error}")


@pytest.fixture(scope="session")
def reward_ensemble(embedder):
    """The ten compact reward models."""
    from personalllm.backends.reward import CompactEnsemble

    return CompactEnsemble.load("compact-v1", embedder)
