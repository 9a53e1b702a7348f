/**
 * One durable stream per browser; each event once, as `freya:<event>` on window.
 * Classic script: connects, installs `sendMessageToAPI` and `freya`. Module: freya.mjs. See docs/browser.md.
 */
(function (root) {
"use strict";
const BASE_MS = 500, CAP_MS = 15000, REFUSED_CAP_MS = 60000; // pauses between attempts: full jitter below these
const OPEN_MS = 10000; // for an answer's head and for `ready`
const ASK_MS = 1000, ASKS = 2; // a tab asks its leader, and takes over after so many unanswered questions
const RENEW_MS = 30000; // a token that ends sooner is renewed before it is used
const TURNS = ["listening", "thinking", "token", "reply"];
const MOST_REPLIED = 500; // turns remembered as answered
const WORDS = "I cannot be reached right now. Please say that again in a moment.";

const sleep = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal?.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
});
const jitter = (tries, cap = CAP_MS) => Math.random() * Math.min(cap, BASE_MS * 2 ** Math.min(tries, 10));
const visible = () => typeof document === "undefined" || document.visibilityState !== "hidden";

/** A refusal, or a gateway that cannot be reached (`status` 0). */
class FreyaError extends Error {
  constructor(message, { status = 0, code = "unreachable", problem = null, retryAfter = 0 } = {}) {
    super(message);
    Object.assign(this, { name: "FreyaError", status, code, problem, retryAfter });
  }
}

/** `{epoch}.{seq}` -> its parts, or null. */
function parseCursor(id) {
  const dot = id ? id.lastIndexOf(".") : -1;
  return dot > 0 ? { epoch: id.slice(0, dot), seq: Number(id.slice(dot + 1)), id } : null;
}

/** Parses Server-Sent Events from text in any pieces; a half frame is never told. */
function frames(tell) {
  let rest = "", name = "", data = null, id = null;
  const line = (text) => {
    if (text === "") {
      if (data !== null) tell(name || "message", data, id);
      name = ""; data = null; id = null;
      return;
    }
    const colon = text.indexOf(":");
    const field = colon < 0 ? text : text.slice(0, colon);
    const value = colon < 0 ? "" : text.slice(text[colon + 1] === " " ? colon + 2 : colon + 1);
    if (field === "event") name = value;
    else if (field === "data") data = data === null ? value : data + "\n" + value;
    else if (field === "id" && !value.includes("\0")) id = value;
  };
  return (text) => {
    const ends = /\r\n|\n|\r(?=[^])/g; // a last CR waits: LF may follow
    ends.lastIndex = Math.max(0, rest.length - 1);
    rest += text;
    let begin = 0;
    for (let end = ends.exec(rest); end; end = ends.exec(rest)) {
      line(rest.slice(begin, end.index));
      begin = ends.lastIndex;
    }
    rest = rest.slice(begin);
  };
}

/** Tells each event once, whatever is replayed: by seq, pieces by attempt and `off`, replies by turn. */
class Story {
  constructor(host) {
    this.host = host;
    this.at = null; // cursor of the last event told
    this.ready = null;
    this.turns = new Map(); // open turns: { listening, thinking, attempt, text }
    this.replied = new Set();
  }

  /** `before`: the cursor of whoever read the event, just before it. */
  take(name, data, id, before) {
    if (name === "ready") return this.begin(data);
    if (!id) return this.host.tell(name, data);
    const next = parseCursor(id);
    if (!this.follows(before)) return this.host.missed(!this.at);
    if (this.at?.epoch === next.epoch && next.seq <= this.at.seq) return;
    if (this.tell(name, data) !== false) this.at = next;
  }

  tell(name, data) {
    return TURNS.includes(name) ? this[name](data) : this.host.tell(name, data);
  }

  follows(before) {
    if (!before || !this.at) return !before && !this.at;
    return before.epoch === this.at.epoch && this.at.seq >= before.seq;
  }

