"""The contract suite finds each kind of broken method and backend."""

import re
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from personalllm.core.types import Conversation, Message
from personalllm.methods.base import Method
from personalllm.methods.baselines.embedding_ranker import EmbeddingRanker
from personalllm.methods.baselines.longest import Longest
from personalllm.methods.icl.self_icl import SelfICL
from personalllm.methods.icl.zero_shot import ZeroShot
from personalllm.methods.linear.nearest_users import NearestUsers
from personalllm.methods.linear.pooled_bt import PooledBT
from personalllm.testing import (
    EchoChatModel,
    HashEmbedder,
    SurfaceRewards,
    check_chat_model,
    check_embedder,
    check_method,
    check_reward_ensemble,
)


class Undecorated(Longest):
    pass


@dataclass
class NoTrack(Method):
    id: ClassVar[str] = "none"
    title: ClassVar[str] = "None"


@dataclass
class NoId(Longest):
    id: ClassVar[str] = ""


@dataclass
class UnknownNeed(Longest):
    needs: ClassVar[Any] = frozenset({"scores"})


@dataclass
class NotJSON(Longest):
    words: set = field(default_factory=set)


@dataclass
class LosesTuples(Longest):
    sizes: tuple = (1, 2)


@dataclass
class LearnsIntoAField(Longest):
    n_seen: int = 0

    def fit(self, pool):
        self.n_seen = len(pool)
        return self


@dataclass
class LearnsIntoAPlainName(Longest):
    def fit(self, pool):
        self.seen = len(pool)
        return self


@dataclass
class ReturnsNothing(Longest):
    def fit(self, pool):
        pass


@dataclass
class Words(Longest):
    def utilities(self, queries):
        return super().utilities(queries).astype(str)


@dataclass
class Transposed(Longest):
    def utilities(self, queries):
        return super().utilities(queries).T


@dataclass
class NotFinite(Longest):
    def utilities(self, queries):
        return super().utilities(queries) * np.float32(np.nan)


@dataclass
class Positional(Longest):
    def utilities(self, queries):
        return super().utilities(queries) + np.arange(queries.corpus.n_responses, dtype=np.float32)


@dataclass
class CentredOnTheBatch(Longest):
    def utilities(self, queries):
        scores = super().utilities(queries)
        return scores - scores.mean() if len(scores) else scores


@dataclass
class Unseeded(Longest):
    def utilities(self, queries):
        return super().utilities(queries) * np.random.default_rng().random(dtype=np.float32)


@dataclass
class Accumulates(EmbeddingRanker):
    def adapt(self, histories):
        before = getattr(self, "user_vectors_", 0)
        super().adapt(histories)
        self.user_vectors_ = self.user_vectors_ + before * np.arange(1, 65, dtype=np.float32)
        return self


@dataclass
class Unpicklable(Longest):
    def fit(self, pool):
        self.key_ = lambda text: -len(text)
        return self


@dataclass
class ChangesTheCorpus(Longest):
    def fit(self, pool):
        pool.corpus.prompts[0] = "mine"
        return self


@dataclass
class Contrary(EmbeddingRanker):
    def utilities(self, queries):
        return -super().utilities(queries)


@dataclass
class PretendsToAdapt(Longest):
    def adapt(self, histories):
        return self


@dataclass
class RemembersOthers(EmbeddingRanker):
    def fit(self, pool):
        self._steps = 0
        return super().fit(pool)

    def adapt(self, histories):
        super().adapt(histories)
        self.user_vectors_ = self.user_vectors_ + np.float32(getattr(self, "_steps", 0)) * np.arange(
            64, dtype=np.float32
        )
        self._steps = getattr(self, "_steps", 0) + 1
        return self


@dataclass
class LearnsFromTheTargets(EmbeddingRanker):
    def adapt(self, histories):
        super().adapt(histories)
        self.user_vectors_ = self.user_vectors_ + np.float32(0.1) * self.user_vectors_.mean(axis=0)
        return self


