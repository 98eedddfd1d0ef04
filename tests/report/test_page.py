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
from personalllm.evaluation.contract import Condition, Estimate
from personalllm.evaluation.results import Results
from personalllm.report import render_report
from personalllm.report.views import View, make_view, make_views

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


def with_gain(results: Results, gain: Estimate) -> Results:
    rows = [
        dataclasses.replace(row, estimates={Condition(): row.estimates[Condition()] | {("all", "gain"): gain}})
        for row in results.methods
    ]
    return dataclasses.replace(results, methods=tuple(rows))


def test_every_part_is_there(page: Page) -> None:
    headings = [
        "Choosing among responses",
        "Writing new responses",
        "Which method",
        "Against ignoring the user",
        "Differences from Embedding ranker",
        "Differences from Best response for the population (not personalised)",
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
            value = result.estimate(row.label, "utility")
            shown = f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]".replace("-", "\u2212")
            assert shown in page.text, row.label


def test_methods_are_sorted_and_baselines_and_oracles_stand_apart(both: list[Results], tmp_path: Path) -> None:
    text = render_report(both[:1], tmp_path / "r.html").read_text(encoding="utf-8")
    board = text[text.index('class="leaderboard"') : text.index(">Differences from")]
    methods, baselines = board.split('<tbody class="baseline">')
    baselines, oracles = baselines.split('<tbody class="oracle">')
    order = [methods.index(f"<code>{name}</code>") for name in ("embedding-ranker", "longest", "random")]
    assert order == sorted(order)
    assert "<code>oracle</code>" in oracles
    assert "<code>oracle</code>" not in methods + baselines
    assert "<code>population-best</code>" in baselines


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


@pytest.mark.parametrize("field", ["benchmark", "fingerprint", "reference_response_model"])
def test_other_texts_are_escaped(field: str, make_results: Callable[..., Results], tmp_path: Path) -> None:
    results = make_results("rank", 20, fingerprint=HOSTILE)
    results.protocol[field] = HOSTILE
    page = Page(render_report([results], tmp_path / "r.html").read_text(encoding="utf-8"))
    assert not page.every("script")
    assert not page.every("img")


def test_equal_results_give_an_equal_page(make_results: Callable[..., Results], tmp_path: Path) -> None:
    first = render_report([make_results("generate", 12)], tmp_path / "a.html").read_bytes()
    second = render_report([make_results("generate", 12)], tmp_path / "b.html").read_bytes()
    assert first == second


def test_generations_are_counted(page: Page) -> None:
    assert re.search(r"Zero-shot zero-shot 16 1 4 25\.0 112 3\.0 2 73\.0 s", page.text)


def test_protocol_settings_that_differ_are_marked(text: str) -> None:
    marked = re.findall(r'<tr class="differs"><th scope="row"><code>([^<]+)', text)
    assert "track" in marked
    assert "limit" in marked
    assert "population.alpha" not in marked
    assert "population.alpha" in text


def test_a_gain_that_is_not_defined_is_a_dash(make_results: Callable[..., Results], tmp_path: Path) -> None:
    results = make_results("rank", 30)
    results = with_gain(results, Estimate(math.nan, math.nan, math.nan))
    page = Page(render_report([results], tmp_path / "r.html").read_text("utf-8"))
    assert "nan" not in page.text.lower()
    assert "has a gain of" not in page.text


def test_without_baselines_samples_and_manifest(make_results: Callable[..., Results], tmp_path: Path) -> None:
    results = make_results("generate", 4)
    rows = tuple(dataclasses.replace(r, counts={}, seconds={}) for r in results.methods if r.kind == "method")
    bare = dataclasses.replace(results, methods=rows, sources={}, manifest={}, directory=None)
    page = Page(render_report([bare], tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "Against ignoring the user" not in page.text
    assert "What was generated" not in page.text
    assert "Two users" not in page.text


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.01, 0.2, "it is better than the best choice that ignores the user"),
        (-0.1, 0.2, "it is not significantly different from the best choice that ignores the user"),
        (-0.3, -0.1, "it is worse than the best choice that ignores the user"),
    ],
)
def test_finding_follows_the_interval(
    low: float, high: float, words: str, make_results: Callable[..., Results], tmp_path: Path
) -> None:
    results = with_gain(make_results("rank", 30), Estimate((low + high) / 2, low, high))
    assert words in Page(render_report([results], tmp_path / "r.html").read_text("utf-8")).text


def test_the_best_method_is_compared_with_all_others(make_results: Callable[..., Results]) -> None:
    results = make_results("rank", 100)
    text = {finding.topic: finding.text for finding in make_view(results).findings()}
    value = results.estimate("embedding-ranker", "utility")
    assert text["Which method"] == (
        f"The best of 3 methods is Embedding ranker: mean utility {value.value:.3f} [{value.low:.3f}, "
        f"{value.high:.3f}]. It is significantly better than Longest response and Random response. "
        "(Paired by user, Holm-corrected at 5 %.)"
    )
    against = text["Against ignoring the user"]
    assert against.startswith("The best baseline is Best response for the population (not personalised): mean utility ")
    assert "Significantly worse: Longest response and Random response." in against


def test_several_runs_of_one_track_get_keys_of_their_own(make_results: Callable[..., Results], tmp_path: Path) -> None:
    runs = [make_results("rank", 10), make_results("rank", 12, fingerprint="0" * 16), make_results("generate", 4)]
    views = make_views(runs)
    assert [view.key for view in views] == ["rank", "rank-2", "generate"]
    assert [view.label for view in views] == ["Rank", "Rank (2)", "Generate"]
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


def test_a_track_without_a_view_of_its_own_is_reported(predicted: Results, tmp_path: Path) -> None:
    """A plug-in's track gets headings, direction and units from its metrics, curves where there are shots."""
    accuracy = dataclasses.replace(
        predicted.metric("accuracy"),
        id="speed",
        heading="<i>Speed</i>",
        unit="sd",
        higher_is_better=False,
        note="per s",
    )
    rows = [
        dataclasses.replace(
            row, estimates={c: {("all", "speed"): values["all", "accuracy"]} for c, values in row.estimates.items()}
        )
        for row in predicted.methods
    ]
    results = dataclasses.replace(
        predicted,
        protocol=predicted.protocol | {"track": "toy"},
        track="toy",
        metrics=(accuracy,),
        main_metric="speed",
        methods=tuple(rows),
    )
    assert type(make_view(results)) is View
    text = render_report([results], tmp_path / "r.html").read_text("utf-8")
    page = Page(text)
    assert not page.every("i")
    assert "<i>Speed</i> per s" in page.text
    assert "Toy track" in page.text
    assert "The best of 8 methods on unseen users, unseen prompts, 64 shots is Longest response" in page.text
    assert "<i>Speed</i> by number of shots" in page.text
    assert len(page.every("svg")) == 1


def test_all_tracks_on_one_page(both: list[Results], predicted: Results, tmp_path: Path) -> None:
    page = Page(render_report([predicted, *both], tmp_path / "r.html").read_text("utf-8"))
    sections = [attributes["id"] for attributes in page.every("section")]
    assert sections == ["rank", "generate", "predict", "examples", "protocol", "again", "notes", "definitions"]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
