"""Published reward models: tiny random ones of every architecture against scores worked out without the package."""

from __future__ import annotations

import importlib.util
import json
import logging
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from personalllm.backends.executor import ProcessExecutor
from personalllm.backends.reward import (
    PUBLISHED,
    REWARD_MODELS,
    PublishedEnsemble,
    RewardEntry,
    Template,
    TransformersReward,
    find_reward,
    is_published,
    load_rewards,
)
from personalllm.build.scoring import ScoreBlock, score_block
from personalllm.core.errors import (
    AxisMismatch,
    MissingExtra,
    ModelFileError,
    ParameterError,
    RunError,
    UnknownName,
    UserError,
)

torch = pytest.importorskip("torch", reason="torch is not installed: reward models of transformers are not tested")
pytest.importorskip("transformers", reason="transformers is not installed: its reward models are not tested")

pytestmark = pytest.mark.torch

_spec = importlib.util.spec_from_file_location("_tiny_rewards", Path(__file__).with_name("_tiny_rewards.py"))
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)

ARCHITECTURES = ("llama", "mistral", "gemma", "deberta", "oasst", "oasst-mean", "beaver")
LIKE = {
    "llama": "llama3_sfairx",
    "mistral": "mistral_ray",
    "gemma": "gemma_2b",
    "deberta": "oasst_deberta_v3",
    "oasst": "oasst_pythia_7b",
    "oasst-mean": "oasst_pythia_1b",
    "beaver": "beaver_7b",
}
BOTH = (tiny.PROMPTS, tiny.RESPONSES)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """More threads make models of this size slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Architecture -> (folder, what `make` returns)."""
    root = tmp_path_factory.mktemp("tiny")
    return {name: (root / name, tiny.make(name, root / name)) for name in ARCHITECTURES}


def reward(made, architecture, **options):
    return TransformersReward(f"{LIKE[architecture]}={made[architecture][0]}", **{"dtype": "float32", **options})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_equal_an_independent_computation(made, architecture):
    expected = tiny.expected(architecture, made[architecture][1])
    assert expected.std() > 0.1
    ours = reward(made, architecture)
    scores = ours.score(*BOTH)
    assert scores.shape == (len(tiny.TEXTS), 1)
    assert scores.dtype == np.float32
    assert np.abs(scores[:, 0] - expected).max() <= 1e-5


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_token_ids_equal_those_written_by_hand(made, architecture):
    expected = [tiny.ids_of(architecture, *text) for text in tiny.TEXTS]
    assert reward(made, architecture).token_ids(*BOTH) == expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_score_depends_on_its_own_text_only(made, architecture, dtype):
    ours = reward(made, architecture, dtype=dtype)
    alone = ours.score_padded(*BOTH, batch_tokens=1)
    limit = 1e-5 if dtype == "float32" else 1e-2 * alone.std()
    permutation = np.random.default_rng(0).permutation(len(tiny.TEXTS))
    shuffled = np.empty_like(alone)
    shuffled[permutation] = ours.score(*([column[i] for i in permutation] for column in BOTH))
    variants = {
        "buckets": ours.score(*BOTH),
        "one batch": ours.score_padded(*BOTH, batch_tokens=10**6),
        "left": ours.score_padded(*BOTH, batch_tokens=10**6, side="left"),
        "padded with eos": ours.score_padded(*BOTH, batch_tokens=10**6, fill=1),
        "padded with an ordinary token": ours.score_padded(*BOTH, batch_tokens=10**6, fill=77),
        "order": shuffled,
    }
    for name, scores in variants.items():
        assert np.abs(scores - alone).max() <= limit, name


@pytest.mark.parametrize("pad", [None, "</s>"])
def test_the_padding_token_may_be_missing_or_the_end_token(tmp_path, pad):
    expected = tiny.expected("llama", tiny.make("llama", tmp_path, pad=pad))
    ours = TransformersReward(tmp_path)
    for side in ("right", "left"):
        scores = ours.score_padded(*BOTH, batch_tokens=10**6, side=side)
        assert np.abs(scores[:, 0] - expected).max() <= 1e-5


