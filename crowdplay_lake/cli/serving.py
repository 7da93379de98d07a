"""The command that shows a lake in a browser: serve."""

from __future__ import annotations

import webbrowser
from typing import Annotated

import typer

from .app import LakeArgument, app
from .output import parse_size, stderr, stdout

__all__: list[str] = []


@app.command(epilog="Example: crowdplay-lake serve lake/ --port 8765")
def serve(
    lake: LakeArgument,
    port: Annotated[int, typer.Option(help="Where to listen; 0: any free port.", min=0, max=65_535)] = 8765,
    host: Annotated[str, typer.Option(help="The address to listen on; others than this let others in.")] = (
        "127.0.0.1"
    ),
    time_limit: Annotated[float, typer.Option(help="Seconds that a query may take.", min=0.1, max=3_600)] = 10.0,
    row_limit: Annotated[int, typer.Option(help="Rows that the SQL console shows.", min=1, max=100_000)] = 1_000,
    query_memory: Annotated[str, typer.Option(metavar="SIZE", help="Memory for queries, such as 4GiB.")] = "4GiB",
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Browse a lake: its episodes, their films, an SQL console. Needs the extra `web`. Ends with Ctrl-C."""
    from ..storage import as_path
    from ..web.server import Limits, is_loopback, listening, run

    limits = Limits(time_limit, row_limit, parse_size(query_memory))

    def ready(address: str) -> None:
        stdout.print(f"{lake}: {address}  (Ctrl-C ends it)", markup=False, soft_wrap=True)
        if open_browser:
            webbrowser.open(address)

    with listening(host, port) as listener:
        if not is_loopback(host):
            stderr.print(
                f"warning: everybody who can reach {host} can read this lake; there is no password",
                style="yellow",
                markup=False,
            )
        run(as_path(lake), listener, limits, host, ready)
