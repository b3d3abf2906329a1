// The tokens of a reply in words.

import { formatNumber, t } from "./i18n.js";

/** Shorter replies have no meaningful speed. */
const SPEED_FROM_MS = 500;

/** {short, detail} for a reply whose model server told its usage, else null. `timing` is known of replies seen live. */
export function usageWords({ token_usage: usage, timing }) {
  if (!usage) return null;
  const ms = timing?.first_ms && timing.last_ms ? timing.last_ms - timing.first_ms : 0;
  const speed = ms >= SPEED_FROM_MS ? (usage.completion_tokens / ms) * 1000 : null;
  const tokens = t("message.tokens", { count: usage.completion_tokens, number: usage.completion_tokens });
  const detail = [
    t("message.usage_prompt", { number: usage.prompt_tokens }),
    usage.cached_tokens ? t("message.usage_cached", { number: usage.cached_tokens }) : "",
    t("message.usage_completion", { number: usage.completion_tokens }),
    usage.reasoning_tokens ? t("message.usage_reasoning", { number: usage.reasoning_tokens }) : "",
  ];
  const short = speed === null ? tokens : `${tokens} · ${t("message.speed", { speed: formatNumber(speed) })}`;
  return { short, detail: detail.filter(Boolean).join(", ") };
}