@pytest.mark.parametrize(
    ("kind", "chat", "expected"),
    [
        ("llama", tiny.CHAT, 1),
        ("llama", tiny.CHAT.removeprefix("{{ bos_token }}"), 1),
        ("neox", tiny.CHAT, 1),
        ("neox", tiny.CHAT.removeprefix("{{ bos_token }}"), 0),
    ],
    ids=["both", "tokenizer", "template", "neither"],
)
def test_one_bos_whoever_writes_it(tmp_path, kind, chat, expected):
    tiny.make("llama", tmp_path)
    tiny.tokenizer(tmp_path, kind=kind, chat=chat)
    ours = TransformersReward(tmp_path)
    for row in ours.token_ids(["a", "<s>b"], ["c", "d"]):
        assert row[:2].count(ours.bos_id) == expected


def test_a_text_that_is_cut_keeps_bos_and_last_token(made, caplog):
    whole = reward(made, "llama").token_ids(*BOTH)
    for side in ("right", "left"):
        ours = reward(made, "llama", max_tokens=20, truncation=side)
        rows = ours.token_ids(*BOTH)
        for row, full in zip(rows, whole, strict=True):
            if len(full) <= 20:
                assert row == full
                continue
            assert len(row) == 20
            assert row == ([*full[:19], full[-1]] if side == "right" else [full[0], *full[-19:]])
        assert (ours.lengths(*BOTH) == [len(full) for full in whole]).all()
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            first = ours.score(*BOTH)
            again = ours.score(*BOTH)
        n_cut = sum(len(full) > 20 for full in whole)
        assert [f"{n_cut} of {len(whole)} texts" in record.getMessage() for record in caplog.records] == [True]
        assert (first == again).all()
        assert np.abs(first - ours.score_padded(*BOTH, batch_tokens=1)).max() <= 1e-5


def test_a_pair_that_is_cut_keeps_its_marks(made):
    sep = tiny.SPECIAL.index("[SEP]")
    ours = reward(made, "deberta", max_tokens=16)
    for row in ours.token_ids(*BOTH):
        assert len(row) <= 16
        assert row.count(sep) == 2
        assert row[-1] == sep


def test_the_released_style_is_the_published_codes(made):
    theirs = reward(made, "beaver", style="released")
    plain = reward(made, "beaver")
    folder = made["beaver"][0]
    text = Template("plain", "User: {prompt}\nAssistant: {response}", end_token=True)
    same_text = TransformersReward(replace(find_reward("beaver_7b"), model=str(folder), template=text), dtype="float32")
    assert np.abs(theirs.score(*BOTH) + same_text.score(*BOTH)).max() <= 1e-6
    assert theirs.identity != plain.identity
    assert plain.model.sign == 1
    assert theirs.model.sign == -1
    pythia = reward(made, "oasst", style="released")
    assert pythia.token_ids(["p"], ["r"]) == [_bytes("User: p\nAssistant: r")]


def _bytes(text):
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    return [len(tiny.SPECIAL) + letters.index(letter) for piece, _ in pieces for letter in piece]


def test_the_released_raft_score_is_read_before_the_end_token(made):
    folder, (network, weight, _) = made["mistral"]
    entry = replace(find_reward("mistral_raft"), model=str(folder), tokenizer="")
    ours = TransformersReward(entry, dtype="float32", style="released").score(*BOTH)[:, 0]
    for score, text in zip(ours, tiny.TEXTS, strict=True):
        ids = torch.tensor([tiny.ids_of("mistral", *text)])
        with torch.no_grad():
            hidden = network(input_ids=ids).last_hidden_state[0, -2]
        assert score == pytest.approx(float(hidden.double() @ weight.detach().double()[0]), abs=1e-5)


def test_sign_multiplies_the_score(made):
    entry = find_reward(f"beaver_7b={made['beaver'][0]}")
    flipped = TransformersReward(replace(entry, sign=-1), dtype="float32")
    assert (flipped.score(*BOTH) == -TransformersReward(entry, dtype="float32").score(*BOTH)).all()


