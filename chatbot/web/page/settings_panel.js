// The settings of one conversation: model, system prompt, parameters. Each change is saved when a field is left.

import { ApiProblem } from "./api.js";
import { h, fill, iconButton } from "./dom.js";
import { t } from "./i18n.js";
import { wordsFor } from "./words.js";

// name: [type, attributes]; the limits are those of the API
const NUMBERS = {
  temperature: { min: "0", max: "2", step: "0.1" },
  top_p: { min: "0.01", max: "1", step: "0.01" },
  max_new_tokens: { min: "1", step: "1" },
  seed: { min: "0", step: "1" },
};
const EFFORTS = ["low", "medium", "high"];

/** `panel`: an empty aside. `settings`: those of session_settings.js. `onClose()`. */
export function createSettingsPanel({ panel, api, settings, onClose }) {
  let shownId, session = null, models = { models: [], complete: false };
  const problem = h("p", { class: "panel-problem", role: "alert", hidden: true });
  const body = h("div", { class: "panel-body" });
  fill(panel, h("div", { class: "panel-head" }, h("h2", { id: "settings-title", tabindex: "-1" }, t("settings.title")),
    iconButton("close", t("settings.close"), () => onClose())), h("p", { class: "hint" }, t("settings.hint")), problem, body);

  async function show(id) {
    shownId = id;
    problem.hidden = true;
    try {
      const [found, listed] = await Promise.all([settings.read(id), api.call("GET", "api/models")]);
      if (shownId !== id) return;
      [session, models] = [found, listed];
      build();
    } catch (fault) {
      if (!(fault instanceof ApiProblem)) throw fault;
      fill(body, h("button", { type: "button", class: "button", onclick: () => show(id) }, t("retry")));
      say(fault);
    }
  }

  function say(fault) {
    problem.textContent = fault ? wordsFor(fault) : "";
    problem.hidden = !fault;
  }

  async function change(body) {
    const id = shownId;
    say(null);
    try {
      session = await settings.change(id, body);
    } catch (fault) {
      if (!(fault instanceof ApiProblem)) throw fault;
      if (shownId === id) say(fault);
    }
  }

  function build() {
    const parameters = session.parameters ?? {};
    const prompt = h("textarea", { id: "setting-prompt", rows: "6", dir: "auto", value: session.system_prompt ?? "",
      placeholder: t("settings.prompt_placeholder"), onchange: () => change({ system_prompt: prompt.value.trim() || null }) });
    const stop = h("input", { type: "text", id: "setting-stop", value: (parameters.stop ?? []).join(", "), placeholder: t("settings.default"),
      onchange: () => {
        const words = stop.value.split(",").map((one) => one.trim()).filter(Boolean);
        change({ parameters: { stop: words.length ? words : null } });
      } });
    fill(body,
      field("model", modelField()), field("prompt", prompt),
      Object.entries(NUMBERS).map(([name, limits]) => field(name, numberField(name, limits, parameters[name]))),
      field("effort", choice("effort", EFFORTS, parameters.reasoning_effort, (value) => change({ parameters: { reasoning_effort: value } }))),
      field("stop", stop));
  }

  function field(name, control) {
    const hint = h("p", { class: "hint", id: `hint-${name}` }, t(`settings.${name}_hint`));
    control.setAttribute("aria-describedby", hint.id);
    return h("div", { class: "field" }, h("label", { for: `setting-${name}` }, t(`settings.${name}`)), control, hint);
  }

  function modelField() {
    const ids = models.models.map((one) => one.id), set = (value) => change({ model: value });
    if (session.model && !ids.includes(session.model)) ids.push(session.model);
    if (models.complete || ids.length) {
      const first = models.models.find((one) => one.default)?.id;
      return choice("model", ids, session.model, set, first ? t("settings.default_model", { model: first }) : t("settings.default"));
    }
    const input = h("input", { type: "text", id: "setting-model", value: session.model ?? "", placeholder: t("settings.default"),
      onchange: () => set(input.value.trim() || null) });
    return input;
  }

  function choice(name, values, current, onPick, first = t("settings.default")) {
    const select = h("select", { id: `setting-${name}`, onchange: () => onPick(select.value || null) },
      h("option", { value: "" }, first), values.map((one) => h("option", { value: one, selected: one === current }, one)));
    return select;
  }

  function numberField(name, limits, value) {
    const input = h("input", { type: "number", inputmode: "decimal", id: `setting-${name}`, ...limits, value: value ?? "", placeholder: t("settings.default"),
      onchange: () => {
        if (input.validity.badInput || !input.checkValidity()) {
          input.reportValidity();
          return;
        }
        change({ parameters: { [name]: input.value === "" ? null : Number(input.value) } });
      } });
    return input;
  }

  return {
    show,
    focus: () => panel.querySelector("h2").focus(),
  };
}