@dataclass
class NoCard(PooledBT):
    fitted_per_user: ClassVar[str] = ""


@dataclass
class SureOfStrangers(NearestUsers):
    def utilities(self, queries):
        return 20 * super().utilities(queries)


@dataclass
class NeedsHistory(Longest):
    def adapt(self, histories):
        if histories.n_users > 1:
            self.longest_ = max(histories.user)
        return self


@dataclass
class ForgetsThePrompt(ZeroShot):
    def messages(self, queries):
        return [Conversation((Message("user", "Hello"),)) for _ in range(len(queries))]


@dataclass
class EndsWithTheAssistant(ZeroShot):
    def messages(self, queries):
        return [replace(c, messages=(*c.messages, Message("assistant", ""))) for c in super().messages(queries)]


@dataclass
class TooFew(ZeroShot):
    def messages(self, queries):
        return super().messages(queries)[:-1]


@dataclass
class CountsTheBatch(ZeroShot):
    def messages(self, queries):
        return [replace(c, n_dropped=len(queries)) for c in super().messages(queries)]


@dataclass
class ShowsTheColumn(SelfICL):
    def messages(self, queries):
        column = Message("system", str(self.histories_.chosen.tolist()))
        return [replace(c, messages=(column, *c.messages)) for c in super().messages(queries)]


@dataclass
class SameForAll(SelfICL):
    def messages(self, queries):
        return [Conversation((Message("user", queries.corpus.prompts[row]),)) for row in queries.prompt.tolist()]


BROKEN = [
    (Undecorated, AssertionError, "decorate the class itself with @dataclass"),
    (NoTrack, AssertionError, "implement utilities or messages"),
    (NoId, AssertionError, "set the class attribute 'id'"),
    (UnknownNeed, AssertionError, "needs may hold 'embedder', 'llm' and 'signals', got ['scores']"),
    (NotJSON, AssertionError, "spec() must be JSON"),
    (LosesTuples, AssertionError, "rebuilding it from the JSON of its spec must give an equal method"),
    (LearnsIntoAField, AssertionError, "fit and adapt must not change a parameter"),
    (LearnsIntoAPlainName, AssertionError, "attributes that are learned end in an underscore, got ['seen']"),
    (ReturnsNothing, AssertionError, "fit must return self, got NoneType"),
    (Words, AssertionError, "utilities must return numbers, got <U32"),
    (Transposed, AssertionError, "utilities must return (n_queries, n_responses)"),
    (NotFinite, AssertionError, "utilities must return finite numbers"),
    (Positional, AssertionError, "permuting the responses of the prompts must permute the scores"),
    (CentredOnTheBatch, AssertionError, "must not depend on the other queries"),
    (Unseeded, AssertionError, "equal seeds must give equal utilities"),
    (Accumulates, AssertionError, "a second fit must replace the first"),
    (Unpicklable, AssertionError, "it cannot be pickled after fit and adapt"),
    (ChangesTheCorpus, AssertionError, "must leave their inputs as they were"),
    (Contrary, AssertionError, "does not serve users with opposite tastes"),
    (PretendsToAdapt, AssertionError, "does not serve users with opposite tastes"),
    (RemembersOthers, AssertionError, "adapting to others first must not change a user's scores"),
    (LearnsFromTheTargets, AssertionError, "must not depend on the other target users"),
    (NoCard, AssertionError, "set the class attribute 'fitted_per_user' to a sentence"),
    (SureOfStrangers, AssertionError, "without a comparison its log-loss is"),
    (NeedsHistory, ValueError, "max()"),
    (ForgetsThePrompt, AssertionError, "the last turn must hold the prompt of the query"),
    (EndsWithTheAssistant, AssertionError, "the last turn is the user's"),
    (TooFew, AssertionError, "messages must return one conversation for each"),
    (CountsTheBatch, AssertionError, "must not depend on the other queries"),
    (ShowsTheColumn, AssertionError, "the order of the responses in the corpus must not change the messages"),
    (SameForAll, AssertionError, "asks the same for users with opposite tastes"),
]


