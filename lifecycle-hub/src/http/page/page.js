// The page asks two questions every two seconds and draws the answers. Text is only ever set as text. The token lives in this tab's memory.
"use strict";
const at = (id) => document.getElementById(id);
let token = "", tenant = "", timer = 0;

function el(tag, cls, ...kids) {
  const e = document.createElement(tag);
  if (cls) e.className = cls;
  for (const k of kids) e.append(k);
  return e;
}

function age(stamp) {
  if (!stamp) return "never";
  const s = Math.max(0, (Date.now() - Date.parse(stamp)) / 1000);
  if (s < 90) return Math.round(s) + " s";
  if (s < 5400) return Math.round(s / 60) + " min";
  if (s < 129600) return Math.round(s / 3600) + " h";
  return Math.round(s / 86400) + " d";
}

const GOOD = ["SUCCEEDED", "LIVE", "delivered", "done", "verified"], BAD = ["FAILED", "ERRORED", "REJECTED", "STALE", "refused", "failed", "IN_DOUBT", "broken"];
const BUSY = ["DISPATCHED", "APPLYING", "APPLIED", "VERIFYING", "running", "produced", "accepted"];
const chip = (text) => el("span", "chip " + (GOOD.includes(text) ? "good" : BAD.includes(text) ? "bad" : BUSY.includes(text) ? "busy" : "wait"), text);

function table(heads, rows, none) {
  if (!rows.length) return el("p", "none", none);
  const t = el("table", "", el("thead", "", el("tr", "", ...heads.map((h) => el("th", "", h)))));
  const body = el("tbody");
  for (const r of rows) body.append(el("tr", "", ...r.map((c) => (c instanceof Node && c.tagName === "TD" ? c : el("td", "", c ?? "")))));
  t.append(body);
  return t;
}

// the inner steps of a promotion are in its record; the page shows how it ended
const STEPS = /^(evaluated|gates_passed|accepted|applied|dispatched|created|dataset-) ?/;
const cell = (cls, text) => el("td", cls, text ?? "");

function stage(s, open) {
  const box = el("div", "stage " + s.status, el("h3", "", s.name, chip(s.status)));
  box.append(el("small", "", s.promoted ? (s.mode === "auto" ? "promotes by itself" : "a person says yes") : "consumer", " · heartbeat ", age(s.heartbeat_at)));
  for (const a of s.artifacts) {
    const d = el("div", "artifact", el("b", "", a.title || a.origin));
    d.title = a.title;
    d.append(el("small", "", a.origin + " ", el("code", "", a.commit.slice(0, 8)), " · since " + age(a.since) + " · "));
    d.append(a.verified ? chip("verified") : chip("not verified"));
    if (a.behind) d.append(" ", el("small", "", a.behind + " behind main"));
    box.append(d);
  }
  if (!s.artifacts.length && s.promoted) box.append(el("div", "artifact muted", "nothing yet"));
  for (const p of open.filter((x) => x.stage === s.name)) box.append(el("div", "artifact", chip(p.state), " ", el("small", "", p.title)));
  return box;
}

const count = (n) => (n === null || n === undefined ? "–" : n.toLocaleString());
const seconds = (s) => (s === null ? "never" : s < 90 ? s + " s ago" : s < 5400 ? Math.round(s / 60) + " min ago" : s < 129600 ? Math.round(s / 3600) + " h ago" : Math.round(s / 86400) + " d ago");

// In one word what a type's rows are worth, the worst first; title: the sentence behind it.
function worth(e) {
  if (e.status === "NEVER") return ["wait", "not connected", "the agent of " + e.stage + " has never been heard"];
  if (e.status === "STALE") return ["bad", "silent", "the agent of " + e.stage + " has missed three heartbeats: nothing new is known since"];
  if (["down", "starting"].includes(e.source_state)) return ["bad", "cut off", "the agent of " + e.stage + " does not reach " + e.source + ": nothing new is known since"];
  if (e.gap_at) return ["bad", "incomplete", "changes are missing; the owner was asked to send everything again"];
  if (e.snapshot_state === "broken") return ["bad", "incomplete", "records of a snapshot are missing; another one is ordered"];
  if (e.snapshot_percent !== null) return ["busy", "loading " + e.snapshot_percent + "%", e.snapshot_rows.toLocaleString() + " rows sent" + (e.snapshot_eta_s === null ? "" : ", " + e.snapshot_eta_s + " s left")];
  if (e.snapshot_state === "running") return ["busy", "loading", "a snapshot is arriving"];
  if (!e.changes && e.snapshot_state === "none") return ["wait", "nothing yet", "no row has arrived"];
  if (e.as_of_seconds === null || e.as_of_seconds > 60 || e.lag_ms > 60000) return ["wait", "behind", "the view, or the agent, is more than a minute behind the source"];
  return ["good", "fresh", "complete, and as of the last heartbeat"];
}

