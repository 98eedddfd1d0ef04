"""A recipe: everything that decides what a built benchmark contains, read from one TOML file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from personalllm.errors import UserError
from personalllm.storage import digest
from personalllm.types import ChatRequest, Message

__all__ = ["PromptSource", "Recipe", "ResponseModel"]

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PromptSource(_Frozen):
    """Where the prompts come from and how many of them are used.

    Attributes:
        files: Glob patterns, relative to the recipe, of JSONL files with `prompt` and `subset`.
        train: Number of train prompts.
        test: Number of test prompts.
        spare: Further prompts that step in for those which some response model cannot answer.
        max_characters: Longer prompts are left out (the paper keeps prompts of at most 2,400 characters).
    """

    files: tuple[str, ...] = Field(min_length=1)
    train: int = Field(ge=0)
    test: int = Field(ge=1)
    spare: int = Field(default=0, ge=0)
    max_characters: int = Field(default=2400, ge=1)


class ResponseModel(_Frozen):
    """A response model: weights, style instruction and sampling.

    Attributes:
        name: Its name in the benchmark.
        chat_model: The chat model that writes, e.g. a name of `personalllm models list`.
        system: Style instruction, sent as the system turn; empty for none.
        temperature: 0 is greedy.
        top_p: Nucleus mass.
        top_k: Only the `top_k` most likely tokens are drawn from; 0 for no such limit.
        max_tokens: Most new tokens; a longer response is cut, and the cut is recorded.
    """

    name: Name
    chat_model: Name
    system: str = ""
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    max_tokens: int = Field(default=512, ge=1)

    def request(self, prompt: str, seed: int) -> ChatRequest:
        """Return the request that asks for a response to a prompt."""
        system = (Message("system", self.system),) if self.system else ()
        messages = (*system, Message("user", prompt))
        return ChatRequest(messages, self.max_tokens, self.temperature, self.top_p, self.top_k, seed)


class Recipe(_Frozen):
    """How a benchmark is built.

    Attributes:
        name: Name of the benchmark.
        seed: Decides the draw of the prompts, the split and every sampler.
        prompts: The prompts.
        response_model: The response models, at least two, in the order of the columns.
        reward_ensemble: The reward models that score, e.g. `compact-v1`.
        reference_response_model: The response model that win rates are counted against by default.
        attempts: How often an empty or repetitive response is drawn again before the prompt is given up.
        licence: Licence of the packed benchmark.
    """

    name: Name
    seed: int = Field(ge=0)
    prompts: PromptSource
    response_model: tuple[ResponseModel, ...] = Field(min_length=2, max_length=255)
    reward_ensemble: str
    reference_response_model: Name
    attempts: int = Field(default=3, ge=1)
    licence: str = ""

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [model.name for model in self.response_model]
        if len(set(names)) != len(names):
            raise ValueError(f"response_model names must be distinct, got {names}")
        if self.reference_response_model not in names:
            raise ValueError(f"reference_response_model must be one of {names}")
        return self

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a TOML file.

        Raises:
            UserError: If the file is absent, is not TOML, or has a wrong field; names the field.
        """
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UserError(f"There is no recipe at {path}.", "Give the path of a TOML file.") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not TOML: {error}.", "Mend the line that the message names.") from error
        except ValidationError as error:
            lines = [f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in error.errors()]
            raise UserError(f"{path} is not a recipe: {'; '.join(lines)}.", "See docs/build.md.") from None

    @property
    def fingerprint(self) -> str:
        """Digest of all fields."""
        return digest(self.model_dump(mode="json"))
