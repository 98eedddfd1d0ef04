"""From prompts and responses to token ids: template, one BOS, EOS where expected, cutting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import TemplateError

from personalllm.backends.reward._weights import Files
from personalllm.backends.reward.entries import ReadAt, Template
from personalllm.core.errors import ModelFileError, UserError
from personalllm.core.registry import import_extra

__all__ = ["Encoded", "Encoder", "Truncation", "load_tokenizer"]

Truncation = Literal["right", "left"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one text.

    Attributes:
        ids: Token ids, one or more.
        types: Segment of each token for a cross-encoder, else None.
        skipped: Tokens between the one at which the score is read and the last one.
        length: Tokens before cutting.
    """

    ids: list[int]
    types: list[int] | None
    skipped: int
    length: int


@dataclass(frozen=True)
class Encoder:
    """Turns texts into token ids as a reward model wants them.

    A chat template's BOS is taken out wherever it stands and put back once in front, whether the template or the
    tokenizer writes it, or both. A text that is cut keeps its last token, at which the score is read, and its BOS.

    Attributes:
        tokenizer: Of transformers.
        template: How a text is put to the model.
        read_at: The token at which the score is read.
        max_tokens: Longer texts are cut, >= 4; None never cuts.
        truncation: The side that is cut.
    """

    tokenizer: Any
    template: Template
    read_at: ReadAt = "last"
    max_tokens: int | None = None
    truncation: Truncation = "right"

    def encode(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Encoded]:
        """Return the token ids of each text.

        Raises:
            UserError: If the template is the tokenizer's and it has none or an unfit one, or a text has no token.
        """
        prompts, responses = [_valid(text) for text in prompts], [_valid(text) for text in responses]
        if self.template.kind == "pair":
            return self._pairs(prompts, responses)
        texts = [self._text(*both) for both in zip(prompts, responses, strict=True)]
        rows = self.tokenizer([text for text, _ in texts], padding=False, truncation=False, verbose=False)["input_ids"]
        encoded = []
        for (_, with_bos), row in zip(texts, rows, strict=True):
            ids = self._one_bos(list(row), expected=with_bos)
            eos = self.tokenizer.eos_token_id
            if self.template.end_token and eos is not None and ids[-1:] != [eos]:
                ids.append(eos)
            if not ids:
                raise UserError("A text has no token.", "Use a template that writes something besides the texts.")
            before_eos = self.read_at == "before-eos" and len(ids) > 1 and ids[-1] == eos
            encoded.append(Encoded(self._cut(ids), None, int(before_eos), len(ids)))
        return encoded

    def _text(self, prompt: str, response: str) -> tuple[str, bool]:
        """Return the text of the template without BOS, and whether it had one."""
        if self.template.kind == "plain":
            return self.template.fill(prompt, response), False
        if not (self.template.text or self.tokenizer.chat_template):
            raise UserError(
                f"The tokenizer of {self.tokenizer.name_or_path!r} has no chat template.",
                "Give the entry a template: RewardEntry(..., template=Template('plain', '...{prompt}...{response}')).",
            )
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        try:
            text: str = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=False, chat_template=self.template.text or None
            )
        except TemplateError as error:
            raise UserError(
                f"The chat template of {self.tokenizer.name_or_path!r} does not take a prompt and a response: {error}.",
                "Give the entry another template: RewardEntry(..., template=Template(...)).",
            ) from error
        bos = self.tokenizer.bos_token
        return (text.replace(bos, ""), text.startswith(bos)) if bos else (text, False)

    def _one_bos(self, ids: list[int], *, expected: bool) -> list[int]:
        """Return the ids with one BOS in front, or without one if neither template nor tokenizer writes it."""
        bos = self.tokenizer.bos_token_id
        if bos is None:
            return ids
        start = 0
        while start < len(ids) and ids[start] == bos:
            start += 1
        return [bos, *ids[start:]] if start or expected else ids

    def _cut(self, ids: list[int]) -> list[int]:
        if self.max_tokens is None or len(ids) <= self.max_tokens:
            return ids
        if self.truncation == "right":
            return [*ids[: self.max_tokens - 1], ids[-1]]
        head = ids[:1] if ids[0] == self.tokenizer.bos_token_id else []
        return [*head, *ids[len(ids) - self.max_tokens + len(head) :]]

    def _pairs(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Encoded]:
        """Encode two segments; the longer of the two is cut first, the marks between them stay."""
        encodings = self.tokenizer(
            list(prompts), list(responses), padding=False, truncation=False, return_token_type_ids=True, verbose=False
        )
        encoded = []
        for row, ids in enumerate(encodings["input_ids"]):
            found = {"input_ids": ids, "token_type_ids": encodings["token_type_ids"][row]}
            if self.max_tokens is not None and len(ids) > self.max_tokens:
                self.tokenizer.truncation_side = self.truncation
                found = self.tokenizer(
                    prompts[row],
                    responses[row],
                    truncation="longest_first",
                    max_length=self.max_tokens,
                    return_token_type_ids=True,
                )
            encoded.append(Encoded(list(found["input_ids"]), list(found["token_type_ids"]), 0, len(ids)))
        return encoded


def _valid(text: str) -> str:
    """Return a text in which what is no valid Unicode (a lone surrogate) is `?`: tokenizers refuse it."""
    return text.encode("utf-8", "replace").decode()


def load_tokenizer(files: Files) -> Any:
    """Load a tokenizer of transformers from files.

    Raises:
        ModelFileError: If they are missing or damaged.
    """
    transformers = import_extra("transformers", "torch")
    registered = files.json("config.json").get("model_type") in transformers.CONFIG_MAPPING
    kind = transformers.AutoTokenizer if registered else transformers.PreTrainedTokenizerFast
    try:
        return kind.from_pretrained(str(files.folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelFileError(
            f"The tokenizer of {files.source!r} cannot be loaded: {first}",
            "The folder needs tokenizer.json and tokenizer_config.json.",
        ) from error