  begin(ready) {
    this.ready = ready;
    if (!ready.recovered) {
      this.at = ready.replay ? null : parseCursor(ready.epoch + "." + ready.head);
    }
    this.host.tell("ready", ready);
    if (!ready.recovered) for (const turn of this.turns.keys()) this.host.settle(turn);
  }

  open(id) {
    if (this.replied.has(id)) return null;
    if (!this.turns.has(id)) this.turns.set(id, { attempt: 0, text: "" });
    return this.turns.get(id);
  }

  listening(data) {
    const turn = this.open(data.turn);
    if (!turn || turn.listening?.message_id === data.message_id) return;
    turn.listening = data;
    this.host.tell("listening", data);
  }

  thinking(data) {
    const turn = this.open(data.turn);
    if (!turn || data.attempt < turn.attempt || turn.thinking?.attempt >= data.attempt) return;
    this.attempt(turn, data.attempt);
    turn.thinking = data;
    this.host.tell("thinking", data);
  }

  attempt(turn, number) {
    if (number > turn.attempt) Object.assign(turn, { attempt: number, text: "" });
  }

  token(data) {
    const turn = this.open(data.turn);
    if (!turn || data.attempt < turn.attempt) return;
    this.attempt(turn, data.attempt);
    const have = turn.text.length;
    if (data.off > have) {
      this.host.missed(true);
      return false;
    }
    const text = data.text.slice(have - data.off);
    if (!text) return;
    turn.text += text;
    this.host.tell("token", text === data.text ? data : { ...data, off: have, text });
  }

  reply(data) {
    if (this.replied.has(data.turn)) return;
    if (data.message.length !== (data.length ?? data.message.length)) {
      this.open(data.turn);
      return this.host.settle(data.turn);
    }
    this.close(data.turn);
    this.host.tell("reply", data);
  }

  close(turn) {
    this.turns.delete(turn);
    this.replied.add(turn);
    if (this.replied.size > MOST_REPLIED) this.replied.delete(this.replied.values().next().value);
  }

  /** What the gateway would answer to a fresh reader, for a tab that comes later. */
  snapshot() {
    const events = [];
    for (const [id, turn] of this.turns) {
      if (turn.listening) events.push(["listening", turn.listening]);
      if (turn.thinking) events.push(["thinking", turn.thinking]);
      if (turn.text) events.push(["token", { turn: id, attempt: turn.attempt, off: 0, text: turn.text }]);
    }
    const ready = { ...this.ready, recovered: false, reason: "fresh", replay: events.length, head: this.at.seq };
    return { ready, events, at: this.at };
  }
}

/** The one connection, opened again and again. */
class Line {
  constructor(host) {
    Object.assign(this, { host, tries: 0, refusals: 0, control: null, timer: 0, due: 0, held: false, at: null });
  }

  /** Opens at `after`, whatever was open before. */
  open(after) {
    this.close();
    this.control = new AbortController();
    this.opened = false;
    this.at = after;
    this.run(this.control);
  }

  close() {
    clearTimeout(this.timer);
    this.control?.abort();
    this.control = null;
  }

  async run(control) {
    let pause;
    try {
      pause = await this.read(control);
    } catch (error) {
      pause = { ms: error.retryAfter };
    }
    if (this.control === control) this.wait(pause);
  }

  /** Reads to the body's end; gives the pause that the gateway asks for. */
  async read(control) {
    this.guard(OPEN_MS);
    const response = await this.host.connect(this.at?.id, control.signal);
    if (response.status !== 200 || !/^text\/event-stream/.test(response.headers.get("content-type") || "")) {
      return this.refused(response);
    }
    this.refusals = 0;
    this.bye = null;
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    const parse = frames((name, data, id) => control.signal.aborted || this.event(name, JSON.parse(data), id));
    for (;;) {
      const { done, value } = await reader.read();
      if (done || control.signal.aborted) return this.bye;
      this.last = Date.now();
      if (this.opened) this.guard(this.patience);
      parse(decoder.decode(value, { stream: true }));
    }
  }

