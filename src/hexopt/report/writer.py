"""``report.md`` and ``report.html`` of a result folder: what was run, what came out, what it says, and the figures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hexopt.errors import OutputError
from hexopt.report.data import Results, Setting, number
from hexopt.report.document import Block, Grid, Heading, Items, Picture, Text, to_html, to_markdown
from hexopt.report.figures import Drawn, draw_figures
from hexopt.report.paper import load_paper
from hexopt.report.sentences import (
    METRICS,
    difference,
    failure_sentences,
    headline_sentences,
    loss_sentences,
    rows_of,
    setting_of,
    verdict,
    winners,
)
from hexopt.report.tables import COLUMNS, show_number, summary_rows

FEW_SETS = 4
"""Sets of figures up to which the report shows all; of more, it shows the main ones and names the folder."""
MAIN = ("overview", "req", "attainment", "breakdown", "load", "sensitivity", "timeline")

BEST = "(best)"
"""How ``across_traces.csv`` names the baseline that is best on each trace."""

DIFFERENCES = ("req95", "req99", "latency_mean_s", "latency_p99_s")
VERDICTS = {
    "better": "better",
    "worse": "worse",
    "open": "no difference shown",
    "one seed": "one seed: open",
    "no pair": "–",
}


def write_report(data: Results, folder: Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write figures, ``report.md`` and ``report.html`` into ``folder`` and return what was written, reports first.

    The same result folder gives the same bytes.

    Raises
    ------
    OutputError
        The folder cannot be written.
    """
    try:
        figures = draw_figures(data, folder / "figures", list(dict.fromkeys(("png", *formats))))
        blocks = list(report_blocks(data, figures))
        markdown, page = folder / "report.md", folder / "report.html"
        markdown.write_text(to_markdown(blocks, folder), encoding="utf-8", newline="\n")
        page.write_text(to_html(blocks, f"hexopt report: {data.name}"), encoding="utf-8", newline="\n")
    except OSError as error:
        raise OutputError(
            f"{folder}: {error.strerror or error}, a report needs a folder that can be written, name another with --out"
        ) from None
    return [markdown, page, *(path for figure in figures for path in figure.paths)]


def report_blocks(data: Results, figures: Sequence[Drawn]) -> Iterator[Block]:
    """Yield the report's blocks in order; parts that the data do not allow are left out."""
    yield Heading(f"Report: {data.name}", 1)
    experiment = data.record.get("experiment", {})
    if experiment.get("description"):
        yield Text(str(experiment["description"]))
    yield Heading("In short")
    yield Items([*headline_sentences(data), *failure_summary(data)])
    yield Heading("What was run")
    yield Grid(("what", "value"), facts(data), names=2)
    yield from _results(data)
    yield from _differences(data)
    yield from _over_traces(data)
    yield from _winners(data)
    yield from _paper(data)
    yield Heading("Failures")
    yield Items(failure_sentences(data))
    yield from _figures(data, figures)
    yield Heading("How to read this")
    yield Items(READING)


READING = (
    "A workflow's ratio is its latency divided by its standalone latency, that is alone on the idle cluster. Req95 is "
    "the smallest SLO scale α at which 95% of workflows finish within α × standalone; Req99 likewise. Lower is better.",
    "± is half the width of the 95% percentile bootstrap interval of the mean over seeds. With few seeds such "
    "intervals are too narrow rather than too wide. Differences are paired: at one seed all policies meet the same "
    "arrivals.",
    "The best baseline is chosen for each metric and setting by its mean, which favours the baselines: none of them "
    "need be best everywhere. Many comparisons are made, and no correction for that is applied.",
    "All latencies are simulated. What the simulation leaves out is listed at the end of docs/semantics.md.",
)


def failure_summary(data: Results) -> list[str]:
    """Say in one line how many runs failed or left workflows unfinished; nothing if none did."""
    if failure_sentences(data)[0].startswith("No run failed"):
        return []
    failed, runs = len(data.failures), data.runs
    open_runs = 0
    if {"finished_workflows", "workflows"} <= set(runs.columns):
        open_runs = int((runs["finished_workflows"] < runs["workflows"]).sum())
    return [f"**{failed} runs failed, {open_runs} left workflows unfinished**: see Failures."]


def facts(data: Results) -> list[tuple[str, str]]:
    """Return what was run as pairs of a name and a value: inputs with hashes, rules, seeds, version."""
    record: Mapping[str, Any] = data.record
    experiment: Mapping[str, Any] = record.get("experiment", {})
    known = {**experiment, **{key: value for key, value in record.items() if value is not None}}
    hidden = {"experiment", "name", "description", "schema_version", "output", "baselines", "policies", "clusters"}
    rows = [("hexopt", str(record.get("hexopt", "unknown")))]
    rows += [
        ("clusters", ", ".join(data.clusters)),
        ("policies", "; ".join(_policy(entry) for entry in experiment.get("policies", [])) or ", ".join(data.policies)),
        ("baselines", ", ".join(data.baselines) or "none named"),
        ("runs", f"{len(data.runs)} finished, {len(data.failures)} failed"),
    ]
    for key, value in known.items():
        if key not in hidden and key not in ("hexopt", "cluster", "runs", "failed") and value not in (None, [], {}, ""):
            rows.append((key.replace("_", " "), _value(value)))
    for axis, name in (("trace", "traces"), ("load", "loads"), ("estimate_error", "estimate errors")):
        values = [value for value in data.values(axis) if value]
        if len(values) > 1:
            rows.append((f"{name} in the tables", ", ".join(values)))
    return rows


