"""Style and script of the page: no font, image or file from elsewhere."""

LIGHT = ("#0072b2", "#c44e00", "#00785a", "#a8407f", "#8a5f00", "#3f4852", "#2a86c8")
DARK = ("#56b4e9", "#ff9b57", "#35c99b", "#e08cc0", "#f0c64a", "#c3cad3", "#9dbcff")
"""Okabe and Ito's colours for all kinds of colour vision, darkened or lightened so that they stand
out from the page by a contrast of 3 to 1 or more."""

_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1a1f26;--soft:#55606d;--line:#d4dae1;--box:#f5f7f9;
--link:#0b5cad;--best:#dff3e7;--warn:#8a4b00;--warnbox:#fff4e0;LIGHTCOLOURS}
@media(prefers-color-scheme:dark){:root{--bg:#14181d;--fg:#e6eaef;--soft:#a3aebb;--line:#39424d;
--box:#1d232a;--link:#7dbcff;--best:#173b2a;--warn:#ffc46b;--warnbox:#33280f;DARKCOLOURS}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:1180px;padding:1.2rem clamp(.9rem,3vw,2rem) 3rem;background:var(--bg);
color:var(--fg);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
overflow-wrap:anywhere}
h1{font-size:1.7rem;line-height:1.2;margin:.2rem 0 .3rem}
h2{font-size:1.2rem;margin:2.2rem 0 .5rem;padding-top:.5rem;border-top:1px solid var(--line)}
p,ul{max-width:75ch;margin:.4rem 0}ul{padding-left:1.2rem}
a{color:var(--link)}nav{font-size:.9rem}nav a{margin-right:.9rem;white-space:nowrap}
.soft,caption,figcaption .soft{color:var(--soft);font-size:.875rem}
.warn{background:var(--warnbox);border-left:4px solid var(--warn);padding:.4rem .8rem;
margin:.6rem 0;max-width:none}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:6px;margin:.6rem 0}
table{border-collapse:collapse;font-size:.9rem;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.45rem .7rem;text-align:right;vertical-align:top;border-bottom:1px solid var(--line);
overflow-wrap:normal}
tr:last-child>*{border-bottom:0}
thead th{background:var(--box);font-weight:600;vertical-align:bottom}
th:first-child,td:first-child{text-align:left}
tbody th{font-weight:600;position:sticky;left:0;background:var(--bg);min-width:min(13rem,36vw);
max-width:min(20rem,42vw);overflow-wrap:break-word}
table.words td,table.words th{text-align:left}
td small,th small{display:block;color:var(--soft);font-weight:400;white-space:nowrap}
thead th small{white-space:normal}
td small.flag{color:var(--warn);white-space:normal}
td.best{background:var(--best)}td.best b::after{content:" \\2605"}
table.tight td{white-space:nowrap}
td b{font-weight:600;white-space:nowrap}
.swatch{vertical-align:-2px;margin-right:.4rem;flex:none}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,340px),1fr));
gap:1rem 1.4rem;margin:.6rem 0}
figure{margin:0;min-width:0;max-width:460px}
figcaption{font-weight:600;font-size:.95rem;margin-bottom:.2rem}
figcaption .soft{font-weight:400;display:block}
figure svg{display:block;width:100%;height:auto}
.scroll>svg{display:block;width:auto;max-width:none;height:auto}
@media(max-width:600px){th,td{padding:.4rem .5rem}}
.keys{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;list-style:none;padding:0;max-width:none;
font-size:.9rem}
.keys label{display:inline-flex;align-items:center;cursor:pointer;min-height:1.8rem}
.keys input{margin:0 .4rem 0 0;width:1.05rem;height:1.05rem;flex:none}
svg text{fill:var(--soft);font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
svg .rowlabel,svg .axistitle{fill:var(--fg);font-size:12.5px;font-weight:600}
svg .grid{stroke:var(--line);stroke-width:1;opacity:.7}
svg .axis{stroke:var(--soft);stroke-width:1}
svg .level line{stroke:var(--soft);stroke-dasharray:4 4}
svg .level text,svg .rowlabel,svg .halo{paint-order:stroke;stroke:var(--bg);stroke-width:4px;
stroke-linejoin:round}
svg .halo{fill:var(--fg)}
svg .line{stroke:var(--c);stroke-width:2}
svg .band{fill:var(--c);opacity:.18}
svg .faint{stroke:var(--c);stroke-width:1;opacity:.45}
svg .stray{stroke:var(--c);stroke-width:1.3;stroke-dasharray:1 3}
svg .cross{stroke:var(--c);stroke-width:2}
svg .mark{fill:var(--c);stroke:var(--bg);stroke-width:1}
svg .interval{stroke:var(--c);stroke-width:5;opacity:.35;stroke-linecap:round}
svg .mean{stroke:var(--c);stroke-width:2.5}
svg .ray{stroke:var(--c);stroke-width:1.7;opacity:.85}
svg .wide{stroke:transparent;stroke-width:12}
svg g:hover>.ray{stroke-width:3.5;opacity:1}
details{margin:.5rem 0}summary{cursor:pointer;padding:.25rem 0}
pre{background:var(--box);border:1px solid var(--line);border-radius:6px;padding:.6rem .8rem;
overflow-x:auto;font-size:.8rem;line-height:1.45;margin:.4rem 0;overflow-wrap:normal}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.85em}
#tip{position:fixed;display:none;z-index:9;max-width:min(22rem,90vw);padding:.35rem .6rem;
border-radius:5px;background:var(--fg);color:var(--bg);font-size:.8rem;pointer-events:none}
@media print{@page{margin:14mm}:root{color-scheme:light;--bg:#fff;--fg:#000;--soft:#444;
--line:#bbb;--box:#f4f4f4;--link:#000;--best:#e4e4e4;LIGHTCOLOURS}
body{max-width:none;padding:0;font-size:10pt}nav,#tip,.keys input{display:none!important}
.scroll{overflow:visible;border:0}table{font-size:8pt}th,td{padding:.2rem .35rem}
td small,td b,table.tight td{white-space:normal!important}tbody th{position:static;min-width:0}
.scroll>svg{width:100%}figure,tr,.warn{break-inside:avoid}h2{break-after:avoid}
.figures{grid-template-columns:1fr 1fr}pre{white-space:pre-wrap;overflow-wrap:anywhere}
details:not([open])>:not(summary){display:none}}
"""

SCRIPT = """
(function(){var tip=document.createElement("div");tip.id="tip";tip.setAttribute("role","status");
document.body.appendChild(tip);
document.querySelectorAll("[data-tip]>title").forEach(function(t){t.remove()});
function show(e){var m=e.target.closest("[data-tip]");
if(!m){tip.style.display="none";return}
tip.textContent=m.getAttribute("data-tip");tip.style.display="block";
var w=tip.offsetWidth,h=tip.offsetHeight,x=e.clientX+12,y=e.clientY-h-12;
if(x+w>innerWidth-6){x=Math.max(6,innerWidth-w-6)}if(y<6){y=e.clientY+16}
tip.style.left=x+"px";tip.style.top=y+"px"}
document.addEventListener("pointermove",show);document.addEventListener("pointerdown",show);
addEventListener("scroll",function(){tip.style.display="none"},{passive:true})})();
"""
"""Tips at the pointer; without it the browser shows the same texts as titles, only more slowly."""


def style(num_configurations: int) -> str:
    """The style sheet, with a rule for the switch of every configuration."""
    text = _STYLE.replace("LIGHTCOLOURS", _colours(LIGHT)).replace("DARKCOLOURS", _colours(DARK))
    text += "".join(f".c{n}{{--c:var(--c{n})}}" for n in range(len(LIGHT)))
    text += "".join(
        f"body:has(#show{n}:not(:checked)) .figures .s{n},"
        f"body:has(#show{n}:not(:checked)) .scroll>svg .s{n}{{display:none}}"
        for n in range(num_configurations)
    )
    return text + "body:has(#showtraining:not(:checked)) .training{display:none}"


def _colours(colours: tuple[str, ...]) -> str:
    return "".join(f"--c{number}:{colour};" for number, colour in enumerate(colours))
