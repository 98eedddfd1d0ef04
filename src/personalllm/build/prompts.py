"""First step: gather prompts, draw them with the seed, split them."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from personalllm.build.recipe import PromptSource, Recipe
from personalllm.errors import DataError, UserError
from personalllm.seeding import generator
from personalllm.storage import atomic_path

__all__ = ["Prompt", "gather_prompts", "read_prompts"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a benchmark under construction."""

    prompt_id: str
    prompt: str
    subset: str


def _read_source(source: PromptSource, folder: Path) -> list[Prompt]:
    prompts: dict[str, Prompt] = {}
    for pattern in source.files:
        paths = sorted(folder.glob(pattern))
        if not paths:
            raise UserError(f"No file matches {pattern!r} in {folder}.", "Mend `prompts.files` in the recipe.")
        for path in paths:
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                try:
                    row = json.loads(line)
                    text, subset = row["prompt"].strip(), row["subset"]
                except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
                    raise DataError(
                        f"{path}, line {number}: {type(error).__name__}: {error}.",
                        'Each line must be an object with the texts "prompt" and "subset".',
                    ) from error
                if not text or len(text) > source.max_characters:
                    continue
                key = hashlib.sha256(text.encode()).hexdigest()[:12]
                prompts.setdefault(key, Prompt(key, text, subset))
    return list(prompts.values())


def gather_prompts(recipe: Recipe, folder: Path, out: Path) -> list[Prompt]:
    """Draw the recipe's prompts, in proportion to the subsets, and write them to `out/prompts.jsonl`.

    The order is a seeded shuffle in which every subset is spread evenly, so that any leading part of it is a
    balanced sample. Exact duplicates are dropped.

    Args:
        recipe: What to draw.
        folder: Folder of the recipe, to which its file patterns are relative.
        out: Working folder of the build.

    Returns:
        train + test + spare prompts.

    Raises:
        UserError: If the sources hold too few prompts.
    """
    found = _read_source(recipe.prompts, folder)
    wanted = recipe.prompts.train + recipe.prompts.test + recipe.prompts.spare
    if len(found) < wanted:
        raise UserError(
            f"The sources hold {len(found)} usable prompts, the recipe asks for {wanted}.",
            "Add prompts, or lower train, test or spare.",
        )
    groups: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in sorted(found, key=lambda p: p.prompt_id):
        groups[prompt.subset].append(prompt)
    ranked: list[tuple[float, Prompt]] = []
    for subset, members in sorted(groups.items()):
        rng = generator(recipe.seed, "prompts", subset)
        places = (rng.permutation(len(members)) + rng.random()) / len(members)
        ranked += zip(places.tolist(), members, strict=True)
    chosen = [prompt for _, prompt in sorted(ranked, key=lambda pair: (pair[0], pair[1].prompt_id))][:wanted]
    with atomic_path(out / "prompts.jsonl") as temporary:
        lines = (json.dumps({"prompt_id": p.prompt_id, "prompt": p.prompt, "subset": p.subset}) for p in chosen)
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return chosen


def read_prompts(out: Path) -> list[Prompt]:
    """Read the prompts that `gather_prompts` wrote."""
    path = out / "prompts.jsonl"
    if not path.is_file():
        raise UserError(f"There are no prompts at {path}.", "Run the step `build prompts` first.")
    return [Prompt(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