def test_a_generic_encoder_is_run_as_a_whole(tmp_path):
    import transformers

    tiny.tokenizer(tmp_path, kind="deberta", chat=None)
    config = transformers.BertConfig(
        vocab_size=265, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_labels=1
    )
    model = tiny._randomised(transformers.BertForSequenceClassification(config), 0)
    model.save_pretrained(tmp_path)
    ours = TransformersReward(RewardEntry("bert", str(tmp_path), template=Template("pair")))
    scores = ours.score(*BOTH)[:, 0]
    for score, (prompt, response) in zip(scores, tiny.TEXTS, strict=True):
        ids = tiny.ids_of("deberta", prompt, response)
        types = [0] * (ids.index(4) + 1)
        types += [1] * (len(ids) - len(types))
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types])).logits
        assert score == pytest.approx(float(expected[0, 0]), abs=1e-5)
    assert not ours.pads_left
    with pytest.raises(ParameterError, match="side must be right"):
        ours.score_padded(*BOTH, side="left")


def test_learned_positions_count_attended_tokens_only(tmp_path):
    import transformers

    tiny.tokenizer(tmp_path)
    config = transformers.GPT2Config(vocab_size=265, n_embd=32, n_layer=2, n_head=4, n_positions=512, num_labels=1)
    tiny._randomised(transformers.GPT2ForSequenceClassification(config), 0).save_pretrained(tmp_path)
    ours = TransformersReward(tmp_path)
    alone = ours.score_padded(*BOTH, batch_tokens=1)
    for side in ("right", "left"):
        assert np.abs(ours.score_padded(*BOTH, batch_tokens=10**6, side=side) - alone).max() <= 1e-5


def test_batches_hold_every_row_once_within_the_budget_and_with_little_padding():
    from personalllm.backends.reward.transformer import batches

    lengths = np.random.default_rng(1).integers(20, 1200, 2000).tolist()
    parts = list(batches(lengths, 8192))
    assert sorted(np.concatenate(parts).tolist()) == list(range(2000))
    widths = [max(lengths[i] for i in part) * len(part) for part in parts]
    assert max(widths) <= 8192
    assert sum(lengths) / sum(widths) >= 0.95
    assert [part.tolist() for part in batches([9000, 5], 8192)] == [[0], [1]]
    assert list(batches([], 10)) == []


def test_is_picklable_without_weights_and_scores_in_another_process(made):
    ours = reward(made, "oasst")
    scores, identity = ours.score(*BOTH), ours.identity
    sent = pickle.dumps(ours)
    assert len(sent) < 4000
    copy = pickle.loads(sent)
    assert copy.identity == identity
    assert (copy.score(*BOTH) == scores).all()
    block = ScoreBlock(("1",), (tiny.PROMPTS[0],), (tuple(tiny.RESPONSES[:1]),))
    (elsewhere,) = ProcessExecutor(1).map(partial(score_block, ours), [block])
    assert np.abs(elsewhere[0] - scores[:1]).max() <= 1e-5


def test_identity_tells_apart_all_that_decides_a_score(made, tmp_path):
    ours = reward(made, "llama")
    other = tmp_path / "other"
    tiny.make("llama", other, seed=5)
    template = tmp_path / "llama"
    shutil.copytree(made["llama"][0], template)
    (template / "chat_template.jinja").write_text(tiny.CHAT + " ")
    entry = find_reward(f"llama3_sfairx={made['llama'][0]}")
    identities = [
        ours.identity,
        reward(made, "llama", dtype="bfloat16").identity,
        reward(made, "llama", max_tokens=100).identity,
        reward(made, "llama", truncation="left").identity,
        reward(made, "llama", attention="eager").identity,
        replace(ours, entry=f"llama3_sfairx={other}").identity,
        replace(ours, entry=f"llama3_sfairx={template}").identity,
        replace(ours, entry=replace(entry, sign=-1)).identity,
        replace(ours, entry=replace(entry, template=Template("plain", "{prompt} {response}"))).identity,
    ]
    assert len(set(identities)) == len(identities)
    assert replace(ours, batch_tokens=100).identity == ours.identity
    for part in ("transformers", "torch", "float32"):
        assert part in ours.identity


