"""Model cards of a reward ensemble, made from the JSON beside its weights."""

from __future__ import annotations

from collections.abc import Iterable

from personalllm.core.types import JSON

__all__ = ["render_cards"]

_INTRODUCTION = """\
Ten small reward models come with the package. Each is a linear Bradley-Terry head on frozen text vectors: it runs on a
CPU in milliseconds and stands in for a large reward model where a benchmark must be scored on a laptop. They are real
reward models, fitted on real preferences, but weak: read the accuracies below before drawing conclusions.

## Scores

`score = bias + c . [3 r, 3 sqrt(d) p * r, clip((s - mean) / sd, -3, 3)]`

- `p` and `r` are the unit vectors of prompt and response ({embedder}, d = 384). The embedder reads the first 256 tokens
  of a text; what a long response says after that is seen by the surface features only.
- `s` are twenty surface features of the whole response: length, sentences, list items, emphasis, punctuation, digits,
  mean word length, vocabulary, first and second person, hedges, refusals, code marks, words shared with the prompt.
  The word lists are English.
- `c` minimises the Bradley-Terry loss with a ridge penalty: the largest whose accuracy in a five-fold cross-validation
  over prompts, on the pairs to fit on only, is within one standard error of the best. Models marked *length-neutral*
  have the log word count regressed out of every feature over the responses fitted on, so that the score is uncorrelated
  with it there.
- Scores have no unit. They are shifted and scaled to mean 0 and standard deviation 1 over the {n_scored:,} responses of
  alpaca8 (answers of eight strong LLMs to {n_prompts} AlpacaEval prompts; no label is used). A score does not depend on
  the rest of the batch and is the same bits on every run.

## Test accuracy

About {held_out:.0%} of the prompts are held out by a hash of the prompt (dialogues: of their first turn). Held-out
pairs whose prompt is also fitted on are left out, so no prompt is on both sides, in a single file or across the parts
of a mixture. Accuracy is the share of held-out pairs in the right order; the interval is a 95 % percentile bootstrap
over prompts (2,000 resamples). *Always longer* prefers the response with more characters, on the same pairs; chance is
.5. *Length* is Spearman's rank correlation of score and
number of characters on alpaca8, over all responses and, in brackets, the mean of those within a prompt.
"""

_CAVEATS = """\
## Limitations

- They are not judges of quality: the best of them orders seven pairs in ten as its source does.
- Picks are one real reward model's favourites among sixteen responses of one 13B model. Six of the sixteen are used for
  each prompt, every pick among them, so that the others shown are mostly favourites of other reward models.
- hh-rlhf prompts overlap with the PersonalLLM test split, and the prompts of the picks are those of alpaca8 (with other
  responses): do not report these models' accuracy on either.
- The data are English; dialogue pairs are judged by the last human turn only.
- They were fitted on texts that people wrote to provoke harm (harmless-base). A low score is no safety filter.

## Alternatives that were dropped

Held-out accuracy, same split rule: it was known when the ten were chosen, so their own figures are slightly flattered.

- Picks of the oasst 1.4b model: .551 (.498 to .598), not above chance. Picks of the beaver cost model: .561 (.508 to
  .610). Picks of the deberta model: .614 (.568 to .660), but .528 (.480 to .579) once length is regressed out: what was
  learned is a taste for short responses (always-longer has .396).
- LLMBar, adversarial (.694, .600 to .788) and PandaLM (.649, .570 to .722), length-neutral. They beat chance, but sets
  of ten with one or both of them divided the users on 57 to 96 % of the prompts (measured on 214 to 805 of them),
  further from the paper than the ten here.
- helpful-online (.589, .529 to .646; length-neutral .589, .531 to .646): its cross-validated accuracy on the pairs
  fitted on is only .548 (.524), so the held-out figure looks lucky.
- Choosing the penalty with the best cross-validated accuracy instead of the largest within one standard error of it:
  the same held-out accuracy within the intervals, and heads that agree less with each other.
- Helpful and harmless pairs in one model: .525 (.492 to .561), since the two tastes pull in opposite directions.

## Rebuild

    python recipes/compact-v1/build.py ../shared/data --work /tmp/compact-v1

writes weights, JSON and this page, the same bytes each time on one machine. Your own:

    personalllm rewards train PAIRS.jsonl --name NAME --out NAME.safetensors [--no-length]

PAIRS is JSONL, JSONL.gz, Parquet or CSV with the text columns `prompt`, `chosen` and `rejected`, and optionally `group`
(what must stay on one side of the split; the prompt if absent).
"""


def _table(header: Iterable[str], rows: Iterable[Iterable[str]], align: str = "") -> str:
    header = list(header)
    rule = ["---:" if mark == ">" else "---" for mark in align.ljust(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *map(list, rows))) + "\n"


