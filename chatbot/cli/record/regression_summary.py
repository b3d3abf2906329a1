"""What replay --against found: counts, the noise band, and the same as an HTML file."""

import argparse
from typing import Any

from msgspec import Struct, field, to_builtins

from chatbot.audit.noise_band import BandSummary, Spread, TurnSample, summarize, summarize_by_session
from chatbot.audit.reply_comparison import Comparison
from chatbot.audit.report.html_style import POLICY, STYLE
from chatbot.audit.report.html_text import block, escape, table
from chatbot.cli.cli_context import CommandContext
from chatbot.cli.output_file import open_output

KEPT_MAX = 500  # turns outside of the band, or failed, that the HTML file shows
TITLE = "Model regression"


class RunSummary(Struct):
    """Counts of a run so far. `similarity` is the sum over the answered turns, `below` counts those under the
    threshold. `unreachable` says why no further turn is sent. `samples` are the turns with a noise band, `kept` those
    to show.
    """

    repeats: int
    turns: int = 0
    identical: int = 0
    failed: int = 0
    below: int = 0
    similarity: float = 0.0
    unreachable: str = ""
    samples: list[TurnSample] = field(default_factory=list)
    kept: list[Comparison] = field(default_factory=list)

    def count(self, one: Comparison, threshold: float) -> None:
        self.turns += 1
        self.failed += one.error is not None
        self.identical += one.identical
        self.similarity += one.similarity
        self.below += one.error is None and one.similarity < threshold
        if one.outside is not False and len(self.kept) < KEPT_MAX:
            self.kept.append(one)

    @property
    def mean_similarity(self) -> float | None:
        answered = self.turns - self.failed
        return round(self.similarity / answered, 4) if answered else None

    @property
    def band(self) -> BandSummary | None:
        return summarize(self.samples, self.repeats) if self.samples else None

    def is_worse_than_noise(self, significance: float) -> bool:
        """Whether more turns are outside of the band than chance explains."""
        band = self.band
        return band is not None and band.outside > 0 and band.chance <= significance


def print_summary(context: CommandContext, options: argparse.Namespace, summary: RunSummary) -> None:
    mean, band = summary.mean_similarity, summary.band
    figures: dict[str, Any] = {
        "turns": summary.turns,
        "identical": summary.identical,
        "failed": summary.failed,
        "mean_similarity": mean,
    }
    if options.json or options.format == "json":
        figures["below"] = summary.below
        if band is not None:
            by_session = summarize_by_session(summary.samples, summary.repeats)
            figures |= {"band": to_builtins(band), "sessions": to_builtins(by_session)}
        context.print_json({"summary": figures})
        return
    below = f", {summary.below} less alike than {options.fail_below:g}" if options.fail_below else ""
    alike = "" if mean is None else f", mean similarity {mean:.2f}"
    context.print_result(f"{summary.turns} turns: {summary.identical} identical, {summary.failed} failed{alike}{below}")
    if band is not None:
        context.print_result(f"noise band: {_describe(band)}; {_verdict(band, options.significance)}")
        context.print_result(f"similarity of the recorded model's own answers: {_quantiles(band.noise)}")
        context.print_result(f"similarity of the new model's answers:          {_quantiles(band.answers)}")
        for session_id, one in summarize_by_session(summary.samples, summary.repeats).items():
            if one.outside:
                context.print_result(f"  session {session_id}: {_describe(one)}")


def write_html(options: argparse.Namespace, summary: RunSummary) -> None:
    """Write the result to the new file that --html names. Raises UsageError."""
    with open_output(options.html, "a result") as out:
        out.write(render_html(options, summary).encode(errors="replace"))


def render_html(options: argparse.Namespace, summary: RunSummary) -> str:
    """The result as one file that loads nothing and runs nothing."""
    band = summary.band
    head = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{TITLE}</title>\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n<main>\n<h1>{TITLE}</h1>\n"
    )
    counted = f"{summary.turns:,} turns, {summary.identical:,} identical, {summary.failed:,} failed."
    told = [f"<p>The new model is {escape(options.against)}: {counted}</p>\n"]
    if band is not None:
        told.append(_band_section(options, summary, band))
    shown = "".join(_turn(one) for one in summary.kept)
    more = "" if len(summary.kept) < KEPT_MAX else f"<p>Only the first {KEPT_MAX} are shown.</p>\n"
    turns = f"<section><h2>Turns outside the band, or failed</h2>\n{more}{shown or '<p>None.</p>'}</section>\n"
    return f"{head}{''.join(told)}{turns}</main>\n</body>\n</html>\n"


def _band_section(options: argparse.Namespace, summary: RunSummary, band: BandSummary) -> str:
    sessions = summarize_by_session(summary.samples, summary.repeats)
    rows = [("All", *_cells(band)), *((escape(name), *_cells(one)) for name, one in sessions.items())]
    columns = ("Session", "Turns", "Outside", "Expected", "Chance", "Noise: 5%, 50%, 95%", "Answers: 5%, 50%, 95%")
    return (
        "<section><h2>Noise band</h2>\n"
        f"<p>The recorded model, {escape(options.baseline)}, answered each turn {summary.repeats} times. A turn is"
        " outside if the new answer is less similar to the recorded one than all of these. Similarity is the share of"
        " words that two answers have in the same order: it does not compare meaning.</p>\n"
        f"<p>{escape(_describe(band))}; {escape(_verdict(band, options.significance))}.</p>\n"
        + table("By session", columns, rows)
        + "</section>\n"
    )


def _turn(one: Comparison) -> str:
    noise = f", noise {min(one.noise):.2f} to {max(one.noise):.2f}" if one.noise else ""
    title = f"<h3>Reply {escape(one.reply_id)}</h3>\n"
    if one.now is None:
        return f'<article>{title}<p class="facts">Failed: {escape(one.error or "")}</p></article>\n'
    told = f"session {escape(one.session_id)}, similarity {one.similarity:.2f}{noise}"
    return (
        f'<article>{title}<p class="facts">{told}</p>\n'
        f"<h4>Recorded, by {escape(one.recorded.model)}</h4>{block(one.recorded.content)}"
        f"<h4>Now, by {escape(one.now.model)}</h4>{block(one.now.content)}</article>\n"
    )


def _cells(band: BandSummary) -> tuple[str, ...]:
    noise, answers = _quantiles(band.noise), _quantiles(band.answers)
    return f"{band.turns:,}", f"{band.outside:,}", f"{band.expected:g}", f"{band.chance:.3g}", noise, answers


def _describe(band: BandSummary) -> str:
    return f"{band.outside} of {band.turns} turns outside, at most {band.expected:g} expected by chance"


def _verdict(band: BandSummary, significance: float) -> str:
    if not band.outside:
        return "no difference from the recorded model"
    told = f"the probability of so many by chance is {band.chance:.2g}"
    return f"{told}: {'more than noise' if band.chance <= significance else 'noise explains it'}"


def _quantiles(one: Spread) -> str:
    return ", ".join("none" if value is None else f"{value:.2f}" for value in (one.p05, one.p50, one.p95))
