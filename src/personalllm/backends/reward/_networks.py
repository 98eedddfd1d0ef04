"""The networks: backbone and head of each layout, and the score of a padded batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any

from personalllm.backends.reward._weights import Files, unreadable
from personalllm.backends.reward.entries import Head
from personalllm.core.errors import ModelFileError, UserError
from personalllm.core.registry import import_extra
from personalllm.core.types import JSON

__all__ = ["Network", "load_network"]

_OASST = "gpt_neox_reward_model"
_SCORE_CLASSES = ("LlamaModelForScore", "LlamaForScore")


@dataclass(frozen=True)
class Network:
    """A backbone with what reads the score from its hidden states.

    Attributes:
        config: Of the backbone.
        forward: (ids, mask, positions or None, types or None) -> hidden states, or the scores if `whole`.
        read: (hidden states (n, length, dim), mask, skipped (n,)) -> scores, float32 (n,).
        whole: Whether `forward` is the whole model, which then needs padding on the right.
        causal: Whether tokens see earlier ones only, so that padding on the right needs no mask.
    """

    config: Any
    forward: Callable[..., Any]
    read: Callable[..., Any]
    whole: bool = False
    causal: bool = False

    def score(self, ids: Any, mask: Any, types: Any, skipped: Any) -> Any:
        """Return the scores, float32 (n,), of a batch padded on either side."""
        torch = import_extra("torch", "torch")
        with torch.inference_mode():
            right = bool(mask[:, 0].all())
            positions = None if right else (mask.cumsum(1) - 1).clamp(min=0)
            out = self.forward(ids, None if right and self.causal else mask, positions, types)
            return out if self.whole else self.read(out, mask, skipped)


def layout(files: Files) -> Head:
    """Return the kind of head of a model, from its configuration and tensor names."""
    config = files.json("config.json")
    if config.get("model_type") == _OASST:
        return "out-proj"
    if any(name in _SCORE_CLASSES for name in config.get("architectures") or ()):
        return "score-head"
    return "score-head" if "score_head.weight" in files.tensor_names else "sequence-classification"


def load_network(files: Files, head: Head | None, dtype: str, device: str, attention: str | None) -> Network:
    """Load a reward model in evaluation mode.

    Raises:
        ModelFileError: If files are missing or damaged, or the model has another head.
        UserError: If the model needs its author's code, or gives more than one number.
    """
    kind = layout(files)
    if head is not None and head != kind:
        raise ModelFileError(
            f"{files.source!r} has a {kind} head, expected {head}.", "These are another model's files; fetch it again."
        )
    options = {"dtype": getattr(import_extra("torch", "torch"), dtype)}
    if attention:
        options["attn_implementation"] = attention
    loaders = {"out-proj": _out_proj, "score-head": _score_head, "sequence-classification": _sequence_classification}
    network = loaders[kind](files, options, device)
    files.forget()
    return network


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from reporting tensors that are read elsewhere, and from drawing bars."""
    logging = import_extra("transformers.utils.logging", "torch")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _loaded(kind: Any, files: Files, device: str, options: JSON, config: Any = None) -> Any:
    """Load a class of transformers from files, completely.

    Raises:
        ModelFileError: If it cannot be read or tensors are missing: they would be random.
        UserError: If the model needs its author's code.
    """
    if config is not None:
        options = {**options, "config": config}
    try:
        with _quiet():
            model, info = kind.from_pretrained(
                str(files.folder),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=files.safetensors,
                weights_only=True,
                output_loading_info=True,
                **options,
            )
    except (OSError, RuntimeError, UnpicklingError) as error:
        raise unreadable(files.source, error) from error
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{files.source!r} cannot be loaded: {(str(error).splitlines() or [type(error).__name__])[0]}",
            "Only models whose code is part of transformers, or of this package, are run.",
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelFileError(
            f"The weights of {files.source!r} lack {len(missing)} tensors, e.g. {missing[0]}; they would be random.",
            "It is no reward model, or its files are damaged: name another one, or fetch it again.",
        )
    return model.to(device).eval()


