// The composer: text, images, the draft, send and stop.

import { ApiProblem } from "./api.js";
import { h, iconButton, icon, announce } from "./dom.js";
import { t } from "./i18n.js";
import { isSendKey } from "./shortcuts.js";
import { personal } from "./storage.js";
import { wordsFor } from "./words.js";

const DRAFT = "chatbot.draft.";
const SAVE_MS = 300;
const FILES_MAX = 8;

/** Drafts of each conversation, in this browser. */
const drafts = {
  read: (key) => personal.read(DRAFT + key) ?? { text: "", files: [] },
  save(key, draft) {
    if (draft.text || draft.files.length) personal.write(DRAFT + key, draft);
    else personal.remove(DRAFT + key);
  },
};

/**
 * `form`: the composer's form, empty. `modelSelect`: an element among its controls. `onSend(parts or text)`; `onStop()`; `mediaUrl(file)`: the address of an uploaded
 * image, a promise.
 */
export function createComposer({ form, api, modelSelect, onSend, onStop, mediaUrl }) {
  const input = h("textarea", { id: "composer-input", rows: "1", dir: "auto", enterkeyhint: "enter", "aria-label": t("composer.label"),
    placeholder: t("composer.placeholder") });
  const picker = h("input", { type: "file", accept: "image/*", multiple: true, hidden: true, onchange: () => { addFiles(picker.files); picker.value = ""; } });
  const attach = iconButton("image", t("composer.attach"), () => picker.click());
  const send = h("button", { type: "submit", class: "icon-button send", "aria-label": t("composer.send"), title: t("composer.send") }, icon("send"));
  const stop = h("button", { type: "button", class: "icon-button stop", "aria-label": t("composer.stop"), title: t("composer.stop"), onclick: () => onStop() }, icon("stop"));
  const list = h("ul", { class: "attachments", "aria-label": t("composer.attachments"), hidden: true });
  const problem = h("p", { class: "composer-problem", role: "alert", hidden: true });
  const hint = h("span", { class: "hint", "aria-hidden": "true" }, t("composer.hint"));
  const tools = h("div", { class: "composer-bar" }, attach, picker, modelSelect, hint, stop, send);
  form.append(list, problem, input, tools);

  let key = null, files = [], timer = null, isRunning = false, isBlocked = false;

  function draft() {
    const ready = files.filter((one) => one.sha256).map(({ sha256, name, media_type }) => ({ sha256, name, media_type }));
    return { text: input.value, files: ready };
  }

  function save() {
    clearTimeout(timer);
    timer = null;
    if (key !== null) drafts.save(key, draft());
  }

  function resize() {
    if (CSS.supports("field-sizing", "content")) return; // the style sheet does it
    input.style.height = "auto";
    input.style.height = `${input.scrollHeight}px`;
  }

  function refresh() {
    const hasContent = input.value.trim() !== "" || files.some((one) => one.sha256);
    const isUploading = files.some((one) => !one.sha256 && !one.fault);
    send.disabled = isBlocked || !hasContent || isUploading;
    send.hidden = isRunning && !hasContent;
    stop.hidden = !isRunning;
    const words = isRunning ? t("composer.queue") : t("composer.send");
    send.setAttribute("aria-label", words);
    send.title = words;
    resize();
  }

  function say(words) {
    problem.textContent = words;
    problem.hidden = !words;
  }

  function submit(event) {
    event?.preventDefault();
    refresh();
    if (send.disabled) return;
    const text = input.value.trim(), ready = files.filter((one) => one.sha256);
    const parts = ready.map(({ sha256, name, media_type }) => ({ type: "media", sha256, name, media_type }));
    input.value = "";
    setFiles([]);
    say("");
    save();
    refresh();
    onSend(parts.length ? [...(text ? [{ type: "text", text }] : []), ...parts] : text);
  }

  function setFiles(next) {
    for (const one of files) if (!next.includes(one)) one.abort?.abort();
    files = next;
    list.hidden = files.length === 0;
    list.replaceChildren(...files.map((one) => one.element));
    refresh();
  }

  function addFiles(added) {
    const images = [...added].filter((one) => one.type.startsWith("image/"));
    say(images.length < added.length ? t("composer.images_only") : "");
    const room = FILES_MAX - files.length;
    if (images.length > room) say(t("composer.too_many", { count: FILES_MAX }));
    const entries = images.slice(0, Math.max(0, room)).map(uploading);
    setFiles([...files, ...entries]);
    for (const one of entries) start(one);
  }

  function entry(name) {
    const image = h("img", { alt: name, class: "attachment-image" });
    const progress = h("progress", { max: "1", value: 0, "aria-label": t("composer.uploading", { name }) });
    const words = h("span", { class: "attachment-problem" });
    const again = h("button", { type: "button", class: "button", hidden: true, onclick: () => start(one) }, t("retry"));
    const remove = iconButton("close", t("composer.remove", { name }), () => {
      setFiles(files.filter((other) => other !== one));
      save();
      input.focus();
    });
    const one = { name, image, progress, words, again, sha256: null, media_type: "", fault: null, abort: null };
    one.element = h("li", { class: "attachment" }, image, progress, words, again, remove);
    return one;
  }

  function uploading(file) {
    const one = entry(file.name || t("composer.pasted"));
    one.file = file;
    one.image.src = URL.createObjectURL(file);
    one.image.onload = () => URL.revokeObjectURL(one.image.src);
    return one;
  }

  function uploaded(known) {
    const one = Object.assign(entry(known.name), known);
    one.progress.hidden = true;
    mediaUrl(known).then((url) => { one.image.src = url; }, () => {
      setFiles(files.filter((other) => other !== one)); // it was deleted meanwhile
      save();
    });
    return one;
  }

  async function start(one) {
    one.abort = new AbortController();
    Object.assign(one, { fault: null });
    one.words.textContent = "";
    one.again.hidden = true;
    one.progress.hidden = false;
    try {
      const onProgress = (share) => { one.progress.value = share; };
      const { sha256, media_type } = await api.upload(one.file, { onProgress, signal: one.abort.signal });
      Object.assign(one, { sha256, media_type });
      announce(t("composer.uploaded", { name: one.name }));
      save();
    } catch (fault) {
      if (one.abort.signal.aborted) return;
      if (!(fault instanceof ApiProblem)) throw fault;
      one.fault = fault;
      one.words.textContent = wordsFor(fault);
      one.again.hidden = false;
      announce(one.words.textContent);
    } finally {
      one.progress.hidden = true;
      refresh();
    }
  }

  form.addEventListener("submit", submit);
  input.addEventListener("input", () => {
    refresh();
    timer ??= setTimeout(save, SAVE_MS);
  });
  input.addEventListener("keydown", (event) => {
    if (isSendKey(event)) submit(event);
  });
  input.addEventListener("paste", (event) => {
    const pasted = [...event.clipboardData.files];
    if (!pasted.length) return;
    event.preventDefault();
    addFiles(pasted);
  });
  addEventListener("pagehide", save);
  document.addEventListener("visibilitychange", save);

  return {
    /** Shows the draft of a conversation (its id, or "new"). */
    show(nextKey) {
      if (key === nextKey) return;
      save();
      key = nextKey;
      const { text, files: kept } = drafts.read(key);
      input.value = text;
      say("");
      setFiles(kept.map(uploaded));
    },
    /** The conversation that is written to has another name now: what was typed meanwhile stays. */
    rename(from, to) {
      if (key !== from) return;
      drafts.save(from, { text: "", files: [] });
      key = to;
      save();
    },
    setRunning(value) {
      if (isRunning === value) return;
      const wasFocused = document.activeElement === stop;
      isRunning = value;
      refresh();
      if (wasFocused && !value) input.focus(); // the focus would be lost with the hidden button
    },
    setBlocked(value) {
      isBlocked = value;
      input.readOnly = value;
      input.disabled = value && !input.value; // a draft can still be copied
      attach.disabled = modelSelect.disabled = value;
      refresh();
    },
    /** Puts a message that was taken back in front of what is there. */
    restore({ content, parts }) {
      const known = new Set(files.map((one) => one.sha256));
      const media = parts.filter((one) => one.type === "media" && !known.has(one.sha256));
      input.value = [content, input.value].filter(Boolean).join("\n\n");
      setFiles([...media.map(({ sha256, name, media_type }) => uploaded({ sha256, name, media_type })), ...files]);
      save();
      input.focus();
    },
    addFiles,
    say,
    focus: () => input.focus(),
  };
}

/** Images dropped anywhere on `target` go to `onFiles`; it has the class "dropping" meanwhile. */
export function acceptDrops(target, onFiles) {
  let depth = 0;
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const set = (value) => { depth = value; target.classList.toggle("dropping", depth > 0); };
  target.addEventListener("dragenter", (event) => hasFiles(event) && set(depth + 1));
  target.addEventListener("dragleave", (event) => hasFiles(event) && set(Math.max(0, depth - 1)));
  target.addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  target.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    set(0);
    onFiles(event.dataTransfer.files);
  });
}
