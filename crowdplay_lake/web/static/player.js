// The player: an episode's film at the speed it was played, and all that is known of each step.
import { address, addressed, agentName, begunAsking, byId, clock, copyLink, drawn, getBytes, getJSON, h, header, shown, tell } from "./common.js";
import { Curves } from "./curves.js";
import { Chunks, Screen, parseFilm, parseSeen, parseSteps } from "./film.js";
import { Agents, Ram, Seen, facts } from "./panels.js";

const SPEEDS = [0.25, 0.5, 1, 2, 4, 8, 16];
const LONGEST_GAP = 0.25; // seconds; a page that was hidden does not leap
const canvas = byId("screen");
const scrubber = byId("scrubber");
const id = decodeURIComponent(location.pathname.slice("/episode/".length));
const asked = addressed();

let episode, film, steps, seenChunks, screen, agents, ram, seen, curves;
let step = 0;
let wanted = 0; // where a seek leads, while what it needs is on its way
let playing = false;
let speed = 1;
let agent = 0;
let last = 0;
let owed = 0; // a part of a step that is due
let settle;

const note = (text, bad = false) => tell(byId("note"), text, bad);
const fail = (error) => {
  pause();
  note(error.message, true);
};
// Chunks to have at hand: those of the next two seconds, whatever the speed.
const ahead = () => (playing ? Math.ceil((2 * speed * episode.steps_a_second) / episode.chunk) : 1);
const clamp = (value) => Math.min(Math.max(value, 0), episode.steps - 1);
const viewState = () => ({
  step, agent: agent ? episode.agents[agent].id : "", speed: speed === 1 ? "" : speed,
  curves: curves.names.join(","), commit: asked.commit,
});

function openAgent(index) {
  agent = index;
  const { id: name, palette } = episode.agents[index];
  const common = { id, commit: episode.commit, agent: name };
  if (!film || !episode.shared_screen) {
    screen = new Screen(canvas, { ...episode, palette });
    film = new Chunks(episode.chunk, episode.steps, async (chunk) => parseFilm(await getBytes("/api/film", { ...common, chunk })), 32);
  }
  if (!seenChunks || !episode.shared_screen)
    seenChunks = new Chunks(episode.seen_chunk, episode.steps, async (chunk) => parseSeen(await getBytes("/api/seen", { ...common, chunk })), 8);
}

/** Show step `to`, once what it needs is here. */
async function seek(to) {
  wanted = clamp(to);
  scrubber.value = wanted;
  owed = 0;
  if (film.at(wanted)) return draw(wanted);
  canvas.parentElement.classList.add("waiting");
  try {
    const goal = wanted;
    await film.load(goal);
    if (goal === wanted) draw(goal);
  } catch (error) {
    fail(error);
  } finally {
    if (film.at(wanted)) canvas.parentElement.classList.remove("waiting");
  }
}

/** Draw a step whose film is here, and what is here of all else. */
function draw(to) {
  step = wanted = to;
  film.load(to);
  try {
    screen.show(film.at(to), to);
  } catch (error) {
    fail(error);
    return;
  }
  canvas.dataset.step = String(to);
  if (document.body.dataset.drawn === undefined) drawn();
  scrubber.value = to;
  const at = clock(to / episode.steps_a_second);
  scrubber.setAttribute("aria-valuetext", `step ${to}, ${at}`);
  if (document.activeElement !== byId("step")) byId("step").value = to;
  byId("time").textContent = `${at} / ${clock((episode.steps - 1) / episode.steps_a_second)}`;
  drawSteps();
  drawSeen();
  curves.show(to);
  // What comes next, after what is wanted now.
  film.ahead(to, ahead());
  if (!playing) remember();
}

