"""`personalllm demo`: the benchmark's main job from end to end, offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from personalllm.core.types import JSON
    from personalllm.data import Benchmark
    from personalllm.evaluation import Results

__all__ = ["demo"]

METHODS = ("calibrated-bayes[implied=false]", "pooled-bt")
"""The best method that is fitted in three seconds (thirty with implied comparisons); one that ignores the user."""

POOL = {"n_users": 300, "pairs_per_user": 30}
"""A small pool: the methods are fitted four times."""

STYLES = (
    "Answer in one short sentence.",
    "Answer like a warm, personal friend.",
    "Answer as a numbered list.",
    "Answer formally and precisely, with reasons.",
)
"""System messages of the chat model, two responses each: what one model writes of itself differs little."""

SHOTS = 20
MAX_TOKENS = 24
CONTEXT_LENGTH = 1024


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the runs and the report.")] = Path("demo-report"),
    users: Annotated[int, typer.Option(min=2, help="Users among whom stored responses are chosen.")] = 500,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts for which the chat model writes.")] = 24,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
) -> None:
    """Show on the embedded benchmark whether personalisation helps, and write the HTML report.

    Methods choose for simulated users among stored responses (rank track), predict their next preference after k of
    them (predict track), then choose among what a local chat model writes: with the user's own history, and with that
    of another user. Run it again and it continues where it stopped.
    """
    import time

    from rich.console import Console

    from personalllm.report import render_report
    from personalllm.report.terminal import show_answer

    console = Console()
    began = time.perf_counter()
    stages = _Stages(console, out, users, prompts, seed)
    runs = [stages.rank(), stages.predict(), *stages.choose()]
    console.print(f"\n{time.perf_counter() - began:.0f} s so far; writing the report", highlight=False)
    page = render_report(runs, out / "report.html")
    show_answer(runs, console)
    console.print(f"\n[bold]Report[/]: {page} (open it in a browser)", soft_wrap=True)
    console.print(f"In all {time.perf_counter() - began:.0f} s.", highlight=False)


class _Stages:
    """The runs of the demo, each shown on the console when it is there."""

    def __init__(self, console: Console, out: Path, users: int, prompts: int, seed: int) -> None:
        from personalllm.backends.llm import CachedChatModel, LocalChatModel
        from personalllm.backends.names import build_embedder, build_rewards
        from personalllm.cli.progress import embed_texts
        from personalllm.data import load

        self.console, self.out, self.users, self.prompts, self.seed = console, out, users, prompts, seed
        self.mini = load("mini")
        console.print(
            f"[bold]mini[/]: {self.mini.n_prompts} prompts x {self.mini.n_responses} responses x "
            f"{len(self.mini.reward_models)} reward models, fingerprint {self.mini.fingerprint[:12]}",
            highlight=False,
        )
        self.embedder = build_embedder()
        slots = -(-self.mini.n_responses // len(STYLES))
        self.llm = CachedChatModel(LocalChatModel(context_length=CONTEXT_LENGTH, slots=slots), out / "replies")
        self.rewards = build_rewards(self.mini.metadata, self.embedder)
        embed_texts(self.mini, self.embedder, console)

    def rank(self) -> Results:
        """Choose among the stored responses."""
        text = f"{self.users:,} users, {SHOTS} preferences known of each"
        return self._run("rank", text, self.mini, {"n_users": self.users})

    def predict(self) -> Results:
        """Predict preferences after 0, 5 and 20 of them."""
        n_users = min(self.users, 300)
        prediction: JSON = {"shots": [0, 5, SHOTS], "users": ["unseen"], "prompts": ["unseen"]}
        settings: JSON = {"n_users": n_users, "prediction": prediction}
        return self._run("predict", f"{n_users:,} users, 0 to {SHOTS} preferences known of each", self.mini, settings)

    def choose(self) -> tuple[Results, Results]:
        """Choose among what the chat model writes: with the user's own history, then with another user's."""
        import time

        from personalllm.build import write_candidates
        from personalllm.cli.progress import reported

        n, began = self.mini.n_responses, time.perf_counter()
        self.console.print(
            f"\n[bold]{self.llm.name}[/] writes {n} responses to {self.prompts} prompts", highlight=False
        )
        with reported("responses", self.console) as progress:
            written = write_candidates(
                self.mini, self.llm, self.rewards, n_prompts=self.prompts, styles=STYLES, max_tokens=MAX_TOKENS,
                seed=self.seed, progress=progress,
            )  # fmt: skip
        self._took(began)
        n_users = min(self.users, 500)
        own, other = (
            self._run(
                "rank",
                f"{n_users:,} users, what {self.llm.name} wrote, {history}",
                written,
                {
                    "n_users": n_users,
                    "history": {"pairs": SHOTS, "counterfactual": kind},
                    "reference_response_model": written.response_models[-1],
                },
            )
            for kind, history in (("none", "the users' own histories"), ("other-user", "another user's history"))
        )
        return own, other

    def _run(self, track: str, text: str, data: Benchmark, settings: Mapping[str, object]) -> Results:
        import time

        from personalllm.cli.progress import watch
        from personalllm.evaluation import evaluate
        from personalllm.evaluation.parts import load_track
        from personalllm.report.leaderboard import leaderboard
        from personalllm.report.terminal import output_console, show_table

        self.console.print(f"\n[bold]{load_track(track).title}[/] ({track} track): {text}", highlight=False)
        began = time.perf_counter()
        protocol: JSON = {"history": {"pairs": SHOTS}, "pool": POOL, **settings, "seed": self.seed}
        with watch(self.console) as progress:
            results = evaluate(METHODS, data, track, protocol, embedder=self.embedder, out=self.out, progress=progress)
        show_table(leaderboard(results, curve=True), output_console())
        self._took(began)
        return results

    def _took(self, began: float) -> None:
        import time

        self.console.print(f"took {time.perf_counter() - began:.0f} s", highlight=False)
