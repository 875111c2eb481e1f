"""The report: whole, self-contained, the same twice, and open about what is missing."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from hexopt.errors import OutputError
from hexopt.experiments.aggregate import BEST
from hexopt.report.data import AXES, Results, load_results, read_table
from hexopt.report.document import Grid, Heading, Items, Text, to_html, to_markdown
from hexopt.report.paper import load_paper
from hexopt.report.tables import summary_rows
from hexopt.report.writer import facts, report_blocks, write_report
from tests.report.made import grid, made, row


class Page(HTMLParser):
    """Collects what a page refers to, and checks that its elements are nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        assert not [name for name, _ in attrs if name.startswith("on")], "no handlers"
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def assert_self_contained(path: Path) -> Page:
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open
    assert page.references
    assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert "url(" not in text
    assert "@import" not in text
    return page


def test_a_report_is_one_page_without_references(experiment: Results, one_run: Results, tmp_path: Path) -> None:
    for name, data in (("study", experiment), ("run", one_run)):
        written = write_report(data, tmp_path / name, ("png",))
        assert [path.name for path in written[:2]] == ["report.md", "report.html"]
        page = assert_self_contained(tmp_path / name / "report.html")
        assert page.tags.count("img") == len(written) - 2
        for path in written[2:]:
            assert f"(figures/{path.name})" in written[0].read_text(encoding="utf-8")


