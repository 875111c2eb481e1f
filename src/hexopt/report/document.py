"""A document of headings, texts, lists, tables and pictures, as Markdown and as one self-contained HTML file."""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph. In texts of all blocks ``**bold**`` and nothing else is markup."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True)
class Grid:
    """A table; the first ``names`` columns are text, the rest stand to the right."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG with its caption and what it shows for those who cannot see it."""

    path: Path
    caption: str
    alt: str


Block = Heading | Text | Items | Grid | Picture


def to_markdown(blocks: Sequence[Block], folder: Path) -> str:
    """Return the blocks as Markdown; pictures are linked relative to ``folder``."""
    parts = []
    for block in blocks:
        match block:
            case Heading(text, level):
                parts.append(f"{'#' * level} {_md(text)}")
            case Text(text):
                parts.append(_md(text))
            case Items(items):
                parts.append("\n".join(f"- {_md(item)}" for item in items))
            case Grid(headings, rows, names, caption):
                right = ["---"] * names + ["---:"] * (len(headings) - names)
                lines = [_pipes(headings), _pipes(right, escape=False), *(_pipes(row) for row in rows)]
                parts.append("\n".join(lines) + (f"\n\n{_md(caption)}" if caption else ""))
            case Picture(path, caption, alt):
                link = Path(os.path.relpath(path, folder)).as_posix().replace(" ", "%20")
                parts.append(f"![{_md(alt)}]({link})\n\n{_md(caption)}")
    return "\n\n".join(parts) + "\n"


def _md(text: str) -> str:
    # Labels come from files: what looks like a link, a tag or code in them is text.
    return re.sub(r"([\[\]<>`_])", r"\\\1", text)


def _pipes(cells: Sequence[str], escape: bool = True) -> str:
    return "| " + " | ".join(_md(cell).replace("|", "\\|") if escape else cell for cell in cells) + " |"


STYLE = """\
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; color: #1a1a1a;
  background: #fff; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.3rem; margin-top: 2.4rem; border-bottom: 1px solid #ccc; }
h3 { font-size: 1.1rem; margin-top: 1.8rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; color: #555; padding-top: .4rem; }
th, td { padding: .25rem .7rem; text-align: right; white-space: nowrap; }
th.name, td.name { text-align: left; } td.name { white-space: normal; overflow-wrap: anywhere; }
thead th { border-bottom: 2px solid #333; vertical-align: bottom; }
tbody tr:nth-child(even) { background: #f4f4f4; } tbody tr:last-child td { border-bottom: 1px solid #333; }
figure { margin: 1.5rem 0; break-inside: avoid; } img { max-width: 100%; height: auto; }
figcaption { color: #444; font-size: .9rem; max-width: 50rem; } li { margin: .2rem 0; }
@media print { body { max-width: none; margin: 0; font-size: 11pt; } .wide { overflow: visible; } }
"""


def to_html(blocks: Sequence[Block], title: str) -> str:
    """Return the blocks as one HTML file: pictures are in it, and it refers to nothing outside itself."""
    parts = []
    for block in blocks:
        match block:
            case Heading(text, level):
                parts.append(f"<h{level}>{_inline(text)}</h{level}>")
            case Text(text):
                parts.append(f"<p>{_inline(text)}</p>")
            case Items(items):
                parts.append("<ul>\n" + "\n".join(f"<li>{_inline(item)}</li>" for item in items) + "\n</ul>")
            case Grid():
                parts.append(_table(block))
            case Picture(path, caption, alt):
                data = base64.b64encode(path.read_bytes()).decode("ascii")
                parts.append(
                    f'<figure><img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">\n'
                    f"<figcaption>{_inline(caption)}</figcaption></figure>"
                )
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _table(block: Grid) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        marks = [' class="name"' if i < block.names else "" for i in range(len(cells))]
        pairs = zip(cells, marks, strict=True)
        return "<tr>" + "".join(f"<{tag}{mark}>{_inline(cell)}</{tag}>" for cell, mark in pairs) + "</tr>"

    caption = f"<caption>{_inline(block.caption)}</caption>\n" if block.caption else ""
    body = "\n".join(row(cells, "td") for cells in block.rows)
    return (
        f'<div class="wide"><table>\n{caption}<thead>\n{row(block.headings, "th")}\n</thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _inline(text: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(text))