def test_an_ensemble_sorts_its_models_and_lets_them_go(made):
    names = tuple(f"{LIKE[a]}={made[a][0]}" for a in ("oasst", "beaver", "llama"))
    ours = PublishedEnsemble(names, dtype="float32")
    assert ours.reward_models == ("beaver_7b", "llama3_sfairx", "oasst_pythia_7b")
    scores = ours.score(*BOTH)
    for column, architecture in enumerate(("beaver", "llama", "oasst")):
        assert (scores[:, [column]] == reward(made, architecture).score(*BOTH)).all()
    assert not any("_network" in vars(part) for part in ours.rewards)
    assert pickle.loads(pickle.dumps(ours)).identity == ours.identity


def test_the_ten_of_the_paper_are_registered():
    assert load_rewards("published").reward_models == PUBLISHED == tuple(sorted(REWARD_MODELS))
    released = load_rewards("published-as-released")
    assert {r.style for r in released.rewards} == {"released"}
    for name in PUBLISHED:
        entry = find_reward(name)
        assert entry.name == name
        assert entry.head
        assert entry.certain
        assert 0.4 < entry.parameters < 9
    assert find_reward("mistral_raft").tokenizer == "mistralai/Mistral-7B-Instruct-v0.2"
    assert load_rewards(["gemma_7b", "transformers:me/mine"]).reward_models == ("gemma_7b", "mine")
    assert not is_published("compact-v1")


def _without(folder, *names):
    for name in names:
        (folder / name).unlink()


def _broken(folder, kind):
    if kind == "no weights":
        _without(folder, "model.safetensors")
    elif kind == "no tokenizer":
        _without(folder, "tokenizer.json", "tokenizer_config.json")
    elif kind == "truncated weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:500])
    elif kind == "no chat template":
        _without(folder, "chat_template.jinja")
    else:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        if kind == "no head":
            del tensors["score.weight"]
        config = json.loads((folder / "config.json").read_text())
        if kind == "two outputs":
            tensors["score.weight"] = tensors["score.weight"].repeat(2, 1)
            config |= {"num_labels": 2, "id2label": {"0": "a", "1": "b"}}
        if kind == "author's code":
            config |= {"model_type": "strange", "auto_map": {"AutoConfig": "code.Config"}}
            (folder / "code.py").write_text("raise SystemExit('ran')")
        (folder / "config.json").write_text(json.dumps(config))
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("no weights", ModelFileError, "no model.safetensors and no pytorch_model.bin"),
        ("no tokenizer", ModelFileError, "tokenizer"),
        ("truncated weights", ModelFileError, "Fetch the model again"),
        ("no chat template", UserError, "has no chat template"),
        ("no head", ModelFileError, "lack 1 tensors, e.g. score.weight; they would be random"),
        ("two outputs", UserError, "gives 2 numbers for a text; a reward model gives one"),
        ("author's code", UserError, "whose code is part of transformers"),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path, kind, error, message):
    tiny.make("llama", tmp_path)
    _broken(tmp_path, kind)
    with pytest.raises(error, match=message) as caught:
        TransformersReward(tmp_path).score(["a"], ["b"])
    assert type(caught.value) is error


def test_a_pickle_with_code_is_refused(tmp_path):
    tiny.make("oasst", tmp_path)
    path = tmp_path / "pytorch_model-00001-of-00002.bin"
    tensors = torch.load(path, weights_only=True)
    torch.save(
        tensors | {"out_proj.more": subprocess.Popen}, path
    )  # a class: to load it would import a module of the file's choice
    with pytest.raises(ModelFileError, match="hold more than tensors"):
        TransformersReward(f"oasst_pythia_7b={tmp_path}").score(["a"], ["b"])


def test_files_of_another_head_are_refused(made):
    with pytest.raises(ModelFileError, match="has a sequence-classification head, expected out-proj"):
        TransformersReward(f"oasst_pythia_7b={made['llama'][0]}").score(["a"], ["b"])


