// The parts of a message: text, reasoning, refusals, tool calls and their results, files. Each has a view with an
// `element`, `update(part, context)` and `destroy()`; `context` is {message, actions, isGrowing}.

import { CodeBlock, NEAR_WINDOW } from "./code_block.js";
import { h, icon } from "./dom.js";
import { formatDuration, formatNumber, t } from "./i18n.js";
import { layOutJson } from "./json_text.js";
import { MarkdownView } from "./markdown.js";

const LONG_FROM = 1000;
const PREVIEW_MAX = 120; // characters of a tool call's arguments beside its name

class TextPart {
  #markdown = new MarkdownView("markdown message-text");
  element = this.#markdown.element;

  update(part, { isGrowing }) {
    this.#markdown.update(part.text, !isGrowing);
  }

  destroy() {
    this.#markdown.destroy();
  }
}

/** What a person wrote is shown exactly as it was written. */
class PlainPart {
  element = h("div", { class: "message-text plain-text", dir: "auto" });

  update(part) {
    if (this.element.textContent === part.text) return;
    this.element.textContent = part.text;
    if (part.text.length > LONG_FROM) this.element.tabIndex = 0; // it scrolls
  }

  destroy() {}
}

class RefusalPart extends PlainPart {
  constructor() {
    super();
    this.element.classList.add("message-refusal");
  }
}

class ReasoningPart {
  #label = h("span");
  #markdown = new MarkdownView("markdown");
  #part = null;
  #isGrowing = false;

