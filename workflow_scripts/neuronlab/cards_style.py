"""The cards' style sheet: light, printable, no script, no external file."""

from __future__ import annotations

LEVELS = 8
INK = "#1f2429"
# Ends of the colour scales (Okabe-Ito hues, light enough that dark text on them stays readable).
ACTIVE, INACTIVE = (247, 173, 64), (190, 160, 214)
RAISED, LOWERED = (86, 170, 226), (242, 128, 74)


def tint(colour: tuple[int, int, int], level: int) -> str:
    """`colour` mixed with white: level 1 (faint) to LEVELS (full)."""
    share = level / LEVELS
    return "#" + "".join(f"{round(255 + (channel - 255) * share):02x}" for channel in colour)


def shades() -> str:
    """One class per level: a (activation above zero), n (below zero), u (entropy raised), d (lowered)."""
    rules = []
    for level in range(1, LEVELS + 1):
        rules += [
            f".a{level}{{--a:{tint(ACTIVE, level)}}}",
            f".n{level}{{--a:{tint(INACTIVE, level)}}}",
            f".u{level}{{--e:{tint(RAISED, level)}}}",
            f".d{level}{{--e:{tint(LOWERED, level)}}}",
        ]
    return "".join(rules)


STYLE = """
:root{--ink:#1f2429;--faint:#55606b;--line:#dfe3e7;--soft:#f5f7f8;--accent:#0b5c92}
*{box-sizing:border-box}
html{scroll-padding-top:64px}
body{margin:0;color:var(--ink);background:#eef1f3;font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
  "Liberation Sans",Arial,sans-serif}
a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
a:focus-visible,input:focus-visible+label,summary:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
header.page,main,footer{max-width:1120px;margin:0 auto;padding:0 24px}
header.page{padding-top:30px}
h1{font-size:27px;line-height:1.2;margin:0 0 6px}
h2{font-size:22px;margin:0;font-variant-numeric:tabular-nums}
h3{font-size:13px;margin:0 0 8px;color:var(--faint);font-weight:600;letter-spacing:.02em}
p{margin:0 0 10px}.lead{color:var(--faint)}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;width:100%}
th,td{text-align:right;padding:4px 10px;border-bottom:1px solid var(--line);white-space:nowrap}
.slim th,.slim td{padding:4px 6px}.slim td:first-child{white-space:normal}.slim tr>:first-child{padding-left:0}
sup,sub{line-height:0;font-size:75%}
th{vertical-align:bottom;font-weight:600;color:var(--faint);font-size:13px}
th:first-child,td:first-child,.index td:nth-child(2),.index th:nth-child(2){text-align:left}
.scroll{overflow-x:auto}
.index{background:#fff;border:1px solid var(--line);border-radius:8px;padding:6px 10px;margin:14px 0 4px}
.index tr:last-child td{border-bottom:0}
.bar{position:sticky;top:0;z-index:2;background:#ffffffee;border-bottom:1px solid var(--line);margin-top:18px}
.bar div{max-width:1120px;margin:0 auto;padding:9px 24px;display:flex;flex-wrap:wrap;gap:6px 20px;
  align-items:center}
.bar .key{display:inline-flex;gap:7px;align-items:center;font-size:13px;color:var(--faint)}
.ramp{display:inline-block;width:74px;height:13px;border:1px solid var(--line);border-radius:3px}
.pick{position:absolute;opacity:0;pointer-events:none}
.bar label{padding:3px 12px;border:1px solid #b9c2ca;border-radius:15px;cursor:pointer;font-size:13px;
  background:#fff}
#by-both:checked~.bar [for=by-both],#by-activation:checked~.bar [for=by-activation],
  #by-entropy:checked~.bar [for=by-entropy]{background:var(--ink);color:#fff;border-color:var(--ink)}
#by-both:focus-visible~.bar [for=by-both],#by-activation:focus-visible~.bar [for=by-activation],
  #by-entropy:focus-visible~.bar [for=by-entropy]{outline:2px solid var(--accent);outline-offset:2px}
.card{background:#fff;border:1px solid var(--line);border-radius:10px;padding:20px 24px;margin:20px 0;
  box-shadow:0 1px 2px #0000000a}
.top{display:flex;flex-wrap:wrap;gap:10px;align-items:baseline;margin-bottom:14px}
.top .up{margin-left:auto;font-size:13px}
.badge{font-size:12.5px;padding:1px 10px;border-radius:11px;background:var(--soft);border:1px solid var(--line)}
.badge.entropy{background:#fdeee2;border-color:#e9b48f}.badge.token_frequency{background:#e3f0f9;
  border-color:#9cc5e0}
.grid{display:grid;grid-template-columns:minmax(0,1.15fr) minmax(0,1fr);gap:22px 34px}
@media(max-width:820px){.grid{grid-template-columns:minmax(0,1fr)}}
.strip{position:relative;display:inline-block;width:84px;height:9px;background:#e7ebee;border-radius:5px;
  vertical-align:middle;margin-right:8px}
.strip i{position:absolute;top:-2px;width:4px;height:13px;margin-left:-2px;border-radius:2px;background:var(--ink)}
.pct{display:inline-block;min-width:64px}
.note{font-size:13px;color:var(--faint)}
.under{margin-top:8px}
.ci{font-size:12px;color:var(--faint);white-space:nowrap}
.stack>div+div{margin-top:22px}
.tokens{display:grid;grid-template-columns:1fr 1fr;gap:0 18px}
ol.tok{list-style:none;margin:0;padding:0}
ol.tok li{display:flex;justify-content:space-between;gap:8px;padding:1px 8px;border-radius:3px;font-size:13.5px}
.mono,.ex{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"Liberation Mono",monospace}
ol.tok .mono{white-space:pre;overflow:hidden;text-overflow:ellipsis;min-width:0}
.ws{color:#59636d}
.full{grid-column:1/-1}
.ex{margin:0 0 12px;padding:9px 12px;background:var(--soft);border-radius:6px;font-size:13.5px;line-height:2.15;
  white-space:pre-wrap;overflow-wrap:anywhere}
.ex small{display:block;font-family:system-ui,"Liberation Sans",Arial,sans-serif;color:var(--faint);
  font-size:12.5px;line-height:1.4;margin-bottom:3px;white-space:normal}
.t{background:var(--a,transparent);border-bottom:4px solid var(--e,transparent);padding:2px 0 1px;
  border-radius:2px 2px 0 0}
.t.p{outline:2px solid var(--ink);outline-offset:0;border-radius:2px}
.off{color:#717b85}
#by-activation:checked~main .t{border-bottom-color:transparent}
#by-entropy:checked~main .t{background:var(--e,transparent);border-bottom-color:transparent}
svg{display:block;max-width:100%;height:auto}
svg text{font-family:system-ui,"Liberation Sans",Arial,sans-serif;fill:#3d4751;font-size:12px}
details{margin:10px 0 0}summary{cursor:pointer;color:var(--accent)}
details dt{font-weight:600;margin-top:8px}details dd{margin:0 0 0 18px;color:var(--faint);max-width:84ch}
footer{padding:12px 24px 40px;color:var(--faint);font-size:13px}
@media(max-width:480px){header.page,main,footer{padding-left:10px;padding-right:10px}.card{padding:16px 14px}
  .slim th,.slim td{padding-left:4px;padding-right:4px}.slim .ci{font-size:11px}}
@media print{body{background:#fff;zoom:.7}.bar{position:static}.card{break-before:page;box-shadow:none;border:0}
  .grid{grid-template-columns:minmax(0,1.15fr) minmax(0,1fr)}.stack>div,.ex,svg,tr{break-inside:avoid}
  *{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