@pytest.mark.parametrize("switch", ["PERSONALLLM_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_a_model_that_is_not_here_is_an_error_with_a_remedy(monkeypatch, tmp_path, switch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("PERSONALLLM_OFFLINE", raising=False)
    monkeypatch.setenv(switch, "1")
    for part in (TransformersReward("gemma_2b"), load_rewards("published")):
        with pytest.raises(ModelFileError, match="nothing is fetched") as caught:
            _ = part.identity
        assert "hf download" in caught.value.remedy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_tokens": 0}, "batch_tokens must be >= 1"),
        ({"max_tokens": 3}, "max_tokens must be >= 4"),
        ({"dtype": "int8"}, "dtype must be one of float32, bfloat16, float16"),
        ({"style": "mine"}, "style must be one of authors, released"),
        ({"truncation": "middle"}, "truncation must be one of right, left"),
        ({"threads": 0}, "threads must be >= 1"),
    ],
)
def test_parameters_out_of_range(options, message):
    with pytest.raises(ParameterError, match=message):
        TransformersReward("gemma_2b", **options)


@pytest.mark.parametrize("name", ["gemma_2b=/nope", "/nope"])
def test_a_folder_that_is_not_there_is_told_as_such(name):
    with pytest.raises(UserError, match=r"^There is no folder /nope\."):
        find_reward(name)
    with pytest.raises(UserError, match=r"^There is no folder /nope\."):
        load_rewards(["mistral_ray", name])


def test_require_says_that_torch_is_missing_before_it_asks_for_files(monkeypatch):
    from personalllm.backends.reward import transformer

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    reward = load_rewards("gemma_2b")
    with pytest.raises(ModelFileError, match="are not all on this machine"):
        reward.require(fetch=False)
    found = importlib.util.find_spec
    monkeypatch.setattr(transformer, "find_spec", lambda name: None if name == "torch" else found(name))
    with pytest.raises(MissingExtra, match="'torch' is not installed"):
        reward.require()


def test_names_that_stand_for_nothing():
    for name in ("gemma_3b", "a/b/c", ""):
        with pytest.raises(UnknownName):
            find_reward(name)
    with pytest.raises(UnknownName):
        find_reward(Path("me/mine"))
    with pytest.raises(ParameterError, match="distinct aliases"):
        PublishedEnsemble(("gemma_2b", "gemma_2b"))
    with pytest.raises(ParameterError, match=r"with .prompt. before .response."):
        Template("plain", "{response}{prompt}")


def test_two_lists_of_different_length_and_no_text(made):
    ours = reward(made, "llama")
    with pytest.raises(AxisMismatch, match="2 prompts but 1 responses"):
        ours.score(["a", "b"], ["c"])
    assert ours.score([], []).shape == (0, 1)


def test_without_torch_the_extra_is_named(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match=r"personalllm\[torch\]"):
        reward(made, "llama").score(["a"], ["b"])


