import hashlib
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personalllm.backends.embedding import CachedEmbedder, MiniLMEmbedder, shipped, write_vectors
from personalllm.core.errors import AxisMismatch, ModelFileError, ParameterError, UserError
from personalllm.core.protocols import TextEmbedder
from personalllm.data import load

DIM = 8


class HashEmbedder:
    """A vector from the hash of a text; counts what it is asked."""

    name = "hash"
    dim = DIM

    def __init__(self, identity="hash/1"):
        self.identity = identity
        self.asked = []

    def embed(self, texts):
        self.asked += texts
        rows = [hashlib.sha256((self.identity + t).encode("utf-8", "replace")).digest()[:DIM] for t in texts]
        raw = np.array([list(row) for row in rows], np.float32).reshape(len(texts), DIM) + 1
        return raw / np.linalg.norm(raw, axis=1, keepdims=True)


TEXTS = ["a", "", "b", "a", "ü ☃ 漢字", "\ud800 lone", "x" * 10_000]


def test_the_cache_gives_the_same_vectors_and_asks_once(tmp_path):
    inner = HashEmbedder()
    cached = CachedEmbedder(inner, tmp_path)
    assert isinstance(cached, TextEmbedder)
    assert (cached.name, cached.identity, cached.dim) == ("hash", "hash/1", DIM)
    first = cached.embed(TEXTS)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, HashEmbedder().embed(TEXTS))
    assert sorted(inner.asked) == sorted(set(TEXTS))
    again = CachedEmbedder(silent := HashEmbedder(), tmp_path)
    np.testing.assert_array_equal(again.embed(TEXTS[::-1]), first[::-1])
    assert silent.asked == []


def test_shipped_vectors_come_before_the_cache_and_the_embedder(tmp_path, monkeypatch):
    before = CachedEmbedder(HashEmbedder(), tmp_path / "cache").embed(TEXTS)
    monkeypatch.setattr(shipped, "_FOLDER", tmp_path)
    write_vectors(tmp_path / "some.safetensors", "hash/1", TEXTS[:2], before[[2, 2]])
    write_vectors(tmp_path / "others.safetensors", "hash/2", TEXTS, before)
    shipped.shipped_vectors.cache_clear()
    try:
        cached = CachedEmbedder(inner := HashEmbedder(), tmp_path / "cache")
        found = cached.embed(TEXTS)
        np.testing.assert_allclose(found[[0, 1, 3]], before[[2, 2, 2]], atol=1e-3)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
        np.testing.assert_array_equal(found[[2, 4, 5, 6]], before[[2, 4, 5, 6]])
        assert inner.asked == []
        assert cached.count_absent([*TEXTS, "new"]) == 1
        assert CachedEmbedder(HashEmbedder(), tmp_path / "none").embed(["a"]).shape == (1, DIM)
        assert not (tmp_path / "none").exists()
    finally:
        shipped.shipped_vectors.cache_clear()
    with pytest.raises(AxisMismatch, match="2 texts but 1 vectors"):
        write_vectors(tmp_path / "x.safetensors", "hash/1", ["a", "b"], before[:1])


@pytest.mark.models
def test_the_shipped_vectors_are_those_of_the_embedder():
    model = MiniLMEmbedder()
    texts = load("mini@v1").prompts.to_pylist()[::100]
    np.testing.assert_allclose(CachedEmbedder(model).embed(texts), model.embed(texts), atol=2e-4)
    assert len(shipped.shipped_vectors(model.identity)) > 5_000


def test_no_texts_give_no_rows_and_no_file(tmp_path):
    cached = CachedEmbedder(HashEmbedder(), tmp_path / "new")
    assert cached.embed([]).shape == (0, DIM)
    assert not cached.path.exists()


def test_the_default_place_is_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PERSONALLLM_CACHE", str(tmp_path))
    CachedEmbedder(HashEmbedder()).embed(["a"])
    assert [path.suffix for path in (tmp_path / "embeddings").iterdir()] == [".sqlite"]


def test_embedders_of_different_identity_do_not_mix(tmp_path):
    one = CachedEmbedder(HashEmbedder("hash/1"), tmp_path).embed(["a"])
    two = CachedEmbedder(HashEmbedder("hash/2"), tmp_path).embed(["a"])
    assert not np.array_equal(one, two)
    assert len(list(tmp_path.iterdir())) == 2


