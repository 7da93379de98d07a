// The film: the change log as it comes on the wire (crowdplay_lake/web/film.py says how), decoded onto a canvas.
// Typed arrays are read as they lie: every machine that runs a browser is little-endian.

const FORMAT = 1;

function header(buffer, magic, numbers) {
  const view = new DataView(buffer);
  const found = String.fromCharCode(...new Uint8Array(buffer, 0, 4));
  if (found !== magic || view.getUint32(4, true) !== FORMAT) throw new Error("this film is of another format: load the page again");
  return Array.from({ length: numbers }, (_, i) => view.getUint32(8 + 4 * i, true));
}

/** A chunk of the change log: rows first … first + length - 1. */
export function parseFilm(buffer) {
  const [first, length, nGaps, nColors] = header(buffer, "CPLF", 4);
  let at = 24;
  const counts = new Uint32Array(buffer, at, length);
  at += 4 * length;
  const keyframe = new Uint8Array(buffer, at, length);
  at += length;
  const gaps = new Uint16Array(buffer.slice(at, at + 2 * nGaps));
  at += 2 * nGaps;
  const colors = new Uint8Array(buffer, at, nColors);
  // Where each row begins.
  const gapStart = new Uint32Array(length + 1);
  const colorStart = new Uint32Array(length + 1);
  for (let row = 0; row < length; row++) {
    colorStart[row + 1] = colorStart[row] + counts[row];
    gapStart[row + 1] = gapStart[row] + (keyframe[row] ? 0 : counts[row]);
  }
  return { first, length, keyframe, gaps, colors, gapStart, colorStart };
}

/** A chunk of processed screens, one after the other. */
export function parseSeen(buffer) {
  const [first, length, pixels] = header(buffer, "CPLO", 3);
  const screens = new Uint8Array(buffer, 20);
  for (let at = pixels; at < length * pixels; at++) screens[at] ^= screens[at - pixels];
  return { first, length, pixels, screens };
}

/** A chunk of steps (step_table.py): what each agent did, and what stood in its machine before. */
export function parseSteps(buffer, agents) {
  const [first, length] = header(buffer, "CPLS", 2);
  let at = 16;
  // A copy lies where its type wants it.
  const take = (Kind, count) => new Kind(buffer.slice(at, (at += count * Kind.BYTES_PER_ELEMENT)));
  const tables = [];
  for (let agent = 0; agent < agents; agent++) {
    const table = {
      reward: take(Float64Array, length), score: take(Float64Array, length), action: take(Int32Array, length),
      lives: take(Int32Array, length), done: take(Uint8Array, length), userType: take(Uint8Array, length),
      hasRam: take(Uint8Array, length + 1), ram: take(Uint8Array, 128 * (length + 1)),
    };
    for (let byte = 0; byte < 128; byte++) {
      const begin = byte * (length + 1);
      for (let i = begin + 1; i <= begin + length; i++) table.ram[i] += table.ram[i - 1];
    }
    tables.push(table);
  }
  return { first, length, tables };
}

/** A screen that shows one row of the log, and draws only what changes to the next. */
export class Screen {
  constructor(canvas, { width, height, channels, palette }) {
    canvas.width = width;
    canvas.height = height;
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.image = this.context.createImageData(width, height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.colors = new Uint32Array(256);
    for (let i = 0; i * channels < palette.length; i++) {
      const [red, green, blue] = channels === 3 ? palette.slice(3 * i, 3 * i + 3) : Array(3).fill(palette[i]);
      this.colors[i] = (0xff000000 | (blue << 16) | (green << 8) | red) >>> 0;
    }
    this.chunk = null;
    this.row = -1;
  }

  /** Draw step `step` of `chunk`: from where it stands, or from the keyframe before it. */
  show(chunk, step) {
    const wanted = step - chunk.first;
    let row = this.row;
    if (chunk !== this.chunk || row > wanted) row = -1;
    let begin = wanted;
    while (begin > row && !chunk.keyframe[begin]) begin--;
    // Either a keyframe, or what comes after the row that is shown.
    for (row = begin > row ? begin : row + 1; row <= wanted; row++) this.#apply(chunk, row);
    this.chunk = chunk;
    this.row = wanted;
    this.context.putImageData(this.image, 0, 0);
  }

  #apply(chunk, row) {
    const { colors, gaps } = chunk;
    let color = chunk.colorStart[row];
    const end = chunk.colorStart[row + 1];
    if (chunk.keyframe[row]) {
      if (end - color !== this.pixels.length) throw new Error("the film is damaged here");
      for (let position = 0; color < end; position++, color++) this.pixels[position] = this.colors[colors[color]];
      return;
    }
    let position = 0;
    for (let gap = chunk.gapStart[row]; color < end; gap++, color++) {
      position += gaps[gap];
      this.pixels[position] = this.colors[colors[color]];
    }
  }
}

/** Chunks by number: fetched once, kept while they are near. */
export class Chunks {
  constructor(size, steps, fetchOne, most) {
    this.size = size;
    this.count = Math.ceil(steps / size);
    this.fetchOne = fetchOne;
    this.most = most;
    this.kept = new Map();
  }

  of(step) {
    return Math.floor(step / this.size);
  }

  /** The chunk that holds `step`, if it is here. */
  at(step) {
    return this.kept.get(this.of(step))?.value;
  }

  /** A promise of the chunk that holds `step`. One that failed is asked for again. */
  load(step) {
    const number = this.of(step);
    let entry = this.kept.get(number);
    if (!entry) {
      entry = { value: undefined };
      entry.promise = this.fetchOne(number).then(
        (value) => (entry.value = value),
        (error) => {
          this.kept.delete(number);
          throw error;
        },
      );
      // Who prefetches does not wait for it, and hears of a failure when it is needed.
      entry.promise.catch(() => {});
    }
    // The last used ones stay.
    this.kept.delete(number);
    this.kept.set(number, entry);
    for (const old of this.kept.keys()) {
      if (this.kept.size <= this.most) break;
      this.kept.delete(old);
    }
    return entry.promise;
  }

  /** Have what comes after `step` at hand: the next chunk, or more of them. */
  ahead(step, chunks = 1) {
    for (let next = this.of(step) + 1; next <= Math.min(this.of(step) + chunks, this.count - 1); next++)
      if (!this.kept.has(next)) this.load(next * this.size);
  }
}
