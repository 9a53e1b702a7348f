/** Facts and topics: read, edit, forget, undo, accept, reject. */
import { action, curlButton } from "./curl.js";
import { ask, at, attempt, make, undisturbed } from "./view.js";

const SHOWN = ["pending", "active", "retracted", "superseded"];

export function memory(freya) {
  const call = async (...what) => {
    await attempt(() => freya.request(...what));
    await refresh();
  };

  function factCard(fact) {
    const path = `/v1/facts/${fact.id}`;
    const card = make("li", `card ${fact.status}`);
    card.dataset.id = fact.id;
    const row = make("div", "row");
    const simple = (label, verb) => {
      const what = ["POST", `${path}/${verb}`];
      row.append(action(label, fact.statement, what, () => call(...what)));
    };
    if (fact.status === "pending") [["Accept", "accept"], ["Reject", "reject"]].forEach((one) => simple(...one));
    if (fact.status === "active") {
      row.append(action("Edit", fact.statement, ["PATCH", path, { statement: fact.statement }], async () => {
        const statement = await ask("Edit the fact", { label: "Statement", value: fact.statement });
        if (statement) await call("PATCH", path, { statement });
      }));
    }
    row.append(action("Forget", fact.statement, ["DELETE", path], async () => {
      if ((await ask(`Forget for good: ${fact.statement}?`, { yes: "Forget" })) !== null) await call("DELETE", path);
    }));
    simple("Undo", "undo");
    card.append(make("p", "", fact.statement), make("p", "tag", `${fact.status} · ${fact.kind}`), row);
    return card;
  }

  function topicCard(topic) {
    const path = `/v1/topics/${topic.id}`;
    const card = make("li", "card");
    card.dataset.id = topic.id;
    const row = make("div", "row");
    const rename = async (title) => call("PATCH", path, { title });
    row.append(action("Edit", topic.title, ["PATCH", path, { title: topic.title }], async () => {
      const title = await ask("Rename the topic", { label: "Title", value: topic.title });
      if (!title) return;
      before.set(topic.id, topic.title);
      await rename(title);
    }));
    row.append(action("Forget", topic.title, ["DELETE", path], async () => {
      if ((await ask(`Forget the topic: ${topic.title}?`, { yes: "Forget" })) !== null) await call("DELETE", path);
    }));
    const old = before.get(topic.id);
    if (old) {
      row.append(action("Undo", topic.title, ["PATCH", path, { title: old }], async () => {
        before.delete(topic.id);
        await rename(old);
      }));
    }
    card.append(make("p", "", topic.title), make("p", "tag", topic.summary), row);
    return card;
  }

  const before = new Map(); // topic -> the title before its last edit
  let asked = 0;
  async function refresh() {
    const mine = ++asked;
    const read = (path) => attempt(() => freya.request("GET", path));
    const [facts, topics] = await Promise.all([read("/v1/facts?limit=200"), read("/v1/topics?limit=50")]);
    await undisturbed();
    if (mine !== asked) return;
    const shown = SHOWN.flatMap((status) => (facts ? facts.facts : []).filter((fact) => fact.status === status));
    fill("facts", shown.map(factCard), "Nothing is known yet.");
    fill("topics", (topics ? topics.topics : []).map(topicCard), "A conversation gets its topics when it has ended.");
  }

  const statement = () => at("new-statement").value;
  at("new-fact").addEventListener("submit", async (event) => {
    event.preventDefault();
    await call("POST", "/v1/facts", { statement: statement() });
    at("new-fact").reset();
  });
  at("facts-curl").append(curlButton("Facts", () => ["GET", "/v1/facts?limit=200"]));
  at("topics-curl").append(curlButton("Topics", () => ["GET", "/v1/topics?limit=50"]));
  at("add-curl").append(curlButton("Add a fact", () => ["POST", "/v1/facts", { statement: statement() }]));
  return refresh;
}

/** Shows these items. Who works in the list by keyboard stays at the same card, or at the list if that is gone. */
export function fill(id, items, empty) {
  const list = at(id);
  const held = list.contains(document.activeElement) ? document.activeElement : null;
  const card = held && held.closest("[data-id]");
  list.replaceChildren(...(items.length ? items : [make("li", "tag", empty)]));
  if (!held) return;
  const same = card && items.find((item) => item.dataset.id === card.dataset.id);
  const place = same && (same.querySelector(`[data-does="${held.dataset.does}"]`) || same.querySelector("button"));
  (place || list).focus();
}
