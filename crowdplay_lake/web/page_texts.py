"""The pages: what they share is in shell.html, the others have their own lines of the head, and what they show."""

from __future__ import annotations

import html
from pathlib import Path

__all__ = ["error_page", "page"]

_PAGES = Path(__file__).parent / "pages"


def page(name: str, from_elsewhere: bool = False) -> str:
    """The page of that name. ``from_elsewhere``: a link of another site led to it, so that it runs nothing unasked."""
    shell, own = ((_PAGES / f"{part}.html").read_text(encoding="utf-8") for part in ("shell", name))
    head, _, main = own.partition("<!-- main -->\n")
    whole = shell.replace("{head}\n", head).replace("{main}\n", main)
    return whole.replace('data-from="here"', 'data-from="elsewhere"') if from_elsewhere else whole


def error_page(status: int, message: str) -> str:
    """What is shown instead of a page."""
    return page("error").replace("{status}", str(status)).replace("{message}", html.escape(message))
