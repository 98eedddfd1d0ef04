"""Several published reward models as one ensemble, and reward ensembles by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from personalllm.backends.reward.entries import PUBLISHED, REWARD_MODELS
from personalllm.backends.reward.transformer import Style, TransformersReward
from personalllm.core.errors import ParameterError
from personalllm.core.protocols import RewardEnsemble
from personalllm.core.storage import digest
from personalllm.core.types import F32

__all__ = ["ENSEMBLES", "PublishedEnsemble", "is_published", "load_rewards"]

ENSEMBLES: dict[str, Style] = {"published": "authors", "published-as-released": "released"}
"""Names of the ten reward models of the paper together, and the style of each."""

_PREFIX = "transformers:"


@dataclass(frozen=True)
class PublishedEnsemble:
    """Reward models that transformers runs, one after the other: `personalllm.core.protocols.RewardEnsemble`.

    Attributes:
        names: Names of `REWARD_MODELS`, folders or names on the hub; the paper's ten by default. The order of the
            scores is the sorted order of the aliases.
        style: See `TransformersReward`.
        batch_tokens: See `TransformersReward`.
        dtype: Of every model; that of each entry if None.
        device: See `TransformersReward`.
        threads: See `TransformersReward`.
        keep_loaded: Whether all models stay in memory; else one at a time is loaded, all texts are scored, and it is
            let go.

    Raises:
        UnknownName: If a name is not known.
        ParameterError: If no name is given, or two models have one alias.
    """

    names: tuple[str, ...] = PUBLISHED
    style: Style = field(default="authors", kw_only=True)
    batch_tokens: int = field(default=8192, kw_only=True)
    dtype: str | None = field(default=None, kw_only=True)
    device: str | None = field(default=None, kw_only=True)
    threads: int = field(default=1, kw_only=True)
    keep_loaded: bool = field(default=False, kw_only=True)
    rewards: tuple[TransformersReward, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rewards = [
            TransformersReward(
                name,
                style=self.style,
                batch_tokens=self.batch_tokens,
                dtype=self.dtype,
                device=self.device,
                threads=self.threads,
            )
            for name in self.names
        ]
        aliases = [reward.model.name for reward in rewards]
        if not rewards or len(set(aliases)) != len(aliases):
            raise ParameterError("names", "one reward model or more, with distinct aliases", tuple(self.names))
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "rewards", tuple(sorted(rewards, key=lambda reward: reward.model.name)))

    @property
    def reward_models(self) -> tuple[str, ...]:
        """Aliases, sorted, in the order of the last axis of `score`."""
        return tuple(reward.model.name for reward in self.rewards)

    @property
    def identity(self) -> str:
        """Digest of the identities of the models.

        Raises:
            ModelFileError: If the files of a model are not here and cannot be fetched.
        """
        return f"transformers:{len(self.rewards)} models {digest([r.identity for r in self.rewards], 32)}"

    def require(self, *, fetch: bool = True) -> None:
        """Raise unless all models can be loaded here; see `TransformersReward.require`."""
        for reward in self.rewards:
            reward.require(fetch=fetch)

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> F32:
        """Return the scores of the models, float32 (n, n_reward_models); see `TransformersReward.score`."""
        out = np.empty((len(prompts), len(self.rewards)), np.float32)
        for column, reward in enumerate(self.rewards):
            out[:, column] = reward.score(prompts, responses)[:, 0]
            if not self.keep_loaded:
                reward.release()
        return out


def is_published(name: str) -> bool:
    """Return whether `load_rewards` knows a single name.

    >>> [is_published(n) for n in ("published", "gemma_2b", "transformers:./my-model", "compact-v1")]
    [True, True, True, False]
    """
    return name in ENSEMBLES or name.startswith(_PREFIX) or name.partition("=")[0] in REWARD_MODELS


def load_rewards(name_or_names: str | Sequence[str], **options: Any) -> RewardEnsemble:
    """Return published reward models by name; nothing is loaded or fetched yet.

    Args:
        name_or_names: `published` (the paper's ten), `published-as-released`, a name of `REWARD_MODELS`,
            `NAME=FOLDER`, `transformers:FOLDER` or `transformers:OWNER/MODEL`; or a list of such single models.
        **options: Of `PublishedEnsemble`.

    Raises:
        UnknownName: If a name is not known.

    >>> load_rewards(["mistral_ray", "gemma_2b"]).reward_models
    ('gemma_2b', 'mistral_ray')
    """
    if isinstance(name_or_names, str):
        if name_or_names in ENSEMBLES:
            return PublishedEnsemble(**{"style": ENSEMBLES[name_or_names], **options})
        name_or_names = [name_or_names]
    return PublishedEnsemble(tuple(name.removeprefix(_PREFIX) for name in name_or_names), **options)
