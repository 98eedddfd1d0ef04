"""Read a recipe: one TOML file with everything that determines a built benchmark."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from personalllm.build._recipe_words import explain, hint, language_fault
from personalllm.core.errors import UserError
from personalllm.core.storage import digest
from personalllm.core.types import JSON, ChatRequest, Message

__all__ = ["NearDuplicates", "PromptReader", "PromptSource", "Recipe", "ResponseModel", "Source"]

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
ChatModelName = Annotated[str, Field(pattern=r"^\S(.*\S)?$")]
Text = Annotated[str, Field(min_length=1)]
PromptReader = Literal["hh-rlhf", "helpsteer", "rewardbench", "alpacaeval", "jsonl", "csv", "parquet"]
_PLAIN = ("jsonl", "csv", "parquet")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NearDuplicates(_Frozen):
    """When two prompts count as the same.

    Attributes:
        method: `"minhash"` compares sets of five characters, `"embedding"` compares vectors.
        threshold: Jaccard similarity of the sets (.8 by default) or cosine of the vectors (.95 by default) from which
            on the later of two prompts is left out.
        permutations: Length of a MinHash signature; more finds more of the pairs near the threshold.
        embedder: Who makes the vectors: a name that the command line knows.
    """

    method: Literal["minhash", "embedding"] = "minhash"
    threshold: float = Field(default=0.0, ge=0, le=1)
    permutations: int = Field(default=128, ge=16, le=1024)
    embedder: Text = "minilm-l6-int8"

    @model_validator(mode="after")
    def _default_threshold(self) -> Self:
        if "threshold" not in self.model_fields_set:
            object.__setattr__(self, "threshold", 0.8 if self.method == "minhash" else 0.95)
        if not self.threshold:
            raise ValueError("threshold must be above 0")
        return self


def _shown(pattern: str) -> str:
    """Return a pattern for tables and cards: of a place outside the recipe's folder no more than the last two parts.

    >>> _shown("data/*.jsonl"), _shown("/home/ann/corpus/mine/a.csv")
    ('data/*.jsonl', 'mine/a.csv')
    """
    path = Path(pattern)
    if not path.is_absolute() and path.parts[:1] not in (("~",), ("..",)):
        return pattern
    return "/".join([part for part in path.parts if part not in (path.anchor, "..", "~")][-2:])


class Source(_Frozen):
    """Files of one kind that hold prompts.

    Attributes:
        reader: How the files are read.
        files: Glob patterns, relative to the recipe.
        name: What the tables call the source; made of reader and first pattern if empty.
        subset: Subset of every prompt of this source; empty to take what the rows (or hh-rlhf's file names) say.
        only: Rows of these subsets alone are read, by the name that the rows use; empty for all.
        columns: What the files call `prompt` and `subset`, e.g. `{prompt = "question"}`.
        limit: Maximum number of usable prompts to keep, drawn with the seed; 0 for all.
        licence: Licence of the prompts, for the data card.
    """

    reader: PromptReader
    files: tuple[Text, ...] = Field(min_length=1)
    name: str = ""
    subset: str = ""
    only: tuple[str, ...] = ()
    columns: dict[Literal["prompt", "subset"], Text] = {}
    limit: int = Field(default=0, ge=0)
    licence: str = ""

    @model_validator(mode="after")
    def _columns(self) -> Self:
        if self.columns and self.reader not in _PLAIN:
            raise ValueError(f"columns is for the readers {', '.join(_PLAIN)}; {self.reader} knows its columns")
        if self.subset and "subset" in self.columns:
            raise ValueError("give subset or columns.subset, not both")
        return self

    @property
    def label(self) -> str:
        """The name of the source in tables."""
        return self.name or f"{self.reader} {_shown(self.files[0])}"


class PromptSource(_Frozen):
    """Where the prompts come from and how many of them are used.

    Attributes:
        files: Glob patterns, relative to the recipe, of JSONL files with `prompt` and `subset`; short for a `source`.
        source: The sources; a prompt that stands in several counts for the first.
        train: Number of train prompts.
        test: Number of test prompts.
        spare: Further prompts that step in for those which some response model cannot answer.
        min_characters: Shorter prompts are left out.
        max_characters: Longer prompts are left out (the paper keeps prompts of at most 2,400 characters).
        near_duplicates: When two prompts count as the same; None to compare whole texts only. A number is short for
            MinHash with that threshold.
        languages: Prompts that are surely in another language are left out, e.g. `["en"]`; empty for no check.
        language_confidence: How sure the detector must be, in (0, 1].
    """

    files: tuple[Text, ...] = ()
    source: tuple[Source, ...] = ()
    train: int = Field(ge=0)
    test: int = Field(ge=1)
    spare: int = Field(default=0, ge=0)
    min_characters: int = Field(default=1, ge=1)
    max_characters: int = Field(default=2400, ge=1)
    near_duplicates: NearDuplicates | None = None
    languages: tuple[str, ...] = ()
    language_confidence: float = Field(default=0.5, gt=0, le=1)

    @field_validator("near_duplicates", mode="before")
    @classmethod
    def _threshold(cls, value: object) -> object:
        return {"threshold": value} if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("languages")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        faults = [fault for fault in map(language_fault, value) if fault]
        if faults:
            raise ValueError("; ".join(faults))
        return value

    @model_validator(mode="after")
    def _some_files(self) -> Self:
        if not self.files and not self.source:
            raise ValueError("give files or at least one [[prompts.source]]")
        if self.min_characters > self.max_characters:
            raise ValueError("min_characters must not exceed max_characters")
        labels = [source.label for source in self.sources]
        if len(set(labels)) != len(labels):
            raise ValueError(f"sources must have distinct names, got {labels}: set name")
        return self

    @property
    def sources(self) -> tuple[Source, ...]:
        """All sources, `files` first."""
        plain = (Source(reader="jsonl", files=self.files, name=_shown(self.files[0])),) if self.files else ()
        return (*plain, *self.source)

    def location(self, at: int) -> str:
        """Return which key names the files of a source, by its place in `sources`.

        >>> PromptSource(files=("a",), source=({"reader": "csv", "files": ("b",)},), train=1, test=1).place(1)
        '`files` of source 1'
        """
        return f"`files` of source {at + (not self.files)}" if at or not self.files else "`files` of [prompts]"

    @property
    def wanted(self) -> int:
        """Number of prompts to draw: train, test and spare."""
        return self.train + self.test + self.spare


class ResponseModel(_Frozen):
    """A response model: weights, style instruction and sampling, and how it is reached.

    Response models with the same `chat_model` share one connection, so what describes it must be equal.

    Attributes:
        name: Its name in the benchmark.
        chat_model: The chat model that writes: a name of `personalllm models list`, `openai:MODEL` for a server,
            `vllm:MODEL_OR_PATH`, or `module:factory`.
        system: Style instruction, sent as the system turn; empty for none.
        temperature: 0 is greedy.
        top_p: Nucleus mass.
        top_k: Sample from the `top_k` most likely tokens only; 0 for no limit.
        max_tokens: Maximum number of new tokens; a longer response is cut, and the cut is recorded.
        revision: What fixes the weights: a commit or a digest.
        base_url: Address of the server; `$OPENAI_BASE_URL` if empty.
        api_key_env: Name of the environment variable that holds the key; `OPENAI_API_KEY` if empty.
        requests_per_minute: Maximum number of requests in a minute; 0 for no limit.
        tokens_per_minute: Maximum number of tokens in a minute, prompts and responses together; 0 for no limit.
        concurrency: Maximum number of requests under way at once; None for the default.
        timeout: Maximum number of seconds without a byte from the server; None for the default.
        price_per_million_prompt_tokens: Dollars; None if unknown.
        price_per_million_new_tokens: Dollars; None if unknown.
    """

    name: Name
    chat_model: ChatModelName
    system: str = ""
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    max_tokens: int = Field(default=512, ge=1)
    revision: str = ""
    base_url: str = ""
    api_key_env: str = Field(default="", pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")
    requests_per_minute: float = Field(default=0, ge=0)
    tokens_per_minute: float = Field(default=0, ge=0)
    concurrency: int | None = Field(default=None, ge=1)
    timeout: float | None = Field(default=None, gt=0)
    price_per_million_prompt_tokens: float | None = Field(default=None, ge=0)
    price_per_million_new_tokens: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _reach(self) -> Self:
        if "@" in self.base_url.partition("?")[0] or "?" in self.base_url:
            raise ValueError("base_url must not carry a key; name its environment variable in api_key_env")
        if (self.price_per_million_prompt_tokens is None) != (self.price_per_million_new_tokens is None):
            raise ValueError("give both prices or none (0 if it is free)")
        return self

    @property
    def deciding(self) -> JSON:
        """The fields that decide its texts besides the chat model's own identity; how it is reached is left out."""
        fields = self.model_dump(mode="json", exclude=set(_CONNECTION) - {"revision"})
        return {name: value for name, value in fields.items() if name != "revision" or value}

    @property
    def connection(self) -> JSON:
        """The fields that say how the chat model is reached."""
        return self.model_dump(mode="json", include=set(_CONNECTION[:_SHARED]))

    def request(self, prompt: str, seed: int) -> ChatRequest:
        """Return the request that asks for a response to a prompt."""
        system = (Message("system", self.system),) if self.system else ()
        messages = (*system, Message("user", prompt))
        return ChatRequest(messages, self.max_tokens, self.temperature, self.top_p, self.top_k, seed)


_CONNECTION = (
    "revision",
    "base_url",
    "api_key_env",
    "requests_per_minute",
    "tokens_per_minute",
    "concurrency",
    "timeout",
    "price_per_million_prompt_tokens",
    "price_per_million_new_tokens",
)
_SHARED = 7  # the prices may differ between response models that share a connection


class Recipe(_Frozen):
    """The recipe of a benchmark.

    Attributes:
        name: Name of the benchmark.
        seed: Decides the draw of the prompts, the split and every sampler.
        prompts: The prompts.
        response_model: The response models, at least two, in the order of the columns.
        reward_ensemble: The reward models that score: `compact-v2`, `published`, a list of published models, or
            `module:factory`.
        reference_response_model: The response model that win rates are counted against by default.
        attempts: How often an empty or repetitive response is drawn again before the prompt is given up.
        licence: Licence of the packed benchmark.
    """

    name: Name
    seed: int = Field(ge=0)
    prompts: PromptSource
    response_model: tuple[ResponseModel, ...] = Field(min_length=2, max_length=255)
    reward_ensemble: Text | Annotated[tuple[Text, ...], Field(min_length=1)]
    reference_response_model: Name
    attempts: int = Field(default=3, ge=1)
    licence: str = ""

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [model.name for model in self.response_model]
        if len(set(names)) != len(names):
            raise ValueError(f"response_model names must be distinct, got {names}")
        if self.reference_response_model not in names:
            wanted = self.reference_response_model
            raise ValueError(f"reference_response_model: no response model named {wanted!r}. {hint(wanted, names)}")
        reached: dict[str, tuple[str, JSON]] = {}
        for model in self.response_model:
            first, connection = reached.setdefault(model.chat_model, (model.name, model.connection))
            unequal = [field for field, value in model.connection.items() if value != connection[field]]
            if unequal:
                raise ValueError(
                    f"{first} and {model.name} share the chat model {model.chat_model}, so {', '.join(unequal)} must "
                    "be equal"
                )
        return self

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a TOML file.

        Raises:
            UserError: If the file is absent, is not TOML, or has a wrong field; names the field.
        """
        data: JSON = {}
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
            return cls.model_validate(data)
        except FileNotFoundError:
            raise UserError(f"There is no recipe at {path}.", "Give the path of a TOML file.") from None
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}.", "Give the path of a TOML file.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not TOML: {error}.", "Fix the line that the message names.") from error
        except ValidationError as error:
            faults = [line if line[-1] in ".?" else f"{line}." for line in explain(error, data, cls)]
            text = f" {faults[0]}" if len(faults) == 1 else "".join(f"\n  - {fault}" for fault in faults)
            raise UserError(f"{path} is not a recipe:{text}", "The keys of a recipe: docs/build.md") from None

    @property
    def fingerprint(self) -> str:
        """Digest of all that decides the contents; an address, a speed or a price is not part of it."""
        fields = self.model_dump(mode="json", exclude={"prompts", "response_model"})
        fields["prompts"] = self.drawing
        fields["response_model"] = [model.deciding for model in self.response_model]
        return digest(fields)

    @property
    def drawing(self) -> JSON:
        """The fields that decide the prompts; those that came later only where they differ from their default."""
        always = {"files", "train", "test", "spare", "max_characters"}
        dumped = self.prompts.model_dump(mode="json")
        set_later = set(self.prompts.model_dump(mode="json", exclude_defaults=True))
        return {name: value for name, value in dumped.items() if name in always | set_later}
