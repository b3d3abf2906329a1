// The tokens of a reply in words.

import { formatNumber, t } from "./i18n.js";

/** Shorter replies have no meaningful speed. */
const SPEED_FROM_MS = 500;

/** {short, detail} for a reply whose model server told its usage, else null. */
export function usageWords(message) {
  const { token_usage: usage } = message;
  if (!usage) return null;
  const ms = writingMs(message);
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

/** From the first token to the last: as the service recorded it of a complete reply, else as it was seen live. */
function writingMs({ duration_us: duration, time_to_first_token_us: first, timing }) {
  if (duration && first) return (duration - first) / 1000;
  return timing?.first_ms && timing.last_ms ? timing.last_ms - timing.first_ms : 0;
}