@pytest.mark.parametrize(("cls", "error", "message"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_method_is_caught(cls, error, message):
    with pytest.raises(error, match=re.escape(message)):
        check_method(cls)


@dataclass(frozen=True)
class LongRows(HashEmbedder):
    def embed(self, texts):
        return super().embed(texts) * np.float32(2)


@dataclass(frozen=True)
class BatchNormalised(HashEmbedder):
    def embed(self, texts):
        vectors = super().embed(texts)
        vectors[:, 0] += len(texts) * 1e-3
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-9)


@dataclass(frozen=True)
class FailsOnNothing(HashEmbedder):
    def embed(self, texts):
        return super().embed(texts) if texts else np.empty(0, np.float32)


@pytest.mark.parametrize(
    ("embedder", "message"),
    [
        (LongRows(), "rows must have unit length"),
        (BatchNormalised(), "a vector must not depend on the other texts"),
        (FailsOnNothing(), "embed([]) must be (0, dim)"),
    ],
)
def test_a_broken_embedder_is_caught(embedder, message):
    with pytest.raises(AssertionError, match=re.escape(message)):
        check_embedder(embedder)


@dataclass(frozen=True)
class Cuts(EchoChatModel):
    def chat(self, requests):
        return [self._reply(r) if self.count_tokens(r.messages) < 999 else self._reply(_requests()) for r in requests]


def _requests():
    from personalllm.core.types import ChatRequest

    return ChatRequest((Message("user", "cut"),))


@dataclass(frozen=True)
class Miscounts(EchoChatModel):
    def count_tokens(self, messages):
        return super().count_tokens(messages) + (len(messages) > 1 and messages[0].role == "system")

    def _reply(self, request):
        return replace(super()._reply(request), prompt_tokens=super().count_tokens(request.messages))


@dataclass(frozen=True)
class Chatty(EchoChatModel):
    def chat(self, requests):
        return [replace(reply, completion_tokens=99) for reply in super().chat(requests)]


@dataclass(frozen=True)
class Shuffles(EchoChatModel):
    def chat(self, requests):
        replies = super().chat(requests)
        return [replies[0], *reversed(replies[1:])] if len({len(r.messages) for r in requests}) == 1 else replies[:1]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Cuts(), "a prompt longer than the context must raise"),
        (Miscounts(), "count_tokens says"),
        (Chatty(), "99 new tokens"),
        (Shuffles(), "one reply for each"),
    ],
)
def test_a_broken_chat_model_is_caught(model, message):
    with pytest.raises(AssertionError, match=re.escape(message)):
        check_chat_model(model)


@dataclass(frozen=True)
class Truncates(SurfaceRewards):
    def score(self, prompts, responses):
        n = min(len(prompts), len(responses))
        return super().score(prompts[:n], responses[:n])


@dataclass(frozen=True)
class Constant(SurfaceRewards):
    def score(self, prompts, responses):
        return super().score(prompts, responses) * np.array([1, 1, 0, 1], np.float32)


@dataclass(frozen=True)
class PaddedBatch(SurfaceRewards):
    def score(self, prompts, responses):
        return super().score(prompts, responses) + np.float32(len(prompts))


@pytest.mark.parametrize(
    ("ensemble", "message"),
    [
        (Truncates(), "score must refuse two prompts with one response"),
        (Constant(), "scores must depend on the response; constant: ['few_commas']"),
        (PaddedBatch(), "a score must not depend on the other pairs"),
    ],
)
def test_a_broken_reward_ensemble_is_caught(ensemble, message):
    with pytest.raises(AssertionError, match=re.escape(message)):
        check_reward_ensemble(ensemble)
