"""Tiny random reward models of every architecture, and what they should score, computed without the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

TEXTS = (
    ("How do I boil an egg?", "Put it in boiling water for eight minutes, then cool it."),
    ("Hi", "Hello!"),
    ("Name three rivers.", "The Nile, the Amazon and the Danube. They cross many countries and feed many people."),
    ("Write a poem.", "Roses are red, violets are blue.\n\nSugar is sweet."),
    ("What is 2 + 2?", "4"),
    ("Why is the sky blue? Explain it at length, please.", "Air scatters short waves more than long ones. " * 3),
    ("Say nothing.", ""),
    ("Bonjour", "Ça va bien — merci 😀"),
)
PROMPTS, RESPONSES = (list(column) for column in zip(*TEXTS, strict=True))
SPECIAL = ("<s>", "</s>", "<unk>", "[CLS]", "[SEP]", "[PAD]", "<|prompter|>", "<|assistant|>", "<|endoftext|>")
CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
}


def tokenizer(folder: Path, *, kind: str = "llama", pad: str | None = "[PAD]", chat: str | None = CHAT) -> Any:
    """Write a byte-level tokenizer; `llama` adds a BOS, `deberta` marks two segments, `neox` adds nothing."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *letters))}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(SPECIAL))
    marks = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    if kind == "llama":
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocabulary["<s>"])]
        )
    elif kind == "deberta":
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[(t, vocabulary[t]) for t in ("[CLS]", "[SEP]")],
        )
        marks = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "<unk>"}
    else:
        marks = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    if pad is not None:
        marks["pad_token"] = pad
    wrapped = PreTrainedTokenizerFast(tokenizer_object=made, **marks)
    wrapped.chat_template = chat
    wrapped.save_pretrained(folder)
    return wrapped


