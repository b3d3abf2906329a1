// What the page says about a problem: what happened and what helps, in the user's language.

import { t, hasText, formatDuration } from "./i18n.js";

/** A sentence about a problem that the API, the network or a reply had. */
export function wordsFor(problem) {
  if (problem.name === "network") return navigator.onLine === false ? t("problem.offline") : t("problem.network");
  const own = `problem.${problem.name}`;
  if (hasText(own)) return t(own, { wait: waitOf(problem) });
  if (problem.errors?.length) return t("problem.invalid_detail", { detail: problem.errors[0].detail });
  if (problem.status >= 500) return t("problem.server", { status: problem.status });
  return problem.detail || problem.title || t("problem.other", { status: problem.status });
}

/** A notice's "Try again", where that may help. */
export function retryFor(problem, onclick) {
  return ["forbidden", "session-held"].includes(problem.name) ? {} : { action: { label: t("retry"), onclick } };
}

function waitOf(problem) {
  return formatDuration((problem.retryAfter ?? 1) * 1000);
}
