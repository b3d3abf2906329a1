// Repeatable random choices: a failing run prints its seed.

/** Mulberry32. Returns a function that gives numbers from 0 up to below 1. */
export function randomNumbers(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

export function choose(random, values) {
  return values[Math.floor(random() * values.length)];
}

const LETTERS = [..."ab \n가나힣é😀👩‍👧𝒳\u0301`*#"];

/** A text of `length` code points, of which some have two UTF-16 units. */
export function randomText(random, length) {
  return Array.from({ length }, () => choose(random, LETTERS)).join("");
}
