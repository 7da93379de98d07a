// The SQL console: one reading statement, its rows, a quick chart. What it shows is in the address.
import { address, addressed, byId, copyLink, drawn, episodeAddress, getJSON, h, header, openedHere, postJSON, shown, tell } from "./common.js";
import { along, chart, kinds } from "./charts.js";

const EXAMPLE = "SELECT task, count(*) AS episodes, round(avg(score), 1) AS score\nFROM episode_agents GROUP BY task ORDER BY score DESC";
const query = byId("query");
let asked = addressed();
let result = null;
let asking = null;

const chosen = () => ({ chart: byId("kind").value, x: byId("x").value, y: byId("y").value });
const state = () => ({ query: query.value, ...(result && !byId("charts").hidden ? chosen() : {}), commit: asked.commit });

function setRunning(running) {
  byId("run").disabled = running;
  byId("stop").hidden = !running;
  if (running) byId("status").textContent = "asking …";
}

async function run() {
  asking?.abort();
  const mine = (asking = new AbortController());
  setRunning(true);
  tell(byId("note"), "");
  try {
    const path = `/api/sql${asked.commit ? `?commit=${encodeURIComponent(asked.commit)}` : ""}`;
    result = await postJSON(path, { query: query.value }, mine.signal);
    draw();
    address(state(), true);
  } catch (error) {
    if (asking !== mine) return;
    byId("status").textContent = error.name === "AbortError" ? "stopped" : "";
    if (error.name !== "AbortError") tell(byId("note"), error.message, true);
    if (error.name !== "AbortError") clearResult();
  } finally {
    if (asking === mine) setRunning(false);
  }
}

function clearResult() {
  result = null;
  byId("rows").replaceChildren();
  byId("head").replaceChildren();
  byId("result").hidden = true;
  byId("charts").hidden = true;
}

function draw() {
  const { columns, rows, more, seconds } = result;
  const count = rows.length === 1 ? "1 row" : `${shown(rows.length)} rows`;
  byId("status").textContent = `${count} in ${shown(Math.round(seconds * 1000))} ms${more ? "; there are more: only so many are shown. Add a LIMIT, an ORDER BY, or sum them up" : ""}`;
  const right = (i) => (columns[i].kind === "number" ? "number" : "text");
  byId("head").replaceChildren(...columns.map(({ name, type }, i) => h("th", { scope: "col", class: right(i), title: type }, name)));
  const episode = columns.findIndex(({ name }) => name === "episode_id");
  const step = columns.findIndex(({ name }) => name === "step");
  byId("rows").replaceChildren(...rows.map((row) => h("tr", {}, row.map((value, i) => {
    const text = shown(value);
    if (i === episode && value !== null) {
      // A row that has a step leads to that step of the film.
      const at = step >= 0 && Number.isInteger(row[step]) ? row[step] : undefined;
      return h("td", { class: "mono" }, h("a", { href: episodeAddress(value, { step: at, commit: asked.commit }) }, text));
    }
    return h("td", { class: right(i), title: text.length > 40 ? text : null }, value === null ? h("span", { class: "soft" }, "null") : text);
  }))));
  byId("result").hidden = !columns.length;
  prepareChart(columns);
  drawn();
}

function prepareChart(columns) {
  const offered = result.rows.length > 1 ? kinds(columns) : [];
  byId("charts").hidden = !offered.length;
  if (!offered.length) return;
  const all = columns.map(({ name }, i) => new Option(name, i));
  const numbers = columns.flatMap(({ name, kind }, i) => (kind === "number" ? [new Option(name, i)] : []));
  const before = { chart: asked.chart, x: asked.x, y: asked.y };
  byId("kind").replaceChildren(...offered.map((kind) => new Option(kind, kind)));
  byId("x").replaceChildren(...all);
  byId("y").replaceChildren(...numbers);
  if (offered.includes(before.chart)) byId("kind").value = before.chart;
  place(before);
  drawChart();
}

/** Columns for the chart: those of the address, else likely ones. */
function place(before = {}) {
  const x = along(byId("kind").value, result.columns);
  const has = (field, value) => value !== undefined && [...byId(field).options].some((option) => option.value === value);
  byId("x").value = has("x", before.x) ? before.x : String(x);
  const other = [...byId("y").options].find((option) => option.value !== byId("x").value) ?? byId("y").options[0];
  byId("y").value = has("y", before.y) ? before.y : other.value;
}

function drawChart() {
  const { chart: kind, x, y } = chosen();
  byId("x").closest("label").hidden = kind === "histogram";
  byId("chart").replaceChildren(chart(kind, result.columns, result.rows, Number(x), Number(y)));
}

async function tables() {
  const { tables: found } = await getJSON("/api/schema", { commit: asked.commit });
  const insert = (text) => {
    query.setRangeText(text, query.selectionStart, query.selectionEnd, "end");
    query.focus();
  };
  byId("tables").replaceChildren(...found.map((table) => h("details", {},
    h("summary", {}, table.name, " ", h("span", { class: "soft" }, `${table.columns.length}`)),
    h("p", { class: "soft" }, table.meaning),
    h("ul", {}, table.columns.map((column) => h("li", {},
      h("button", { type: "button", class: "name", title: `Put ${column.name} into the query`, onclick: () => insert(column.name) }, column.name),
      " ", h("span", { class: "soft" }, `${column.type.toLowerCase()}${column.meaning ? ` · ${column.meaning}` : ""}`)))))));
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  asked = { commit: asked.commit };
  run();
});
byId("stop").addEventListener("click", () => asking?.abort());
query.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    byId("ask").requestSubmit();
  }
});
byId("kind").addEventListener("change", () => {
  place();
  drawChart();
  address(state());
});
for (const field of ["x", "y"]) {
  byId(field).addEventListener("change", () => {
    drawChart();
    address(state());
  });
}
addEventListener("popstate", () => {
  asked = addressed();
  query.value = asked.query ?? "";
  if (query.value) run();
  else clearResult();
});
copyLink(byId("link"), () => ({ ...state(), commit: asked.commit ?? result?.commit }));

query.value = asked.query ?? EXAMPLE;
header("sql", asked.commit).catch((error) => tell(byId("note"), error.message, true));
tables().catch((error) => tell(byId("note"), error.message, true));
if (asked.query && openedHere()) run();
else if (asked.query) tell(byId("note"), "A link from another site led here. Read the query first; it runs when you press Run.");