function drawTypes(types, violations) {
  const bad = types.filter((e) => worth(e)[0] === "bad").length, wait = types.filter((e) => ["wait", "busy"].includes(worth(e)[0])).length;
  const line = !types.length ? "" : bad ? bad + " of " + types.length + " types cannot be relied on" : wait ? wait + " of " + types.length + " types are not up to date yet" : types.length === 1 ? "complete and fresh" : "all " + types.length + " types are complete and fresh";
  at("entities").replaceChildren(el("p", "sum " + (bad ? "bad" : wait ? "wait" : "good"), line), table(["type", "owner", "rows", "as of", "", "history"], types.map((e) => {
    const w = worth(e), chipOf = el("span", "chip " + w[0], w[1]), name = cell("w", e.type);
    chipOf.title = w[2] + (e.lag_ms ? "; its source is " + e.lag_ms + " ms ahead" : "");
    if (e.comment) name.append(el("small", "note", e.comment));
    return [name, cell("w", e.owner), cell("n", count(e.rows)), cell("t", seconds(e.as_of_seconds)), chipOf, cell("t", e.history)];
  }), "no entity types in the settings"));
  for (const v of violations) {
    at("entities").append(el("p", "bad", v.stage + " tried to change " + (v.type || "a type") + (v.owner ? ", which " + v.owner + " owns" : ", which nobody owns") + ": " + v.count + " refused, the last " + age(v.at) + " ago"));
  }
}

function draw(o) {
  at("pipeline").replaceChildren(el("div", "flow", ...o.stages.map((s) => stage(s, o.open))));
  for (const g of o.origins) if (g.problem) at("pipeline").append(el("p", "bad", g.name + ": " + g.problem));
  at("open").replaceChildren(table(["promotion", "into", "state", "waits for", "since"], o.open.map((p) => [p.origin + " " + p.title, p.stage, chip(p.state), p.waiting_for || "", cell("t", age(p.created_at))]),
    "nothing waits"));
  drawTypes(o.entities, o.violations);
  at("events").replaceChildren(table(["when", "stage", "who", "what"], o.events.filter((e) => !STEPS.test(e.text)).slice(0, 16).map((e) => [cell("t", age(e.at)), cell("w", e.stage), cell("w", e.who), e.text]), "nothing happened yet"));
  at("datasets").replaceChildren(table(["dataset", "from → to", "rows", "state"], o.datasets.map((d) => [d.dataset, d.from_stage + " → " + d.to_stage, cell("n", d.row_count.toLocaleString()), chip(d.state)]), "none was asked for"));
  at("state").textContent = (o.quarantined ? o.quarantined + " in quarantine · " : "") + "as of " + new Date(o.now).toLocaleTimeString();
}

const local = (stamp) => new Date(stamp).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });

// open until, or closed until; the rules as a list of sentences
function drawPolicy(o) {
  const when = (w) => w.open ? (w.next_close ? "open until " + local(w.next_close) : "open") : w.reason + (w.next_open ? ", opens " + local(w.next_open) : ", no opening in sight");
  at("policy").replaceChildren(table(["step", "", "asks for", "now"], o.items.map((e) => [e.from + " → " + e.to, chip(e.mode), el("ul", "rules", ...e.rules.map((r) => el("li", "", r))), cell(e.window.open ? "" : "bad", when(e.window))]),
    "no stage takes artifacts"));
  at("policy").append(el("small", "", "policy " + o.policy + " " + o.version + " ", el("code", "", o.digest.slice(0, 12))));
  if (o.problem) at("policy").append(el("p", "bad", "The policy's file has a mistake, so the former one stays in force: " + o.problem));
}

async function ask(path) {
  const r = await fetch(path, { headers: token ? { Authorization: "Bearer " + token } : {} });
  if (r.status === 401 || r.status === 403) { at("login").hidden = false; throw new Error("a token is needed"); }
  if (!r.ok) throw new Error("the hub answers " + r.status);
  at("login").hidden = true;
  return r.json();
}

async function turn() {
  clearTimeout(timer);
  try {
    if (!tenant) {
      const list = (await ask("/api/v1/tenants")).items;
      at("tenant").replaceChildren(...list.map((t) => el("option", "", t.name)));
      at("tenant").hidden = false;
      tenant = list[0].name;
    }
    draw(await ask("/api/v1/tenants/" + encodeURIComponent(tenant) + "/overview"));
    drawPolicy(await ask("/api/v1/tenants/" + encodeURIComponent(tenant) + "/policy"));
  } catch (e) {
    at("state").textContent = e.message;
  }
  timer = setTimeout(turn, 2000);
}

at("login").addEventListener("submit", (e) => { e.preventDefault(); token = at("token").value; at("token").value = ""; turn(); });
at("tenant").addEventListener("change", (e) => { tenant = e.target.value; turn(); });
turn();