function drawSteps() {
  const chunk = steps.at(step);
  const loading = steps.load(step);
  steps.ahead(step, ahead());
  if (!chunk) {
    agents.wait();
    const mine = step;
    loading.then(() => mine === step && drawSteps(), (error) => note(error.message, true));
    return;
  }
  agents.show(chunk, step);
  ram.show(chunk.tables[agent], step - chunk.first, chunk.length);
  byId("ram").dataset.step = String(step);
}

function drawSeen() {
  if (!seen || !byId("seen-box").open) return;
  const missing = seen.needed(step).filter((one) => !seenChunks.at(one));
  if (missing.length) {
    // While a film runs fast these may come too late, and are drawn when they are here.
    Promise.all(missing.map((one) => seenChunks.load(one))).then(
      () => !seen.needed(step).some((one) => !seenChunks.at(one)) && drawSeen(), (error) => note(error.message, true));
    return;
  }
  seenChunks.load(step);
  if (playing) seenChunks.ahead(step);
  seen.show(seenChunks, step);
}

function frame(now) {
  if (!playing) return;
  // The first frame's time can lie before the press of the button.
  const passed = Math.min(Math.max(now - last, 0) / 1000, LONGEST_GAP);
  owed += passed * episode.steps_a_second * speed;
  last = Math.max(now, last);
  const due = Math.floor(owed);
  const to = Math.min(step + due, episode.steps - 1);
  if (due && film.at(to)) {
    owed -= due;
    canvas.parentElement.classList.remove("waiting");
    draw(to);
  } else if (due) {
    // It stands still until the film is here.
    owed = 0;
    canvas.parentElement.classList.add("waiting");
    film.load(to).catch(fail);
  }
  if (step >= episode.steps - 1) pause();
  if (playing) requestAnimationFrame(frame);
}

function play() {
  if (playing) return;
  if (step >= episode.steps - 1) seek(0);
  playing = true;
  owed = 0;
  last = performance.now();
  showPlaying();
  requestAnimationFrame(frame);
}

function pause() {
  if (!playing) return;
  playing = false;
  showPlaying();
  drawSeen();
  remember();
}

function showPlaying() {
  const button = byId("play");
  button.textContent = playing ? "❚❚ Pause" : "▶ Play";
  button.setAttribute("aria-pressed", String(playing));
}

/** The address is of what is shown, soon after it stands still. */
function remember() {
  clearTimeout(settle);
  settle = setTimeout(() => address(viewState()), 200);
}

function setSpeed(value) {
  speed = SPEEDS.includes(value) ? value : 1;
  byId("speed").value = String(speed);
  remember();
}

const go = (to) => {
  pause();
  seek(to);
};
const faster = (by) => setSpeed(SPEEDS[Math.min(Math.max(SPEEDS.indexOf(speed) + by, 0), SPEEDS.length - 1)]);
const KEYS = {
  " ": () => (playing ? pause() : play()), k: () => (playing ? pause() : play()),
  ArrowLeft: (event) => go(wanted - (event.shiftKey ? 60 : 1)), ArrowRight: (event) => go(wanted + (event.shiftKey ? 60 : 1)),
  Home: () => go(0), End: () => go(episode.steps - 1),
  "+": () => faster(1), "-": () => faster(-1), "?": () => (byId("keys").open = !byId("keys").open),
};

