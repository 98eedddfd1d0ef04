"""The ten reward models of the paper, and any other one: where it is, how a text is put to it, what its score means."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from personalllm.core.errors import ParameterError, PluginError, UnknownName, UserError
from personalllm.core.registry import Registry
from personalllm.core.storage import digest
from personalllm.core.types import JSON

__all__ = ["PUBLISHED", "REWARD_MODELS", "Released", "RewardEntry", "Template", "find_reward"]

Head = Literal["sequence-classification", "out-proj", "score-head"]
ReadAt = Literal["last", "before-eos"]


@dataclass(frozen=True, slots=True)
class Template:
    r"""A template that joins a prompt and a response into one text.

    Attributes:
        kind: `"chat"`: the chat template of the tokenizer, its BOS taken out and put back once; `"plain"`: `text` with
            its two places filled in; `"pair"`: two segments of a cross-encoder.
        text: Of a plain template, with `{prompt}` before `{response}`; of a chat template, Jinja instead of the
            tokenizer's own.
        end_token: Whether the text ends with the tokenizer's EOS, added if it is not there.

    Raises:
        ParameterError: If a plain template lacks a place.

    >>> Template("plain", "User: {prompt}\nAssistant: {response}").fill("{response}?", "Yes.")
    'User: {response}?\nAssistant: Yes.'
    """

    kind: Literal["chat", "plain", "pair"] = "chat"
    text: str = ""
    end_token: bool = False

    def __post_init__(self) -> None:
        before, place, after = self.text.partition("{prompt}")
        if self.kind == "plain" and not (place and "{response}" in after and "{response}" not in before):
            raise ParameterError("template", "a text with {prompt} before {response}", self.text)

    def fill(self, prompt: str, response: str) -> str:
        """Return the text of a plain template."""
        before, _, tail = self.text.partition("{prompt}")
        middle, _, after = tail.partition("{response}")
        return f"{before}{prompt}{middle}{response}{after}"


@dataclass(frozen=True, slots=True)
class Released:
    """How the code that the paper's authors published puts a text to a reward model, where that differs.

    Attributes:
        template: In place of the model's own template.
        sign: In place of the model's own sign.
        read_at: The token at which the score is read.
        note: Where it is known from.
    """

    template: Template
    sign: Literal[1, -1] = 1
    read_at: ReadAt = "last"
    note: str = ""


@dataclass(frozen=True, slots=True)
class RewardEntry:
    """One reward model.

    Attributes:
        name: Alias, the name of its scores.
        model: Name on the hub, or a folder.
        tokenizer: The same for the tokenizer; that of the model if empty.
        revision: Commit, branch or tag of the model on the hub; the newest if None.
        template: How its authors put a text to it.
        head: What turns the hidden states into a score; found from the files if None.
        sign: Factor of the score.
        dtype: Numbers that the weights are kept in unless another type is requested.
        max_tokens: Longer texts are cut; the model's own limit if None.
        parameters: Weights, in billions; 0 if not known.
        licence: As far as known; the model card decides.
        certain: What of this was checked, and against what.
        from_memory: What was not.
        released: How the published scores came about, where that is known to differ.
    """

    name: str
    model: str
    tokenizer: str = ""
    revision: str | None = None
    template: Template = Template()
    head: Head | None = None
    sign: Literal[1, -1] = 1
    dtype: str = "float32"
    max_tokens: int | None = None
    parameters: float = 0.0
    licence: str = "see the model card"
    certain: str = ""
    from_memory: str = ""
    released: Released | None = None

    @property
    def summary(self) -> JSON:
        """Return everything that determines a score besides weights and tokenizer, as JSON."""
        template = self.template
        return {
            "template": {"kind": template.kind, "text": digest(template.text), "end_token": template.end_token},
            "head": self.head,
            "sign": self.sign,
        }


_CHAT = "The release's code renders the tokenizer's chat template, takes the BOS out and lets the tokenizer add one."
_BARE = "The release's code writes 'User: ...\\nAssistant: ...' where a tokenizer has no chat template."
_USER_ASSISTANT = Template("plain", "User: {prompt}\nAssistant: {response}")
_OASST = Template("plain", "<|prompter|>{prompt}<|endoftext|><|assistant|>{response}<|endoftext|>")

BEAVER_7B = RewardEntry(
    "beaver_7b",
    "PKU-Alignment/beaver-7b-v1.0-cost",
    template=Template("plain", "BEGINNING OF CONVERSATION: USER: {prompt} ASSISTANT:{response}", end_token=True),
    head="score-head",
    sign=1,
    dtype="bfloat16",
    max_tokens=2048,
    parameters=6.61,
    licence="LLaMA derivative, non-commercial",
    certain="Hub id; layout (score_head on the last attended token) and optional scaling, from safe-rlhf as "
    "reward-bench 0.1.1 carries it; a cost model: to its authors a higher score is more harmful.",
    from_memory="The EOS at the end (safe-rlhf trains with one); the licence.",
    released=Released(
        Template("plain", _USER_ASSISTANT.text, end_token=True),
        sign=-1,
        note=f"{_BARE} reward-bench 0.1.1, which the release pins and scores through, returns the cost negated; "
        "the published mean of +6.2 over mostly harmless text fits that (to its authors harmless is below 0).",
    ),
)
GEMMA_2B = RewardEntry(
    "gemma_2b",
    "weqweasdas/RM-Gemma-2B",
    head="sequence-classification",
    dtype="bfloat16",
    max_tokens=8192,
    parameters=2.51,
    licence="Gemma terms (base model)",
    certain=f"Hub id; template. {_CHAT}",
    from_memory="Licence.",
)
GEMMA_7B = RewardEntry(
    "gemma_7b",
    "weqweasdas/RM-Gemma-7B",
    head="sequence-classification",
    dtype="bfloat16",
    max_tokens=8192,
    parameters=8.54,
    licence="Gemma terms (base model)",
    certain=f"Hub id; template. {_CHAT}",
    from_memory="Licence.",
)
LLAMA3_SFAIRX = RewardEntry(
    "llama3_sfairx",
    "sfairXC/FsfairX-LLaMA3-RM-v0.1",
    head="sequence-classification",
    dtype="bfloat16",
    max_tokens=8192,
    parameters=7.50,
    licence="CC BY-NC 4.0; Llama 3 licence (base model)",
    certain=f"Hub id; template. {_CHAT}",
    from_memory="Licence.",
)
MISTRAL_RAFT = RewardEntry(
    "mistral_raft",
    "hendrydong/Mistral-RM-for-RAFT-GSHF-v0",
    tokenizer="mistralai/Mistral-7B-Instruct-v0.2",
    head="sequence-classification",
    dtype="bfloat16",
    max_tokens=8192,
    parameters=7.11,
    licence="not stated; base model Apache-2.0",
    certain=f"Hub ids of model and tokenizer; template. {_CHAT} The card recommends another text, a rating "
    "instruction, which neither reward-bench nor the release uses.",
    from_memory="Licence. The tokenizer's template was changed after the release (spaces).",
    released=Released(
        Template(),
        read_at="before-eos",
        note="That tokenizer has no padding token, so the release sets it to EOS, and transformers 4.41 then reads the "
        "score at the token before the first EOS.",
    ),
)
MISTRAL_RAY = RewardEntry(
    "mistral_ray",
    "Ray2333/reward-model-Mistral-7B-instruct-Unified-Feedback",
    head="sequence-classification",
    dtype="bfloat16",
    max_tokens=8192,
    parameters=7.11,
    licence="MIT",
    certain=f"Hub id; licence; template. {_CHAT}",
    from_memory="The card's example has the BOS twice (template and tokenizer); it is there once here.",
)
MISTRAL_WEQWEASDAS = RewardEntry(
    "mistral_weqweasdas",
    "weqweasdas/RM-Mistral-7B",
    head="sequence-classification",
    dtype="bfloat16",
    max_tokens=8192,
    parameters=7.11,
    licence="not stated; base model Apache-2.0",
    certain=f"Hub id; template; safetensors in three shards. {_CHAT}",
    from_memory="Licence of the base model.",
)
OASST_DEBERTA_V3 = RewardEntry(
    "oasst_deberta_v3",
    "OpenAssistant/reward-model-deberta-v3-large-v2",
    template=Template("pair"),
    head="sequence-classification",
    dtype="float32",
    max_tokens=512,
    parameters=0.435,
    licence="MIT",
    certain="Hub id.",
    from_memory="Pair encoding (prompt, response) and the limit of 512 tokens, from the model card; licence.",
    released=Released(_USER_ASSISTANT, note=f"{_BARE} One segment, not a pair; cut at 8,192 tokens, not at 512."),
)
OASST_PYTHIA_1B = RewardEntry(
    "oasst_pythia_1b",
    "OpenAssistant/oasst-rm-2.1-pythia-1.4b-epoch-2.5",
    template=_OASST,
    head="out-proj",
    dtype="bfloat16",
    max_tokens=2048,
    parameters=1.31,
    licence="Apache-2.0",
    certain="Hub id; template and head (out_proj on the pooled hidden states), from Open-Assistant's code and card.",
    from_memory="Licence. Only .bin weights are published: read with torch.load(weights_only=True).",
    released=Released(_USER_ASSISTANT, note=_BARE),
)
OASST_PYTHIA_7B = RewardEntry(
    "oasst_pythia_7b",
    "OpenAssistant/oasst-rm-2-pythia-6.9b-epoch-1",
    template=_OASST,
    head="out-proj",
    dtype="bfloat16",
    max_tokens=2048,
    parameters=6.65,
    licence="Apache-2.0",
    certain="Hub id; licence; template and head, from Open-Assistant's code and card; only .bin weights are "
    "published: read with torch.load(weights_only=True).",
    from_memory="",
    released=Released(_USER_ASSISTANT, note=_BARE),
)

PUBLISHED = (
    "beaver_7b",
    "gemma_2b",
    "gemma_7b",
    "llama3_sfairx",
    "mistral_raft",
    "mistral_ray",
    "mistral_weqweasdas",
    "oasst_deberta_v3",
    "oasst_pythia_1b",
    "oasst_pythia_7b",
)
"""The paper's ten reward models, sorted: the order of the weights of its users."""

