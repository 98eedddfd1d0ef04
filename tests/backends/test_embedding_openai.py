"""The HTTP embedder, with the local runtime's own server and with a fault server."""

from __future__ import annotations

import json
import pickle
import sqlite3

import numpy as np
import pytest

from personalllm.backends.embedding import CachedEmbedder, OpenAIEmbedder
from personalllm.backends.llm import ChatServer
from personalllm.core.errors import OfflineError, ParameterError, RunError, UserError
from personalllm.testing import check_embedder

TEXTS = ["hello", "rain", "hello", "", "grüße 🌧️", "a\ud800b"]


def vectors(body, dim: int = 3, *, backwards: bool = True):
    """Return embeddings that spell the texts, not of unit length, the last first."""
    data = []
    for i, text in enumerate(body["input"]):
        data.append({"object": "embedding", "index": i, "embedding": [len(text), *[2.0] * (dim - 1)]})
    return {"object": "list", "model": "m", "data": data[::-1] if backwards else data, "usage": {}}


@pytest.fixture
def server(fault_server):
    fault_server.extra["/v1/embeddings"] = (200, vectors)
    return fault_server


def embedder(server, **fields) -> OpenAIEmbedder:
    return OpenAIEmbedder(fields.pop("model", "m"), server.base_url, **fields)


def batches(server) -> list[list[str]]:
    return [body["input"] for path, _, body in server.seen if path == "/v1/embeddings"]


def test_rows_are_unit_and_in_the_order_of_the_texts(server):
    rows = embedder(server, batch=2).embed(["aaaa", "b", "cc", "b"])
    wanted = np.array([[4, 2, 2], [1, 2, 2], [2, 2, 2], [1, 2, 2]], np.float64)
    np.testing.assert_allclose(rows, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), rtol=1e-6)
    assert rows.dtype == np.float32
    assert sorted(map(len, batches(server))) == [1, 2], "equal texts are sent once, two at a time"


def test_dim_is_learnt_once_or_given(server):
    model = embedder(server)
    assert (model.dim, model.dim) == (3, 3)
    assert len(server.seen) == 1
    assert model.embed([]).shape == (0, 3)
    assert embedder(server, dim=9).dim == 9
    with pytest.raises(RunError, match="m gave vectors of length 3, not 9"):
        embedder(server, dim=9).embed(["a"])


def test_long_texts_are_cut_where_wanted(server):
    rows = embedder(server, max_chars=2).embed(["abc", "ab", "a"])
    np.testing.assert_array_equal(rows[0], rows[1])
    assert batches(server) == [["ab", "a"]]


def test_identity_and_pickling(server):
    model = embedder(server)
    assert pickle.loads(pickle.dumps(model)).identity == model.identity
    assert embedder(server, batch=1, timeout=1.0, dim=3).identity == model.identity
    others = [embedder(server, model="n"), embedder(server, revision="r"), OpenAIEmbedder("m", "http://127.0.0.1:1/v1")]
    assert len({m.identity for m in [model, embedder(server, max_chars=9), *others]}) == 5
    assert OpenAIEmbedder("m", "http://127.0.0.1:1/v1", revision="r").identity == others[1].identity


def test_with_the_cache_a_text_is_sent_once(server, tmp_path):
    first = CachedEmbedder(embedder(server, dim=3), tmp_path).embed(["a", "bb"])
    second = CachedEmbedder(embedder(server, dim=3), tmp_path).embed(["bb", "ccc"])
    np.testing.assert_array_equal(first[1], second[0])
    assert batches(server) == [["a", "bb"], ["ccc"]]
    (file,) = tmp_path.glob("*.sqlite")
    connection = sqlite3.connect(file)
    assert connection.execute("SELECT count(*) FROM vectors").fetchone() == (3,)
    connection.close()


@pytest.mark.parametrize("fault", ["500", "429:0.01", "hangup", "text:{oops", 'json:{"data": []}'])
def test_a_fault_that_passes_is_asked_again(fault_server, no_pauses, fault):
    good = json.dumps(vectors({"input": ["a"]}))
    fault_server.faults = [fault, f"json:{good}"]
    assert embedder(fault_server, retries=1).embed(["a"]).shape == (1, 3)


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("401:bad key", UserError, "refused the key: bad key"),
        ("404:no such model", UserError, "no chat or embedding model 'm'"),
        ("400:too long", RunError, "m refused a request: too long"),
        ("500", RunError, "failed on m: 500"),
        ("hangup", RunError, "cannot be reached"),
        ('json:{"data": [{"index": 1, "embedding": [1.0]}]}', RunError, "not one vector for each of 1 texts"),
        ('json:{"data": [{"index": 0, "embedding": [0.0, 0.0]}]}', RunError, "vector without a direction"),
    ],
)
def test_faults_that_stay(fault_server, fault, error, message):
    fault_server.faults = [fault]
    with pytest.raises(error, match=message):
        embedder(fault_server, retries=0).embed(["a"])


def test_one_failing_batch_fails_the_call_cleanly(fault_server):
    fault_server.faults = ["400:too long", "slow:0.2", "slow:0.2"]
    with pytest.raises(RunError, match="too long"):
        embedder(fault_server, retries=0, batch=1).embed(["a", "b", "c"])


def test_vectors_of_several_lengths_are_refused(fault_server):
    fault_server.extra["/v1/embeddings"] = (200, lambda body: vectors(body, 2 + len(body["input"][0])))
    with pytest.raises(RunError, match="vectors of several lengths"):
        embedder(fault_server, batch=1).embed(["a", "bb"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": ""}, "model must be"),
        ({"batch": 0}, "batch must be >= 1"),
        ({"max_chars": 0}, "max_chars must be >= 1"),
        ({"dim": 0}, "dim must be >= 1"),
        ({"timeout": 0}, "timeout must be > 0"),
    ],
)
def test_bad_parameters(server, fields, message):
    with pytest.raises(ParameterError, match=message):
        embedder(server, **fields)


def test_offline_means_this_machine_only():
    with pytest.raises(OfflineError, match="is not on this machine"):
        OpenAIEmbedder("m", "https://api.example.org/v1")


def test_the_runtimes_own_server(make_llama):
    with ChatServer("tiny", path=make_llama(pooled=True), context_length=1024, embeddings=True) as server:
        model = OpenAIEmbedder("tiny", server.base_url)
        rows = model.embed(TEXTS)
        assert rows.shape == (6, model.dim) == (6, 64)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
        np.testing.assert_array_equal(rows[0], rows[2])
        assert abs(rows[0] @ rows[1]) < 0.999
        np.testing.assert_allclose(model.embed(TEXTS[::-1])[::-1], rows, atol=1e-5)


def test_contract(make_llama):
    with ChatServer("tiny", path=make_llama(pooled=True), context_length=2048, embeddings=True) as server:
        check_embedder(OpenAIEmbedder("tiny", server.base_url, max_chars=200))


@pytest.mark.parametrize(
    "body",
    [
        {"data": [1]},
        {"data": ["a"]},
        {"data": {"a": 1}},
        {"data": [{"index": 0, "embedding": 5}]},
        {"data": [{"index": 0, "embedding": ["a", "b"]}]},
        {"data": [{"index": 0, "embedding": [[1.0], [2.0]]}]},
        {"data": [{"index": None, "embedding": [1.0]}]},
    ],
)
def test_json_of_another_shape_is_no_vector(fault_server, no_pauses, body):
    fault_server.extra["/v1/embeddings"] = (200, body)
    with pytest.raises(RunError, match="gave no usable embeddings"):
        OpenAIEmbedder("m", fault_server.base_url).embed(["hi"])