function listen() {
  byId("play").addEventListener("click", KEYS.k);
  const jumps = { first: () => 0, back: () => wanted - 1, next: () => wanted + 1, end: () => episode.steps - 1 };
  for (const [name, to] of Object.entries(jumps)) byId(name).addEventListener("click", () => go(to()));
  scrubber.addEventListener("input", () => seek(Number(scrubber.value)));
  byId("speed").addEventListener("change", (event) => setSpeed(Number(event.target.value)));
  byId("step").addEventListener("change", (event) => {
    const value = Number(event.target.value);
    if (Number.isInteger(value) && value >= 0 && value < episode.steps) note("");
    else note(noStep(event.target.value), true);
    go(Number.isFinite(value) ? Math.trunc(value) : 0);
  });
  byId("agent").addEventListener("change", (event) => {
    openAgent(Number(event.target.value));
    seek(step);
    remember();
  });
  byId("decimal").addEventListener("change", (event) => {
    ram.decimal = event.target.checked;
    drawSteps();
  });
  byId("seen-box").addEventListener("toggle", drawSeen);
  byId("add-curve").addEventListener("submit", (event) => {
    event.preventDefault();
    const field = byId("curve");
    if (field.value.trim()) curves.add([field.value.trim()]);
    field.value = "";
  });
  document.addEventListener("keydown", (event) => {
    const inField = event.target.closest?.("input:not([type=range], [type=checkbox]), select, textarea");
    const presses = event.key === " " && event.target.closest?.("button, summary, [type=checkbox], a");
    if (inField || presses || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
    event.preventDefault();
    KEYS[event.key](event);
  });
}

const noStep = (text) => `there is no step ${text} here: this episode has steps 0 to ${shown(episode.steps - 1)}`;

/** The step that the address asks for. */
function firstStep() {
  if (asked.step === undefined) return 0;
  const value = Number(asked.step);
  if (/^\d+$/.test(asked.step) && value < episode.steps) return value;
  note(noStep(asked.step), true);
  return /^\d+$/.test(asked.step) ? episode.steps - 1 : 0;
}

function build() {
  document.title = `${episode.game} ${episode.id}`;
  byId("title").textContent = episode.game;
  byId("subtitle").textContent = [episode.task, episode.source, `${shown(episode.steps)} steps`].filter(Boolean).join(" · ");
  scrubber.max = byId("step").max = episode.steps - 1;
  byId("of").textContent = `of 0 to ${shown(episode.steps - 1)}`;
  byId("agent").append(...episode.agents.map(({ id: name }, index) => new Option(agentName(name), index)));
  byId("agent").closest("label").hidden = episode.agents.length < 2;
  byId("speed").append(...SPEEDS.map((value) => new Option(`${value} ×`, value)));
  byId("curve-names").append(...episode.curves.map(({ name, about }) => h("option", { value: name }, about)),
    ...Array.from({ length: 128 }, (_, i) => h("option", { value: `ram_${i.toString(16).padStart(2, "0")}` }, `RAM byte 0x${i.toString(16)}`)));
  agents = new Agents(byId("agents"), episode);
  curves = new Curves(byId("curves"), episode, { seek: (to) => go(to), changed: remember, failed: (error) => note(error.message, true) });
  ram = new Ram(byId("ram"), (name) => curves.add([name]));
  if (episode.seen) seen = new Seen(byId("seen"), episode.seen);
  else byId("seen").append(h("p", { class: "soft" }, "These frames were processed before they were recorded: the film is what the agent saw."));
  steps = new Chunks(episode.chunk, episode.steps, async (chunk) => parseSteps(await getBytes("/api/steps", { id, commit: episode.commit, chunk }), episode.agents.length), 48);
  const index = episode.agents.findIndex(({ id: name }) => name === asked.agent);
  if (asked.agent && index < 0) note(`this episode has no agent ${asked.agent}`, true);
  openAgent(Math.max(index, 0));
  byId("agent").value = String(agent);
  facts(episode);
  listen();
  setSpeed(Number(asked.speed ?? 1));
  copyLink(byId("link"), () => ({ ...viewState(), commit: episode.commit }));
}

async function begin() {
  header("episode", asked.commit).catch((error) => note(error.message, true));
  try {
    const begun = begunAsking("/api/episode");
    episode = await (begun ? getJSON(begun) : getJSON("/api/episode", { id, commit: asked.commit }));
    build();
    byId("player").hidden = false;
    await seek(firstStep());
    const names = (asked.curves ?? "score,lives").split(",").filter(Boolean);
    await curves.add(names);
  } catch (error) {
    note(error.message, true);
  }
}

begin();
