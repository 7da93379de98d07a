"""The pages: what they share is in shell.html, the others have their own lines of the head, and what they show."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

__all__ = ["error_page", "page"]

_PAGES = Path(__file__).parent / "pages"


def page(name: str, from_elsewhere: bool = False, first_asked: Sequence[str] = ()) -> str:
    """The page of that name. ``from_elsewhere``: a link of another site led to it, so that it runs nothing unasked.

    ``first_asked``: addresses that its script asks first. The browser asks at once, while the script is on its way.
    """
    shell, own = ((_PAGES / f"{part}.html").read_text(encoding="utf-8") for part in ("shell", name))
    head, _, main = own.partition("<!-- main -->\n")
    head += "".join(
        f'<link rel="preload" as="fetch" crossorigin href="{html.escape(address)}">\n' for address in first_asked
    )
    whole = shell.replace("{head}\n", head).replace("{main}\n", main)
    return whole.replace('data-from="here"', 'data-from="elsewhere"') if from_elsewhere else whole


def error_page(status: int, message: str) -> str:
    """What is shown instead of a page."""
    return page("error").replace("{status}", str(status)).replace("{message}", html.escape(message))