def _randomised(model: Any, seed: int) -> Any:
    """Give every parameter a size at which scores differ visibly."""
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.25)
            elif not name.endswith("norm.weight"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def make(architecture: str, folder: Path, *, pad: str | None = "[PAD]", chat: str | None = CHAT, seed: int = 0) -> Any:
    """Write config, tokenizer and weights of a tiny model; return (backbone or model, head weight, head bias)."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = 9 + 256
    if architecture == "deberta":
        tokenizer(folder, kind="deberta", pad=pad, chat=None)
        config = transformers.DebertaV2Config(
            **SIZES, vocab_size=vocabulary, num_labels=1, type_vocab_size=0, relative_attention=True,
            position_buckets=16, pos_att_type=["p2c", "c2p"], share_att_key=True, norm_rel_ebd="layer_norm",
            position_biased_input=False, pooler_hidden_size=32, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, pad_token_id=5,
        )  # fmt: skip
        model = _randomised(transformers.DebertaV2ForSequenceClassification(config), seed)
        model.save_pretrained(folder)
        return model, model.classifier.weight, model.classifier.bias
    if architecture.startswith("oasst"):
        return _oasst(folder, pad, seed, mean=architecture.endswith("mean"))
    tokenizer(folder, pad=pad, chat=chat)
    kinds = {
        "llama": ("LlamaConfig", "LlamaForSequenceClassification", {}),
        "mistral": ("MistralConfig", "MistralForSequenceClassification", {"sliding_window": 64}),
        "gemma": ("GemmaConfig", "GemmaForSequenceClassification", {"head_dim": 8}),
        "beaver": ("LlamaConfig", "LlamaForSequenceClassification", {}),
    }
    config_name, model_name, more = kinds[architecture]
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None if pad is None else SPECIAL.index(pad)}
    config = getattr(transformers, config_name)(
        **SIZES, vocab_size=vocabulary, num_key_value_heads=2, num_labels=1, **ids, **more
    )
    model = _randomised(getattr(transformers, model_name)(config), seed)
    if architecture == "beaver":
        return _beaver(model, folder)
    model.save_pretrained(folder)
    return model.model, model.score.weight, None


def _oasst(folder: Path, pad: str | None, seed: int, *, mean: bool) -> Any:
    """Open-Assistant's layout, as pickled tensors in two shards, as they publish it."""
    import torch
    import transformers

    tokenizer(folder, kind="neox", pad=pad, chat=None)
    config = transformers.GPTNeoXConfig(**SIZES, vocab_size=9 + 256, rotary_pct=0.5, tie_word_embeddings=False)
    backbone = _randomised(transformers.GPTNeoXModel(config), seed)
    out = _randomised(torch.nn.Linear(32, 1), seed + 1)
    tensors = {f"gpt_neox.{name}": value for name, value in backbone.state_dict().items()}
    tensors |= {f"out_proj.{name}": value for name, value in out.state_dict().items()}
    tensors["gpt_neox.layers.0.attention.masked_bias"] = torch.tensor(-1e9)
    names = sorted(tensors)
    shards = {"pytorch_model-00001-of-00002.bin": names[:9], "pytorch_model-00002-of-00002.bin": names[9:]}
    for file, inside in shards.items():
        torch.save({name: tensors[name] for name in inside}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, inside in shards.items() for name in inside}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    described = {
        **SIZES, "model_type": "gpt_neox_reward_model", "architectures": ["GPTNeoXRewardModel"],
        "vocab_size": 9 + 256, "rotary_pct": 0.5, "rotary_emb_base": 10000, "hidden_act": "gelu",
        "layer_norm_eps": 1e-5, "use_parallel_residual": True, "tie_word_embeddings": False,
        "pooling": "mean" if mean else "last",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(described))
    return backbone, out.weight, out.bias


def _beaver(model: Any, folder: Path) -> Any:
    """safe-rlhf's layout: `model.*` and `score_head.weight`, a cost that is scaled by its running deviation."""
    from safetensors.torch import save_file

    tensors = {f"model.{name}": value.contiguous() for name, value in model.model.state_dict().items()}
    tensors["score_head.weight"] = model.score.weight.detach().contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    described = model.config.to_dict() | {
        "architectures": ["LlamaModelForScore"], "score_type": "cost", "score_dim": 1, "bias": False,
        "do_normalize": True, "normalizer_type": "RunningMeanStd", "mean": [5.0], "var": [4.0],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(described))
    return model.model, model.score.weight, None


def texts_of(architecture: str, prompt: str, response: str) -> str:
    """The text of a prompt and a response, written out by hand; BOS by hand too."""
    if architecture.startswith("oasst"):
        return f"<|prompter|>{prompt}<|endoftext|><|assistant|>{response}<|endoftext|>"
    if architecture == "beaver":
        return f"<s>BEGINNING OF CONVERSATION: USER: {prompt} ASSISTANT:{response}</s>"
    return f"<s>[INST] {prompt} [/INST]{response}</s>"


def ids_of(architecture: str, prompt: str, response: str) -> list[int]:
    """Token ids from the bytes and the list of special tokens, without any tokenizer."""
    import re

    from tokenizers import pre_tokenizers

    letters = {letter: 9 + i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}

    def plain(text: str) -> list[int]:
        pieces = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text) if text else []
        return [letters[letter] for piece, _ in pieces for letter in piece]

    if architecture == "deberta":
        cls, sep = SPECIAL.index("[CLS]"), SPECIAL.index("[SEP]")
        return [cls, *plain(prompt), sep, *plain(response), sep]
    ids: list[int] = []
    for part in re.split("(" + "|".join(map(re.escape, SPECIAL)) + ")", texts_of(architecture, prompt, response)):
        ids += [SPECIAL.index(part)] if part in SPECIAL else plain(part)
    return ids


def expected(architecture: str, made: Any, *, dtype: str = "float32") -> Any:
    """Scores one text at a time: hidden states of the bare network, the head multiplied out with NumPy."""
    import torch

    network, weight, bias = made
    w = weight.detach().float().numpy().astype(np.float64)[0]
    b = 0.0 if bias is None else float(bias.detach().float())
    scores = []
    for prompt, response in TEXTS:
        ids = torch.tensor([ids_of(architecture, prompt, response)])
        with torch.no_grad():
            if architecture == "deberta":
                hidden = network.deberta(input_ids=ids).last_hidden_state[0, 0]
                dense = network.pooler.dense
                pooled = torch.nn.functional.gelu(dense.weight @ hidden + dense.bias)
            else:
                hidden = network(input_ids=ids).last_hidden_state[0]
                pooled = hidden.mean(0) if architecture.endswith("mean") else hidden[-1]
        score = float(pooled.double().numpy() @ w) + b
        scores.append(score / 2.0 if architecture == "beaver" else score)
    return np.array(scores)
