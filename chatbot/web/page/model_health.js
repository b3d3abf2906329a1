// Whether the model server can answer, asked for at the start and, as long as it cannot, again.

import { ApiProblem } from "./api.js";

const AGAIN_MS = 5_000;

/** `state`: "available", "loading" or "unavailable". `onChange()` when it differs. */
export function createModelHealth(api, onChange) {
  let state = "available", timer = null;

  async function check() {
    clearTimeout(timer);
    let next = state;
    try {
      next = (await api.call("GET", "api/health")).llm_server_state;
    } catch (fault) {
      if (!(fault instanceof ApiProblem)) throw fault; // the connection has a notice of its own
    }
    if (next !== "available") timer = setTimeout(() => document.visibilityState === "visible" ? check() : schedule(), AGAIN_MS);
    if (next === state) return;
    state = next;
    onChange();
  }

  function schedule() {
    timer = setTimeout(check, AGAIN_MS);
  }

  return { check, get state() { return state; } };
}
