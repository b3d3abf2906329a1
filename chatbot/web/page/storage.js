// What the page keeps in the browser. Storage may be blocked, then it is kept as long as the page.

/** What localStorage is, in memory. */
class MemoryStorage {
  #values = new Map();
  get length() { return this.#values.size; }
  key(index) { return [...this.#values.keys()][index] ?? null; }
  getItem(name) { return this.#values.get(name) ?? null; }
  setItem(name, value) { this.#values.set(name, String(value)); }
  removeItem(name) { this.#values.delete(name); }
}

function areaOf(name) {
  try {
    globalThis[name].getItem("");
    return globalThis[name];
  } catch {
    return new MemoryStorage();
  }
}

export const tabStorage = areaOf("sessionStorage");
export const browserStorage = areaOf("localStorage");

const KEY = "chatbot.key";

/** The API key: in the tab, or in the browser if the user chose that. */
export const keys = {
  read: () => tabStorage.getItem(KEY) ?? browserStorage.getItem(KEY),
  save(key, isRemembered) {
    this.forget();
    (isRemembered ? browserStorage : tabStorage).setItem(KEY, key);
  },
  forget() {
    tabStorage.removeItem(KEY);
    browserStorage.removeItem(KEY);
  },
};

/** Where drafts and unsent messages are: they live as long as the key, so that a shared computer does not keep them. */
function personalArea() {
  return tabStorage.getItem(KEY) === null ? browserStorage : tabStorage;
}

/** Drafts and unsent messages by name. `write` returns whether it was kept: the storage may be full. */
export const personal = {
  names(prefix) {
    const area = personalArea();
    return Array.from({ length: area.length }, (_, index) => area.key(index)).filter((name) => name.startsWith(prefix));
  },
  read(name) {
    try {
      return JSON.parse(personalArea().getItem(name));
    } catch {
      return null; // damaged
    }
  },
  write(name, value) {
    try {
      personalArea().setItem(name, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  },
  has: (name) => tabStorage.getItem(name) !== null || browserStorage.getItem(name) !== null,
  remove(name) {
    tabStorage.removeItem(name);
    browserStorage.removeItem(name);
  },
};
