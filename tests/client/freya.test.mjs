// freya.js alone, against a scripted fetch: what it tells a page when the wire repeats, cuts, skips and lies.
import assert from "node:assert/strict";
import { test } from "node:test";
import { connectFreya } from "../../freya_gateway/web/freya.mjs";

const URL_ = "http://gateway.test";
const HEADERS = { "content-type": "text/event-stream; charset=utf-8" };
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const frame = (name, data, id) => (id ? `id: ${id}\n` : "") + `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`;
const ready = (more = {}) => frame("ready", {
  epoch: "e", head: 0, phase: "idle", recovered: false, reason: "fresh", replay: 0, beat_ms: 15000, ...more });
const listening = (seq, turn = "t") => frame("listening", { turn, message: "Hi", message_id: "m" + turn }, "e." + seq);
const thinking = (seq, attempt = 1, turn = "t") => frame("thinking", { turn, attempt, recalled: {} }, "e." + seq);
const token = (seq, off, text, attempt = 1, turn = "t") => frame("token", { turn, attempt, off, text }, "e." + seq);
const answer = (message, turn = "t") => ({ turn, message, length: message.length, status: "complete", message_id: "r" + turn });
const reply = (seq, message, turn = "t") => frame("reply", answer(message, turn), "e." + seq);
const json = (status, value, headers = {}) =>
  new Response(JSON.stringify(value), { status, headers: { "content-type": "application/json", ...headers } });

/** A body of these pieces; it ends after them, or stays open. */
function stream(pieces, { ends = true } = {}) {
  const encoder = new TextEncoder();
  const body = new ReadableStream({
    start(controller) {
      for (const piece of pieces) controller.enqueue(typeof piece === "string" ? encoder.encode(piece) : piece);
      if (ends) controller.close();
    },
  });
  return new Response(body, { status: 200, headers: HEADERS });
}

/** A client whose fetches are answered by `routes`: "METHOD /path" -> answers in order, the last one for ever. */
function client(t, routes, options = {}) {
  const asked = [];
  globalThis.fetch = async (address, { method, body, headers, signal }) => {
    const path = address.slice(URL_.length);
    asked.push({ method, path, body: body && JSON.parse(body), headers });
    const key = Object.keys(routes).find((name) => (method + " " + path).startsWith(name));
    const answers = routes[key];
    const next = answers.length > 1 ? answers.shift() : answers[0];
    const response = typeof next === "function" ? await next(signal) : next;
    if (response instanceof Error) throw response;
    return response;
  };
  const freya = connectFreya({ url: URL_, window: null, alone: true, ...options });
  const told = [];
  freya.on("*", (data, name) => told.push([name, data]));
  t.after(() => freya.close());
  return { freya, told, asked, names: () => told.map(([name]) => name).filter((name) => name !== "status") };
}
async function until(condition, ms = 5000) {
  for (const end = Date.now() + ms; !condition(); await wait(5)) assert.ok(Date.now() < end, "it never happened");
}
const open = (...pieces) => () => stream(pieces, { ends: false });
const words = (told) => told.filter(([name]) => name === "token").map(([, data]) => data.text).join("");
const count = (told, wanted) => told.filter(([name]) => name === wanted).length;

test("frames are read in any pieces, with any line ends", async (t) => {
  const text = ready() + listening(1) + thinking(2) + token(3, 0, "é\u2028🙂 data: x") + reply(4, "é\u2028🙂 data: x");
  for (const whole of [text, text.replaceAll("\n", "\r\n"), text.replaceAll("\n", "\r")]) {
    const bytes = new TextEncoder().encode(whole + ": a comment\n\n");
    const { told, freya, names } = client(t, { "GET /v1/stream": [open(...Array.from(bytes, (byte) => Uint8Array.of(byte)))] });
    await until(() => count(told, "reply") === 1);
    assert.deepEqual(names(), ["ready", "listening", "thinking", "token", "reply"]);
    assert.equal(told.at(-1)[1].message, "é\u2028🙂 data: x");
    freya.close();
  }
});

