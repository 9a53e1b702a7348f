/** The cockpit: a conversation with Freya, and a look behind it. */
import { connectFreya } from "/freya.mjs";
import { curlButton, getToken, keepToken } from "./curl.js";
import { memory } from "./memory.js";
import { budget, learning, log, why } from "./mind.js";
import { ask, at, attempt, make } from "./view.js";

const freya = connectFreya({ url: location.origin, getToken });
const refreshMemory = memory(freya);
const refreshBudget = budget(freya);
const showWhy = why(freya);
const learned = learning(freya);
const replies = new Map(); // turn -> its paragraph
let turn = null; // the one that runs

log(freya);
showWhy(null);

function phase(name) {
  document.body.dataset.phase = name.toLowerCase();
  at("phase").textContent = name;
  at("stop").disabled = name === "STANDBY";
}

let following = true; // until someone scrolls back to read
const toEnd = () => { if (following) at("talk").scrollTop = at("talk").scrollHeight; };
at("talk").addEventListener("scroll", () => {
  const { scrollTop, clientHeight, scrollHeight } = at("talk");
  following = scrollTop + clientHeight > scrollHeight - 60;
});
new ResizeObserver(toEnd).observe(at("talk"));

function say(role, text) {
  const one = make("p", `said ${role}`, text);
  at("talk").append(one);
  toEnd();
  return one;
}

function replyOf(id) {
  if (!replies.has(id)) replies.set(id, say("assistant", ""));
  return replies.get(id);
}

const heard = new Set();
freya.on("listening", (data) => {
  turn = turn || data.turn;
  if (!heard.has(data.message_id)) {
    following = true;
    say("user", data.message);
    learned.begin();
  }
  heard.add(data.message_id);
  phase("LISTENING");
});
freya.on("thinking", (data) => {
  turn = data.turn;
  phase("REPLYING");
});
freya.on("token", ({ turn: id, off, text }) => {
  const one = replyOf(id);
  one.textContent = one.textContent.slice(0, off) + text;
  toEnd();
});
freya.on("reply", (data) => {
  replyOf(data.turn).textContent = data.message;
  toEnd();
  at("spoken").textContent = data.message;
  turn = null;
  phase("STANDBY");
  if (data.message_id) showWhy(data.message_id).then(learned.again);
  refreshBudget();
});
freya.on("memory", (data) => {
  learned.add(data);
  refreshMemory();
});
freya.on("ready", ({ recovered, reason, phase: now }) => {
  if (now === "idle") phase("STANDBY");
  if (recovered || reason === "fresh") return;
  heard.clear(); // the log cannot be continued: what is stored counts
  replies.clear();
  turn = null;
  for (const id of ["talk", "spoken"]) at(id).replaceChildren();
  learned.begin();
  showWhy(null);
  showHistory();
  refreshMemory();
});
freya.on("status", ({ status }) => { at("link").textContent = status; });

async function send(event) {
  event.preventDefault();
  const text = at("text").value;
  if (!text.trim()) return;
  if (await attempt(() => freya.send(text))) at("composer").reset();
}
const stop = () => attempt(() => freya.stop(turn || undefined));

at("composer").addEventListener("submit", send);
at("text").addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !at("stop").disabled) stop();
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  at("composer").requestSubmit();
});
at("stop").addEventListener("click", stop);
at("send-curl").append(curlButton("Send", () => ["POST", "/v1/stream", { text: at("text").value }]));
at("stop-curl").append(curlButton("Stop", () => ["POST", `/v1/turns/${turn || "TURN"}/stop`]));
at("sign-in").addEventListener("click", async () => {
  const token = await ask("Sign in", { label: "Bearer token or API key; empty signs out", yes: "Use", type: "password" });
  if (token === null) return;
  keepToken(token.trim());
  location.reload();
});

async function showHistory() {
  const page = await attempt(() => freya.request("GET", "/v1/messages?limit=30"));
  if (!page) return;
  const rows = page.messages.filter((message) => !heard.has(message.id) && !replies.has(message.turn)).reverse();
  rows.forEach((message) => heard.add(message.id));
  at("talk").prepend(...rows.map((message) => make("p", `said ${message.role}`, message.text)));
  toEnd();
}
at("link").textContent = freya.status;
showHistory();
refreshMemory();
refreshBudget();
