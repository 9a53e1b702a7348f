// Reads a stream as a library does, and prints what it is told, one event a line: [name, id, data].
//   node read.mjs eventsource | fetch-event-source URL
import { fetchEventSource } from "@microsoft/fetch-event-source";
import { EventSource } from "eventsource";

const NAMES = ["ready", "listening", "thinking", "token", "reply", "memory", "beat", "bye", "message"];
const tell = (name, id, data) => process.stdout.write(JSON.stringify([name, id, data]) + "\n");
const [library, url] = process.argv.slice(2);

if (library === "eventsource") {
  const source = new EventSource(url);
  for (const name of NAMES) {
    source.addEventListener(name, ({ type, lastEventId, data }) => tell(type, lastEventId, data));
  }
} else {
  // It is made for pages: it asks whether the page is hidden, and takes `fetch` and timers from `window`.
  globalThis.window = globalThis;
  globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
  await fetchEventSource(url, {
    openWhenHidden: true,
    onmessage: ({ event, id, data }) => tell(event, id, data),
    onerror: (error) => { throw error; },
  });
}
