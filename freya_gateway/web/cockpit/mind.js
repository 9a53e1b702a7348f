/** The prompt's budget, what a reply stood on, and the raw events. */
import { curlButton } from "./curl.js";
import { fill } from "./memory.js";
import { at, attempt, make } from "./view.js";

const TINTS = ["#4fe3ff", "#ff6bd6", "#7dffb2", "#ffd166", "#a08bff", "#ff8a5c"];
const LONGEST_LOG = 300;

export function budget(freya) {
  const path = () => `/v1/context?text=${encodeURIComponent(at("text").value.trim() || "Hello")}`;
  let asked = 0;
  const refresh = async () => {
    const mine = ++asked;
    const prompt = await attempt(() => freya.request("GET", path()));
    if (!prompt || mine !== asked) return;
    at("budget-total").textContent = `${prompt.tokens} tokens would be sent`;
    const tinted = (tag, block, index, text) => {
      const one = make(tag, "", text);
      one.style.setProperty("--tint", TINTS[index % TINTS.length]);
      one.style.setProperty("--share", block.tokens);
      return one;
    };
    at("budget").replaceChildren(...prompt.blocks.map((block, i) => tinted("span", block, i, "")));
    at("legend").replaceChildren(...prompt.blocks.map((block, i) => tinted("li", block, i, `${block.name} ${block.tokens}`)));
  };
  let timer;
  at("text").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(refresh, 400);
  });
  at("budget-curl").append(curlButton("The prompt", () => ["GET", path()]));
  return refresh;
}

export function why(freya) {
  return async (message) => {
    if (!message) {
      at("why-curl").replaceChildren();
      fill("why", [], "Shown after the next reply.");
      return;
    }
    const path = `/v1/messages/${message}/memory`;
    at("why-curl").replaceChildren(curlButton("Behind the reply", () => ["GET", path]));
    const found = await attempt(() => freya.request("GET", path));
    if (!found) return;
    const line = (kind, text) => make("li", "card", `${kind}: ${text || "deleted since"}`);
    fill("why", [
      ...found.facts.map((fact) => line("fact", fact.statement)),
      ...found.topics.map((topic) => line("topic", topic.title)),
      ...found.recalled.map((one) => line("recalled", one.excerpt)),
      make("li", "tag", `${found.tokens} tokens, ${found.history} messages of history`),
    ], "");
  };
}

/** What was learned from a message: shown as it comes, and again under what the reply stood on. */
export function learning(freya) {
  let rows = [];
  const name = async (kind, id, text) => {
    const page = await attempt(() => freya.request("GET", `/v1/${kind}?limit=200`));
    const one = page && page[kind].find((each) => each.id === id);
    return one ? `learned: ${text(one)}` : `gone: ${kind} ${id.slice(0, 8)}`;
  };
  return {
    begin: () => { rows = []; },
    again: () => at("why").append(...rows),
    async add({ facts, topics }) {
      const lines = await Promise.all([
        ...facts.map((id) => name("facts", id, (fact) => `${fact.statement} (${fact.status})`)),
        ...topics.map((id) => name("topics", id, (topic) => topic.title)),
      ]);
      const fresh = lines.map((text) => make("li", "card learned", text));
      rows.push(...fresh);
      at("why").append(...fresh);
    },
  };
}

export function log(freya) {
  at("log-curl").append(curlButton("The stream", () => ["GET", "/v1/stream"]));
  freya.on("*", (data, name) => {
    const row = make("li");
    row.append(make("b", "", name), ` ${JSON.stringify(data)}`);
    at("log").append(row);
    while (at("log").children.length > LONGEST_LOG) at("log").firstChild.remove();
    at("log").scrollTop = at("log").scrollHeight;
  });
}
