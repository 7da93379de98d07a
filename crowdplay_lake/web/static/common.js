// What all pages share: elements, requests, the address, numbers for people.

/** An element with attributes, listeners (on…) and children; texts become text, never markup. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Whether somebody here opened the page, and not a link on another site. */
export const openedHere = () => document.documentElement.dataset.from === "here";

export class Refused extends Error {}

async function answer(response) {
  if (response.ok) return response;
  let message = `the server answered with status ${response.status}`;
  try {
    message = (await response.json()).error ?? message;
  } catch {
    // What is no JSON has nothing to say to a person.
  }
  throw new Refused(message);
}

async function ask(path, options) {
  try {
    return await answer(await fetch(path, options));
  } catch (error) {
    if (error instanceof Refused || error.name === "AbortError") throw error;
    throw new Refused("the server does not answer; is `crowdplay-lake serve` still running?");
  }
}

/** Parameters as a query string; empty ones are left out. */
export function queryOf(parameters) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "" && value !== false) query.set(name, value);
  }
  const text = query.toString();
  return text ? `?${text}` : "";
}

/** What the page began to ask while its script was on its way (page_texts.py): asked at this address, it is not asked twice. */
export const begunAsking = (path) => {
  const addresses = [...document.querySelectorAll('link[rel="preload"]')].map((link) => link.getAttribute("href"));
  return addresses.find((found) => found.split("?")[0] === path);
};

export const getJSON = async (path, parameters = {}, signal = undefined) =>
  (await ask(path + queryOf(parameters), { signal })).json();

export const getBytes = async (path, parameters, signal = undefined) =>
  (await ask(path + queryOf(parameters), { signal })).arrayBuffer();

export const postJSON = async (path, document, signal = undefined) =>
  (
    await ask(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(document),
      signal,
    })
  ).json();

/** The address' parameters as an object. */
export const addressed = () => Object.fromEntries(new URLSearchParams(location.search));

/** Show `parameters` in the address; `push`: as a new entry of the history. */
export function address(parameters, push = false) {
  const url = location.pathname + queryOf(parameters);
  if (push) history.pushState(null, "", url);
  else history.replaceState(null, "", url);
}

export const episodeAddress = (id, parameters = {}) => `/episode/${encodeURIComponent(id)}${queryOf(parameters)}`;

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });

/** A cell as text: whole numbers in full, others with four digits. */
export function shown(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return Number.isInteger(value) ? whole.format(value) : short.format(value);
  return String(value);
}

/** Seconds as 1:02:05 or 2:05. */
export function clock(seconds) {
  const s = Math.floor(seconds);
  const parts = s >= 3600 ? [Math.floor(s / 3600), Math.floor((s % 3600) / 60), s % 60] : [Math.floor(s / 60), s % 60];
  return parts.map((part, i) => (i ? String(part).padStart(2, "0") : String(part))).join(":");
}

export const day = (text) => (text ? text.slice(0, 16).replace("T", " ") : "");

/** 'game_0>player_1' as 'player 1'. */
export const agentName = (agent) => (agent.includes(">") ? agent.split(">").pop() : agent).replaceAll("_", " ");

/** Says in the page, once it is painted, when what was asked for was first there. */
export const drawn = () =>
  requestAnimationFrame(() => setTimeout(() => (document.body.dataset.drawn ??= String(performance.now()))));

/** A line for everybody, readers of the screen among them; `bad`: as an error. */
export function tell(element, text, bad = false, ...more) {
  element.hidden = !text;
  element.classList.toggle("bad", bad);
  element.replaceChildren(text, ...more);
}

/** The header: which lake, at which commit, and the other page. `parameters.commit` pins one. */
export async function header(current, commit) {
  const about = await getJSON("/api/about", { commit });
  document.title = `${document.title} · ${about.name}`;
  byId("lake").textContent = about.name;
  byId("commit").textContent = `commit ${about.commit} · ${about.operation} · ${day(about.time)} UTC`;
  for (const link of document.querySelectorAll(".top nav a")) {
    if (link.dataset.page === current) link.setAttribute("aria-current", "page");
    if (commit) link.href = `${link.pathname}${queryOf({ commit })}`;
  }
  if (commit) {
    const live = h("a", { href: location.pathname }, "look at the newest");
    byId("commit").append(" · pinned, ", live);
  }
  return about;
}

/** A button that copies a link which shows this view again, at this commit. */
export function copyLink(button, parameters) {
  button.addEventListener("click", async () => {
    const url = new URL(location.pathname + queryOf(parameters()), location.href).href;
    const before = button.textContent;
    try {
      await navigator.clipboard.writeText(url);
      button.textContent = "Copied";
    } catch {
      history.replaceState(null, "", url);
      button.textContent = "It is in the address bar";
    }
    setTimeout(() => (button.textContent = before), 2000);
  });
}
