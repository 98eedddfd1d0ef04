"""Candidates: new responses to test prompts, scored live, the same whenever they are written."""

from __future__ import annotations

import numpy as np
import pytest

from personalllm.build import write_candidates
from personalllm.core.errors import AxisMismatch, ParameterError, RunError
from personalllm.core.types import ChatReply, ChatRequest
from personalllm.data import Benchmark
from personalllm.evaluation import between_runs, evaluate
from personalllm.testing import EchoChatModel, HashEmbedder, SurfaceRewards

N_RESPONSES = 4


def tiny(reward_models: tuple[str, ...] = SurfaceRewards.reward_models) -> Benchmark:
    n = 30
    prompts = [f"Say something about subject {i} , please" for i in range(n)]
    responses = [
        [f"{'word ' * (1 + (i + j) % 9)}about{',' * (j % 3)} subject {i} {j}" for j in range(N_RESPONSES)]
        for i in range(n)
    ]
    rewards = SurfaceRewards()
    flat = rewards.score(np.repeat(prompts, N_RESPONSES).tolist(), [text for row in responses for text in row])
    order = [rewards.reward_models.index(name) for name in sorted(rewards.reward_models)]
    return Benchmark.from_arrays(
        name="tiny",
        prompt_ids=[f"p{i}" for i in range(n)],
        prompts=prompts,
        subsets=["s"] * n,
        splits=["train"] * 18 + ["test"] * 12,
        responses=responses,
        response_models=[f"m{j}" for j in range(N_RESPONSES)],
        reward_models=sorted(reward_models),
        scores=flat.reshape(n, N_RESPONSES, -1)[:, :, order],
    )


class Recorder(EchoChatModel):
    """Keeps the requests; its first `n_empty` replies are empty."""

    def __init__(self, n_empty: int = 0) -> None:
        super().__init__()
        self.__dict__ |= {"n_empty": n_empty, "requests": []}

    def chat(self, requests: list[ChatRequest]) -> list[ChatReply]:
        empty = max(0, self.n_empty - len(self.requests))
        self.requests.extend(requests)
        replies = super().chat(requests)
        return [ChatReply(" ", "stop", 1, 1) if i < empty else reply for i, reply in enumerate(replies)]


def test_candidates_replace_test_responses_and_keep_the_train_split() -> None:
    benchmark, calls = tiny(), []
    written = write_candidates(
        benchmark, EchoChatModel(), SurfaceRewards(), n_prompts=10, progress=lambda *call: calls.append(call)
    )
    train, test = written.rows("train"), written.rows("test")
    assert (len(train), len(test)) == (18, 10)
    assert np.array_equal(written.scores[train], benchmark.scores[benchmark.rows("train")])
    assert {written.prompt(int(row)) for row in test} <= {benchmark.prompt(int(row)) for row in benchmark.rows("test")}
    row = int(test[3])
    texts = [written.response(row, column) for column in range(N_RESPONSES)]
    live = SurfaceRewards().score([written.prompt(row)] * N_RESPONSES, texts)
    order = [SurfaceRewards.reward_models.index(name) for name in written.reward_models]
    assert np.array_equal(written.scores[row], live[:, order])
    assert calls[-1] == (40, 40)


def test_candidates_are_the_same_at_each_call_and_other_with_another_seed() -> None:
    first, again, other = (
        write_candidates(tiny(), EchoChatModel(), SurfaceRewards(), n_prompts=5, seed=seed) for seed in (1, 1, 2)
    )
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_each_style_has_a_share_of_the_responses_and_seeds_follow_one_another() -> None:
    llm = Recorder()
    write_candidates(tiny(), llm, SurfaceRewards(), n_prompts=1, styles=("", "Be brief.", "Be kind."))
    systems = [request.messages[0].content for request in llm.requests if len(request.messages) == 2]
    assert systems == ["Be brief.", "Be kind."]
    assert len(llm.requests) == N_RESPONSES
    first = llm.requests[0].seed
    assert [request.seed - first for request in llm.requests] == [0, 1, 2, 3]


def test_an_empty_reply_is_drawn_again() -> None:
    llm = Recorder(n_empty=2)
    written = write_candidates(tiny(), llm, SurfaceRewards(), n_prompts=1)
    assert len(llm.requests) == N_RESPONSES + 2
    assert all(written.response(int(written.rows("test")[0]), column) for column in range(N_RESPONSES))


def test_a_model_that_says_nothing_is_named() -> None:
    with pytest.raises(RunError, match="echo-stand-in gave 3 empty replies to 'Say something about subject"):
        write_candidates(tiny(), Recorder(n_empty=1000), SurfaceRewards(), n_prompts=1)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ParameterError, match="n_prompts must be >= 1"):
        write_candidates(tiny(), EchoChatModel(), SurfaceRewards(), n_prompts=0)
    with pytest.raises(ParameterError, match="temperature must be > 0"):
        write_candidates(tiny(), EchoChatModel(), SurfaceRewards(), temperature=0)
    with pytest.raises(AxisMismatch, match="was scored by a, b, c, d; the reward ensemble has characters"):
        write_candidates(tiny(("a", "b", "c", "d")), EchoChatModel(), SurfaceRewards())


def test_methods_choose_among_candidates_with_own_and_with_another_users_history() -> None:
    written = write_candidates(tiny(), EchoChatModel(), SurfaceRewards(), n_prompts=12)
    own, other = (
        evaluate(
            ["user-bt"],
            written,
            "rank",
            {
                "n_users": 60,
                "history": {"pairs": 12, "counterfactual": kind},
                "pool": {"n_users": 20, "pairs_per_user": 8},
                "reference_response_model": written.response_models[-1],
            },
            embedder=HashEmbedder(),
        )
        for kind in ("none", "other-user")
    )
    gap = between_runs(own, other, "user-bt").difference
    means = [run.estimate("user-bt", "utility").value for run in (own, other)]
    assert gap.value == pytest.approx(means[0] - means[1])
    assert gap.low < gap.value < gap.high
