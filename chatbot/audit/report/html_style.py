"""The style of a report in HTML, and the policy that lets a browser load nothing else."""

import base64
import hashlib

STYLE = """
:root { color-scheme: light dark; }
body { margin: 2rem auto; padding: 0 1rem; max-width: 52rem; line-height: 1.5; color: CanvasText; background: Canvas;
  font-family: system-ui, "Apple SD Gothic Neo", "Malgun Gothic", "Noto Sans KR", "Noto Sans", sans-serif;
  overflow-wrap: anywhere; }
h1, h2, h3, h4, summary { line-height: 1.25; }
h4 { margin: 0; font-size: 1rem; }
article, .note, .receipt { margin: 0.75rem 0; padding: 0.5rem 0.75rem; border-inline-start: 0.25rem solid GrayText; }
article.user { border-color: #2563eb; }
article.assistant { border-color: #059669; }
.receipt { border-color: #b45309; }
.other-branch { border-style: dashed; }
.facts, .note, caption { color: color-mix(in srgb, CanvasText 75%, Canvas); font-size: 0.875rem; margin: 0; }
.text, .reasoning, .refusal { white-space: pre-wrap; unicode-bidi: plaintext; margin: 0.5rem 0; }
.reasoning { font-style: italic; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.8125rem; margin: 0.5rem 0; }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: 0.125rem 1rem; margin: 0.5rem 0; }
dt { font-weight: 600; }
dd { margin: 0; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; }
caption { text-align: start; font-weight: 600; padding-block: 0.25rem; }
th, td { text-align: start; vertical-align: top; padding: 0.25rem 0.5rem; border-bottom: 1px solid GrayText; }
img { max-width: 100%; max-height: 20rem; }
figure { margin: 0.5rem 0; }
@page { margin: 18mm; }
@media print {
  :root { color-scheme: light; }
  body { margin: 0; max-width: none; font-size: 10pt; }
  section.session { break-before: page; }
  h2, h3, h4, caption, summary { break-after: avoid; }
  tr, figure, .note { break-inside: avoid; }
  img { max-height: 90mm; }
  a { color: inherit; text-decoration: none; }
  details::details-content { content-visibility: visible; block-size: auto; } /* closed ones are printed, too */
}
"""
_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_DIGEST}'; img-src data:; base-uri 'none'; form-action 'none'"
