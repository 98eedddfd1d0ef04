"""Does a score depend on anything but its own text? Measured for any reward ensemble on built-in texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from personalllm.backends.reward.published import PublishedEnsemble
from personalllm.backends.reward.transformer import TransformersReward
from personalllm.core.protocols import RewardEnsemble
from personalllm.core.types import F32

__all__ = ["Check", "SelfTest", "selftest"]

Verdict = Literal["ok", "failed", "does not apply"]

FLOAT32_LIMIT = 1e-5
"""Largest difference of two scores of one text in float32."""

HALF_LIMIT = 1e-2
"""The same in 16-bit numbers, as a share of the standard deviation of the scores."""

_CUT = 24

_TEXTS: tuple[tuple[str, str], ...] = (
    ("Hi", "Hello! How can I help?"),
    ("Say nothing.", ""),
    ("What is 17 + 25?", "42"),
    ("How do I boil an egg?", "Put it into boiling water for eight minutes, then into cold water. Peel it and eat it."),
    ("Name three rivers and say where they are.", "1. Nile: Africa\n2. Danube: Europe\n3. Amazon: South America\n"),
    ("Write a limerick about a cat.", "A cat with a hat sat on a mat,\nand thought of a rat, and of that.\n" * 2),
    (
        "Pourquoi le ciel est-il bleu ?",
        "Parce que l'air diffuse surtout la lumi\u00e8re bleue \u2014 merci. \U0001f600",
    ),
    ("Is it safe to mix bleach with vinegar?", "No. It sets free chlorine, which harms your lungs. Open a window."),
    ("Summarise the plot of Hamlet.", "A prince learns that his uncle killed his father, and waits too long. " * 4),
    ("Explain photosynthesis to a child. " * 3, "Leaves catch light and make sugar from water and air. " * 7),
    ("Plan a week of dinners for four people who do not eat meat.", "Monday: lentil soup with bread and salad. " * 14),
    ("Translate 'good morning' into German, Spanish and Italian.", "Guten Morgen, buenos d\u00edas, buongiorno."),
)


@dataclass(frozen=True, slots=True)
class Check:
    """One property and what was measured.

    Attributes:
        name: What was varied.
        measured: Largest difference, or a count.
        limit: What is allowed.
        verdict: Whether it holds.
        note: What the number means, or why the check does not apply.
    """

    name: str
    measured: str
    limit: str
    verdict: Verdict
    note: str = ""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """All checks of one reward ensemble.

    Attributes:
        reward_models: The models that were tested together.
        identity: Of the ensemble.
        n_texts: Built-in texts.
        sd: Standard deviation of each model's scores of them.
        checks: In the order of the table.
    """

    reward_models: tuple[str, ...]
    identity: str
    n_texts: int
    sd: tuple[float, ...]
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.verdict != "failed" for check in self.checks)


def selftest(ensemble: RewardEnsemble) -> list[SelfTest]:
    """Measure whether scores depend on batch, order, padding, padding token, BOS or cutting.

    Limits: 1e-5 in float32, 1e-2 of the standard deviation of the scores in 16-bit numbers; for scores of other
    ensembles 1e-5.

    Args:
        ensemble: Any ensemble. Checks of tokens and padding only apply to models that transformers runs; of a
            `PublishedEnsemble` every model is tested for itself.

    Returns:
        One result for each model of a `PublishedEnsemble`, else one.
    """
    parts = ensemble.rewards if isinstance(ensemble, PublishedEnsemble) else (ensemble,)
    results = []
    for part in parts:
        results.append(_Tester(part).run())
        if isinstance(part, TransformersReward):
            part.release()
    return results


class _Tester:
    """Scores the built-in texts in many ways and compares."""

    def __init__(self, ensemble: RewardEnsemble) -> None:
        self.ensemble = ensemble
        self.prompts = [prompt for prompt, _ in _TEXTS]
        self.responses = [response for _, response in _TEXTS]
        self.base = ensemble.score(self.prompts, self.responses)
        self.sd = self.base.astype(np.float64).std(axis=0)
        half = isinstance(ensemble, TransformersReward) and (ensemble.dtype or ensemble.model.dtype) != "float32"
        self.limits = HALF_LIMIT * self.sd if half else np.full(len(self.sd), FLOAT32_LIMIT)
        self.limit = f"{HALF_LIMIT:g} sd" if half else f"{FLOAT32_LIMIT:g}"
        self.half = half

    def run(self) -> SelfTest:
        checks = [*self._any()]
        if isinstance(self.ensemble, TransformersReward):
            checks += self._transformers(self.ensemble)
        return SelfTest(
            self.ensemble.reward_models, self.ensemble.identity, len(_TEXTS), tuple(self.sd.tolist()), tuple(checks)
        )

    def _compared(self, name: str, scores: F32, base: F32 | None = None, note: str = "") -> Check:
        differences = np.abs(scores.astype(np.float64) - (self.base if base is None else base)).max(axis=0)
        difference = float((differences / np.maximum(self.sd, 1e-12)).max() if self.half else differences.max())
        ok = bool((differences <= self.limits).all())
        return Check(name, f"{difference:.1e}{' sd' if self.half else ''}", self.limit, "ok" if ok else "failed", note)

    def _any(self) -> Iterator[Check]:
        n_bad = int((~np.isfinite(self.base)).sum())
        yield Check("scores that are not numbers", str(n_bad), "0", "failed" if n_bad else "ok")
        flat = int((self.sd <= 1e-9).sum())
        yield Check("models that score all texts alike", str(flat), "0", "failed" if flat else "ok")
        yield self._compared("the same call again", self.ensemble.score(self.prompts, self.responses))
        alone = [self.ensemble.score([p], [r]) for p, r in _TEXTS]
        yield self._compared("batch of 1 against all together", np.concatenate(alone))
        back = self.ensemble.score(self.prompts[::-1], self.responses[::-1])[::-1]
        yield self._compared("order of the texts", back)

    def _transformers(self, reward: TransformersReward) -> Iterator[Check]:
        texts = (self.prompts, self.responses)
        alone = reward.score_padded(*texts, batch_tokens=1)
        together = reward.score_padded(*texts, batch_tokens=10**9)
        yield self._compared("all in one padded batch", together, alone, "the most padding there can be")
        if reward.pads_left:
            left = reward.score_padded(*texts, batch_tokens=10**9, side="left")
            yield self._compared("padding left against right", left, together)
        else:
            yield Check("padding left against right", "", "", "does not apply", "always padded on the right")
        fills = sorted({0, 1, *(ids[-1] for ids in reward.token_ids(*texts))})[:4]
        padded = [reward.score_padded(*texts, batch_tokens=10**9, fill=fill) for fill in fills]
        worst = max(padded, key=lambda scores: float(np.abs(scores - together).max()))
        yield self._compared(
            "padding token missing, or the end token", worst, together, f"padded with token ids {fills}"
        )
        yield self._bos(reward)
        yield from self._cut(reward)

    def _bos(self, reward: TransformersReward) -> Check:
        bos = reward.bos_id
        if bos is None or reward.model.template.kind == "pair":
            return Check("BOS in front twice", "", "", "does not apply", "no BOS")
        rows = reward.token_ids(self.prompts, self.responses)
        n_twice = sum(row[:2] == [bos, bos] for row in rows)
        n_with = sum(row[:1] == [bos] for row in rows)
        mixed = n_with not in (0, len(rows))
        note = f"{n_with} of {len(rows)} texts begin with one"
        return Check("BOS in front twice", str(n_twice), "0", "failed" if n_twice or mixed else "ok", note)

    def _cut(self, reward: TransformersReward) -> Iterator[Check]:
        short = reward.with_limit(_CUT)
        texts = (self.prompts, self.responses)
        rows, uncut = short.token_ids(*texts), reward.token_ids(*texts)
        lengths = short.lengths(*texts)
        n_long = int((lengths > _CUT).sum())
        wrong = sum(len(row) != min(_CUT, n) for row, n in zip(rows, lengths, strict=True))
        lost = sum(row[-1] != full[-1] for row, full in zip(rows, uncut, strict=True))
        note = f"{n_long} of {len(rows)} texts cut to {_CUT} tokens and reported; the last token stays"
        verdict: Verdict = "ok" if n_long and not wrong and not lost else "failed"
        yield Check("texts cut wrongly", str(wrong + lost), "0", verdict, note)
        alone = short.score_padded(*texts, batch_tokens=1)
        yield self._compared("cut texts: batch of 1 against all", short.score_padded(*texts), alone)