test("half a frame is not told, and the next connection continues after the last whole one", async (t) => {
  const half = token(4, 5, " there");
  const { told, asked } = client(t, { "GET /v1/stream": [
    stream([ready() + listening(1) + thinking(2) + token(3, 0, "Hello") + half.slice(0, -9)]),
    open(ready({ recovered: true, replay: 2, reason: null }) + token(4, 5, " there") + reply(5, "Hello there")),
  ] });
  await until(() => count(told, "reply") === 1);
  assert.equal(words(told), "Hello there");
  assert.equal(asked[1].path, "/v1/stream?after=e.3");
});

test("what is said again is trimmed by seq and off, and a reply is told once", async (t) => {
  const { told } = client(t, { "GET /v1/stream": [
    open(ready() + listening(1) + listening(1) + thinking(2) + token(3, 0, "Hel") + token(3, 0, "Hel")
      + frame("memory", { facts: [] }, "e.4") + frame("memory", { facts: [] }, "e.4") + token(5, 0, "Hello") + reply(6, "Hello") + reply(7, "Hello") + thinking(8) + token(9, 0, "Hello") + listening(10, "u")),
  ] });
  await until(() => count(told, "listening") === 2);
  assert.deepEqual([words(told), count(told, "thinking"), count(told, "reply"), count(told, "memory")], ["Hello", 1, 1, 1]);
});

test("a gap is caught up by opening afresh", async (t) => {
  const { told, asked } = client(t, { "GET /v1/stream": [
    open(ready() + listening(1) + thinking(2) + token(3, 0, "One ") + token(5, 8, "three")),
    open(ready({ replay: 3, head: 5, phase: "replying" }) + listening(1) + thinking(2) + token(5, 0, "One two three")
      + reply(6, "One two three")),
  ], "GET /v1/turns/t": [() => json(200, { turn: "t", state: "running", reply: null })] });
  await until(() => count(told, "reply") === 1);
  assert.equal(asked.filter(({ path }) => path.startsWith("/v1/stream"))[1].path, "/v1/stream");
  assert.deepEqual([words(told), count(told, "listening"), count(told, "thinking")], ["One two three", 1, 1]);
});

test("a new attempt begins anew, and the lost one's late pieces are dropped", async (t) => {
  const { told } = client(t, { "GET /v1/stream": [
    open(ready() + listening(1) + thinking(2) + token(3, 0, "Old") + thinking(4, 2) + token(5, 3, "er") + token(6, 0, "New", 2)
      + reply(7, "New")),
  ] });
  await until(() => count(told, "reply") === 1);
  assert.deepEqual(told.filter(([name]) => name === "token").map(([, { attempt, text }]) => [attempt, text]), [[1, "Old"], [2, "New"]]);
});

test("a reply that the log has lost is looked up", async (t) => {
  const { told } = client(t, { "GET /v1/stream": [
    stream([ready() + listening(1) + thinking(2) + token(3, 0, "Hel")]),
    open(ready({ reason: "evicted", head: 90 })),
  ], "GET /v1/turns/t": [() => json(200, { turn: "t", state: "done", reply: answer("Hello") })] });
  await until(() => count(told, "reply") === 1);
  assert.equal(told.at(-1)[1].message, "Hello");
});

test("a reply whose length is wrong is not shown but looked up", async (t) => {
  const broken = frame("reply", { ...answer("Hello"), message: "Hel" }, "e.3");
  const { told } = client(t, { "GET /v1/stream": [open(ready() + listening(1) + thinking(2) + broken)],
    "GET /v1/turns/t": [() => json(200, { turn: "t", state: "done", reply: answer("Hello") })] });
  await until(() => count(told, "reply") === 1);
  assert.deepEqual(told.filter(([name]) => name === "reply").map(([, data]) => data.message), ["Hello"]);
});

test("events that were swallowed on the way are asked for after two beats", async (t) => {
  const beat = frame("beat", { head: 3 });
  const { told, asked } = client(t, { "GET /v1/stream": [
    open(ready() + listening(1) + beat + beat),
    open(ready({ recovered: true, replay: 2, reason: null }) + thinking(2) + reply(3, "Hello")),
  ] });
  await until(() => count(told, "reply") === 1);
  assert.equal(asked[1].path, "/v1/stream?after=e.1");
});

