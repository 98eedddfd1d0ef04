"""Saving, loading, named users, and fitting from the front door."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

import personalllm as pl
from personalllm.core.errors import ParameterError, UserError
from personalllm.core.storage import digest
from personalllm.core.types import Corpus, Histories, Queries
from personalllm.methods import EmbeddingRanker, HierarchicalBT, Longest, PReF, load_method
from personalllm.methods.state import read_note, read_state, write_state
from personalllm.testing import EchoChatModel, HashEmbedder

EMBEDDER = HashEmbedder(16)


@pytest.fixture
def pool(make_histories):
    return make_histories([6, 5, 7, 4], "pool")


@pytest.fixture
def fitted(pool):
    return HierarchicalBT(n_features=6, steps=3).fit(pool, embedder=EMBEDDER)


@dataclass(frozen=True)
class Inner:
    vectors: np.ndarray
    label: str = "x"


@dataclass
class Odd(pl.Method):
    """Learns one of everything that can be written."""

    id = "odd"
    learned: object = None

    def fit(self, pool):
        self.value_ = self.learned
        return self

    def utilities(self, queries):
        return np.zeros((len(queries), queries.corpus.n_responses), np.float32)


EVERYTHING = {
    "none": None,
    "numbers": [1, -2.5, True, float("inf"), float("-inf")],
    "tuple": (np.float32(0.1), np.int64(3), ("a", "ü\ud83d")),
    "dict": {"a.b": {"c": np.arange(6).reshape(2, 3).T}},
    "empty": [np.zeros((0, 3), np.float32), [], {}, ()],
    "bools": np.array([True, False]),
    "scalar array": np.array(2.0),
    "big-endian": np.arange(3, dtype=">i4"),
    "inner": Inner(np.eye(2, dtype=np.float16)),
    "names": np.array([2**64 - 1], dtype=np.uint64),
}


def same(a, b):
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Inner):
        return a.label == b.label and same(a.vectors, b.vectors)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype.newbyteorder("=") and a.shape == b.shape and np.array_equal(a, b)
    return type(a) is type(b) and a == b


def test_everything_that_can_be_learned_comes_back_as_it_was(tmp_path):
    write_state(tmp_path / "saved", {}, {"it": EVERYTHING}, __name__)
    assert same(read_state(tmp_path / "saved", read_note(tmp_path / "saved"), __name__)["it"], EVERYTHING)


@pytest.mark.parametrize(
    "value",
    [lambda: 0, {1: 2}, object(), {"deep": [b"bytes"]}, SimpleNamespace(), {3}],
    ids=["function", "dict", "object", "bytes", "namespace", "set"],
)
def test_what_cannot_be_saved_is_named(value, pool, tmp_path):
    with pytest.raises(
        UserError, match=r"attribute 'value_(\.deep\.0)?' cannot be saved: it is of type .* Learn arrays"
    ):
        Odd().restore({"value_": value}).save(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_a_dataclass_of_a_strange_module_is_neither_written_nor_built(tmp_path):
    with pytest.raises(UserError, match="cannot be saved"):
        write_state(tmp_path / "a", {}, {"x": EVERYTHING["inner"]}, "another.module")
    write_state(tmp_path / "b", {}, {"x": EVERYTHING["inner"]}, __name__)
    with pytest.raises(UserError, match="not of its module or this package"):
        read_state(tmp_path / "b", read_note(tmp_path / "b"), "another.module")


def test_a_loaded_method_is_fitted_and_knows_no_user(fitted, tmp_path, make_histories, make_queries):
    targets, queries = make_histories([3, 2], "targets"), make_queries([0, 1, 1], [25, 26, 27], 2)
    before = fitted.adapt(targets).utilities(queries)
    fitted.user("ann").update("p", chosen="a", rejected="b")
    assert fitted.save(tmp_path / "taste") is fitted
    loaded = pl.load_method(tmp_path / "taste", embedder=EMBEDDER)
    assert loaded == fitted
    assert not any(name.startswith("user_") for name in vars(loaded))
    assert loaded.user("ann").preferences == ()
    assert np.array_equal(loaded.adapt(targets).utilities(queries), before)
    assert sorted(path.name for path in (tmp_path / "taste").iterdir()) == ["arrays.safetensors", "method.json"]


def test_saving_again_replaces_a_saved_method_and_nothing_else(fitted, pool, tmp_path):
    fitted.save(tmp_path / "taste").save(tmp_path / "taste")
    Longest().fit(pool).save(tmp_path / "taste")
    assert load_method(tmp_path / "taste") == Longest()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("do not lose me")
    with pytest.raises(UserError, match="exists and holds no saved method"):
        fitted.save(tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "taste"]


def test_a_failed_write_leaves_the_old_method(fitted, tmp_path, monkeypatch):
    fitted.save(tmp_path / "taste")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr("personalllm.methods.state.write_json", full)
    with pytest.raises(OSError, match="disk full"):
        fitted.save(tmp_path / "taste")
    monkeypatch.undo()
    assert load_method(tmp_path / "taste", embedder=EMBEDDER) == fitted
    assert [path.name for path in tmp_path.iterdir()] == ["taste"]


def test_damage_is_named(fitted, tmp_path):
    folder = tmp_path / "taste"

    def damaged(name, change):
        fitted.save(folder)
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(change(data))
        with pytest.raises(UserError) as caught:
            load_method(folder, embedder=EMBEDDER)
        return str(caught.value)

    with pytest.raises(UserError, match=r"no saved method in .*: method\.json is missing"):
        load_method(folder)
    assert "arrays.safetensors is damaged" in damaged("arrays.safetensors", lambda data: data[:-1] + b"\x01")
    assert "method.json is damaged" in damaged("method.json", lambda data: data[:40])
    assert "was edited" in damaged("method.json", lambda data: data.replace(b'"steps": 3', b'"steps": 4'))
    assert "has format 2; this version" in damaged("method.json", lambda d: d.replace(b'"format": 1', b'"format": 2'))
    fitted.save(folder)
    (folder / "arrays.safetensors").unlink()
    with pytest.raises(UserError, match=r"arrays\.safetensors is missing"):
        load_method(folder, embedder=EMBEDDER)


def test_another_embedder_is_refused(fitted, tmp_path):
    fitted.save(tmp_path / "taste")
    with pytest.raises(UserError, match=r"fitted with the embedder 'hash-stand-in' \(hash-stand-in-16\), not with"):
        load_method(tmp_path / "taste", embedder=HashEmbedder(17))
    with pytest.raises(UserError, match=r"'hash-stand-in', which is not found by that name.*embedder="):
        load_method(tmp_path / "taste")


def test_a_class_that_cannot_be_imported_is_passed(pool, tmp_path):
    @dataclass
    class Local(Odd):
        id = "local"

    Local(learned=[1.5]).fit(pool).save(tmp_path / "own")
    with pytest.raises(UserError, match=r"is not imported.*neither built in nor.*cls=MyMethod"):
        load_method(tmp_path / "own")
    assert load_method(tmp_path / "own", cls=Local).value_ == [1.5]


def edited(folder, **changes):
    """Change the note of a saved method as an attacker would, who writes a digest that matches."""
    note = json.loads((folder / "method.json").read_text())
    note = {key: value for key, value in (note | changes).items() if key != "digest" and value is not ...}
    (folder / "method.json").write_text(json.dumps(note | {"digest": digest(note, 64)}))
    return folder


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module in the working folder that leaves a file when it is imported."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "evil_module.py").write_text("open('ran', 'w').close()\nX = f = dict\n")
    yield tmp_path / "here" / "ran"
    sys.modules.pop("evil_module", None)


@pytest.mark.parametrize("name", ["evil", "evil_module:X", "longest"])
def test_a_folder_cannot_choose_a_class_to_import(name, pool, tmp_path, evil):
    Longest().fit(pool).save(tmp_path / "taste")
    edited(tmp_path / "taste", **{"class": "evil_module:X", "method": {"id": name, "params": {}}})
    with pytest.raises(UserError, match=r"'evil_module:X' of the saved method is not imported.*cls=MyMethod"):
        load_method(tmp_path / "taste")
    assert not evil.exists()


@pytest.mark.parametrize("need", ["embedder", "llm"])
@pytest.mark.parametrize("name", ["evil_module:f", "openai:gpt"])
def test_a_folder_cannot_choose_a_backend_to_build(need, name, pool, tmp_path, evil, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    method = HierarchicalBT(n_features=6, steps=3) if need == "embedder" else pl.methods.SelfICL()
    method.fit(pool, embedder=EMBEDDER, llm=EchoChatModel()).save(tmp_path / "taste")
    edited(tmp_path / "taste", backends={need: {"name": name, "identity": "x"}})
    message = rf"'{name}', which is not a registered name.*load_method\(path, {need}=\.\.\.\)"
    with pytest.raises(UserError, match=message):
        load_method(tmp_path / "taste")
    assert not evil.exists()


def test_the_class_that_is_passed_is_the_saved_one(pool, tmp_path):
    Odd(learned=[1]).fit(pool).save(tmp_path / "odd")
    with pytest.raises(UserError, match=r"holds the method 'odd', but cls=Longest has the id 'longest'"):
        load_method(tmp_path / "odd", cls=Longest)
    with pytest.raises(UserError, match=r"cls must be a subclass of personalllm\.Method"):
        load_method(tmp_path / "odd", cls=dict)


@pytest.mark.parametrize(
    "changes",
    [
        {"class": ...},
        {"backends": ...},
        {"backends": {}},
        {"backends": {"embedder": {"name": "hash-stand-in"}}},
        {"method": {"id": "hierarchical-bt"}},
        {"state": ...},
        {"state": {"x_": {"array": "99 unknown"}}},
        {"state": {"x_": {}}},
    ],
)
def test_a_note_without_what_save_writes_is_damaged(changes, fitted, tmp_path):
    fitted.save(tmp_path / "taste")
    with pytest.raises(UserError, match=r"method\.json is damaged: .*Save the method again"):
        load_method(edited(tmp_path / "taste", **changes), embedder=EMBEDDER)


def test_saving_deletes_nothing_but_a_saved_method(fitted, tmp_path, monkeypatch):
    folder = tmp_path / "taste"
    fitted.save(folder)
    (folder / "README.md").write_text("do not lose me")
    (folder / ".git").mkdir()
    with pytest.raises(UserError, match=r"more than a saved method, and saving would delete it: \.git, README\.md"):
        fitted.save(folder)
    assert (folder / "README.md").read_text() == "do not lose me"
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError, match=r"empty is the working folder.*inside it"):
        fitted.save(".")
    fitted.save("../empty/../new/.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "new", "taste"]
    (tmp_path / "link").symlink_to(tmp_path / "new")
    Longest().fit(Histories(RAGGED, 1, [0], [0], [0], [1])).save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert load_method(tmp_path / "new") == Longest()


def test_an_unfitted_method_is_not_saved(tmp_path):
    with pytest.raises(UserError, match=r"'hierarchical-bt' is not fitted.*fit\(\)"):
        HierarchicalBT().save(tmp_path / "taste")


def test_fit_takes_preferences_names_and_objects(pool):
    prefs = SimpleNamespace(histories=pool, users=("a", "b", "c", "d"))
    assert EmbeddingRanker().fit(prefs, embedder=EMBEDDER).embedder is EMBEDDER
    assert EmbeddingRanker().fit(pool, embedder=EMBEDDER, seed=5).seed == 5
    method = EmbeddingRanker().bind(embedder=EMBEDDER, seed=7)
    assert method.fit(pool, llm=EchoChatModel()).embedder is EMBEDDER
    assert method.seed == 7
    with pytest.raises(UserError, match="no embedder named 'minilm'"):
        EmbeddingRanker().fit(pool, embedder="minilm")
    with pytest.raises(UserError, match=r"has no embedder\. Pass embedder='minilm-l6-int8' to fit"):
        EmbeddingRanker().fit(pool)
    with pytest.raises(UserError, match=r"cannot learn from a list.*Preferences\.from_rows"):
        EmbeddingRanker().fit([{"user": "ann"}], embedder=EMBEDDER)
    assert Odd().fit(prefs, embedder=EMBEDDER).embedder is EMBEDDER


def test_named_users_are_updated_in_any_order_and_forget_nothing(fitted, make_histories, make_queries):
    targets = make_histories([4, 3], "targets")
    corpus = targets.corpus
    queries = make_queries([0, 1], [25, 25], 2)
    batch = fitted.adapt(targets).utilities(queries)
    rows = sorted(range(len(targets)), key=lambda i: i - targets.offsets[targets.user[i]])
    for i in rows:
        shown = corpus.responses[targets.prompt[i]]
        texts = {"chosen": shown[targets.chosen[i]], "rejected": shown[targets.rejected[i]]}
        user = fitted.user(("ann", "Zoë \U0001f680")[targets.user[i]])
        assert user.update(corpus.prompts[targets.prompt[i]], **texts) is user
        user.rank("between", ["one", "two"])
    for name, expected in zip(("ann", "Zoë \U0001f680"), batch, strict=True):
        user = fitted.user(name)
        assert user.utilities(corpus.prompts[25], corpus.responses[25]) == pytest.approx(expected, abs=1e-6)
        for i, text in enumerate(corpus.responses[25]):
            assert user.utilities("p", [text, "other"])[0] - user.utilities("p", ["other", text])[1] == pytest.approx(0)
            assert i in user.rank(corpus.prompts[25], corpus.responses[25])
    assert len(fitted.user("ann").preferences) == 4
    assert fitted.adapt(targets).utilities(queries) == pytest.approx(batch, abs=1e-6)


def test_preferences_are_copies_that_rebuild_the_user(fitted):
    ann = fitted.user("ann").update("p", chosen="a b", rejected="c", shown=["c", "a b", "d"])
    rows = ann.preferences
    assert rows == ({"user": "ann", "prompt": "p", "chosen": "a b", "rejected": "c", "shown": ["c", "a b", "d"]},)
    rows[0]["shown"].clear()
    again = fitted.user("again")
    for row in ann.preferences:
        again.update(**{key: value for key, value in row.items() if key != "user"})
    assert np.array_equal(again.utilities("p", ["a", "c"]), ann.utilities("p", ["a", "c"]))


def test_a_user_may_name_the_best_and_the_worst_of_what_was_shown(fitted):
    seen = []

    @dataclass
    class Watching(pl.Method):
        id = "watching"

        def adapt(self, histories):
            seen.append(histories)
            return self

        def utilities(self, queries):
            return np.zeros((len(queries), queries.corpus.n_responses), np.float32)

    ann = Watching().fit(Histories(RAGGED, 1, [0], [0], [0], [1])).user("ann")
    ann.update("p", chosen="a", rejected="b", shown=["c", "a", "b"], best_worst=True)
    ann.update("p", chosen="a", rejected="b", shown=["c", "a", "b"])
    ann.rank("p", ["a", "b"])
    (histories,) = seen
    assert histories.best_worst.tolist() == [True, False]
    assert [len(histories.implied()[1][histories.implied()[1] == row]) for row in (0, 1)] == [3, 1]
    assert [row.get("best_worst", False) for row in ann.preferences] == [True, False]


def test_shown_may_be_none(fitted):
    assert fitted.user("ann").update("p", chosen="a", rejected="b", shown=None).preferences[0]["shown"] == []


def test_a_user_follows_the_method_when_it_is_fitted_again(fitted, make_histories):
    ann = fitted.user("ann").update("p", chosen="a b", rejected="c")
    before = ann.utilities("q", ["d e", "f"])
    other = make_histories([9, 8], "other pool")
    fitted.fit(other)
    new = HierarchicalBT(n_features=6, steps=3).fit(other, embedder=EMBEDDER).user("ann")
    expected = new.update("p", chosen="a b", rejected="c").utilities("q", ["d e", "f"])
    assert not np.array_equal(before, expected)
    assert np.array_equal(ann.utilities("q", ["d e", "f"]), expected)
    assert fitted.user("ann") is ann
    assert len(ann.preferences) == 1


def test_rank_and_probability(pool):
    ann = pl.methods.UserBT(n_features=6, ridge=0.1).fit(pool, embedder=EMBEDDER).user("ann")
    for _ in range(8):
        ann.update("p", chosen="sunny", rejected="rainy")
    assert ann.rank("q", ["rainy", "sunny", "rainy"]) == [1, 0, 2]
    first, second = ann.utilities("q", ["sunny", "rainy"])
    assert ann.probability("q", "sunny", "rainy") == pytest.approx(1 / (1 + np.exp(second - first)))
    assert ann.probability("q", "sunny", "rainy") > 0.5 > ann.probability("q", "rainy", "sunny")


def test_next_query_is_that_of_the_policy(pool):
    method = PReF(n_features=6, n_basis=3, rounds=2).fit(pool, embedder=EMBEDDER)
    ann = method.user("ann").update("p", chosen="a b", rejected="c d")
    prompts = OrderedDict(pair=["x", "x"], three=["a b c", "w1 w2", "w3"], single=["only"], empty=[])
    question = ann.next_query(prompts)
    assert question.prompt == "three"
    assert {question.a, question.b} <= set(prompts["three"])
    assert ann.next_query(prompts.items()) == question
    asking = pl.methods.DOptimal(method="pref", parameters={"n_features": 6, "n_basis": 3, "rounds": 2})
    bob = asking.fit(pool, embedder=EMBEDDER).user("bob").update("p", chosen="a b", rejected="c d")
    assert bob.next_query(prompts) == ann.next_query(prompts, policy=pl.methods.DOptimal()) == question
    assert ann.next_query(prompts, "best-arms").prompt in prompts
    sure = pl.methods.Challenger(tolerance=1e6)
    assert ann.next_query(prompts, sure) is None
    with pytest.raises(UserError, match="nothing to compare"):
        ann.next_query({"p": ["only"]})
    with pytest.raises(UserError, match="'longest' is no policy"):
        ann.next_query(prompts, "longest")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda u: u.update("p", chosen="a", rejected="a"), "are equal"),
        (lambda u: u.update("p", chosen=1, rejected="a"), "chosen must be a text, got 1"),
        (lambda u: u.update("p", chosen="a", rejected="b", shown="ab"), "shown must be a list"),
        (lambda u: u.update("p", chosen="a", rejected="b", shown=["a", None]), r"shown\[1\] must be a text"),
        (lambda u: u.utilities("p", "ab"), "responses must be a list of texts"),
        (lambda u: u.update("p", chosen="a", rejected="b", shown=3), "shown must be a list"),
        (lambda u: u.utilities(None, ["a"]), "prompt must be a text"),
        (lambda u: u.utilities("p", None), "responses must be a list of texts, got None"),
        (lambda u: u.utilities("p", []), r"responses must be a list of at least one text, got \[\]"),
        (lambda u: u.next_query({"p": ["a", "b"]}), "'longest' does not choose what to ask"),
        (lambda u: u.messages("p"), "'longest' does not ask a chat model"),
        (lambda u: u.probability("p", "a", "b"), "ranks responses but gives no probabilities"),
    ],
)
def test_questions_that_have_no_answer(ask, message, pool):
    with pytest.raises(UserError, match=message):
        ask(Longest().fit(pool).user("ann"))


def test_a_user_of_a_chat_method_gets_messages(pool):
    user = pl.methods.SelfICL(n_shots=1).fit(pool, llm=EchoChatModel()).user("ann")
    user.update("first?", chosen="liked", rejected="disliked")
    assert "liked" in user.messages("And now?").messages[0].content
    with pytest.raises(UserError, match="does not score responses"):
        user.rank("p", ["a", "b"])


def test_users_have_texts_as_names_and_methods_that_read_texts(fitted):
    with pytest.raises(ParameterError, match="name must be a text, got 3"):
        fitted.user(3)
    with pytest.raises(UserError, match="reads the scores of reward models"):
        pl.methods.RMMixture().user("ann")


def test_a_user_of_a_method_that_is_not_fitted_is_told_what_to_do():
    method = pl.methods.HierarchicalBT(n_features=2)
    ann = method.user("ann").update("p", chosen="a", rejected="b")
    with pytest.raises(UserError, match="'hierarchical-bt' is not fitted, so the user 'ann' has nothing") as raised:
        ann.rank("p", ["a", "b"])
    assert raised.value.remedy == "Call fit(pool) on the method first; what the user has said is kept."
    pool = Histories(Corpus(["Hi"], [["Hello there.", "What?"]]), 1, [0], [0], [0], [1])
    method.fit(pool, embedder=HashEmbedder())
    assert len(ann.rank("p", ["a", "b"])) == 2
    assert pl.methods.Longest().user("bob").rank("p", ["a", "bb"]) == [1, 0]


RAGGED = Corpus(["p", "q", "r"], [["a", "b b"], ["c", "d d", "e"], []])


def test_ragged_prompts_are_padded_with_minus_infinity():
    queries = Queries(RAGGED, 1, [0, 0, 0, 0], [0, 1, 2, 0])
    inf = -np.inf
    assert RAGGED.counts.tolist() == [2, 3, 0]
    assert Longest().utilities(queries).tolist() == [[1, 3, inf], [1, 3, 1], [inf] * 3, [1, 3, inf]]
    with pytest.raises(ParameterError, match=r"rejected\[1\] must be in \[0, 2\), a response of prompt 0, got 2"):
        Histories(RAGGED, 1, [0, 0], [1, 0], [0, 0], [2, 2])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda n, count: [["a"] * count] * n, "'answers' returned list, not an array of numbers"),
        (lambda n, count: [[0.0] * count, [0.0]], "'answers' returned list, not an array of numbers"),
        (lambda n, count: np.zeros((n, count), bool), "returned an array of bool, not an array of numbers"),
        (lambda n, count: np.zeros((n, 1), np.float32), r"returned shape \(2, 1\), expected \(2, 2\)"),
        (lambda n, count: np.zeros(count, np.float32), r"returned shape \(2,\), expected \(2, 2\)"),
    ],
)
def test_ragged_answers_are_checked(answer, message):
    class Answers(pl.Method):
        id = "answers"

        def utilities(self, queries):
            return answer(len(queries), queries.corpus.n_responses)

    with pytest.raises(UserError, match=message):
        Answers().utilities(Queries(RAGGED, 1, [0, 0, 0], [0, 1, 0]))


@pytest.mark.parametrize("numbers", [np.float64, np.float16, int, np.ndarray.tolist])
def test_utilities_may_be_any_numbers(numbers):
    class Lengths(pl.Method):
        id = "lengths"

        def utilities(self, queries):
            texts = [queries.corpus.responses[row] for row in queries.prompt.tolist()]
            lengths = np.array([[len(text) for text in row] for row in texts])
            return numbers(lengths) if numbers is np.ndarray.tolist else lengths.astype(numbers)

    for rows in ([0, 1, 0], [0, 0, 0]):
        utilities = Lengths().utilities(Queries(RAGGED, 1, [0, 0, 0], rows))
        assert utilities.dtype == np.float32
        assert utilities[0, :2].tolist() == [1, 3]
    assert Lengths().user("ann").rank("p", ["a", "bb"]) == [1, 0]


def test_a_built_in_class_is_imported_when_it_is_asked_for():
    code = "import sys, personalllm as pl; pl.methods.LoRe; heavy = {'torch', 'scipy.optimize'} & set(sys.modules)"
    lazy = (
        "import sys, personalllm.methods as m; print([n for n in sys.modules if 'methods.linear' in n or n == 'scipy'])"
    )
    assert subprocess.run([sys.executable, "-c", lazy], capture_output=True, text=True, check=True).stdout == "[]\n"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr == ""
    with pytest.raises(AttributeError, match="no attribute 'LoReX'"):
        _ = pl.methods.LoReX
    assert {"LoRe", "GPO", "load_method"} <= set(dir(pl.methods))
