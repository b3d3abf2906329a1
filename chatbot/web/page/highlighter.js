// Colours of code by highlight.js, made of elements. Loaded when the first finished code block is near the window.

import hljs from "../vendor/highlight.js/core.min.js";

// Names that models write after a fence, besides those of the files in vendor/highlight.js/languages.
const ALIASES = {
  "c++": "cpp", cc: "cpp", hpp: "cpp", h: "c", "c#": "csharp", cs: "csharp", clj: "clojure", console: "shell",
  shellsession: "shell", terminal: "shell", sh: "bash", zsh: "bash", docker: "dockerfile",
  containerfile: "dockerfile", patch: "diff", ex: "elixir", exs: "elixir", erl: "erlang", f90: "fortran",
  "f#": "fsharp", fs: "fsharp", golang: "go", gql: "graphql", hs: "haskell", html: "xml", svg: "xml", xhtml: "xml",
  vue: "xml", svelte: "xml", toml: "ini", conf: "ini", env: "bash", js: "javascript", jsx: "javascript",
  mjs: "javascript", cjs: "javascript", node: "javascript", json5: "json", jsonc: "json", jsonl: "json",
  ndjson: "json", jl: "julia", kt: "kotlin", kts: "kotlin", tex: "latex", make: "makefile", mk: "makefile",
  md: "markdown", octave: "matlab", "objective-c": "objectivec", objc: "objectivec", ml: "ocaml", pl: "perl",
  ps1: "powershell", pwsh: "powershell", proto: "protobuf", py: "python", python3: "python", ipython: "python",
  pycon: "python-repl", rb: "ruby", rs: "rust", sass: "scss", postgresql: "sql", pgsql: "sql", mysql: "sql",
  sqlite: "sql", plsql: "sql", tsql: "sql", ts: "typescript", tsx: "typescript", vb: "vbnet", sv: "verilog",
  viml: "vim", wat: "wasm", asm: "x86asm", assembly: "x86asm", nasm: "x86asm", yml: "yaml",
};
const LANGUAGES = new Set(`
  bash c clojure cmake cpp csharp css dart diff dockerfile elixir erlang fortran fsharp go gradle graphql groovy
  haskell http ini java javascript json julia kotlin latex less lisp lua makefile markdown matlab nginx nix
  objectivec ocaml perl php php-template powershell properties protobuf python python-repl r ruby rust scala scss
  shell sql swift typescript vbnet verilog vhdl vim wasm x86asm xml yaml`.trim().split(/\s+/));
const EMBEDDED = { // languages inside of others
  xml: ["css", "javascript"], markdown: ["xml"], dockerfile: ["bash"], shell: ["bash"], "python-repl": ["python"],
  "php-template": ["php", "xml"],
};
const loading = new Map();

/** The file that has the grammar of the language `name`, or null. */
export function grammarOf(name) {
  const known = name.toLowerCase(), language = Object.hasOwn(ALIASES, known) ? ALIASES[known] : known;
  return LANGUAGES.has(language) ? language : null;
}

function load(language) {
  if (!loading.has(language)) {
    const grammar = import(`../vendor/highlight.js/languages/${language}.min.js`);
    const needed = [grammar, ...(EMBEDDED[language] ?? []).map(load)];
    const loaded = Promise.all(needed).then(([{ default: rules }]) => hljs.registerLanguage(language, rules));
    loaded.catch(() => loading.delete(language)); // the next block tries again
    loading.set(language, loaded);
  }
  return loading.get(language);
}

/** `code` as a fragment with a span for each token; null if its language is not known. Raises if the network fails. */
export async function colour(code, name) {
  const language = grammarOf(name);
  if (!language) return null;
  await load(language);
  // Not `value`, which is HTML: the tree of tokens behind it, {scope, children}, whose leaves are strings.
  const { _emitter: emitter } = hljs.highlight(code, { language, ignoreIllegals: true });
  return withTokens(document.createDocumentFragment(), emitter.rootNode);
}

function withTokens(parent, node) {
  for (const child of node.children) {
    if (typeof child === "string") parent.append(child);
    else parent.append(withTokens(spanOf(child.scope), child));
  }
  return parent;
}

/** "title.function" is `hljs-title function_`, as in the themes of highlight.js. */
function spanOf(scope) {
  const span = document.createElement("span");
  if (scope) {
    const [first, ...rest] = scope.split(".");
    span.className = [`hljs-${first}`, ...rest.map((one, depth) => one + "_".repeat(depth + 1))].join(" ");
  }
  return span;
}
