"""A page to browse a lake: a list of episodes, a player that decodes the change log in the browser, an SQL console.

Needs the extra `web`. `crowdplay-lake serve LAKE` runs it; docs/web.md says what it shows and what it guards against.

- `server`: the socket and its server; `app`: the routes; `guard`: who may ask, and what every answer says of itself.
- `lakes`: the commits that are open; `queries` and `query_process`: SQL, in a process of its own, within limits.
- `listing`, `console`: what the list and the console ask; `film`, `step_table`, `curves`: what the player asks.
- `static`: pages, styles and modules as the browser gets them.
"""