test("silence is taken for a dead connection", async (t) => {
  const { asked } = client(t, { "GET /v1/stream": [open(ready({ beat_ms: 1 })), open(ready({ beat_ms: 60000 }))] });
  await until(() => asked.length === 2);
});

test("events nobody knows are passed on, whatever they are called", async (t) => {
  const { told, names } = client(t, { "GET /v1/stream": [
    open(ready() + frame("close", { a: 1 }, "e.1") + frame("constructor", {}, "e.2") + frame("take", {}, "e.3") + listening(4)),
  ] });
  await until(() => count(told, "listening") === 1);
  assert.deepEqual(names(), ["ready", "close", "constructor", "take", "listening"]);
});

test("a final bye is obeyed until the user says something", async (t) => {
  const { freya, asked, told } = client(t, {
    "GET /v1/stream": [stream([ready() + frame("bye", { reason: "superseded", retry_ms: 0, final: true })]), open(ready())],
    "POST /v1/messages": [() => json(202, { turn: "t", message: "m", cursor: "e.0", state: "running" })],
  });
  await until(() => count(told, "bye") === 1);
  await wait(900);
  assert.equal(asked.length, 1);
  await freya.send("Hi");
  await until(() => freya.status === "live");
});

test("retry-after is heeded", async (t) => {
  const { asked, freya } = client(t, { "GET /v1/stream": [json(429, {}, { "retry-after": "1" }), open(ready())] });
  await until(() => asked.length === 1);
  await wait(900);
  assert.equal(asked.length, 1);
  await until(() => freya.status === "live");
});

test("a cursor that the gateway cannot read is dropped", async (t) => {
  const { asked, freya } = client(t, { "GET /v1/stream": [stream([ready() + listening(1)]), json(400, {}), open(ready())],
    "GET /v1/turns/t": [() => json(200, { turn: "t", state: "running", reply: null })] });
  await until(() => asked.filter(({ path }) => path.startsWith("/v1/stream")).length === 3 && freya.status === "live");
  assert.deepEqual(asked.slice(0, 3).map(({ path }) => path), ["/v1/stream", "/v1/stream?after=e.1", "/v1/stream"]);
});

test("a refused token is renewed at once, on streams and on calls", async (t) => {
  const given = ["old", "new", "newer"];
  const why = [];
  const { asked, freya } = client(t, {
    "GET /v1/stream": [json(401, {}), open(ready())],
    "GET /v1/facts": [json(401, {}), json(200, { facts: [] })],
  }, { getToken: async ({ refused }) => { why.push(refused); return given.shift(); } });
  await until(() => freya.status === "live");
  assert.deepEqual(await freya.request("GET", "/v1/facts"), { facts: [] });
  assert.deepEqual(asked.map(({ headers }) => headers.authorization), ["Bearer old", "Bearer new", "Bearer new", "Bearer newer"]);
  assert.deepEqual(why, [false, true, true]);
});

