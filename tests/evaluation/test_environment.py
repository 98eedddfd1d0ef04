"""The environment keeps Gymnasium's contract, and its users answer as in the online track."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from personalllm.core.errors import ParameterError
from personalllm.data import Benchmark
from personalllm.evaluation import Protocol
from personalllm.testing import HashEmbedder

pytest.importorskip("gymnasium")

SMALL: dict[str, Any] = {"n_users": 5, "pool_users": 10, "pool_pairs": 5, "rounds": 6}


@pytest.fixture(scope="module")
def env(benchmark_: Benchmark) -> Any:
    from personalllm.evaluation.environment import AskingEnv

    protocol = Protocol.for_data(benchmark_, track="online", **SMALL)
    return AskingEnv(benchmark_, protocol, HashEmbedder(), n_features=4)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gymnasium_finds_nothing_wrong(env: Any) -> None:
    from gymnasium.utils.env_checker import check_env

    check_env(env, skip_render_check=True)


def test_its_users_answer_as_in_the_track(env: Any) -> None:
    observation, about = env.reset(options={"user": 3})
    assert about == {"user": 3}
    assert observation["answer"] == 0
    for t in range(6):
        pair = t % len(env.pairs)
        first, second = env.pairs[pair]
        place = env.asking.stream[3, t]
        values = env.asking.utilities(np.array([3], np.int32), env.asking.prompts[[place]], t)[0].astype(np.float64)
        observation, reward, over, cut, about = env.step(pair)
        assert about["answer"] == np.sign(values[first] - values[second])
        assert observation["answer"] == {1: 1, -1: 2, 0: 0}[about["answer"]]
        assert reward == pytest.approx(-(values.max() - values[[first, second]].mean()))
        assert (over, cut) == (t == 5, False)
    with pytest.raises(ParameterError, match="after the last round"):
        env.step(0)
    assert env.reset()[1] == {"user": 4}
    assert env.reset()[1] == {"user": 0}


def test_what_does_not_fit_is_refused(env: Any, benchmark_: Benchmark) -> None:
    from personalllm.evaluation.environment import AskingEnv

    with pytest.raises(ParameterError, match=r"user must be in \[0, 5\)"):
        env.reset(options={"user": 5})
    with pytest.raises(ParameterError, match="of the online track"):
        AskingEnv(benchmark_, Protocol.for_data(benchmark_), HashEmbedder())
    survey = Protocol.for_data(benchmark_, track="online", mode="survey", **SMALL)
    with pytest.raises(ParameterError, match=r"online.mode must be stream"):
        AskingEnv(benchmark_, survey, HashEmbedder())