REWARD_MODELS = Registry("reward model", {name: f"{__name__}:{name.upper()}" for name in PUBLISHED})
"""`RewardEntry` by name; entry points `personalllm.reward_model` that name one add more."""


def find_reward(source: str | Path | RewardEntry) -> RewardEntry:
    """Return a registered reward model by name, or a generic entry for a folder or a name on the hub.

    A generic entry uses the tokenizer's chat template and a sequence-classification head with one output, in float32.

    Args:
        source: Alias, folder, `owner/model` on the hub, or `ALIAS=FOLDER` for an alias whose model lies in a folder.

    Raises:
        UnknownName: If it is none of them; lists the nearest aliases.
        UserError: If a folder is named that is not there.
        PluginError: If a plugin of that name is no `RewardEntry`.

    >>> find_reward("gemma_2b").model
    'weqweasdas/RM-Gemma-2B'
    >>> find_reward("someone/some-reward-model").name
    'some-reward-model'
    """
    if isinstance(source, RewardEntry):
        return source
    text = str(source)
    if text in REWARD_MODELS:
        entry = REWARD_MODELS.load(text)
        if not isinstance(entry, RewardEntry):
            raise PluginError(
                f"The reward model {text!r} is a {type(entry).__name__}.",
                "Register a personalllm.backends.reward.RewardEntry.",
            )
        return entry
    alias, equals, folder = text.partition("=")
    if equals and alias in REWARD_MODELS:
        if not Path(folder).is_dir():
            raise _no_folder(folder)
        return replace(find_reward(alias), model=folder, revision=None)
    if text.strip() and Path(text).is_dir():
        return RewardEntry(Path(text).resolve().name, text)
    if text.startswith(("/", "./", "../", "~")):
        raise _no_folder(text)
    owner, slash, name = text.partition("/")
    if isinstance(source, Path) or not (owner and slash and name) or "/" in name or text.startswith("."):
        raise UnknownName("reward model, folder or hub model", text, REWARD_MODELS)
    return RewardEntry(name, text)


def _no_folder(folder: str) -> UserError:
    return UserError(
        f"There is no folder {folder}.", "Give the folder of a model that was saved by transformers: NAME=FOLDER."
    )