test("a message is retried with its id, whatever gets lost, and refusals are not retried", async (t) => {
  const { freya, asked } = client(t, {
    "GET /v1/stream": [open(ready())],
    "POST /v1/messages": [
      new TypeError("Failed to fetch"), json(503, {}), () => json(202, { turn: "t", message: "m", cursor: "e.0" }),
    ],
  });
  assert.deepEqual(await freya.send("Hi", { ifBusy: "interrupt" }), { turn: "t", message: "m" });
  const sent = asked.filter(({ method }) => method === "POST").map(({ body }) => body);
  assert.equal(sent.length, 3);
  assert.equal(new Set(sent.map((body) => body.client_message_id)).size, 1);
  assert.match(sent[0].client_message_id, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.deepEqual([sent[0].text, sent[0].if_busy], ["Hi", "interrupt"]);
  const refusing = client(t, { "GET /v1/stream": [open(ready())],
    "POST /v1/messages": [json(413, { code: "message_too_long", detail: "Too long." })] });
  await assert.rejects(refusing.freya.send("Hi"), { name: "FreyaError", status: 413, code: "message_too_long", message: "Too long." });
});

test("pressed twice is sent once; said again later it is sent again", async (t) => {
  let number = 0;
  const { freya, asked } = client(t, { "GET /v1/stream": [open(ready())],
    "POST /v1/messages": [() => json(202, { turn: "t" + (number += 1), message: "m", cursor: "e.0" })] });
  const [one, two] = await Promise.all([freya.send("Hi"), freya.send("Hi")]);
  assert.equal(one, two);
  await freya.send("Hi");
  assert.equal(new Set(asked.filter(({ method }) => method === "POST").map(({ body }) => body.client_message_id)).size, 2);
});

test("what may have arrived keeps its id when it is said again, until it is seen", async (t) => {
  const { freya, asked, told } = client(t, {
    "GET /v1/stream": [new TypeError("no network"), open(ready() + listening(1))],
    "POST /v1/messages": [new TypeError("cut"), () => json(202, { turn: "t", message: "m", cursor: "e.0" })],
  }, { patience: 1 });
  await assert.rejects(freya.send("Hi"), { status: 0 });
  await freya.send("Hi");
  await until(() => count(told, "listening") === 1);
  await freya.send("Hi");
  const ids = asked.filter(({ method }) => method === "POST").map(({ body }) => body.client_message_id);
  assert.equal(ids[0], ids[1]);
  assert.notEqual(ids[1], ids[2]);
});

test("who cannot be reached has kind words", async (t) => {
  const { freya, told } = client(t, { "GET /v1/stream": [new TypeError("down")], "POST /v1/messages": [new TypeError("down")] },
    { patience: 200, words: "Later." });
  assert.equal(await freya.speak("Hi"), null);
  const [, said] = told.find(([name]) => name === "reply");
  assert.deepEqual([said.turn, said.message, said.status, said.error.code], [null, "Later.", "fallback", "unreachable"]);
});

test("who waits for a token in vain has kind words, too", async (t) => {
  const { freya, told } = client(t, { "GET /v1/stream": [open(ready())] }, { patience: 100, getToken: () => new Promise(() => {}) });
  assert.equal(await freya.speak("Hi"), null);
  assert.equal(told.find(([name]) => name === "reply")[1].error.code, "unreachable");
});

test("a listener that throws takes nothing from the others", async (t) => {
  const { freya, told } = client(t, { "GET /v1/stream": [open(ready() + listening(1) + reply(2, "Hello"))] });
  const errors = [];
  globalThis.reportError = (error) => errors.push(error.message);
  const off = freya.on("listening", () => { throw new Error("mine"); });
  await until(() => count(told, "reply") === 1 && errors.length === 1);
  off();
  delete globalThis.reportError;
  assert.deepEqual(errors, ["mine"]);
});

test("deferred, it connects when something is sent", async (t) => {
  const { freya, asked, names } = client(t, {
    "GET /v1/stream": [open(ready())],
    "POST /v1/messages": [() => json(202, { turn: "t", message: "m", cursor: "e.0" })],
  }, { deferred: true });
  await wait(50);
  assert.deepEqual(asked, []);
  await freya.send("Hi");
  await until(() => names().includes("ready"));
  assert.equal(freya.leads, true);
});

test("once closed it stays so, whatever is sent", async (t) => {
  const { freya, asked } = client(t, { "GET /v1/stream": [open(ready())], "POST /v1/messages": [() => json(503, {})] });
  await until(() => freya.leads);
  freya.close();
  asked.length = 0;
  await assert.rejects(freya.send("Hi"));
  await wait(50);
  assert.deepEqual(asked.filter(({ method }) => method === "GET"), []);
  assert.equal(freya.leads, false);
});

test("what is said before the stream is open is heard from its beginning", async (t) => {
  const { freya, asked, names } = client(t, {
    "GET /v1/stream?after=e.0": [open(ready({ recovered: true, reason: null, head: 4, replay: 4 }) + listening(1)
      + thinking(2) + token(3, 0, "Yes") + reply(4, "Yes"))],
    "GET /v1/stream": [(signal) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(new Error("cut"))))],
    "POST /v1/messages": [() => json(202, { turn: "t", message: "m", cursor: "e.0" })],
    "GET /v1/turns/t": [() => json(500, {})],
  });
  await until(() => asked.length === 1);
  await freya.send("Hi");
  await until(() => names().includes("reply"));
  assert.deepEqual(names(), ["ready", "listening", "thinking", "token", "reply"]);
});