@settings(max_examples=10, deadline=None)
@given(st.lists(st.text(max_size=5), max_size=12), st.lists(st.text(max_size=5), max_size=12))
def test_any_texts_in_any_order(tmp_path_factory, before, texts):
    cached = CachedEmbedder(HashEmbedder(), tmp_path_factory.mktemp("e"))
    cached.embed(before)
    np.testing.assert_array_equal(cached.embed(texts), HashEmbedder().embed(texts))


def test_progress_counts_new_texts_only(tmp_path):
    cached = CachedEmbedder(HashEmbedder(), tmp_path)
    cached.embed([str(i) for i in range(50)])
    seen = []
    cached.embed([str(i) for i in range(200)], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(64, 150), (128, 150), (150, 150)]
    cached.embed([str(i) for i in range(200)], progress=lambda *_: pytest.fail("nothing was new"))


def test_thousands_of_texts_are_found_again(tmp_path):
    texts = [f"text {i}" for i in range(3000)]
    cached = CachedEmbedder(inner := HashEmbedder(), tmp_path)
    first = cached.embed(texts)
    np.testing.assert_array_equal(cached.embed(texts), first)
    assert len(inner.asked) == 3000


def test_work_that_was_done_before_an_error_is_kept(tmp_path):
    class Failing(HashEmbedder):
        def embed(self, texts):
            if "70" in texts:
                raise RuntimeError("out of power")
            return super().embed(texts)

    texts = [str(i) for i in range(100)]
    with pytest.raises(RuntimeError, match="out of power"):
        CachedEmbedder(Failing(), tmp_path).embed(texts)
    CachedEmbedder(after := HashEmbedder(), tmp_path).embed(texts)
    assert after.asked == texts[64:]


def test_a_damaged_row_is_computed_again(tmp_path):
    cached = CachedEmbedder(inner := HashEmbedder(), tmp_path)
    want = cached.embed(["a", "b", "c"])
    with sqlite3.connect(cached.path) as connection:
        connection.execute("UPDATE vectors SET vector = zeroblob(32) WHERE rowid = 1")
        connection.execute("UPDATE vectors SET vector = x'00' WHERE rowid = 2")
    connection.close()
    np.testing.assert_array_equal(cached.embed(["a", "b", "c"]), want)
    assert inner.asked == ["a", "b", "c", "a", "b"]


def test_a_file_that_is_no_database_is_set_aside(tmp_path):
    cached = CachedEmbedder(HashEmbedder(), tmp_path)
    cached.path.write_bytes(b"not a database at all" * 100)
    assert cached.embed(["a"]).shape == (1, DIM)
    assert cached.path.with_suffix(".damaged").exists()


def test_a_cache_that_cannot_be_opened_is_named(tmp_path):
    cached = CachedEmbedder(HashEmbedder(), tmp_path)
    cached.path.mkdir()
    with pytest.raises(UserError, match=r"\.sqlite cannot be used: unable to open") as caught:
        cached.embed(["a"])
    assert "PERSONALLLM_CACHE" in caught.value.remedy
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be used"):
        CachedEmbedder(HashEmbedder(), tmp_path / "file" / "below").embed(["a"])


def test_an_embedder_of_the_wrong_shape_is_refused(tmp_path):
    class Wrong(HashEmbedder):
        def embed(self, texts):
            return super().embed(texts)[:, :3]

    with pytest.raises(AxisMismatch, match=r"returned shape \(1, 3\)"):
        CachedEmbedder(Wrong(), tmp_path).embed(["a"])


def test_threads_may_share_a_cache(tmp_path):
    texts = [f"t{i}" for i in range(300)]
    cached = CachedEmbedder(HashEmbedder(), tmp_path)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda k: cached.embed(texts[k:] + texts[:k]), range(0, 300, 75)))
    want = HashEmbedder().embed(texts)
    for k, result in zip(range(0, 300, 75), results, strict=True):
        np.testing.assert_array_equal(result, np.roll(want, -k, axis=0))


SCRIPT = """
import sys, time
import numpy as np
from personalllm.backends.embedding import CachedEmbedder

class Counting:
    name, identity, dim = "count", "count/1", 4

    def embed(self, texts):
        time.sleep(float(sys.argv[2]))
        return np.array([[int(t) + 1, 0, 0, 0] for t in texts], np.float32)

texts = [str(i) for i in range(int(sys.argv[3]), int(sys.argv[4]))]
CachedEmbedder(Counting(), sys.argv[1]).embed(texts, progress=lambda *step: print(*step, flush=True))
"""


class Counting:
    name, identity, dim = "count", "count/1", 4

    def __init__(self):
        self.asked = []

    def embed(self, texts):
        self.asked += texts
        return np.array([[int(t) + 1, 0, 0, 0] for t in texts], np.float32)


