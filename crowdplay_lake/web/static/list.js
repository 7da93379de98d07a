// The list of episodes. Its whole state is in the address.
import { address, addressed, agentName, begunAsking, byId, clock, copyLink, day, drawn, episodeAddress, getJSON, h, header, openedHere, shown, tell } from "./common.js";

const FIELDS = ["game", "task", "source", "min_score", "min_steps", "participant", "film", "where", "columns"];
// Heading, what it sorts by, and the cell.
const COLUMNS = [
  ["Game", "game", (row) => film(row)],
  ["Task", "task", (row) => row.task],
  ["Source", "source", (row) => row.source],
  ["Recorded (UTC)", "created_on", (row) => day(row.created_on)],
  ["Length", "n_steps", (row) => length(row), "number"],
  ["Score", "score", (row) => perAgent(row.score), "number"],
];

const form = byId("filter");
let state = addressed();
let commit;
let asking;

function film(row) {
  const name = row.game ?? "unknown";
  if (row.n_steps === null) return h("span", { title: "Its metadata is known, its trajectory is not" }, `${name} (no film)`);
  return h("a", { href: episodeAddress(row.episode_id, { commit: state.commit }), class: "film" }, `▶ ${name}`);
}

const length = (row) =>
  row.n_steps === null ? "" : h("span", { title: `${shown(row.n_steps)} steps` }, clock(row.n_steps / 60));

const perAgent = (values) => {
  if (!Array.isArray(values)) return shown(values);
  const known = values.filter((value) => value !== null);
  return (known.length && known.every((value) => value === known[0]) && known.length === values.length ? [known[0]] : values)
    .map((value) => (value === null ? "–" : shown(value))).join(" · ");
};

function columnsOf(extra) {
  const more = extra.map((name) => [name, name, (row) => perAgent(row[name]), "number"]);
  return [...COLUMNS, ...more, ["Agents", "", (row) => row.agents.map(agentName).join(", ")], ["Episode", "episode_id", (row) => h("span", { class: "mono" }, row.episode_id)]];
}

function heading([title, column, , kind]) {
  if (!column) return h("th", { scope: "col" }, title);
  const sorted = (state.sort ?? "episode_id") === column;
  const sort = () => go({ ...state, sort: column, desc: sorted && !state.desc ? "1" : "", page: "" });
  const mark = sorted ? (state.desc ? " ▼" : " ▲") : "";
  return h("th", { scope: "col", class: kind, "aria-sort": sorted ? (state.desc ? "descending" : "ascending") : null },
    h("button", { type: "button", onclick: sort, title: `Sort by ${column}` }, title + mark));
}

function draw(page) {
  commit = page.commit;
  const columns = columnsOf(page.columns);
  byId("columns-head").replaceChildren(...columns.map(heading));
  byId("rows").replaceChildren(...page.episodes.map((row) =>
    h("tr", {}, columns.map(([, , cell, kind]) => h("td", { class: kind }, cell(row) ?? "")))));
  const pages = Math.max(1, Math.ceil(page.total / page.page_rows));
  byId("count").textContent = page.total === 1 ? "1 episode" : `${shown(page.total)} episodes`;
  if (!page.episodes.length) {
    const text = page.total ? `there is no page ${shown(page.page)}: the last one is ${shown(pages)}` : "no episode qualifies";
    byId("rows").replaceChildren(h("tr", {}, h("td", { colspan: columns.length }, text)));
  }
  pager(Math.min(page.page, pages + 1), pages);
}

function pager(page, pages) {
  const to = (text, number, enabled, label) =>
    h("button", { type: "button", disabled: !enabled, "aria-label": label, onclick: () => go({ ...state, page: number > 1 ? String(number) : "" }) }, text);
  byId("pager").replaceChildren(
    to("« First", 1, page > 1, "First page"), to("‹ Previous", Math.min(page - 1, pages), page > 1, "Previous page"),
    h("span", {}, `page ${shown(page)} of ${shown(pages)}`),
    to("Next ›", page + 1, page < pages, "Next page"), to("Last »", pages, page < pages, "Last page"));
}

async function load(begun = undefined) {
  asking?.abort();
  const mine = (asking = new AbortController());
  document.body.setAttribute("aria-busy", "true");
  try {
    draw(begun ? await getJSON(begun, {}, mine.signal) : await getJSON("/api/episodes", state, mine.signal));
    tell(byId("note"), "");
    drawn();
  } catch (error) {
    if (error.name === "AbortError") return;
    tell(byId("note"), error.message, true);
    byId("count").textContent = "";
    byId("rows").replaceChildren();
    byId("pager").replaceChildren();
  } finally {
    if (asking === mine) document.body.removeAttribute("aria-busy");
  }
}

function go(next) {
  state = Object.fromEntries(Object.entries(next).filter(([, value]) => value));
  address(state, true);
  fill();
  load();
}

/** The form as the address has it. */
function fill() {
  for (const name of FIELDS) {
    const field = form.elements[name];
    if (field.type === "checkbox") field.checked = Boolean(state[name]);
    else {
      const value = state[name] ?? "";
      // What the lake does not offer was asked for all the same.
      if (field.tagName === "SELECT" && ![...field.options].some((option) => option.value === value)) field.append(new Option(value, value));
      field.value = value;
    }
  }
  if (state.where || state.columns) byId("more").open = true;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const chosen = Object.fromEntries(FIELDS.map((name) => {
    const field = form.elements[name];
    return [name, field.type === "checkbox" ? (field.checked ? "1" : "") : field.value.trim()];
  }));
  go({ ...state, ...chosen, page: "" });
});
for (const select of form.querySelectorAll("select")) select.addEventListener("change", () => form.requestSubmit());
form.elements.where.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
byId("clear").addEventListener("click", (event) => {
  event.preventDefault();
  go({ commit: state.commit });
});
addEventListener("popstate", () => {
  state = addressed();
  fill();
  load();
});
copyLink(byId("link"), () => ({ ...state, commit }));
fill();

function begin() {
  load(begunAsking("/api/episodes"));
  header("list", state.commit).then((about) => {
    const offer = (name, values) => form.elements[name].append(...values.filter(([value]) => ![...form.elements[name].options].some((o) => o.value === value)).map(([value, text]) => new Option(text, value)));
    for (const option of form.querySelectorAll("select option:not(:first-child)")) option.remove();
    offer("game", about.games.map(({ game, episodes }) => [game, `${game} (${shown(episodes)})`]));
    offer("task", about.tasks.map((task) => [task, task]));
    offer("source", about.sources.map((source) => [source, source]));
    byId("columns").replaceChildren(...about.columns.map(({ name }) => new Option(name)));
    fill();
  }, (error) => tell(byId("note"), error.message, true));
}

if (openedHere() || !state.where) begin();
else {
  const run = h("button", { type: "button", onclick: begin }, "Ask it");
  tell(byId("note"), "A link from another site led here, with an SQL condition. Read it first.", false, run);
}