def _interval(figure: JSON) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def _length(card: JSON) -> str:
    figures = card["alpaca8"]
    return f"{figures['length_correlation']:+.2f} ({figures['length_correlation_within_prompt']:+.2f})"


def _overview(cards: JSON) -> str:
    rows = [
        (f"`{name}`", card["summary"], _interval(card["held_out"]), _interval(card["always_longer"]), _length(card))
        for name, card in cards.items()
    ]
    header = ("reward model", "prefers what these prefer", "held-out accuracy (95 %)", "always longer", "length")
    return _table(header, rows)


def _part(part: JSON) -> str:
    text = f"`{part['source']}`"
    if part["flip"]:
        text += ", chosen and rejected swapped"
    if part["pairs"]:
        text += f", {part['pairs']:,} pairs drawn at random"
    if part["length_ratio"]:
        text += f", only pairs whose lengths differ by a factor of at most {part['length_ratio']:g}"
    return text


def _card(name: str, card: JSON) -> str:
    rows = [
        ("likes", card["likes"]),
        ("fitted on", f"{card['n_fitted']:,} pairs of {card['n_fitted_groups']:,} prompts"),
        ("parts", "; ".join(map(_part, card["parts"]))),
        ("origin", "; ".join(dict.fromkeys(card["origins"]))),
        ("licence of the data", card["data_licence"]),
        ("length-neutral", "no" if card["uses_length"] else "yes"),
        ("penalty, cross-validated accuracy", f"{card['penalty']:g}, {card['cross_validation']:.3f}"),
        ("held out", f"{card['n_held_out']:,} pairs of {card['n_held_out_groups']:,} other prompts"),
        ("held-out accuracy", _interval(card["held_out"])),
        ("always longer; chance", f"{_interval(card['always_longer'])}; {card['chance']:.3f}"),
        ("length, on alpaca8", _length(card)),
        ("length, on its held-out responses", f"{card['length_correlation']:+.2f}"),
    ]
    return f"### {name}\n\n{card['summary'][0].upper()}{card['summary'][1:]}.\n\n" + _table(("", ""), rows)


def _agreement(names: list[str], matrix: list[list[float]]) -> str:
    numbers = [str(i) for i in range(1, len(names) + 1)]
    rows = [
        (f"{number} `{name}`", *("" if i == j else f"{value:.2f}" for j, value in enumerate(row)))
        for i, (number, name, row) in enumerate(zip(numbers, names, matrix, strict=True))
    ]
    return _table(("", *numbers), rows, " " + ">" * len(names))


def render_cards(metadata: JSON) -> str:
    """Return the model cards of an ensemble as Markdown.

    Args:
        metadata: The JSON beside the weights, see `shipped_metadata`.
    """
    cards, alpaca = metadata["reward_models"], metadata["alpaca8"]
    diversity = alpaca["diversity"]
    shares = diversity["top_share_at_most"]
    introduction = _INTRODUCTION.format(
        embedder=metadata["embedder"],
        n_scored=alpaca["n_prompts"] * alpaca["n_responses"],
        n_prompts=alpaca["n_prompts"],
        held_out=metadata["held_out"],
    )
    names = list(cards)
    off_diagonal = [v for i, row in enumerate(alpaca["top_agreement"]) for j, v in enumerate(row) if i != j]
    agreement = (
        f"Share of the {alpaca['n_prompts']} alpaca8 prompts on which two models rank the same response first (chance "
        f"{1 / alpaca['n_responses']:.3f}; largest {max(off_diagonal):.2f})."
    )
    divided = (
        f"With {diversity['n_users']:,} users drawn from a Dirichlet of concentration {diversity['alpha']:g} over the "
        f"standardised scores, the favourite response has at most 50 % of the votes on {shares['0.5']:.0%} of the "
        f"prompts, at most 75 % on {shares['0.75']:.0%}, at most 95 % on {shares['0.95']:.0%} (43, 90 and 100 % with "
        f"the large reward models of the paper, on its test prompts). Of the prompts with at most 50 %, "
        f"{diversity['four_or_more_winners_where_divided']:.0%} have four or more distinct winners."
    )
    weights = (
        f"Weights: {metadata['weights_licence']}, made on {metadata['date']}, sha256 of names and numbers "
        f"`{metadata['weights_sha256']}`, fitted on vectors of `{metadata['embedder_identity']}`. The preference data "
        "themselves are not part of this package."
    )
    parts = [
        f"# Reward models: {metadata['ensemble']}\n",
        introduction,
        _overview(cards),
        "## Agreement\n",
        f"{agreement}\n",
        _agreement(names, alpaca["top_agreement"]),
        f"{divided}\n",
        "## Cards\n",
        *(_card(name, card) for name, card in cards.items()),
        f"{weights}\n",
        _CAVEATS,
    ]
    return "\n".join(parts)