def _hidden(backbone: Any) -> Callable[..., Any]:
    """Return the function that runs a decoder without a cache."""

    def forward(ids: Any, mask: Any, positions: Any, _types: Any) -> Any:
        return backbone(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state

    return forward


def _at_end(weight: Any, bias: Any, device: str) -> Callable[..., Any]:
    """Return the function that applies a linear head at the last attended token, in float32."""
    weight = weight.detach().to(device).float()
    bias = None if bias is None else bias.detach().to(device).float()

    def read(hidden: Any, mask: Any, skipped: Any) -> Any:
        torch = import_extra("torch", "torch")
        last = mask.shape[1] - 1 - mask.flip(1).argmax(1) - skipped
        picked = hidden[torch.arange(len(last), device=hidden.device), last].float()
        scores = picked @ weight[0]
        return scores if bias is None else scores + bias[0]

    return read


def _causal(config: Any) -> bool:
    """Return whether a decoder's configuration leaves its attention causal."""
    return not any(getattr(config, name, None) for name in ("use_bidirectional_attention", "is_encoder_decoder"))


def _one_output(weight: Any, source: str) -> None:
    if weight.shape[0] != 1:
        raise UserError(
            f"{source!r} gives {weight.shape[0]} numbers for a text; a reward model gives one.",
            "Name a model with num_labels = 1.",
        )


def _sequence_classification(files: Files, options: JSON, device: str) -> Network:
    auto = import_extra("transformers", "torch").AutoModelForSequenceClassification
    model = _loaded(auto, files, device, options)
    linear = import_extra("torch", "torch").nn.Linear
    if isinstance(getattr(model, "score", None), linear):
        _one_output(model.score.weight, files.source)
        read = _at_end(model.score.weight, model.score.bias, device)
        return Network(model.config, _hidden(model.base_model), read, causal=_causal(model.config))
    if model.config.num_labels != 1:
        raise UserError(
            f"{files.source!r} gives {model.config.num_labels} numbers for a text; a reward model gives one.",
            "Name a model with num_labels = 1.",
        )
    typed = getattr(model.config, "type_vocab_size", 0) > 0

    def arguments(ids: Any, mask: Any, positions: Any, types: Any) -> JSON:
        inputs = {"input_ids": ids, "attention_mask": mask}
        if positions is not None:
            inputs["position_ids"] = positions
        return inputs | ({"token_type_ids": types} if typed and types is not None else {})

    if type(model).__name__ == "DebertaV2ForSequenceClassification":
        return Network(
            model.config, lambda *batch: model.base_model(**arguments(*batch)).last_hidden_state, _at_first(model)
        )
    return Network(
        model.config,
        lambda *batch: model(**arguments(*batch)).logits[:, 0].float(),
        lambda hidden, *_: hidden,
        whole=True,
    )


def _at_first(model: Any) -> Callable[..., Any]:
    """Return the function that applies DeBERTa's pooler and classifier at the first attended token."""

    def read(hidden: Any, mask: Any, _skipped: Any) -> Any:
        torch = import_extra("torch", "torch")
        first = hidden[torch.arange(len(mask), device=hidden.device), mask.argmax(1)]
        return model.classifier(model.pooler(first[:, None]))[:, 0].float()

    return read


def _out_proj(files: Files, options: JSON, device: str) -> Network:
    """Load Open-Assistant's layout: a GPT-NeoX decoder, hidden states pooled, one linear layer with a bias."""
    transformers = import_extra("transformers", "torch")
    described = files.json("config.json")
    pooling = described.get("pooling") or "last"
    if pooling not in ("last", "mean"):
        raise UserError(f"{files.source!r} pools by {pooling!r}; 'last' and 'mean' are known.", "Name another model.")
    config = transformers.GPTNeoXConfig.from_dict(
        {key: value for key, value in described.items() if key not in ("model_type", "architectures", "pooling")}
    )
    backbone = _loaded(transformers.GPTNeoXModel, files, device, options, config)
    weight, bias = files.tensor("out_proj.weight"), files.tensor("out_proj.bias")
    _one_output(weight, files.source)
    at_end = _at_end(weight, bias, device)

    def mean(hidden: Any, mask: Any, _skipped: Any) -> Any:
        attended = mask[..., None].float()
        pooled = (hidden.float() * attended).sum(1) / attended.sum(1)
        return pooled @ weight.to(pooled)[0] + bias.to(pooled)[0]

    return Network(config, _hidden(backbone), at_end if pooling == "last" else mean, causal=True)


def _score_head(files: Files, options: JSON, device: str) -> Network:
    """Load safe-rlhf's layout: a Llama decoder, `score_head` at the last token, scaled if the configuration says so.

    With `do_normalize`, a reward is (s - mean) / (sd + 1e-8), a cost s / (sd + 1e-8), a critic's value s.
    """
    described = files.json("config.json")
    backbone = _loaded(import_extra("transformers", "torch").LlamaModel, files, device, options)
    weight = files.tensor("score_head.weight")
    _one_output(weight, files.source)
    bias = files.tensor("score_head.bias") if "score_head.bias" in files.tensor_names else None
    at_end = _at_end(weight, bias, device)
    kind = described.get("score_type", "reward")
    if not described.get("do_normalize") or kind == "critic":
        return Network(backbone.config, _hidden(backbone), at_end, causal=True)
    sd = float((described.get("var") or [1.0])[0]) ** 0.5 + 1e-8
    mean = float((described.get("mean") or [0.0])[0]) if kind == "reward" else 0.0
    return Network(backbone.config, _hidden(backbone), lambda *batch: (at_end(*batch) - mean) / sd, causal=True)
