"""The estimate before a build: requests, tokens, dollars, hours."""

from __future__ import annotations

import pytest

from personalllm.build import Rates, Recipe, estimate, measured_rates
from personalllm.build.estimate import note_rate
from personalllm.build.prompts import Prompt
from personalllm.build.responding import Response
from personalllm.core.errors import ParameterError, UserError

HEAD = 'name = "t"\nseed = 1\nreward_ensemble = "r"\nreference_response_model = "a"\n[prompts]\nfiles = ["x"]\n'


def recipe(tmp_path, a: str = "", b: str = "", sizes: str = "train = 6\ntest = 4\nspare = 2") -> Recipe:
    models = "".join(
        f'[[response_model]]\nname = "{name}"\nchat_model = "openai:{name}"\n{more}\n'
        for name, more in (("a", a), ("b", b))
    )
    (tmp_path / "r.toml").write_text(f"{HEAD}{sizes}\n{models}")
    return Recipe.read(tmp_path / "r.toml")


PROMPTS = [Prompt(f"{i}", "x" * 40, "s") for i in range(12)]


def responses(n: int, tokens: int) -> dict[str, Response]:
    return {f"{i}": Response(f"{i}", "text", "stop", tokens, 0, "") for i in range(n)}


def test_before_anything_is_there_every_response_counts_with_its_most_tokens(tmp_path):
    prices = "price_per_million_prompt_tokens = 2\nprice_per_million_new_tokens = 10\nmax_tokens = 100"
    found = estimate(recipe(tmp_path, prices, 'system = "Be kind, now."'), PROMPTS)
    a, b = found.models
    assert (a.requests, a.prompt_tokens, a.new_tokens, a.max_new_tokens) == (12, 12 * (10 + 8), 1200, 1200)
    assert b.prompt_tokens == 12 * (10 + 4 + 8)
    assert a.dollars == pytest.approx((216 * 2 + 1200 * 10) / 1e6)
    assert (b.dollars, b.max_dollars, found.dollars) == (None, None, a.dollars)
    assert found.unpriced == ("b",)
    assert (found.requests, found.scores, found.respond_hours, found.score_hours) == (24, 20, None, None)


def test_responses_that_are_there_are_not_asked_for_and_tell_the_length(tmp_path):
    prompts = [Prompt(f"{i}", "x" * 40, "s") for i in range(30)]
    made = recipe(tmp_path, "max_tokens = 100", "max_tokens = 100", "train = 20\ntest = 10")
    a, b = estimate(made, prompts, {"a": responses(10, 25), "b": responses(9, 25)}).models
    assert (a.requests, a.new_tokens, a.max_new_tokens, a.measured) == (20, 500, 2000, 10)
    assert (b.requests, b.new_tokens, b.measured) == (21, 2100, 0)
    done = estimate(made, prompts, {"a": responses(30, 25), "b": responses(30, 25)})
    assert (done.requests, done.respond_hours) == (0, 0.0)


@pytest.mark.parametrize(
    ("limit", "hours"),
    [
        ("requests_per_minute = 6", 2 / 60),
        ("tokens_per_minute = 118\nmax_tokens = 100", 12 / 60),
        ("requests_per_minute = 6\ntokens_per_minute = 118\nmax_tokens = 100", 12 / 60),
        ("requests_per_minute = 6000", 24 / 3600),
    ],
)
def test_hours_are_those_of_the_rate_but_not_less_than_the_limits_demand(tmp_path, limit, hours):
    found = estimate(recipe(tmp_path, limit), PROMPTS, rates=Rates(1.0, 2.0))
    assert found.respond_hours == pytest.approx(hours)
    assert found.score_hours == pytest.approx(10 / 3600)


def test_rates_are_added_up_over_runs_and_told_when_enough_was_measured(tmp_path):
    assert measured_rates(tmp_path) == Rates()
    note_rate(tmp_path, "respond", 6, 2.0)
    note_rate(tmp_path, "respond", 0, 9.0)
    assert measured_rates(tmp_path) == Rates()
    note_rate(tmp_path, "respond", 14, 3.0)
    note_rate(tmp_path, "scoring", 100, 4.0)
    note_rate(tmp_path, "hurried", 100, 0.5)
    assert measured_rates(tmp_path, "scoring") == Rates(4.0, 25.0)
    assert measured_rates(tmp_path, "hurried") == measured_rates(tmp_path) == Rates(4.0)
    (tmp_path / "rates.json").write_text('{"respond": 3')
    assert measured_rates(tmp_path) == Rates()


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_is_above_zero(value):
    with pytest.raises(ParameterError, match="scores_per_second must be > 0"):
        Rates(scores_per_second=value)


REACH = [
    'base_url = "http://127.0.0.1:8000/v1"',
    'api_key_env = "MY_KEY"',
    "requests_per_minute = 60",
    "tokens_per_minute = 9000.5",
    "concurrency = 4",
    "timeout = 30",
    "price_per_million_prompt_tokens = 1\nprice_per_million_new_tokens = 2",
]


def test_how_a_chat_model_is_reached_changes_neither_fingerprint_nor_journal(tmp_path):
    plain = recipe(tmp_path)
    for line in REACH:
        reached = recipe(tmp_path, line)
        assert reached != plain
        assert reached.fingerprint == plain.fingerprint
        assert reached.response_model[0].deciding == plain.response_model[0].deciding
    revised = recipe(tmp_path, 'revision = "abc"')
    assert revised.fingerprint != plain.fingerprint
    assert revised.response_model[0].deciding == plain.response_model[0].deciding | {"revision": "abc"}


@pytest.mark.parametrize("line", REACH[:-1])
def test_response_models_that_share_a_chat_model_share_its_connection(tmp_path, line):
    path = tmp_path / "r.toml"
    recipe(tmp_path, line)
    path.write_text(path.read_text().replace("openai:b", "openai:a"))
    with pytest.raises(
        UserError, match=rf"a and b share the chat model openai:a, so {line.split(' ')[0]} must be equal"
    ):
        Recipe.read(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('base_url = "https://user:secret@host/v1"', "must not carry a key"),
        ('base_url = "https://host/v1?key=secret"', "must not carry a key"),
        ('api_key_env = "sk-secret"', "'api_key_env' must be the name of an environment variable"),
        ("price_per_million_new_tokens = 2", "give both prices or none"),
        ("concurrency = 0", "'concurrency' must be 1 or more, got 0"),
        ("timeout = 0", "'timeout' must be more than 0"),
        ('api_key = "sk-1"', "there is no key 'api_key'. Did you mean 'api_key_env'"),
    ],
)
def test_a_wrong_way_to_reach_a_model_is_named_without_the_secret(tmp_path, line, message):
    with pytest.raises(UserError, match=message) as caught:
        recipe(tmp_path, line)
    assert "secret" not in str(caught.value)
