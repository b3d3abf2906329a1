// The model of the open conversation, in the composer. It is shown only where there is a choice.

import { ApiProblem } from "./api.js";
import { h, fill } from "./dom.js";
import { t } from "./i18n.js";

/** `onPick(model)`: null is the default. Returns {element, load(), show(model), limitOf(model)}. */
export function createModelSelect({ api, onPick }) {
  let models = [], chosen = null;
  const element = h("select", { class: "model-select", "aria-label": t("settings.model"), hidden: true, onchange: () => onPick(element.value || null) });

  function build() {
    const ids = models.map((one) => one.id), first = models.find((one) => one.default)?.id ?? t("settings.default");
    if (chosen && !ids.includes(chosen)) ids.push(chosen);
    const others = ids.filter((one) => one !== first);
    fill(element, h("option", { value: "", selected: !chosen || chosen === first }, first),
      others.map((one) => h("option", { value: one, selected: one === chosen }, one)));
    element.hidden = others.length === 0;
  }

  return {
    element,
    async load() {
      try {
        ({ models } = await api.call("GET", "api/models"));
        build();
      } catch (fault) {
        if (!(fault instanceof ApiProblem)) throw fault; // what is wrong is said where it matters
      }
    },
    /** The most tokens of a reply that suit a model (null: the default one), if they are known. */
    limitOf: (model) => models.find((one) => (model ? one.id === model : one.default))?.suggested_max_new_tokens,
    show(model) {
      if (model === chosen) return;
      chosen = model;
      build();
    },
  };
}