  event(name, data, id) {
    const before = this.at;
    if (name === "ready") {
      this.opened = true;
      this.patience = (data.beat_ms || 15000) * 1.5 + 2000;
      this.guard(this.patience);
      this.at = data.recovered ? this.at : data.replay ? null : parseCursor(data.epoch + "." + data.head);
      this.host.status("live");
    }
    if (name === "bye") {
      this.bye = { ms: data.retry_ms || 0, reason: data.reason, final: data.final };
      if (this.opened) this.tries = 0;
    }
    if (id || name === "beat") this.tries = 0;
    if (id) this.at = parseCursor(id);
    this.host.event(name, data, id, before);
    if (name === "beat") this.beat(data.head);
  }

  /** Two beats with a head that does not come: something was swallowed on the way. */
  beat(head) {
    const seq = this.at ? this.at.seq : 0;
    const behind = this.lastHead && seq < this.lastHead && seq === this.lastSeq && this.asked !== seq;
    Object.assign(this, { lastHead: head, lastSeq: seq });
    if (!behind) return;
    this.asked = seq;
    this.open(this.at);
  }

  refused(response) {
    const { status } = response;
    const after = Number(response.headers.get("retry-after")) * 1000 || 0;
    if (status === 401) {
      this.refusals += 1;
      return { ms: after, now: this.host.renew() && this.refusals === 1, refused: true };
    }
    if (status === 400) this.host.forget();
    return { ms: after, refused: status === 403 || status === 404 };
  }

  guard(ms) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => { this.close(); this.wait(null); }, ms);
  }

  /** Pauses for what the gateway asked for and a random part, so that not all come at once. */
  wait(pause) {
    this.close();
    const { now, refused, final, reason = "" } = pause ?? {};
    const ms = Math.min(pause?.ms || 0, REFUSED_CAP_MS);
    this.host.status("waiting", reason);
    if (reason === "auth") this.host.renew();
    this.held = ms > 0;
    if (final) return void (this.due = Infinity); // until the user comes back to this page, or says something
    const more = now || reason ? 0 : jitter(this.tries, refused ? REFUSED_CAP_MS : CAP_MS);
    this.tries += now || reason ? 0 : 1;
    this.due = Date.now() + ms + more;
    this.timer = setTimeout(() => this.nudge(), ms + more);
  }

  /** If the pause is over. A visible tab lends its clock to a hidden leader, whose timers are slow. */
  nudge() {
    if (!this.control && Date.now() >= this.due - 20) this.host.reopen();
  }

  /** The user or the network is back. */
  wake(certain) {
    const idle = !this.control && (!this.held || this.due === Infinity);
    const stale = this.control && (certain || Date.now() - this.last > this.patience);
    if (idle || stale) this.host.reopen();
  }
}

