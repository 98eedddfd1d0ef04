from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from personalllm.analysis.base import Analysis
from personalllm.core.errors import UserError
from personalllm.report.analyses import write_analyses

HOSTILE = "<script>alert(1)</script>&amp; \u202e \U0001f600"


@dataclass(frozen=True)
class Counts(Analysis):
    id: ClassVar[str] = "counts"
    title: ClassVar[str] = f"Counts {HOSTILE}"
    name: str = "counts"
    rows: int = 115

    @classmethod
    def of_study(cls, study):
        return [cls()]

    def tables(self):
        values = [float("nan"), None, -0.25, 1234.0, *[0.5] * (self.rows - 4)]
        texts = [HOSTILE, *["text"] * (self.rows - 1)]
        return {self.name: pa.table({"prompt_text": texts, "value": values, "n": range(self.rows)})}

    def plot(self):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 2))
        figure.subplots().set_title(HOSTILE)
        return figure

    def notes(self):
        return (f"A note {HOSTILE}.",)


def write(folder: Path, **changes) -> Path:
    parts = {"title": f"On {HOSTILE}", "lead": HOSTILE, "facts": {"prompts": HOSTILE}, "absent": {HOSTILE: HOSTILE}}
    return write_analyses(changes.pop("analyses", {"counts": Counts()}), folder, **(parts | changes))


def test_files_and_page(tmp_path: Path) -> None:
    page = write(tmp_path / "new" / "folder")
    folder = page.parent
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == [
        "figures/counts.png",
        "figures/counts.svg",
        "index.html",
        "tables/counts.csv",
        "tables/counts.parquet",
    ]
    assert pq.read_table(folder / "tables" / "counts.parquet").num_rows == 115
    assert pa_csv.read_csv(folder / "tables" / "counts.csv")["prompt_text"][0].as_py() == HOSTILE


def test_texts_are_escaped_wherever_they_stand(tmp_path: Path) -> None:
    text = write(tmp_path).read_text(encoding="utf-8")
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 8
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text


def test_page_shows_the_first_rows_and_says_so(tmp_path: Path) -> None:
    text = write(tmp_path).read_text(encoding="utf-8")
    assert "counts: 115 rows" in text
    assert "The first 12 rows of" in text
    assert text.count("<tr>") == 13
    assert "\u22120.250" in text
    assert text.count(">\u2013<") == 2
    assert "1,234<" in text


def test_code_in_a_note_is_marked_and_escaped(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Noted(Counts):
        def notes(self):
            return ("Take `a<b` and <i>.", "An odd ` tick.")

    text = write(tmp_path, analyses={"counts": Noted()}).read_text(encoding="utf-8")
    assert "<li>Take <code>a&lt;b</code> and &lt;i&gt;.</li>" in text
    assert "<li>An odd ` tick.</li>" in text


def test_equal_analyses_give_equal_files(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one").parent, write(tmp_path / "two").parent
    for path in one.rglob("*.*"):
        assert path.read_bytes() == (two / path.relative_to(one)).read_bytes(), path


@pytest.mark.parametrize(
    ("analyses", "message"),
    [({}, "no analysis"), ({"a": Counts("b"), "a-b": Counts("a-b")}, "Two tables are called a-b")],
)
def test_what_cannot_be_written(tmp_path: Path, analyses: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        write(tmp_path / "out", analyses=analyses)
    assert not (tmp_path / "out").exists()


class Failing(Counts):
    def plot(self):
        raise UserError("No figure.")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_failure_leaves_no_folder_or_the_one_that_was_there(tmp_path: Path) -> None:
    analyses = {"counts": Counts(), "failing": Failing("failing")}
    with pytest.raises(UserError, match="No figure"):
        write(tmp_path / "out", analyses=analyses)
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "out")
    before = files(tmp_path)
    with pytest.raises(UserError, match="No figure"):
        write(tmp_path / "out", analyses=analyses)
    assert files(tmp_path) == before


def test_an_earlier_page_is_replaced_and_other_files_are_kept(tmp_path: Path) -> None:
    write(tmp_path, analyses={"old": Counts("old"), "counts": Counts()})
    (tmp_path / "mine.txt").write_text("mine")
    write(tmp_path, absent={})
    assert sorted(files(tmp_path)) == [
        "figures/counts.png",
        "figures/counts.svg",
        "index.html",
        "mine.txt",
        "tables/counts.csv",
        "tables/counts.parquet",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures", "index.html", "mine.txt", "tables"]


@pytest.mark.parametrize("place", ["out", "out/tables", "out/figures/notes.txt"])
def test_what_is_no_earlier_page_is_not_replaced(tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("mine")
    with pytest.raises(UserError, match=r"is not a folder|is in the way"):
        write(tmp_path / "out")
    assert files(tmp_path) == {place: b"mine"}


def test_short_tables_are_whole_and_open_and_what_is_missing_is_linked(tmp_path: Path) -> None:
    text = write(tmp_path, analyses={"counts": Counts(rows=30), "more": Counts("more", rows=31)}).read_text("utf-8")
    assert text.count("<tr>") == 31 + 32
    assert "The first" not in text
    assert text.count("<details open>") == 1
    assert text.count("<details>") == 1
    assert '<a href="#absent">' in text
    assert 'id="absent"' in text
    without = write(tmp_path, absent={}).read_text("utf-8")
    assert "#absent" not in without
