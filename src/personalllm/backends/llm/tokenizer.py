"""Count the tokens of a chat with a tokenizer on disk, for servers that cannot count them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from personalllm.core.errors import ModelFileError, UserError
from personalllm.core.registry import import_extra
from personalllm.core.types import Message

__all__ = ["ChatTokenizer"]


class ChatTokenizer:
    """Renders a chat with a model's template and counts its tokens.

    The template alone decides about special tokens, as it does in transformers and in vLLM, so a template that begins
    with the begin-of-sequence token gives exactly one. A server based on llama.cpp adds the token even where the
    template lacks it; counts are then one too low.

    Args:
        folder: Holds `tokenizer.json`, and `tokenizer_config.json` or `chat_template.jinja`, as model folders do.

    Raises:
        ModelFileError: If a file is absent or cannot be read.
        MissingExtra: If the package `tokenizers` is not installed.
    """

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder)
        package = import_extra("tokenizers", "local")
        text = self._read("tokenizer.json")
        try:
            self._tokenizer = package.Tokenizer.from_str(text)
        except Exception as error:  # the package raises nothing more precise
            raise ModelFileError(f"{self._folder / 'tokenizer.json'} cannot be read: {error}.") from error
        self._special, self._template = self._load_template()

    def count(self, messages: Sequence[Message]) -> int:
        """Return the number of tokens of the messages, the opening of the reply included."""
        return len(self.ids(messages))

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens of the messages, the opening of the reply included."""
        encoding = self._tokenizer.encode(self.render(messages), add_special_tokens=False)
        return [int(i) for i in encoding.ids]

    def render(self, messages: Sequence[Message]) -> str:
        """Return the text that the model reads.

        Raises:
            UserError: If the template refuses the messages (some know no system turn).
        """
        import jinja2

        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return str(self._template.render(messages=turns, add_generation_prompt=True, **self._special))
        except jinja2.TemplateError as error:
            raise UserError(f"The chat template in {self._folder} refuses the messages: {error}.") from None

    def _load_template(self) -> tuple[dict[str, str], Any]:
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        try:
            config = json.loads(self._read("tokenizer_config.json", "{}"))
        except ValueError as error:
            raise ModelFileError(f"{self._folder / 'tokenizer_config.json'} is not JSON: {error}.") from None
        source = self._read("chat_template.jinja", str(config.get("chat_template") or ""))
        if not source:
            raise ModelFileError(
                f"There is no chat template in {self._folder}.",
                "Put chat_template.jinja beside tokenizer.json, or use a model that has been tuned for chats.",
            )
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals.update(raise_exception=_refuse, strftime_now=_now)
        try:
            return _special_tokens(config), environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ModelFileError(f"The chat template in {self._folder} cannot be read: {error}.") from None

    def _read(self, name: str, default: str | None = None) -> str:
        path = self._folder / name
        if default is not None and not path.is_file():
            return default
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelFileError(
                f"{path} cannot be read: {error}.", "Give the folder of the model's tokenizer.json."
            ) from None


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """Return the texts of the special tokens that templates name."""
    tokens = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        token = config.get(name)
        if isinstance(token, dict):
            token = token.get("content")
        if token:
            tokens[name] = str(token)
    return tokens


def _refuse(message: str) -> NoReturn:
    import jinja2

    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