/** Connects to a gateway. See freya.d.ts for options and the result. */
function connectFreya(options = {}) {
  const view = options.window === undefined ? root : options.window;
  const url = new URL(options.url || "/", root.location?.href).href.replace(/\/+$/, "");
  const patience = options.patience || 12000;
  const listeners = new Map();
  const me = Math.random().toString(36).slice(2);
  const ending = new AbortController();
  const sending = new Map(); // what is being accepted, so that a double press is one message
  const unsure = new Map(); // text -> id of sends that may have arrived, so that saying it again is a retry
  let token = null, tokenEnds = 0, renewing = null;
  let status = "connecting", leader = false, channel = null, release = null, away = options.deferred;
  let unanswered = 0, heard = Date.now(), asking = 0, joined = 0;

  function tell(name, data) {
    for (const fn of [...(listeners.get(name) ?? []), ...(listeners.get("*") ?? [])]) {
      try {
        fn(data, name);
      } catch (error) {
        (root.reportError || console.error)(error);
      }
    }
    view?.dispatchEvent?.(new CustomEvent("freya:" + name, { detail: data }));
  }
  function setStatus(next, reason = "") {
    if (leader) post({ kind: "status", status: next, reason });
    if (status === next || status === "closed") return;
    status = next;
    tell("status", { status, reason });
  }

  async function credential() {
    if (!options.getToken) return null;
    if (token === null || Date.now() > tokenEnds - RENEW_MS) await renew(false);
    return token;
  }
  function renew(refused = true) {
    if (!options.getToken) return null;
    renewing = renewing || (async () => {
      token = (await options.getToken({ refused })) || null;
      const { exp = Infinity } = claimsOf(token);
      tokenEnds = Math.max(exp * 1000, Date.now() + RENEW_MS + 1000);
    })().finally(() => { renewing = null; });
    return renewing;
  }
  async function call(method, path, { body, signal, ticket }) {
    const headers = {};
    const bearer = ticket ? null : await credential();
    if (bearer) headers.authorization = "Bearer " + bearer;
    if (body !== undefined) headers["content-type"] = "application/json";
    const { credentials = "same-origin" } = options;
    return fetch(url + path, { method, headers, signal, credentials, cache: "no-store", body: JSON.stringify(body) });
  }
  async function attempt(method, path, body, signal, refused) {
    try {
      if (refused) await renew();
      const response = await call(method, path, { body, signal: signal || ending.signal });
      const text = await response.text();
      const json = text && /json/.test(response.headers.get("content-type") || "");
      return { response, value: json ? JSON.parse(text) : text || null };
    } catch (error) {
      throw new FreyaError("The gateway cannot be reached: " + error.message);
    }
  }
  async function request(method, path, body, signal) {
    let { response, value } = await attempt(method, path, body, signal);
    if (response.status === 401 && options.getToken) {
      ({ response, value } = await attempt(method, path, body, signal, true));
    }
    if (response.ok) return value;
    throw new FreyaError(value?.detail || "HTTP " + response.status, {
      status: response.status, code: value?.code || "http_" + response.status, problem: value,
      retryAfter: Number(response.headers.get("retry-after")) * 1000 || 0,
    });
  }

  const story = new Story({
    tell(name, data) {
      if (name === "listening") unsure.delete(data.message);
      tell(name, data);
    },
    settle,
    missed(fresh) {
      if (fresh) story.at = null;
      if (leader) line.wait();
      else ask({ need: true });
    },
  });
  const line = new Line({
    status: setStatus,
    renew() {
      renew()?.catch(() => {});
      return renewing || options.tickets;
    },
    forget: () => { story.at = null; },
    reopen: () => { if (leader && !away) line.open(story.at); },
    event(name, data, id, before) {
      post({ kind: "event", name, data, id, before });
      story.take(name, data, id, before);
    },
    async connect(after, signal) {
      if (renewing) await renewing;
      const query = new URLSearchParams(after ? { after } : {});
      if (options.tickets) query.set("ticket", (await request("POST", "/v1/stream/tickets", undefined, signal)).ticket);
      const asked = query.toString();
      return call("GET", "/v1/stream" + (asked && "?" + asked), { signal, ticket: options.tickets });
    },
  });

  /** For an open turn whose events may be gone: its reply is kept. */
  async function settle(turn) {
    for (let tries = 0; tries < 5 && story.turns.has(turn) && !ending.signal.aborted; tries += 1) {
      try {
        const found = await request("GET", "/v1/turns/" + turn);
        if (found.state !== "done" || !story.turns.has(turn)) return;
        story.close(turn);
        if (found.reply) tell("reply", found.reply);
        return;
      } catch (error) {
        if (error.status === 404) return story.close(turn);
        await sleep(jitter(tries + 1), ending.signal);
      }
    }
  }

  // One connection per browser: the tab that holds the lock has it, and tells the others.
  function post(message) {
    channel?.postMessage({ from: me, ...message });
  }
  async function join() {
    const mine = (joined += 1);
    let name = options.account;
    for (let tries = 0; name === undefined; tries += 1) {
      try {
        name = subject(await credential());
      } catch {
        await sleep(jitter(tries), ending.signal);
      }
      if (away || mine !== joined || ending.signal.aborted) return;
    }
    if (options.alone || !root.navigator?.locks || !root.BroadcastChannel) return lead();
    const scope = "freya " + url + " " + name;
    channel = new BroadcastChannel(scope);
    channel.onmessage = ({ data }) => data.to && data.to !== me ? undefined : receive(data);
    hold(scope, {});
    ask({ need: true });
    asking = setInterval(look, ASK_MS, scope);
  }
  function hold(scope, how) {
    const mine = channel;
    root.navigator.locks.request(scope, how, () => channel === mine && new Promise(lead)).catch(() => {
      // stolen: this tab was silent
      if (channel !== mine || !leader) return;
      leader = false;
      line.close();
      hold(scope, {});
    });
  }
  function lead(done = null) {
    release = done;
    leader = true;
    line.open(story.at);
  }
  function leave() {
    away = true;
    line.close();
    clearInterval(asking);
    channel?.close();
    channel = null;
    leader = false;
    release?.();
    release = null;
  }
  function ask(what) {
    post({ kind: "ask", at: story.at, ...what });
  }
  /** In a visible tab that does not lead: is the leader there? */
  function look(scope) {
    if (leader || !visible()) return;
    const silence = status === "live" ? (story.ready?.beat_ms || 0) * 1.5 + 2000 : ASK_MS;
    if (Date.now() - heard < silence) return void (unanswered = 0);
    unanswered += 1;
    if (unanswered <= ASKS) return ask();
    unanswered = 0;
    hold(scope, { steal: true });
  }
  function receive(message) {
    if (message.kind === "ask") return leader ? answer(message) : undefined;
    if (leader) return;
    heard = Date.now();
    unanswered = 0;
    if (message.kind === "status") setStatus(message.status, message.reason);
    else if (message.kind === "event") story.take(message.name, message.data, message.id, message.before);
    else if (message.kind === "snapshot" && story.at?.epoch !== message.at.epoch) {
      setStatus("live");
      story.take("ready", message.ready);
      for (const [name, data] of message.events) story.tell(name, data);
      story.at = message.at;
    }
  }
  function answer({ at, from, need, wake }) {
    post({ kind: "status", status, to: from });
    if (wake) line.wake(false);
    else line.nudge();
    if (!need || status !== "live" || !story.at) return;
    if (at?.epoch !== story.at.epoch) post({ kind: "snapshot", to: from, ...story.snapshot() });
    else if (at.seq < line.at?.seq) line.open(at); // told again; every tab takes what it lacks
  }

  // Coming back.
  function prompt(certain) {
    if (ending.signal.aborted) return;
    if (away) {
      away = false;
      join();
    } else if (leader) line.wake(certain);
    else ask({ wake: true });
  }
  const wake = (certain) => () => (away || visible()) && prompt(certain);
  const hooks = [
    ["visibilitychange", wake(false), root.document], ["pageshow", wake(false), root], ["online", wake(true), root],
    ["resume", wake(true), root.document], ["freeze", leave, root.document],
    ["pagehide", (event) => event.persisted && leave(), root],
  ].filter(([, , target]) => target?.addEventListener);
  for (const [name, fn, target] of hooks) target.addEventListener(name, fn);

  // Speaking.
  function send(text, { ifBusy = "queue", id } = {}) {
    const key = ifBusy + " " + text;
    if (sending.has(key)) return sending.get(key);
    const promise = deliver(text, ifBusy, id || unsure.get(text) || uuid()).finally(() => sending.delete(key));
    sending.set(key, promise);
    prompt(false);
    return promise;
  }
  /** Always with the same id, so that it arrives once. */
  async function deliver(text, ifBusy, id) {
    const end = Date.now() + patience;
    const body = { text, client_message_id: id, if_busy: ifBusy };
    for (let tries = 0; ; tries += 1) {
      const control = new AbortController();
      let timer;
      const late = new Promise((_, reject) => {
        timer = setTimeout(() => {
          control.abort();
          reject(new FreyaError("There was no answer in time."));
        }, Math.min(OPEN_MS, Math.max(1, end - Date.now())));
      });
      try {
        const { turn, message, cursor } = await Promise.race([
          request("POST", "/v1/messages", body, control.signal), late,
        ]);
        unsure.delete(text);
        story.open(turn);
        if (leader && !story.ready && !story.at) line.open(story.at = parseCursor(cursor)); // or its events may be missed
        prompt(false); // it can be reached
        return { turn, message };
      } catch (error) {
        const passing = [0, 429, 500, 502, 503, 504].includes(error.status);
        const pause = (error.retryAfter || 0) + jitter(tries, 4000);
        if (passing && error.status !== 429) unsure.set(text, id);
        if (!passing || ending.signal.aborted || Date.now() + pause >= end) throw error;
        await sleep(pause, ending.signal);
      } finally {
        clearTimeout(timer);
      }
    }
  }
  async function stop(turn) {
    await Promise.allSettled([...sending.values()]);
    const id = turn || story.turns.keys().next().value;
    return id ? request("POST", "/v1/turns/" + id + "/stop") : null;
  }
  /** Always ends in a `freya:reply`, be it kind words. */
  async function speak(text, showStatus) {
    const show = typeof showStatus === "function" ? showStatus : () => {};
    try {
      const sent = await send(text);
      show("");
      return sent;
    } catch (error) {
      const reachable = error.status >= 400 && error.status < 500;
      const message = reachable ? error.message : options.words || WORDS;
      show(message);
      tell("reply", {
        turn: null, message, message_id: null, created_at: new Date().toISOString(), status: "fallback",
        finish_reason: null, length: message.length, usage: null, ttft_ms: null, memory: { facts: [], topics: [] },
        error: { code: error.code || "unreachable", retryable: !reachable || error.status === 429 },
      });
      return null;
    }
  }

  if (!away) join();
  return {
    send, stop, speak,
    request: (method, path, body) => request(method, path, body),
    on(event, fn) {
      if (!listeners.has(event)) listeners.set(event, new Set());
      listeners.get(event).add(fn);
      return () => { listeners.get(event).delete(fn); };
    },
    close() {
      leave();
      setStatus("closed");
      ending.abort();
      for (const [name, fn, target] of hooks) target.removeEventListener(name, fn);
    },
    get status() { return status; },
    get leads() { return leader; },
  };
}

