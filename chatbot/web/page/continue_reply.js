// "Continue" under a reply that has reached its limit.

import { ApiProblem } from "./api.js";
import { t } from "./i18n.js";

/** Asks the model to go on, with a larger limit from now on where the conversation has none of its own. */
export async function continueReply({ currentId, settings, limitOf, send }) {
  const id = currentId();
  try {
    const session = await settings.read(id), limit = limitOf(session.model);
    if (limit && !session.parameters?.max_new_tokens) await settings.change(id, { parameters: { max_new_tokens: limit } });
  } catch (fault) {
    if (!(fault instanceof ApiProblem)) throw fault; // the message says what is wrong, or goes out with the limit that there is
  }
  if (currentId() === id) send(t("message.continue_text"));
}
