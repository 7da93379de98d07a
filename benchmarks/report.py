"""A report of texts and tables, for a terminal and for a page of the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table as TerminalTable

__all__ = ["Report", "Table", "replace_section"]

END = "<!-- end -->"


@dataclass(frozen=True)
class Table:
    """Cells that are written already. The first column is text, the others are numbers; ``total`` is set apart."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    total: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Section:
    title: str
    content: Table | Sequence[str]


class Report:
    """Sections in order; `show` prints them, `markdown` is the same as a page."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._sections: list[Section] = []

    def add(self, title: str, content: Table | Sequence[str]) -> None:
        """A section: a table, or sentences."""
        self._sections.append(Section(title, content))

    def show(self, console: Console) -> None:
        for section in self._sections:
            console.print()
            if isinstance(section.content, Table):
                console.print(_terminal_table(section.title, section.content))
            else:
                console.print(section.title, style="bold")
                for sentence in section.content:
                    console.print(f"- {sentence}", highlight=False, markup=False)

    def markdown(self) -> str:
        lines = [f"# {self._title}", ""]
        for section in self._sections:
            lines += [f"## {section.title}", ""]
            if isinstance(section.content, Table):
                lines += _markdown_table(section.content)
            else:
                lines += [f"- {sentence}" for sentence in section.content]
            lines.append("")
        return "\n".join(lines).rstrip("\n") + "\n"


def _terminal_table(title: str, table: Table) -> TerminalTable:
    drawn = TerminalTable(title=title, title_justify="left", show_footer=table.total is not None)
    footer = table.total or ("",) * len(table.columns)
    for number, (name, total) in enumerate(zip(table.columns, footer, strict=True)):
        drawn.add_column(name, total, justify="right" if number else "left", no_wrap=not number)
    for row in table.rows:
        drawn.add_row(*row)
    return drawn


def _markdown_table(table: Table) -> list[str]:
    rows = [*table.rows, *([tuple(f"**{cell}**" if cell else "" for cell in table.total)] if table.total else [])]
    rule = ["---", *("---:" for _ in table.columns[1:])]
    return [f"| {' | '.join(cells)} |" for cells in [table.columns, rule, *rows]]


def replace_section(page: Path, begin: str, section: str) -> None:
    """Write the section, one level down, into the page, from the mark ``begin`` on."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{page}: the place of the figures is not marked")
    page.write_text(
        before + begin + section.replace("# ", "### ", 1).replace("\n## ", "\n#### ") + END + after, "utf-8"
    )