/** The claims of a JWT, unverified, or none of an opaque token. */
function claimsOf(token) {
  try {
    return JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"))) || {};
  } catch {
    return {};
  }
}
/** Tabs of one user share a connection; no credential stands in its name. */
function subject(token) {
  if (!token) return "";
  let hash = 0;
  for (const unit of String(claimsOf(token).sub || token)) hash = (Math.imul(hash, 31) + unit.charCodeAt(0)) | 0;
  return hash.toString(36);
}
/** A random UUID also where crypto.randomUUID is missing: in insecure contexts. */
function uuid() {
  const digit = (d) => (d ^ (root.crypto.getRandomValues(new Uint8Array(1))[0] & (15 >> (d / 4)))).toString(16);
  return "10000000-1000-4000-8000-100000000000".replace(/[018]/g, digit);
}

/** `data-token-url` answers `{"token": "..."}` to a POST with the page's cookies. */
function tokenFrom(address) {
  return async () => {
    const response = await fetch(address, { method: "POST", credentials: "include", cache: "no-store" });
    if (!response.ok) throw new Error("HTTP " + response.status + " from " + address);
    return (await response.json()).token;
  };
}

connectFreya.FreyaError = FreyaError;
root.connectFreya = connectFreya;
const script = root.document?.currentScript;
if (script?.src && script.dataset.manual === undefined && !root.freya) {
  const { url, tokenUrl, credentials, account, tickets, words, patience } = script.dataset;
  root.freya = connectFreya({
    credentials, account, words, patience: Number(patience), tickets: tickets !== undefined,
    url: url || new URL(script.src).origin,
    getToken: tokenUrl && tokenFrom(tokenUrl),
    deferred: root.document.readyState !== "complete",
  });
  root.sendMessageToAPI = (text, showStatus) => root.freya.speak(text, showStatus);
}
})(globalThis);
