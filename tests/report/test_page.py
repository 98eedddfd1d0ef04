from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from personalllm.core.errors import UserError
from personalllm.evaluation.results import Estimate, Results
from personalllm.report import render_report
from personalllm.report.views import track_views

VOID = {"meta", "link", "br", "hr", "img", "input", "col"}
HOSTILE = "<script>alert('x')</script> & <img src=https://evil.example/x.png onerror=alert(1)>"


class Page(HTMLParser):
    """Keeps what the tests ask for, and complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"<{tag}> has an attribute twice: {attrs}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> is out of place"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def every(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def text(both: list[Results], tmp_path_factory: pytest.TempPathFactory) -> str:
    return render_report(both, tmp_path_factory.mktemp("page") / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_every_part_is_there(page: Page) -> None:
    headings = [
        "Choosing among stored responses",
        "Writing new responses",
        "Differences from Random response",
        "Differences from Zero-shot",
        "User by user",
        "What was generated",
        "Two users who want different things",
        "Protocol",
        "Versions",
        "Run it again",
        "Definitions",
    ]
    for heading in headings:
        assert heading in page.text
    assert len(page.every("svg")) == 4


def test_leaderboard_numbers_are_those_of_the_results(both: list[Results], page: Page) -> None:
    for result in both:
        for row in result.methods:
            value = row.metrics["mean_utility"]
            shown = f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]".replace("-", "\u2212")
            assert shown in page.text, row.id


def test_methods_are_sorted_and_references_stand_apart(both: list[Results], tmp_path: Path) -> None:
    text = render_report(both[:1], tmp_path / "r.html").read_text(encoding="utf-8")
    board = text[text.index("<caption>Leaderboard") : text.index("Differences from")]
    methods, references = board.split('<tbody class="references">')
    order = [methods.index(f"<code>{name}</code>") for name in ("embedding-ranker", "longest", "random")]
    assert order == sorted(order)
    assert "<code>oracle</code>" in references
    assert "<code>oracle</code>" not in methods


def test_ids_are_unique_and_references_resolve(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        target = attributes.get("href") or ""
        if target.startswith("#"):
            assert target[1:] in ids, (tag, target)
        for name in (attributes.get("aria-labelledby") or "").split():
            assert name in ids
        for name in re.findall(r"url\(#([^)]+)\)", " ".join(v or "" for v in attributes.values())):
            assert name in ids


def test_nothing_is_requested(page: Page, text: str) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "poster", "data", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith("#") or value == "data:,", (tag, name, value)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "http" not in style
    assert not page.every("script")
    policy = next(m["content"] for m in page.every("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_accessible(page: Page) -> None:
    assert page.every("html") == [{"lang": "en"}]
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.every("th"))
    assert len(page.every("caption")) == len(page.every("table"))
    for figure in page.every("svg"):
        assert figure["role"] == "img"
        assert figure["aria-labelledby"]
    assert len(page.every("desc")) == len(page.every("svg"))
    assert len(page.every("h1")) == 1


def test_model_text_is_escaped(make_results: Callable[..., Results], tmp_path: Path) -> None:
    text = render_report([make_results("generate", 6, response=HOSTILE)], tmp_path / "r.html").read_text("utf-8")
    page = Page(text)
    assert not page.every("script")
    assert not page.every("img")
    assert HOSTILE in page.text


def test_titles_are_escaped_in_tables_and_figures(make_results: Callable[..., Results], tmp_path: Path) -> None:
    results = make_results("rank", 50)
    hostile = [
        dataclasses.replace(row, title=f"<script>{i}</script> $x_1$ \u6587") for i, row in enumerate(results.methods)
    ]
    results = dataclasses.replace(results, methods=tuple(hostile))
    page = Page(render_report([results], tmp_path / "r.html").read_text(encoding="utf-8"))
    assert not page.every("script")
    assert "$x_1$" in page.text


@pytest.mark.parametrize("field", ["benchmark_name", "fingerprint", "versus"])
def test_other_texts_are_escaped(field: str, make_results: Callable[..., Results], tmp_path: Path) -> None:
    results = make_results("rank", 20, **{field: HOSTILE})
    page = Page(render_report([results], tmp_path / "r.html").read_text(encoding="utf-8"))
    assert not page.every("script")
    assert not page.every("img")


def test_equal_results_give_an_equal_page(make_results: Callable[..., Results], tmp_path: Path) -> None:
    first = render_report([make_results("generate", 12)], tmp_path / "a.html").read_bytes()
    second = render_report([make_results("generate", 12)], tmp_path / "b.html").read_bytes()
    assert first == second


def test_generations_are_counted(page: Page) -> None:
    assert re.search(r"Zero-shot 16 1 4 25\.0 112 3\.0 2 73\.0 s", page.text)


def test_protocol_settings_that_differ_are_marked(text: str) -> None:
    marked = re.findall(r'<tr class="differs"><th scope="row">[^<]*<small><code>([^<]+)', text)
    assert "track" in marked
    assert "limit" in marked
    assert "population.alpha" not in marked
    assert "population.alpha" in text


def test_a_gain_that_is_not_defined_is_a_dash(make_results: Callable[..., Results], tmp_path: Path) -> None:
    results = make_results("rank", 30)
    nothing = Estimate(math.nan, math.nan, math.nan)
    rows = tuple(dataclasses.replace(row, metrics=row.metrics | {"gain": nothing}) for row in results.methods)
    page = Page(render_report([dataclasses.replace(results, methods=rows)], tmp_path / "r.html").read_text("utf-8"))
    assert "nan" not in page.text.lower()
    assert "and a gain of" not in page.text


def test_without_references_or_per_user_values(make_results: Callable[..., Results], tmp_path: Path) -> None:
    results = make_results("generate", 4)
    rows = tuple(dataclasses.replace(r, per_user={}, counts={}) for r in results.methods if r.kind == "method")
    bare = dataclasses.replace(results, methods=rows, sources={}, manifest={}, directory=None)
    page = Page(render_report([bare], tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "User by user" not in page.text
    assert "Two users" not in page.text
    assert len(page.every("svg")) == 1


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.01, 0.2, ": more than the best policy"),
        (-0.1, 0.2, ": not distinguishable from the best policy"),
        (-0.3, -0.1, ": less than the best policy"),
    ],
)
def test_finding_follows_the_interval(
    low: float, high: float, words: str, make_results: Callable[..., Results], tmp_path: Path
) -> None:
    results = make_results("rank", 30)
    gain = Estimate((low + high) / 2, low, high)
    rows = tuple(dataclasses.replace(row, metrics=row.metrics | {"gain": gain}) for row in results.methods)
    page = Page(render_report([dataclasses.replace(results, methods=rows)], tmp_path / "r.html").read_text("utf-8"))
    assert words in page.text


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.01, 0.2, "It is clearly above Random response: +0."),
        (-0.1, 0.2, "It is not clearly different from Random response: +0."),
        (-0.3, -0.1, "It is clearly below Random response: \u22120."),
    ],
)
def test_finding_names_the_lead(
    low: float, high: float, words: str, make_results: Callable[..., Results], tmp_path: Path
) -> None:
    results = make_results("rank", 30)
    change = {"mean_utility": Estimate((low + high) / 2, low, high)}
    rows = tuple(dataclasses.replace(row, versus_reference=change) for row in results.methods)
    page = Page(render_report([dataclasses.replace(results, methods=rows)], tmp_path / "r.html").read_text("utf-8"))
    assert words in page.text


def test_several_runs_of_one_track_get_keys_of_their_own(make_results: Callable[..., Results], tmp_path: Path) -> None:
    runs = [make_results("rank", 10), make_results("rank", 12, fingerprint="0" * 16), make_results("generate", 4)]
    assert [view.key for view in track_views(runs)] == ["rank", "rank-2", "generate"]
    Page(render_report(runs, tmp_path / "r.html").read_text(encoding="utf-8"))


def test_a_folder_gets_report_html(make_results: Callable[..., Results], tmp_path: Path) -> None:
    assert render_report([make_results("rank", 5)], tmp_path) == tmp_path / "report.html"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_nothing_to_report() -> None:
    with pytest.raises(UserError, match=r"There are no results to report\. Run `personalllm evaluate`"):
        render_report([], "unused.html")


def test_import_is_light() -> None:
    code = "import sys, personalllm.report; print([m for m in ('matplotlib', 'jinja2', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
