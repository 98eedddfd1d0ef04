"""Model cards of a reward ensemble, made from the JSON beside its weights."""

from __future__ import annotations

from collections.abc import Iterable

from personalllm.core.storage import shipped_text
from personalllm.core.types import JSON

__all__ = ["render_cards"]


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
        *_fit(card),
        ("held out", f"{card['n_held_out']:,} pairs of {card['n_held_out_groups']:,} other prompts"),
        ("held-out accuracy", _interval(card["held_out"])),
        ("always longer; chance", f"{_interval(card['always_longer'])}; {card['chance']:.3f}"),
        ("length, on alpaca8", _length(card)),
        ("length, on its held-out responses", f"{card['length_correlation']:+.2f}"),
    ]
    return f"### {name}\n\n{card['summary'][0].upper()}{card['summary'][1:]}.\n\n" + _table(("", ""), rows)


def _fit(card: JSON) -> list[tuple[str, str]]:
    """Return the rows on how a head was fitted, which differ between the families."""
    if "follows" not in card:
        neutral = ("length-neutral", "no" if card["uses_length"] else "yes")
        return [neutral, ("penalty, cross-validated accuracy", f"{card['penalty']:g}, {card['cross_validation']:.3f}")]
    if card["follows"]:
        return [("follows the shared direction", f"yes; penalty of what it adds: {card['penalty']:g}")]
    return [("follows the shared direction", f"no; penalty {card['penalty']:g}, share of it {card['shared']:g}")]


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
    introduction = _prose(metadata, "introduction").format(
        **metadata.get("features", {}),
        embedder=metadata.get("embedder"),
        shared_penalty=metadata.get("shared_penalty"),
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
    vectors = f", fitted on vectors of `{metadata['embedder_identity']}`" if "embedder" in metadata else ""
    weights = (
        f"Weights: {metadata['weights_licence']}, made on {metadata['date']}, sha256 of names and numbers "
        f"`{metadata['weights_sha256']}`{vectors}. The preference data themselves are not part of this package."
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
        _prose(metadata, "caveats"),
    ]
    return "\n".join(parts)


def _prose(metadata: JSON, part: str) -> str:
    """Return a part of the page that is the same however the figures come out."""
    return shipped_text("personalllm.backends.reward", f"weights/{metadata['ensemble']}-{part}.md")
