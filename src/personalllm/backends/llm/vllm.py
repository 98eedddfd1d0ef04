"""A chat model that runs in this process with vLLM (extra `vllm`)."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Literal

from personalllm.backends.llm._base import BatchChatModel, turns
from personalllm.core.errors import MissingExtra, ModelFileError, ParameterError, RunError
from personalllm.core.protocols import Done, Failed
from personalllm.core.storage import canonical_json, digest
from personalllm.core.types import ChatReply, ChatRequest, Message

__all__ = ["VLLMChatModel"]

_RESERVED = frozenset(("model", "revision", "max_model_len", "trust_remote_code", "hf_token", "skip_tokenizer_init"))
_SPEED_ONLY = frozenset(("gpu_memory_utilization", "max_num_seqs", "max_num_batched_tokens", "swap_space"))
_SEEDS = 2**63
_ENGINES: dict[str, Any] = {}
_LOCK = threading.Lock()


class VLLMChatModel(BatchChatModel):
    """Answers chats with vLLM's offline engine, a whole batch in one call.

    The engine is started when it is first needed, once for each process and setting, and serves the model's own chat
    template. Every request has its own seed; temperature 0 is greedy decoding. The numbers of an accelerator may depend
    on what else is in the batch, so a text is reproducible as far as the engine is (see vLLM on batch invariance); the
    journals of a build keep what was drawn.

    Args:
        model: A folder, or a name on the hub.
        revision: Commit of the weights; part of the identity.
        context_length: Maximum tokens of prompt and reply together; as the model's configuration says if None.
        engine: Further keyword arguments of `vllm.LLM`, e.g. `{"tensor_parallel_size": 2, "dtype": "bfloat16"}`. Code
            that comes with weights is never run.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        context_length: int | None = None,
        engine: Mapping[str, Any] | None = None,
    ) -> None:
        if not model:
            raise ParameterError("model", "a folder or a name on the hub", model)
        if context_length is not None and context_length < 1:
            raise ParameterError("context_length", ">= 1 token", context_length)
        self._settings = dict(engine or {})
        reserved = sorted(_RESERVED & set(self._settings))
        if reserved:
            raise ParameterError("engine", f"free of {', '.join(sorted(_RESERVED))}", reserved)
        try:
            canonical_json(self._settings)
        except (TypeError, ValueError):
            raise ParameterError("engine", "JSON values", self._settings) from None
        self._arguments = {
            "model": model,
            "revision": revision,
            "context_length": context_length,
            "engine": self._settings,
        }
        self._model = model
        self._revision = revision
        self._given_length = context_length

    def __repr__(self) -> str:
        return f"VLLMChatModel({self._model!r})"

    def require(self) -> None:
        """Raise `MissingExtra` if vLLM is not installed; it is not imported, which takes long."""
        if find_spec("vllm") is None:
            raise MissingExtra("vllm", "vllm")

    @property
    def name(self) -> str:
        """The folder or the name on the hub."""
        return self._model

    @property
    def identity(self) -> str:
        """Name, and a digest of revision, engine version and the settings that can change a text.

        A folder's weights are not read: give `revision` where results are to be compared.
        """
        parts = {
            "runtime": f"vllm {_vllm().__version__}",
            "revision": self._revision or "",
            "context_length": self._given_length,
            "engine": {name: value for name, value in self._settings.items() if name not in _SPEED_ONLY},
        }
        return f"{self._model}@{digest(parts)}"

    @property
    def context_length(self) -> int:
        """Maximum tokens of prompt and reply together, as the engine was started with."""
        engine = self._engine()
        config = getattr(engine, "model_config", None) or engine.llm_engine.model_config
        return int(config.max_model_len)

    def chat_some(self, requests: Sequence[ChatRequest], done: Done, failed: Failed) -> None:
        """Answer what can be answered, in one call of the engine; a prompt that is too long is left out of it.

        Raises:
            MissingExtra: If vLLM is not installed.
            ModelFileError: If the model cannot be loaded.
            RunError: If the engine fails.
        """
        if not requests:
            return
        fitting, limit = [], self.context_length
        for i, request in enumerate(requests):
            used = self.count_tokens(request.messages)
            if used < limit:
                fitting.append(i)
            elif not failed(i, "refused request", _too_long(used, limit)):
                return
        if not fitting:
            return
        sampling = _vllm().SamplingParams
        try:
            outputs = self._engine().chat(
                [turns(requests[i].messages) for i in fitting],
                [sampling(**_sampling(requests[i])) for i in fitting],
                use_tqdm=False,
            )
        except (RuntimeError, ValueError) as error:
            raise RunError(
                f"vLLM failed on {self._model}: {' '.join(str(error).split())[:400]}.",
                "See its log above; lower gpu_memory_utilization or max_num_seqs if memory ran out.",
            ) from error
        if len(outputs) != len(fitting):
            raise RunError(f"vLLM gave {len(outputs)} replies to {len(fitting)} requests.")
        for i, output in zip(fitting, outputs, strict=True):
            done(i, _reply(output), "model")

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Return the number of tokens of the messages, rendered with the model's own chat template."""
        tokenizer = self._engine().get_tokenizer()
        rendered = tokenizer.apply_chat_template(turns(messages), add_generation_prompt=True, tokenize=True)
        tokens = rendered["input_ids"] if isinstance(rendered, Mapping) else rendered
        return len(tokens)

    def _engine(self) -> Any:
        """Return the engine of this process, started if need be."""
        key = digest([self._model, self._revision, self._given_length, self._settings], 32)
        with _LOCK:
            if key not in _ENGINES:
                further = {} if self._given_length is None else {"max_model_len": self._given_length}
                try:
                    _ENGINES[key] = _vllm().LLM(
                        model=self._model,
                        revision=self._revision,
                        trust_remote_code=False,
                        **further,
                        **self._settings,
                    )
                except (OSError, RuntimeError, ValueError) as error:
                    raise ModelFileError(
                        f"vLLM cannot load {self._model}: {' '.join(str(error).split())[:400]}.",
                        "Give the folder of the weights or their name on the hub, and settings that fit this machine.",
                    ) from error
            return _ENGINES[key]


def _vllm() -> Any:
    """Return the package `vllm`.

    Raises:
        MissingExtra: If it is not installed.
        RunError: If it is, but does not fit this machine.
    """
    try:
        import vllm
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "vllm":
            raise MissingExtra("vllm", "vllm") from None
        raise RunError(
            f"vLLM is installed but cannot be imported: {' '.join(str(error).split())[:400]}.",
            "Install the vLLM that fits the torch and the accelerator of this machine.",
        ) from error
    return vllm


def _sampling(request: ChatRequest) -> dict[str, Any]:
    """Return the sampling parameters of a request; all are set, so the model's own defaults play no part."""
    return {
        "n": 1,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p if request.temperature else 1.0,
        "top_k": request.top_k if request.temperature else 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "seed": request.seed % _SEEDS,
    }


def _reply(output: Any) -> ChatReply:
    """Turn a request output of the engine into a reply."""
    first = output.outputs[0]
    if first.finish_reason not in ("stop", "length"):
        raise RunError(f"vLLM ended a reply with {first.finish_reason!r}.", "See its log above.")
    kind: Literal["stop", "length"] = first.finish_reason
    cached = int(getattr(output, "num_cached_tokens", None) or 0)
    return ChatReply(first.text.strip(), kind, len(output.prompt_token_ids), len(first.token_ids), cached)


def _too_long(used: int, limit: int) -> RunError:
    return RunError(
        f"A prompt of {used} tokens does not fit into a context of {limit}.",
        "Shorten it, or give a larger context_length.",
    )
