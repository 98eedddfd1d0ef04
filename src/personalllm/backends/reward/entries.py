"""The ten reward models of the paper, and any other one: where it is, how a text is put to it, what its score means."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

from personalllm.core.errors import ParameterError, PluginError, UnknownName, UserError
from personalllm.core.registry import Registry
from personalllm.core.storage import digest, shipped_tables
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


def _entry(name: str, table: JSON) -> RewardEntry:
    """Return the entry that a table of `entries.toml` describes."""
    released = table.pop("released", None)
    if released:
        table["released"] = Released(**released | {"template": Template(**released["template"])})
    return RewardEntry(name, **table | {"template": Template(**table.get("template", {}))})


_TABLES = shipped_tables("personalllm.backends.reward", "entries.toml")

PUBLISHED = tuple(_TABLES)
"""The paper's ten reward models, sorted: the order of the weights of its users."""

BUILT_IN = SimpleNamespace(**{name: _entry(name, table) for name, table in _TABLES.items()})
REWARD_MODELS = Registry("reward model", {name: f"{__name__}:BUILT_IN.{name}" for name in PUBLISHED})
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
