// The settings of a conversation: of one that exists they are the service's, of the next new one the browser keeps them.

import { personal } from "./storage.js";

const NEW = "chatbot.new_settings";

/** `put(session)` is told of a changed session. `onChange()` after each change. */
export function createSessionSettings({ api, put, onChange }) {
  const draft = () => personal.read(NEW) ?? {};

  return {
    /** `id` null: the next new conversation. Raises ApiProblem. */
    read: async (id) => (id === null ? { system_prompt: null, model: null, parameters: {}, ...draft() } : api.call("GET", `api/sessions/${id}`)),
    /** Changes some; null removes one. Returns the settings. Raises ApiProblem. */
    async change(id, body) {
      if (id !== null) {
        const session = await api.call("PATCH", `api/sessions/${id}`, { body });
        put(session);
        onChange();
        return session;
      }
      const before = draft(), parameters = { ...before.parameters, ...body.parameters };
      for (const [name, value] of Object.entries(parameters)) if (value === null) delete parameters[name];
      personal.write(NEW, { ...before, ...body, parameters });
      onChange();
      return this.read(null);
    },
    /** The settings for a conversation that is made now; the next one begins with the defaults. `limitOf(model)`: max_new_tokens. */
    takeDraft(limitOf) {
      const taken = draft(), max_new_tokens = limitOf(taken.model);
      personal.remove(NEW);
      return max_new_tokens ? { ...taken, parameters: { max_new_tokens, ...taken.parameters } } : taken;
    },
    get draft() { return draft(); },
  };
}