def _policy(entry: Any) -> str:
    if not isinstance(entry, Mapping):
        return str(entry)
    label, name, options = entry.get("label"), entry.get("name", ""), entry.get("options") or {}
    text = f"{label} = {name}" if label and label != name else str(name)
    return text + (f" ({', '.join(f'{k} = {_value(v)}' for k, v in options.items())})" if options else "")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(v, str | int | float) for v in value):
        return ", ".join(str(v) for v in value)
    if isinstance(value, Mapping | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _results(data: Results) -> Iterator[Block]:
    yield Heading("Results")
    several = len(data.settings) > 1
    for setting in data.settings:
        headings, rows = summary_rows(data.of_setting(setting))
        if several:
            yield Heading(setting.title, 3)
        seeds = data.of_setting(setting).runs["seed"].nunique()
        caption = f"means over {seeds} seeds, ± half the 95% interval" if seeds > 1 else "one run each"
        yield Grid(
            [heading.replace("\n", " ") for heading in headings], rows, len(headings) - len(COLUMNS) - 1,
            f"{setting.title}: {caption}; plan ms is wall-clock time per planning on the machine of the runs",
        )  # fmt: skip


def _differences(data: Results) -> Iterator[Block]:
    rows = []
    for row in (row for metric in DIFFERENCES for row in rows_of(data, metric)):
        kind = verdict(row)
        if row["policy"] in data.baselines or kind == "no pair":
            continue
        rows.append((row, kind))
    if not rows:
        return
    yield Heading("Paired differences to the best baseline")
    order = {setting: i for i, setting in enumerate(data.settings)}
    rows.sort(key=lambda pair: (order.get(setting_of(pair[0]), 0), DIFFERENCES.index(pair[0]["metric"])))
    yield Grid(
        ("setting", "policy", "metric", "best baseline", "mean", "its mean", "pairs", "difference", "verdict"),
        [
            (
                setting_of(row).title, str(row["policy"]), METRICS[row["metric"]], str(row["best"]),
                show_number(float(row["mean"])), show_number(float(row["best_mean"])), str(row["pairs"]),
                difference(row), VERDICTS[kind],
            )
            for row, kind in rows
        ],
        names=4,
        caption="difference: mean over the paired seeds and its 95% interval, in percent of the best baseline's mean; "
        "negative is better. An interval that includes zero shows no difference.",
    )  # fmt: skip


def _over_traces(data: Results) -> Iterator[Block]:
    """Show reductions against the best baseline of each trace, averaged over traces in both ways."""
    if data.across.empty:
        return
    table = data.across
    table = table[(table["baseline"] == BEST) & table["metric"].isin(DIFFERENCES) & (table["traces"] > 1)]
    rows = []
    for row in table.to_dict("records"):
        if row["policy"] in data.baselines or math.isnan(float(row["mean_of_reductions_percent"])):
            continue
        setting = Setting(str(row["cluster"]), "", str(row["load"]), str(row["estimate_error"]))
        reductions = []
        for kind in ("mean_of_reductions", "reduction_of_means"):
            percent, low, high = (float(row[f"{kind}_{part}"]) for part in ("percent", "low", "high"))
            interval = "" if math.isnan(low) else f" [{low:.1f}, {high:.1f}]"
            reductions.append(f"{percent:.1f}%{interval}")
        rows.append((setting.title, str(row["policy"]), METRICS[row["metric"]], str(row["traces"]), *reductions))
    if not rows:
        return
    yield Heading("Reductions, averaged over traces")
    yield Grid(
        ("setting", "policy", "metric", "traces", "mean of reductions", "reduction of means"),
        rows,
        names=3,
        caption="against the baseline that is best on each trace, with 95% intervals over seeds; positive is better. "
        "In the mean of reductions every trace counts alike, in the reduction of means those with large values more.",
    )


def _winners(data: Results) -> Iterator[Block]:
    if len(data.policies) < 2:
        return
    yield Heading("Who wins where")
    table = winners(data)
    yield Grid(
        table.columns.tolist(),
        [
            (
                str(row[0]), str(row[1]), str(row[2]), show_number(float(row[3])), str(row[4]),
                show_number(float(row[5])), "–" if math.isnan(float(row[6])) else f"{float(row[6]):+.1f}%",
            )
            for row in table.itertuples(index=False)
        ],
        names=3,
        caption="by the mean over seeds alone; whether a distance is more than chance is in the paired differences",
    )  # fmt: skip
    losses = loss_sentences(data)
    if losses:
        yield Heading("Where the proposals lose", 3)
        yield Items(losses)


def _paper(data: Results) -> Iterator[Block]:
    paper = load_paper()
    rows = []
    for setting in data.settings:
        if setting.estimate_error and number(setting.estimate_error):
            continue
        part, names = data.of_setting(setting), data.named()
        for policy in part.policies:
            beside = paper.beside(setting.cluster, setting.trace, names[policy])
            if beside:
                own = [part.mean(policy, metric) for metric in ("req95", "req99")]
                rows.append(
                    (setting.title, policy, *(show_number(v) for pair in zip(own, beside, strict=True) for v in pair))
                )
    rows_mean = list(_paper_means(data))
    rows_error = list(_paper_errors(data))
    if not rows and not rows_mean and not rows_error:
        return
    yield Heading("Beside the paper")
    yield Text(f"Published figures: {paper.source}. {paper.note}")
    if rows:
        yield Grid(("setting", "policy", "Req95", "paper", "Req99", "paper"), rows, names=2)
    if rows_mean:
        yield Grid(
            ("cluster, load", "policy", "Req95", "paper", "Req99", "paper"), rows_mean, names=2,
            caption="means over the traces sharegpt, bfcl, lats and mixed",
        )  # fmt: skip
    if rows_error:
        yield Grid(
            ("cluster, load", "estimate error", "change of Req99", "paper"), rows_error, names=2,
            caption="HexAGenT, mean over the traces of the study against no estimate error",
        )  # fmt: skip
    yield Grid(
        ("the paper's statement", "reduction"),
        [(str(r["what"]), f"{r['percent']:g}%") for r in paper.reductions.to_dict("records")],
    )


FOUR = {"sharegpt", "bfcl", "lats", "mixed"}


def _paper_means(data: Results) -> Iterator[tuple[str, ...]]:
    """Yield the four-trace means where the study has all four traces; the strongest baseline by its mean Req99."""
    paper = load_paper()
    if not set(data.values("trace")) >= FOUR:
        return
    names = data.named()
    for mean in paper.means.to_dict("records"):
        for load in data.values("load"):
            part = data.of(cluster=mean["cluster"], load=load)
            exact = [e for e in part.values("estimate_error") if not e or number(e) == 0]
            part = part.of(estimate_error=exact[0]) if exact else part
            if set(part.values("trace")) < FOUR:
                continue
            pairs = {p: [_trace_mean(part, p, metric) for metric in ("req95", "req99")] for p in part.policies}
            if mean["policy"] == "hexagent":
                own = [p for p in pairs if names[p] == "hexagent"]
            else:
                own = sorted((p for p in pairs if p in data.baselines), key=lambda p: pairs[p][1])[:1]
            for policy in own:
                title = Setting(str(mean["cluster"]), load=load).title
                label = policy if policy in ("hexagent",) else f"{policy} (paper: {mean['policy']})"
                (a, b), (c, d) = pairs[policy], (float(mean["req95"]), float(mean["req99"]))
                yield title, label, show_number(a), show_number(c), show_number(b), show_number(d)


def _trace_mean(data: Results, policy: str, metric: str) -> float:
    values = [data.of(trace=trace).mean(policy, metric) for trace in sorted(FOUR)]
    return sum(values) / len(values)


def _paper_errors(data: Results) -> Iterator[tuple[str, ...]]:
    from hexopt.report.sensitivity import relative_req99

    names = data.named()
    for row in load_paper().sensitivity.to_dict("records"):
        for load in data.values("load"):
            part = data.of(cluster=str(row["cluster"]), load=load)
            if part.runs.empty:
                continue
            for policy, curve in relative_req99(part).items():
                error = float(row["error_percent"]) / 100
                found = next((v for e, v in curve.items() if math.isclose(e, error)), None)
                if names.get(policy) == "hexagent" and found:
                    title = Setting(str(row["cluster"]), load=load).title
                    change, published = 100 * (found[0] - 1), float(row["req99_percent"])
                    yield title, f"{row['error_percent']:g}%", f"{change:+.1f}%", f"{published:+.1f}%"


def _figures(data: Results, figures: Sequence[Drawn]) -> Iterator[Block]:
    yield Heading("Figures")
    sets = list(dict.fromkeys((f.setting.cluster, f.setting.trace) for f in figures if f.setting.cluster))
    all_shown = len(sets) <= FEW_SETS
    if not all_shown:
        yield Text("The main figures of each cluster and trace; the others are in the folder figures.")
    if len(data.values("load")) > 1 or len(data.values("estimate_error")) > 1:
        yield Text("Where a figure shows one setting, it is the middle load and the smallest estimate error.")
    lacking: dict[str, list[str]] = {}
    for figure in figures:
        if figure.lacking:
            lacking.setdefault(figure.lacking, []).append(figure.name)
        elif all_shown or figure.name in MAIN:
            png = next(path for path in figure.paths if path.suffix == ".png")
            title = figure.setting.title
            yield Picture(
                png, f"{title}: {figure.caption}" if title else figure.caption, f"{figure.name} {title}".strip()
            )
    for reason, names in lacking.items():
        yield Text(f"Not drawn, because {reason}: {', '.join(dict.fromkeys(names))}.")