def test_a_report_written_twice_is_the_same_bytes(experiment_folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report(load_results(experiment_folder), tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) > 10
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_the_report_says_what_was_run_and_what_came_out(experiment: Results, tmp_path: Path) -> None:
    text = write_report(experiment, tmp_path, ("png",))[0].read_text(encoding="utf-8")
    hashes = re.findall(r"\b[0-9a-f]{64}\b", json.dumps(experiment.record))
    assert hashes
    assert all(told in text for told in hashes)
    assert "| seeds | 0, 1, 2 |" in text
    assert "| hexopt | " in text
    for heading in (
        "In short",
        "What was run",
        "Results",
        "Paired differences",
        "Who wins where",
        "Failures",
        "Figures",
    ):
        assert f"## {heading}" in text
    assert "**hexagent, Req99**" in text
    assert "No run failed" in text
    assert "Beside the paper" not in text, "cluster and trace are not the paper's"


def test_facts_prefer_what_was_found_to_what_was_asked(experiment: Results) -> None:
    record = {"experiment": {"workflows": None, "calls": 7}, "workflows": 6, "calls": None}
    told = dict(facts(made(grid(), record=record)))
    assert (told["workflows"], told["calls"]) == ("6", "7")
    told = dict(facts(experiment))
    assert told["policies"] == "fcfs; hexagent"
    assert told["runs"] == "6 finished, 0 failed"


def test_failed_runs_and_new_axes_are_picked_up(experiment_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(experiment_folder, folder)
    runs = pd.read_csv(folder / "runs.csv")
    other = runs.assign(load=0.9, trace="b/fcl", estimate_error=0.1)
    runs = runs.assign(load=0.5, trace="b/fcl", estimate_error=0.0)
    broken = runs.iloc[[0]].assign(status="failed", error="fcfs: nothing found, a rule, a remedy", seed=9)
    pd.concat([runs, other, broken]).to_csv(folder / "runs.csv", index=False)
    summary = pd.read_csv(folder / "summary.csv").assign(trace="b/fcl")
    both = [summary.assign(load=0.5, estimate_error=0), summary.assign(load=0.9, estimate_error=0.1)]
    pd.concat(both).to_csv(folder / "summary.csv", index=False)
    data = load_results(folder)
    assert [s.title for s in data.settings] == ["tiny, b/fcl, load 0.5", "tiny, b/fcl, load 0.9, estimate error 10%"]
    assert data.interval("fcfs", "req99") is None, "of two settings there is no single interval"
    assert data.of_setting(data.settings[1]).interval("fcfs", "req99") is not None
    headings, rows = summary_rows(data)
    assert headings[:2] == ["setting", "policy"]
    assert len(rows) == 4
    assert all("±" in cells[2] for cells in rows)
    text = write_report(data, tmp_path / "out", ("png",))[0].read_text(encoding="utf-8")
    assert "Failed: tiny, b/fcl, load 0.5, fcfs, seed 9: fcfs: nothing found, a rule, a remedy" in text
    assert "**1 runs failed, 0 left workflows unfinished**" in text
    assert "Where a figure shows one setting" in text


def test_a_table_without_the_axes_has_one_unnamed_value_of_each(experiment: Results) -> None:
    for table in (experiment.runs, experiment.summary, experiment.timing, experiment.workflows):
        assert set(AXES) <= set(table.columns)
    assert experiment.runs["load"].unique().tolist() == [""]


def test_a_load_is_the_same_however_it_is_written(tmp_path: Path) -> None:
    for i, written in enumerate(("1", "1.0", "1e0")):
        (tmp_path / f"{i}.csv").write_text(f"cluster,load,policy\n1.0,{written},p\n")
        table = read_table(tmp_path / f"{i}.csv")
        assert table.loc[0, ["cluster", "trace", "load", "estimate_error"]].tolist() == ["1.0", "", "1", ""]


def test_ours_stands_beside_the_paper_cell_by_cell() -> None:
    data = made(grid(("fcfs", "hexagent"), clusters=("hetero-1-llama",), traces=("bfcl",)))
    tables = [block for block in report_blocks(data, []) if isinstance(block, Grid) and "paper" in block.headings]
    assert list(tables[0].rows) == [
        ("hetero-1-llama, bfcl", "fcfs", "1.00", "13.8", "2.00", "17.2"),
        ("hetero-1-llama, bfcl", "hexagent", "2.00", "6.21", "3.00", "6.34"),
    ]


def test_reductions_over_traces_are_told_in_both_ways() -> None:
    row = {"cluster": "tiny", "load": "", "estimate_error": "", "policy": "hexagent", "baseline": BEST, "traces": 2}
    row |= {f"mean_of_reductions_{part}": us for part, us in (("percent", 20.0), ("low", 18.0), ("high", 21.0))}
    row |= {f"reduction_of_means_{part}": us for part, us in (("percent", 30.0), ("low", math.nan), ("high", math.nan))}
    rows = [row | {"metric": "req99"}, row | {"metric": "req99", "baseline": "fcfs"}, row | {"metric": "ratio_mean"}]

    def shown(**changes: object) -> list[Grid]:
        data = replace(made(grid()), across=pd.DataFrame(rows).assign(**changes))
        return [b for b in report_blocks(data, []) if isinstance(b, Grid) and "traces" in b.headings]

    assert shown()[0].rows == [("tiny", "hexagent", "Req99", "2", "20.0% [18.0, 21.0]", "30.0%")]
    assert not shown(traces=1)


def test_four_traces_have_their_mean_and_errors_their_change_beside_the_paper() -> None:
    cells = grid(
        ("fcfs", "hexagent"), clusters=("hetero-1-qwen",), traces=("sharegpt", "bfcl", "lats", "mixed"),
        errors=("0", "0.1"),
    )  # fmt: skip
    for (c, t, w, e, p, s), (a, b) in cells.items():
        cells[c, t, w, e, p, s] = (a, b * (1.5 if e == "0.1" and p == "hexagent" else 1))
    data = made(cells, [row("fcfs", "req99", 1.0, "", 1.0)], ("fcfs",))
    tables = {block.caption[:5]: block.rows for block in report_blocks(data, []) if isinstance(block, Grid)}
    assert list(tables["means"]) == [
        ("hetero-1-qwen", "fcfs (paper: strongest baseline)", "1.00", "5.60", "2.00", "7.22"),
        ("hetero-1-qwen", "hexagent", "2.00", "4.48", "3.00", "4.69"),
    ]
    assert list(tables["HexAG"]) == [("hetero-1-qwen", "10%", "+50.0%", "+9.5%")]


def test_the_papers_figures_are_whole() -> None:
    paper = load_paper()
    assert paper.beside("hetero-1-qwen", "mixed", "workflow-llf") == (5.85, 8.96)
    assert paper.beside("hetero-1-qwen", "mixed", "hexagent") == (3.48, 3.94)
    assert paper.beside("tiny", "mixed", "hexagent") is None
    # What the paper says of Qwen Mixed follows from its cells.
    (a, b), (c, d) = paper.beside("hetero-1-qwen", "mixed", "workflow-llf"), (3.48, 3.94)  # type: ignore[misc]
    assert (round(100 * (1 - c / a)), round(100 * (1 - d / b))) == (41, 56)
    assert len(paper.cells) == 14
    assert len(paper.means) == 6
    assert "2605.16637" in paper.source


def test_what_looks_like_markup_is_text() -> None:
    blocks = [Heading("a <b> & c", 1), Text("x [y](z) **bold**"), Items(["<script>"]), Grid(["a|b"], [["c|d<"]])]
    page = to_html(blocks, "t<")
    assert "<script>" not in page
    assert "a &lt;b&gt; &amp; c" in page
    assert "<strong>bold</strong>" in page
    markdown = to_markdown(blocks, Path())
    assert "x \\[y\\](z) **bold**" in markdown
    assert "| c\\|d\\< |" in markdown


def test_a_folder_that_cannot_be_written_is_one_line(experiment: Results, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--out"):
        write_report(experiment, tmp_path / "file", ("png",))


def test_options_and_lists_are_told_in_words() -> None:
    record = {
        "experiment": {
            "policies": [{"name": "hexagent", "label": "ours", "options": {"plan_latency_us": 0, "kv": True}}],
            "loads": [0.5, 0.9],
            "traces": [{"name": "x"}],
        },
        "hexopt": "1",
    }
    told = dict(facts(made(grid(), record=json.loads(json.dumps(record)))))
    assert told["policies"] == "ours = hexagent (plan_latency_us = 0, kv = yes)"
    assert told["loads"] == "0.5, 0.9"
    assert told["traces"] == '[{"name": "x"}]'