def start(folder, pause, first, last):
    command = [sys.executable, "-c", SCRIPT, str(folder), str(pause), str(first), str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_kill_loses_at_most_a_chunk(tmp_path):
    with start(tmp_path, 0.05, 0, 6400) as process:
        done = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGKILL)
    assert done[2] == "192 6400\n"
    inner = Counting()
    vectors = CachedEmbedder(inner, tmp_path).embed([str(i) for i in range(640)])
    np.testing.assert_array_equal(vectors[:, 0], np.arange(1, 641))
    assert "0" not in inner.asked
    assert "191" not in inner.asked


def test_two_processes_may_write_at_once(tmp_path):
    with start(tmp_path, 0.01, 0, 640) as one, start(tmp_path, 0.01, 320, 960) as two:
        assert one.wait() == 0
        assert two.wait() == 0
    inner = Counting()
    vectors = CachedEmbedder(inner, tmp_path).embed([str(i) for i in range(960)])
    np.testing.assert_array_equal(vectors[:, 0], np.arange(1, 961))
    assert inner.asked == []


@pytest.fixture(scope="module")
def minilm():
    try:
        return MiniLMEmbedder()
    except ModelFileError as error:
        pytest.skip(f"{error}")


@pytest.mark.models
class TestMiniLM:
    TEXTS = (
        "A dog runs in the park.",
        "",
        "My puppy plays outside.",
        "The bank raised its interest rates.",
        "word " * 900,
    )

    def test_shape_length_and_meaning(self, minilm):
        vectors = minilm.embed(self.TEXTS)
        assert isinstance(minilm, TextEmbedder)
        assert vectors.shape == (5, minilm.dim) == (5, 384)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        similarity = vectors @ vectors.T
        assert similarity[0, 2] > 0.4 > 0.2 > similarity[0, 3]

    def test_a_vector_does_not_depend_on_company_order_or_threads(self, minilm):
        vectors = minilm.embed(self.TEXTS)
        for row, text in enumerate(self.TEXTS):
            np.testing.assert_array_equal(minilm.embed([text])[0], vectors[row])
        np.testing.assert_array_equal(minilm.embed(self.TEXTS[::-1] * 2), np.tile(vectors[::-1], (2, 1)))
        np.testing.assert_array_equal(MiniLMEmbedder(threads=1).embed(self.TEXTS), vectors)

    def test_it_reads_256_tokens(self, minilm):
        long, longer = "word " * 254, "word " * 300
        short = minilm.embed(["word " * 200])
        np.testing.assert_array_equal(minilm.embed([long]), minilm.embed([longer]))
        assert not np.array_equal(minilm.embed([long]), short)
        np.testing.assert_array_equal(MiniLMEmbedder(max_tokens=202).embed([long]), short)

    def test_case_is_ignored_and_broken_unicode_is_read(self, minilm):
        np.testing.assert_array_equal(minilm.embed(["HELLO \ud800"]), minilm.embed(["hello ?"]))

    def test_identity_and_pickle(self, minilm):
        minilm.embed(["opened"])
        copy = pickle.loads(pickle.dumps(minilm))
        assert copy.identity == minilm.identity == MiniLMEmbedder(threads=1).identity
        assert copy.identity.startswith("minilm-l6-int8/")
        assert MiniLMEmbedder(max_tokens=128).identity != minilm.identity
        np.testing.assert_array_equal(copy.embed(["a"]), minilm.embed(["a"]))

    def test_nothing_heavy_is_imported_before_the_first_text(self):
        code = (
            "import sys\nfrom personalllm.backends.embedding import default_embedder\ndefault_embedder().embed([])\n"
            "assert not {'onnxruntime', 'tokenizers'} & set(sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ)).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_tokens": 1}, r"max_tokens must be in \[2, 512\], got 1"),
        ({"max_tokens": 513}, r"max_tokens must be in \[2, 512\]"),
        ({"threads": 0}, "threads must be >= 1"),
    ],
)
def test_bad_parameters_are_refused(arguments, message):
    with pytest.raises(ParameterError, match=message):
        MiniLMEmbedder(**arguments)


def test_absent_files_are_named_with_the_remedy(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"")
    for path, message in ((tmp_path, r"Not found: .*tokenizer\.json"), (None, "not in the cache")):
        with pytest.raises(ModelFileError, match=message) as caught:
            MiniLMEmbedder(path)
        assert caught.value.remedy == "Run: personalllm models pull minilm-l6-int8"
