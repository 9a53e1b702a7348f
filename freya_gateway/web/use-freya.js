"use client";
import { useEffect, useMemo, useReducer, useRef } from "react";
import { connectFreya } from "./freya.mjs";

const shared = new Map(); // url -> { freya, users }: components of a page share one client

function borrow(options) {
  const key = options.url || "/";
  if (!shared.has(key)) shared.set(key, { freya: connectFreya(options), users: 0 });
  const entry = shared.get(key);
  entry.users += 1;
  return [entry.freya, () => {
    entry.users -= 1;
    // Strict mode and navigation let go and take again at once; that is no reason to reconnect.
    setTimeout(() => {
      if (entry.users > 0 || shared.get(key) !== entry) return;
      shared.delete(key);
      entry.freya.close();
    });
  }];
}

const START = { status: "connecting", phase: "idle", turn: null, text: "", reply: null };

function reduce(state, [name, data]) {
  switch (name) {
    case "status":
      return { ...state, status: data.status };
    case "listening":
      return { ...state, phase: "listening", turn: data.turn };
    case "thinking": // a new attempt says everything again
      return { ...state, phase: "thinking", turn: data.turn, text: "" };
    case "token":
      return { ...state, phase: "replying", turn: data.turn, text: state.text.slice(0, data.off) + data.text };
    case "reply":
      return { ...state, phase: "idle", turn: null, text: data.message, reply: data };
    default:
      return state;
  }
}

/**
 * Freya's state for a component, and the means to talk with her.
 * @param {import("./freya").FreyaOptions} options read once, when the first component of the page connects
 * @returns {{ status: string, phase: "idle"|"listening"|"thinking"|"replying", turn: string|null, text: string,
 *   reply: import("./freya").Reply|null, send: Function, stop: Function, request: Function }}
 */
export function useFreya(options = {}) {
  const [state, tell] = useReducer(reduce, START);
  const client = useRef(null);
  const given = useRef(options);
  given.current = options;
  useEffect(() => {
    const [freya, giveBack] = borrow({ ...given.current, getToken: given.current.getToken && ((why) => given.current.getToken(why)) });
    client.current = freya;
    tell(["status", { status: freya.status }]);
    const off = freya.on("*", (data, name) => tell([name, data]));
    return () => {
      off();
      client.current = null;
      giveBack();
    };
  }, [options.url]);
  const means = useMemo(() => {
    const ask = (method) => async (...values) => {
      if (!client.current) throw new Error("useFreya: not mounted");
      return client.current[method](...values);
    };
    return { send: ask("send"), stop: ask("stop"), request: ask("request") };
  }, []);
  return { ...state, ...means };
}
