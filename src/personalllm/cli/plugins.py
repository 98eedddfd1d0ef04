"""`personalllm list` and `personalllm check`: what has a name, where it is from, and whether it keeps its contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from personalllm.cli.kinds import Kind

if TYPE_CHECKING:
    from rich.console import Console

    from personalllm.cli.kinds import Listing, Subject
    from personalllm.testing import Check, Outcome

__all__ = ["check", "list_names"]

_VERDICTS = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


def _complete(incomplete: str) -> list[str]:
    """Return the registered names that begin with what was typed."""
    from personalllm.cli.kinds import all_names

    return [name for name in all_names() if name.startswith(incomplete)]


def list_names(
    kind: Annotated[Kind | None, typer.Argument(help="Only these.", show_default="all kinds")] = None,
) -> None:
    """Show every name, built in or from a plugin: what it is, where it comes from, and which plugins are broken."""
    from rich.text import Text

    from personalllm.cli.kinds import listings, registry_of
    from personalllm.report.terminal import output_console, show_rows

    console = output_console()
    broken: list[Listing] = []
    for each in [kind] if kind else list(Kind):
        rows = listings(each)
        broken += [listing for listing in rows if listing.problem]
        headings = ("name", "what it is", *(("tracks", "needs") if each is Kind.METHOD else ()), "from")
        title = f"[bold]{each.value}[/]  [dim]entry points {registry_of(each).group}[/]"
        show_rows(console, headings, [_row(each, listing) for listing in rows], title=title)
    if broken:
        plural = "plugin is" if len(broken) == 1 else "plugins are"
        console.print(f"[red]{len(broken)} {plural} broken[/]; everything else works.", highlight=False)
    for listing in broken:
        line = Text.assemble(("  ", ""), (listing.entry.name, "bold"), ": ", listing.problem)
        console.print(line, highlight=False, soft_wrap=True)
    console.print("Check one: personalllm check NAME. Add your own: docs/plugins.md", highlight=False)


def _row(kind: Kind, listing: Listing) -> list[str]:
    from rich.markup import escape

    what = escape(listing.title) if not listing.problem else "[red]broken[/], see below"
    columns = [", ".join(listing.tracks), ", ".join(listing.needs)] if kind is Kind.METHOD else []
    return [escape(listing.entry.name), what, *columns, escape(listing.entry.origin)]


def check(
    target: Annotated[
        str,
        typer.Argument(
            help="my_package:Thing, also from a file in this folder, or a registered name.",
            autocompletion=_complete,
            show_default=False,
        ),
    ],
    *,
    kind: Annotated[Kind | None, typer.Option(help="Which, if two kinds share the name.", show_default=False)] = None,
    embedder: Annotated[
        str | None, typer.Option(help="What a method is checked with.", show_default="a stand-in")
    ] = None,
    llm: Annotated[str | None, typer.Option(help="What a method is checked with.", show_default="a stand-in")] = None,
) -> None:
    """Run the contract suite on a method, embedder, chat model or reward ensemble, yours or a registered one.

    Every clause is checked, also after a broken one; each line shows the verdict and the time, and below a broken
    clause stand what is wrong and the usual fix. Exits with 1 if a clause is broken.
    """
    import time

    from rich.markup import escape

    from personalllm.cli.kinds import PREFIXES, registry_of, subject_of
    from personalllm.report.terminal import output_console
    from personalllm.testing import run_checks

    console = output_console()
    subject = subject_of(target, kind)
    what = registry_of(subject.kind).kind
    require = getattr(subject.built, "require", None)
    if callable(require) and (subject.origin == "built in" or ":" not in subject.name or target.startswith(PREFIXES)):
        require()  # weights or a package that are not here say nothing about the contract
    console.print(f"[bold]{escape(target)}[/]: {what}, from {escape(subject.origin)}", highlight=False)
    start = time.perf_counter()
    verdicts = [_show(outcome, console) for outcome in run_checks(_checks(subject, embedder, llm))]
    seconds = time.perf_counter() - start
    failed, skipped = verdicts.count("failed"), verdicts.count("skipped")
    passed = len(verdicts) - failed - skipped
    counts = f"{passed} of {len(verdicts)} checks passed, {failed} failed, {skipped} skipped, in {seconds:.1f} s."
    verdict = (
        f"[red]breaks the contract of {_article(what)}[/]" if failed else f"keeps the contract of {_article(what)}"
    )
    console.print(f"{counts} {escape(target)} {verdict}.", highlight=False)
    if failed:
        raise typer.Exit(1)


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _show(outcome: Outcome, console: Console) -> str:
    """Print one line for a check, and below a broken one what is wrong and how to fix it."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    line = Table.grid()
    for width in (8, 11, 19):
        line.add_column(width=width, no_wrap=True)
    line.add_column(overflow="fold")
    line.add_row(
        Text(outcome.verdict, _VERDICTS[outcome.verdict]),
        f"{outcome.seconds:7.2f} s",
        Text(outcome.check.name, "bold"),
        Text(outcome.check.asks),
    )
    console.print(line, highlight=False)
    if outcome.message:
        console.print(Padding(Text(outcome.message), (0, 0, 0, 20), expand=False), highlight=False)
    if outcome.verdict == "failed" and outcome.check.remedy:
        console.print(Padding(Text(outcome.check.remedy, style="cyan"), (0, 0, 0, 20), expand=False), highlight=False)
    return outcome.verdict


def _checks(subject: Subject, embedder: str | None, llm: str | None) -> tuple[Check, ...]:
    """Return the contract suite of a subject, and what only its registration can break."""
    from personalllm.backends.names import build_embedder, build_llm
    from personalllm.core.errors import UserError
    from personalllm.testing import (
        chat_model_checks,
        embedder_checks,
        method_checks,
        reward_ensemble_checks,
    )

    if subject.kind is Kind.METHOD:
        return (
            *method_checks(
                subject.built,
                embedder=build_embedder(embedder) if embedder else None,
                llm=build_llm(llm, cache=False) if llm else None,
            ),
            *_registered_as(subject),
        )
    if embedder or llm:
        raise UserError("--embedder and --llm are for methods.", "Leave them out.")
    suites: dict[Kind, Any] = {
        Kind.EMBEDDER: embedder_checks,
        Kind.CHAT_MODEL: chat_model_checks,
        Kind.REWARD_ENSEMBLE: reward_ensemble_checks,
    }
    checks: tuple[Check, ...] = suites[subject.kind](subject.built)
    return (*checks, *_one_identity(subject))


def _registered_as(subject: Subject) -> tuple[Check, ...]:
    """Check that a method's id is the name under which it is registered."""
    from personalllm.testing import Check

    def run() -> None:
        if subject.built.id != subject.name:
            raise AssertionError(f"It is registered as {subject.name!r}, but its id is {subject.built.id!r}.")

    if not subject.registered:
        return ()
    remedy = "Results are filed under the id, and read back under the name: make them equal."
    return (Check("registered-name", "Its id is the name under which it is registered.", run, remedy),)


def _one_identity(subject: Subject) -> tuple[Check, ...]:
    """Check that two backends from the same factory have one identity."""
    from personalllm.testing import Check

    def run() -> None:
        first, second = subject.built.identity, subject.again.identity
        if first != second:
            raise AssertionError(f"Built twice, it has two identities: {first!r} and {second!r}.")

    if subject.again is None:
        return ()
    remedy = "Leave out addresses, times and random numbers: caches and results are filed under the identity."
    return (Check("one-identity", "Built twice, it has the same identity.", run, remedy),)
