// What stands beside a film: agents, RAM, and what an agent sees.
import { agentName, byId, h, shown } from "./common.js";

const ARROWS = {
  NOOP: "·", UP: "↑", DOWN: "↓", LEFT: "←", RIGHT: "→",
  UPRIGHT: "↗", UPLEFT: "↖", DOWNRIGHT: "↘", DOWNLEFT: "↙",
};
const WHO = { 1: "human", 2: "AI" };

/** 'RIGHTFIRE' as its direction and a dot for the button. */
function glyph(name) {
  if (name === "FIRE") return "●";
  const fires = name.endsWith("FIRE");
  return `${ARROWS[fires ? name.slice(0, -4) : name] ?? ""}${fires ? " ●" : ""}`;
}

const set = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};

/** A card for each agent: its action and reward in this step; lives and score before it. */
export class Agents {
  constructor(place, episode) {
    this.actions = episode.actions;
    this.cards = episode.agents.map((agent, index) => {
      const values = {};
      const row = (name, label, title) => {
        values[name] = h("dd", { "data-value": name, class: "number" }, "–");
        return h("div", { title }, h("dt", {}, label), values[name]);
      };
      values.glyph = h("span", { class: "glyph", "aria-hidden": "true" });
      place.append(
        h("section", { class: `agent series-${index}`, "data-agent": agent.id, "aria-label": agentName(agent.id) },
          h("h3", {}, h("span", { class: "dot", "aria-hidden": "true" }), agentName(agent.id), values.glyph),
          h("dl", {},
            row("action", "Action", "What it does in this step"),
            row("reward", "Reward", "Of this step's action"),
            row("score", "Score", "The sum of rewards before this step's action"),
            row("lives", "Lives", "Before this step's action"),
            row("user_type", "Played by", "In this step"))),
      );
      return values;
    });
  }

  show(chunk, step) {
    const i = step - chunk.first;
    chunk.tables.forEach((table, agent) => {
      const card = this.cards[agent];
      const action = table.action[i];
      const name = action < 0 ? "–" : (this.actions?.[action] ?? String(action));
      set(card.action, name);
      set(card.glyph, glyph(name));
      set(card.reward, Number.isNaN(table.reward[i]) ? "–" : shown(table.reward[i]));
      card.reward.classList.toggle("hit", table.reward[i] !== 0 && !Number.isNaN(table.reward[i]));
      set(card.score, shown(table.score[i]));
      set(card.lives, table.lives[i] < 0 ? "–" : String(table.lives[i]));
      set(card.user_type, (WHO[table.userType[i]] ?? "–") + (table.done[i] === 1 ? ", done" : ""));
    });
  }

  wait() {
    for (const card of this.cards) for (const value of Object.values(card)) set(value, "…");
  }
}

const hex = (value, digits = 2) => value.toString(16).padStart(digits, "0");

/** The 128 bytes before a step's action; those that the step before has changed are marked. */
export class Ram {
  constructor(table, chosen) {
    this.decimal = false;
    this.shown = null;
    this.cells = [];
    const columns = Array.from({ length: 16 }, (_, i) => h("th", { scope: "col" }, hex(i, 1)));
    const rows = Array.from({ length: 8 }, (_, row) => {
      const cells = Array.from({ length: 16 }, (_, column) => {
        const address = row * 16 + column;
        const cell = h("td", { "data-address": address, title: `ram_${hex(address)}: click for its curve`, onclick: () => chosen(`ram_${hex(address)}`) }, "–");
        this.cells.push(cell);
        return cell;
      });
      return h("tr", {}, h("th", { scope: "row" }, hex(row * 16)), cells);
    });
    table.append(h("thead", {}, h("tr", {}, h("td", {}), columns)), h("tbody", {}, rows));
  }

  show(table, i, length) {
    const known = table.hasRam[i + 1];
    const before = table.hasRam[i];
    for (let address = 0; address < 128; address++) {
      const at = address * (length + 1) + i + 1;
      const cell = this.cells[address];
      set(cell, known ? (this.decimal ? String(table.ram[at]) : hex(table.ram[at])) : "–");
      const changed = Boolean(known && before && table.ram[at] !== table.ram[at - 1]);
      if (changed !== cell.classList.contains("changed")) cell.classList.toggle("changed", changed);
    }
  }
}

/** The stack of processed screens that an agent is given: oldest first. */
export class Seen {
  constructor(place, { size, skip, stack }) {
    Object.assign(this, { size, skip, stack });
    this.views = Array.from({ length: stack }, (_, i) => {
      const canvas = h("canvas", { width: size, height: size, role: "img", "aria-label": `processed screen ${i + 1} of ${stack}` });
      const back = (stack - 1 - i) * skip;
      place.append(h("figure", {}, canvas, h("figcaption", {}, back ? `step − ${back}` : "this step")));
      const context = canvas.getContext("2d");
      const image = context.createImageData(size, size);
      return { canvas, context, image, pixels: new Uint32Array(image.data.buffer), back };
    });
  }

  /** The steps whose screens are needed for `step`. */
  needed(step) {
    return this.views.map(({ back }) => step - back).filter((wanted) => wanted >= 0);
  }

  show(chunks, step) {
    for (const { context, image, pixels, back, canvas } of this.views) {
      const wanted = step - back;
      if (wanted < 0) pixels.fill(0xff000000);
      else {
        const chunk = chunks.at(wanted);
        const begin = (wanted - chunk.first) * chunk.pixels;
        for (let i = 0; i < chunk.pixels; i++) pixels[i] = 0xff000000 | (0x010101 * chunk.screens[begin + i]);
      }
      context.putImageData(image, 0, 0);
      canvas.dataset.step = String(wanted);
    }
  }
}

/** What is known of an episode and its agents, as a list. */
export function facts(episode) {
  const rows = [
    ["Game", episode.game], ["Task", episode.task], ["Source", episode.source],
    ["Recorded (UTC)", episode.created_on], ["Steps", shown(episode.steps)], ["Episode", episode.id], ["Environment", episode.environment_id],
    ...Object.entries(episode.keywords),
  ];
  for (const agent of episode.agents) {
    const name = agentName(agent.id);
    rows.push([`${name}: participant`, agent.participant]);
    if (agent.first_done !== null) rows.push([`${name}: done at step`, `${shown(agent.first_done)}${agent.frame_limit ? " (the frame limit)" : ""}`]);
    for (const [key, value] of Object.entries(agent.keywords)) rows.push([`${name}: ${key}`, value]);
  }
  byId("facts").replaceChildren(...rows.filter(([, value]) => value !== null && value !== undefined)
    .map(([key, value]) => h("div", {}, h("dt", {}, key), h("dd", {}, shown(value)))));
}