def test_nothing_heavy_is_imported_before_the_first_score():
    code = (
        "import sys; from personalllm.backends.reward import load_rewards; load_rewards('published').reward_models; "
        "print([m for m in ('torch', 'transformers', 'huggingface_hub', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


HUB = {
    "beaver_7b": "PKU-Alignment/beaver-7b-v1.0-cost",
    "gemma_2b": "weqweasdas/RM-Gemma-2B",
    "gemma_7b": "weqweasdas/RM-Gemma-7B",
    "llama3_sfairx": "sfairXC/FsfairX-LLaMA3-RM-v0.1",
    "mistral_raft": "hendrydong/Mistral-RM-for-RAFT-GSHF-v0",
    "mistral_ray": "Ray2333/reward-model-Mistral-7B-instruct-Unified-Feedback",
    "mistral_weqweasdas": "weqweasdas/RM-Mistral-7B",
    "oasst_deberta_v3": "OpenAssistant/reward-model-deberta-v3-large-v2",
    "oasst_pythia_1b": "OpenAssistant/oasst-rm-2.1-pythia-1.4b-epoch-2.5",
    "oasst_pythia_7b": "OpenAssistant/oasst-rm-2-pythia-6.9b-epoch-1",
}


def test_the_ten_are_those_of_the_paper():
    """Names of the paper's table, written down a second time; the sign is the model's own everywhere."""
    entries = {name: find_reward(name) for name in PUBLISHED}
    assert {name: entry.model for name, entry in entries.items()} == HUB
    assert {name for name, entry in entries.items() if entry.tokenizer} == {"mistral_raft"}
    assert {entry.sign for entry in entries.values()} == {1}
    assert {name for name, entry in entries.items() if entry.released and entry.released.sign == -1} == {"beaver_7b"}
    kinds = {name: (entry.head, entry.template.kind) for name, entry in entries.items()}
    assert kinds == dict.fromkeys(HUB, ("sequence-classification", "chat")) | {
        "beaver_7b": ("score-head", "plain"),
        "oasst_deberta_v3": ("sequence-classification", "pair"),
        "oasst_pythia_1b": ("out-proj", "plain"),
        "oasst_pythia_7b": ("out-proj", "plain"),
    }


@pytest.mark.parametrize("architecture", ["llama", "deberta"])
def test_a_lone_surrogate_is_read_as_a_question_mark(made, architecture):
    ours = reward(made, architecture)
    assert ours.token_ids(["a\ud83d"], ["\udc00b"]) == ours.token_ids(["a?"], ["?b"])


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "{{ messages[5].content }}", "{% for x %}"])
def test_a_chat_template_that_does_not_fit_is_named(made, template):
    entry = replace(find_reward(f"gemma_2b={made['gemma'][0]}"), template=Template(text=template))
    with pytest.raises(UserError, match="does not take a prompt and a response"):
        TransformersReward(entry).score(["a"], ["b"])


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_here_is_named(made, device):
    with pytest.raises(ParameterError, match=f"device must be one that torch finds here, such as cpu, got '{device}'"):
        reward(made, "llama", device=device).score(["a"], ["b"])


def test_too_little_memory_is_a_run_error_that_says_what_to_do(made, monkeypatch):
    from personalllm.backends.reward._networks import Network

    def full(self, *batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. More words.")

    monkeypatch.setattr(Network, "score", full)
    with pytest.raises(RunError, match="too small for gemma_2b: CUDA out of memory") as caught:
        reward(made, "gemma").score(["a"], ["b"])
    assert "batch_tokens" in caught.value.remedy


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_is_fixed_whatever_an_executor_sets(made, monkeypatch, threads):
    from personalllm.backends.reward._networks import Network

    seen, inner = [], Network.score

    def noted(self, *batch):
        seen.append(torch.get_num_threads())
        return inner(self, *batch)

    monkeypatch.setattr(Network, "score", noted)
    torch.set_num_threads(3)
    try:
        reward(made, "llama", threads=threads).score(*BOTH)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert set(seen) == {threads}
    ours = PublishedEnsemble((f"gemma_2b={made['gemma'][0]}",), threads=threads)
    assert [part.threads for part in ours.rewards] == [threads]


def test_a_model_of_the_hub_stays_at_its_commit_on_another_machine(made, tmp_path, monkeypatch):
    """The sender's folder is not looked for by the receiver, and a branch that moved on meanwhile plays no part."""
    from personalllm.backends.reward import _weights, transformer

    asked = []

    def found(source, revision=None, *, weights):
        asked.append((source, revision, weights))
        return _weights.Files(made["mistral"][0], source, revision or "commit-1")

    monkeypatch.setattr(transformer, "find_files", found)
    ours = TransformersReward("mistral_raft", dtype="float32")
    scores, identity = ours.score(*BOTH), ours.identity
    model, tokenizer = find_reward("mistral_raft").model, find_reward("mistral_raft").tokenizer
    assert sorted(asked) == [(model, None, True), (tokenizer, None, False)]
    asked.clear()
    sent = pickle.dumps(pickle.loads(pickle.dumps(ours)))
    assert str(made["mistral"][0]).encode() not in sent
    there = pickle.loads(sent)
    assert (there.score(*BOTH) == scores).all()
    assert there.identity == identity
    assert sorted(asked) == [(model, "commit-1", True), (tokenizer, "commit-1", False)]
