//! How the page looks. The sheet is the same for all pages: what differs stands in the page, as `--lanes` and `--c`.

/// The style sheet.
pub(super) const SHEET: &str = "\
:root{color-scheme:light dark;--gut:84px;--lane:240px;--page:#fff;--ink:#333;--line:#bbb;--soft:#767676;\
--con:#7a3ea8;--sub:#a85a00;--pub:#0b62c4;--ack:#2b7a3d;--ping:#8a8a8a;--bad:#c01818;--stall:#f3c98b;\
--frozen:#e9eef6;--down:#fbe4e4;--box:#f6f6f6}
@media (prefers-color-scheme:dark){:root{--page:#16181c;--ink:#d5d7db;--line:#4a4e56;--soft:#9aa0a8;\
--con:#c792ea;--sub:#f0a95c;--pub:#6cb2ff;--ack:#7bcf8d;--ping:#80868f;--bad:#ff6b6b;--stall:#6b4a16;\
--frozen:#222b3a;--down:#3a1c1e;--box:#20242b}}
*{box-sizing:border-box;print-color-adjust:exact;-webkit-print-color-adjust:exact}
body{margin:0;background:var(--page);color:var(--ink);font:13px/1.45 system-ui,'DejaVu Sans',sans-serif}
header{padding:14px 20px 4px;max-width:1200px}
h1{font-size:20px;margin:0 0 6px}
.verdict{margin:0 0 10px;padding:7px 11px;border-left:4px solid;background:var(--box);overflow-wrap:anywhere}
.verdict.bad,.verdict.bad a{color:var(--bad);font-weight:600}
.verdict.good{color:var(--ack)}
dl{display:flex;flex-wrap:wrap;gap:2px 26px;margin:0 0 8px}
dl div{display:flex;gap:7px}
dt{color:var(--soft)}
dd{margin:0;font-family:ui-monospace,'DejaVu Sans Mono',monospace;font-size:12px}
summary{cursor:pointer}
header details{margin:3px 0}
pre{font:12px/1.5 ui-monospace,'DejaVu Sans Mono',monospace;white-space:pre-wrap;overflow-wrap:anywhere;margin:4px 0;\
padding:7px 11px;background:var(--box)}
.legend{display:flex;flex-wrap:wrap;gap:5px 18px;padding:7px 20px;font-size:12px;color:var(--soft)}
.legend input{vertical-align:-2px}
.key::before{content:'';display:inline-block;width:20px;border-top:2px solid;margin-right:6px;vertical-align:3px}
.key.con{color:var(--con)}.key.sub{color:var(--sub)}.key.pub{color:var(--pub)}.key.ack{color:var(--ack)}
.key.dup{color:var(--pub)}.key.dup::before{border-top-style:dashed}.key.fault{color:var(--bad)}
main{position:relative;width:max-content;min-width:calc(var(--gut) + (var(--lanes) + 1.3)*var(--lane));padding-bottom:60px}
.names{position:sticky;top:0;height:26px;background:var(--page);border-bottom:1px solid var(--line);z-index:3;\
font-weight:600}
.names span{position:absolute;top:3px;left:calc(var(--gut) + (var(--c) + 1)*var(--lane));transform:translateX(-50%)}
.names .broker{left:var(--gut)}
.names small{font-weight:400;color:var(--soft)}
.lane{position:absolute;top:26px;bottom:0;left:calc(var(--gut) + (var(--c) + 1)*var(--lane) - .5px);width:1px;\
background:var(--line)}
.r{position:relative;min-height:19px;break-inside:avoid;background:var(--row,none)}
.r b{position:absolute;top:0;bottom:0;width:3px;left:calc(var(--gut) + (var(--c) + 1)*var(--lane) - 1.5px);\
background:var(--ink)}
.r b.up{left:calc(var(--gut) - 2px);width:4px}
.r b.stall{width:18px;margin-left:-7.5px;background:var(--stall)}
.r p{margin:0}
time{position:absolute;left:0;width:calc(var(--gut) - 10px);text-align:right;line-height:19px;font-size:11px;\
color:var(--soft);font-variant-numeric:tabular-nums}
.arrow{position:absolute;left:calc(var(--gut) + 3px);width:calc((var(--c) + 1)*var(--lane) - 6px);height:19px;\
text-align:right;padding:0 12px;color:var(--k)}
.arrow::before{content:'';position:absolute;left:0;right:0;top:9px;border-top:1.6px solid}
.arrow::after{content:'';position:absolute;top:5px;border:5px solid transparent}
.in .arrow::after{left:-1px;border-left-width:0;border-right:9px solid}
.out .arrow::after{right:-1px;border-right-width:0;border-left:9px solid}
.arrow span{position:relative;display:inline-block;max-width:calc(min(var(--c) + 1,1.8)*var(--lane) - 30px);overflow:hidden;\
text-overflow:ellipsis;white-space:nowrap;background:var(--row,var(--page));padding:0 5px;font-size:12px;\
line-height:19px}
.con{--k:var(--con)}.sub{--k:var(--sub)}.pub{--k:var(--pub)}.ack{--k:var(--ack)}.ping{--k:var(--ping)}\
.bad{--k:var(--bad)}
.dup .arrow::before{border-top-style:dashed}
.at{position:relative;margin-left:calc(var(--gut) + (var(--c) + 1)*var(--lane) + 9px)!important;width:max-content;\
max-width:calc(2.2*var(--lane));line-height:19px;font-size:12px}
.at::before{content:'';position:absolute;left:-13px;top:6px;width:8px;height:8px;border-radius:4px;\
background:var(--k,var(--ink))}
.at span,.at>summary{display:block;width:max-content;max-width:100%;background:var(--row,var(--page));padding:0 3px;\
overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.step .at{font-weight:600}
.note{--k:var(--soft)}.note .at{color:var(--soft);font-style:italic}
details.at>pre{margin:0;font-style:normal;position:relative;z-index:2;width:calc(2.2*var(--lane))}
details.at>summary::marker{content:''}
details.at>summary::after{content:' \\25B8'}details.at[open]>summary::after{content:' \\25BE'}
.fault{--k:var(--bad)}.fault .at{color:var(--bad);font-weight:600}
.fault .at::before{border-radius:0;transform:rotate(45deg)}
.all{position:relative;margin-left:calc(var(--gut) + 9px)!important;width:max-content;max-width:900px;line-height:19px;\
font-size:12px;background:var(--row,var(--page));padding:0 6px;overflow-wrap:anywhere}
.killed::after,.over::after,.broken::after{content:'';position:absolute;left:calc(var(--gut) - 6px);right:0;top:9px;\
border-top:3px solid var(--bad);z-index:0}
.killed .all,.broken .all,.over .all{z-index:1}
.killed .all{color:var(--bad);font-weight:700}
.over::after{border-top:1.5px dashed var(--soft)}.over .all{color:var(--soft)}
.broken{padding:3px 0;scroll-margin-top:140px}
.broken::after{left:0;top:0;bottom:0;border:3px solid var(--bad);background:none}
.broken .all{color:#fff;background:#b31212;font-weight:700;margin-top:1px;margin-bottom:1px;padding:2px 8px}
.gap{min-height:24px}
.gap .all{color:var(--soft);font-size:11px;line-height:24px;margin-left:0!important;\
width:calc(var(--gut) - 10px);text-align:right;padding:0;background:none}
.gap b{opacity:.3}
.frozen{--row:var(--frozen)}
.down{--row:var(--down)}
body:has(#show-ack:not(:checked)) .r.ack,body:has(#show-ping:not(:checked)) .r.ping,\
body:has(#show-step:not(:checked)) .r.step,body:has(#show-note:not(:checked)) .r.note{display:none}
@media print{.legend label{display:none}.names{position:relative}@page{size:landscape;margin:10mm}\
main{zoom:.72}}
";
