"""Scoring texts of mixed length with a random Llama (4 layers, 256 wide) against bare passes without padding.

One thread and processor time: the ratio stands on a busy machine too.
"""

from __future__ import annotations

import statistics
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from _common import Row, wall_and_processor

ROUNDS = 3
N_TEXTS = 192


def write_model(folder: Path) -> None:
    """Write a random reward model with a tokenizer of whole words."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<s>", "</s>", "<unk>", *(f"w{i}" for i in range(997))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    wrapped.chat_template = "{{ bos_token }} {% for m in messages %}{{ m.content }} {% endfor %}{{ eos_token }}"
    wrapped.save_pretrained(folder)
    config = transformers.LlamaConfig(
        hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024, vocab_size=1000,
        max_position_embeddings=2048, num_labels=1, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    transformers.LlamaForSequenceClassification(config).save_pretrained(folder)


def texts() -> tuple[list[str], list[str]]:
    """Return prompts and responses whose lengths are spread like those of the benchmark: 10 to 1,000 words."""
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(5.3, 0.7, N_TEXTS)).clip(10, 1000).astype(int)
    made = [" ".join(f"w{i}" for i in rng.integers(0, 997, n)) for n in lengths]
    return [" ".join(f"w{i}" for i in rng.integers(0, 997, 30))] * N_TEXTS, made


def compared(batch_tokens: int = 4096) -> dict[str, Any]:
    """Return tokens a second of both, alternately measured, the median of the ratios, and the share of padding."""
    import torch

    from personalllm.backends.reward import TransformersReward
    from personalllm.backends.reward.transformer import batches

    with tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(1)
        write_model(Path(folder))
        prompts, responses = texts()
        reward = TransformersReward(folder, batch_tokens=batch_tokens)
        lengths = reward.lengths(prompts, responses)
        parts = list(batches(lengths.tolist(), batch_tokens))
        padded = sum(len(part) * int(lengths[part].max()) for part in parts)
        import transformers

        bare = transformers.LlamaForSequenceClassification.from_pretrained(folder).eval().model
        inputs = [torch.randint(0, 1000, (len(part), round(float(lengths[part].mean())))) for part in parts]

        def passes() -> None:
            with torch.inference_mode():
                for ids in inputs:
                    bare(input_ids=ids, use_cache=False)

        n_bare = sum(ids.numel() for ids in inputs)
        n_tokens = int(lengths.sum())
        reward.score(prompts[:8], responses[:8])
        passes()
        theirs, ours = [], []
        for _ in range(ROUNDS):
            theirs.append(n_bare / wall_and_processor(passes)[1])
            ours.append(n_tokens / wall_and_processor(lambda: reward.score(prompts, responses))[1])
    return {
        "bare": statistics.median(theirs),
        "ours": statistics.median(ours),
        "ratio": statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
        "padding": 1 - n_tokens / padded,
    }


def run() -> list[Row]:
    if find_spec("torch") is None or find_spec("transformers") is None:
        return [
            Row("rewards: tokens a processor second against bare passes", "torch is not installed", ">= 90 %", None)
        ]
    found = compared()
    measured = f"{found['ratio']:.0%} ({found['ours']:,.0f}/s on one thread; padding {found['padding']:.1%})"
    return [Row("rewards: tokens a processor second against bare passes", measured, ">= 90 %", found["ratio"] >= 0.9)]


if __name__ == "__main__":
    for row in run():
        print(*row, sep=" | ")