  constructor() {
    const summary = h("summary", {}, icon("right"), this.#label);
    const attributes = { class: "message-reasoning", ontoggle: () => this.#show() };
    this.element = h("details", attributes, summary, this.#markdown.element);
  }

  update(part, { message, isGrowing }) {
    this.#part = part;
    this.#isGrowing = isGrowing;
    this.element.classList.toggle("is-growing", isGrowing);
    const words = reasoningWords(part, message, isGrowing);
    if (this.#label.textContent !== words) this.#label.textContent = words;
    this.#show();
  }

  #show() {
    if (this.element.open) this.#markdown.update(this.#part.text, !this.#isGrowing);
  }

  destroy() {
    this.#markdown.destroy();
  }
}

function reasoningWords(part, message, isGrowing) {
  if (isGrowing) return t("message.reasoning_now");
  const ms = part.duration_us ? part.duration_us / 1000 : message.timing?.reasoning_ms;
  return ms ? t("message.reasoning_for", { duration: formatDuration(ms) }) : t("message.reasoning");
}

class ToolCallPart {
  #name = h("code", { class: "tool-name" });
  #preview = h("span", { class: "tool-preview", dir: "ltr" });
  #state = h("span", { class: "tool-state" });
  #code = new CodeBlock();

  constructor() {
    const words = h("span", {}, t("message.tool_call"));
    const summary = h("summary", {}, icon("right"), words, this.#name, this.#preview, this.#state);
    this.element = h("details", { class: "message-tool" }, summary, this.#code.element);
  }

  update(part, { message, isGrowing }) {
    this.#name.textContent = part.name;
    this.#preview.textContent = part.arguments.replace(/\s+/g, " ").slice(0, PREVIEW_MAX);
    this.#state.textContent = isGrowing || !message.calls ? "" : t(`message.calls_${message.calls}`);
    this.#code.update(codeToken(part.arguments, isGrowing), isGrowing);
  }

  destroy() {}
}

function codeToken(text, isGrowing) {
  const laidOut = isGrowing ? null : layOutJson(text);
  return { lang: laidOut === null ? "" : "json", text: laidOut ?? text };
}

class ToolResultPart {
  #label = h("span");
  #content = h("div", { class: "tool-content" });
  #shown = null;
  #views = [];

  constructor() {
    this.element = h("details", { class: "message-tool" }, h("summary", {}, icon("right"), this.#label), this.#content);
  }

  update(part, context) {
    if (this.#shown === part) return;
    this.#shown = part;
    this.element.classList.toggle("is-error", part.is_error === true);
    const call = h("code", { class: "tool-name" }, context.actions.callName?.(part.call_id) ?? part.call_id);
    this.#label.replaceChildren(t(part.is_error ? "message.tool_error" : "message.tool_result"), " ", call);
    this.destroy();
    this.#views = (part.parts ?? []).map((one) => (one.type === "text" ? new ResultText() : new MediaPart()));
    this.#views.forEach((view, index) => view.update(part.parts[index], context));
    this.#content.replaceChildren(...this.#views.map((view) => view.element));
  }

  destroy() {
    for (const view of this.#views) view.destroy();
  }
}

class ResultText {
  #code = new CodeBlock();
  element = this.#code.element;

  update(part) {
    this.#code.update(codeToken(part.text, false), false);
  }

  destroy() {}
}

/** A picture is fetched when it comes near the window, with the key if one is needed. */
class MediaPart {
  #sha256 = null;
  #observer = null;
  element = h("div", { class: "message-media" });

  update(part, { actions }) {
    if (part.sha256 === this.#sha256) return;
    this.#sha256 = part.sha256;
    const name = part.name || t(part.media_type?.startsWith("image/") ? "message.image" : "message.file");
    if (!part.media_type?.startsWith("image/")) this.#showFile(part, actions, name);
    else this.#whenNear(() => this.#showImage(part, actions, name));
  }

  #showFile(part, actions, name) {
    const size = part.bytes ? t("message.file_size", { size: formatNumber(Math.ceil(part.bytes / 1024)) }) : "";
    const label = [icon("download"), h("span", {}, name), h("small", {}, size)];
    const attributes = { type: "button", class: "media-file", onclick: () => actions.openMedia?.(part) };
    this.element.replaceChildren(h("button", attributes, label));
  }

  #whenNear(show) {
    this.element.replaceChildren(h("span", { class: "media-waiting" }, t("message.image_loading")));
    this.#observer = new IntersectionObserver((entries) => {
      if (!entries.some((one) => one.isIntersecting)) return;
      this.#observer.disconnect();
      void show();
    }, { rootMargin: NEAR_WINDOW, scrollMargin: NEAR_WINDOW });
    this.#observer.observe(this.element);
  }

  async #showImage(part, actions, name) {
    try {
      const image = h("img", { alt: name, src: await actions.mediaUrl(part), decoding: "async" });
      await image.decode();
      const label = t("message.image_open", { name }), onclick = () => actions.openMedia?.(part);
      const attributes = { type: "button", class: "media-image", "aria-label": label, onclick };
      this.element.replaceChildren(h("button", attributes, image));
    } catch {
      const onclick = () => this.#showImage(part, actions, name);
      const again = h("button", { type: "button", class: "text-button", onclick }, t("message.again"));
      this.element.replaceChildren(h("span", {}, t("message.image_failed", { name })), " ", again);
    }
  }

  destroy() {
    this.#observer?.disconnect();
  }
}

class RedactedPart {
  element = h("div", { class: "message-redacted plain-text" });

  update(part) {
    this.element.textContent = t("message.redacted", { code: part.reason_code });
  }

  destroy() {}
}

class UnknownPart {
  element = h("div", { class: "plain-text" });

  update(part) {
    this.element.textContent = t("message.unknown_part", { type: part.type });
  }

  destroy() {}
}

const VIEWS = {
  text: TextPart, reasoning: ReasoningPart, refusal: RefusalPart, tool_call: ToolCallPart, tool_result: ToolResultPart,
  media: MediaPart, redacted: RedactedPart,
};

/** The class of the view of `part`, in a message of `role`. */
export function partViewClass(part, role) {
  if (part.type === "text" && role !== "assistant") return PlainPart;
  return Object.hasOwn(VIEWS, part.type) ? VIEWS[part.type] : UnknownPart; // a newer service may have more
}
