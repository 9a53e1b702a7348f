/** What the stream tells; see docs/api.md. Unknown events and fields may come: ignore them. */
export interface Ready {
  epoch: string;
  head: number;
  phase: "idle" | "listening" | "thinking" | "replying";
  recovered: boolean;
  reason: "fresh" | "evicted" | "ahead" | "epoch" | null;
  replay: number;
  beat_ms: number;
}
export interface Listening {
  turn: string;
  message: string;
  message_id: string;
}
export interface Thinking {
  turn: string;
  attempt: number;
  recalled: { facts: number; topics: number; messages: number };
}
export interface Token {
  turn: string;
  attempt: number;
  /** UTF-16 code units of the reply before this piece. */
  off: number;
  text: string;
}
export interface Reply {
  /** null for the kind words of a gateway that could not be reached. */
  turn: string | null;
  /** All of Freya's words. */
  message: string;
  message_id: string | null;
  created_at: string;
  status: "complete" | "stopped" | "interrupted" | "length" | "filtered" | "fallback";
  finish_reason: string | null;
  length: number | null;
  usage: { prompt_tokens: number; completion_tokens: number; cached_tokens: number } | null;
  ttft_ms: number | null;
  memory: { facts: string[]; topics: string[] };
  error?: { code: string; retryable: boolean };
}
export interface Memory {
  facts: unknown[];
  topics: unknown[];
}
export interface Bye {
  reason: "rotate" | "deploy" | "slow" | "superseded" | "auth" | "gone";
  retry_ms: number;
  final: boolean;
}
/** `connecting`: for the first time; `live`: events come; `waiting`: between two attempts; `closed`: by `close()`. */
export type Status = "connecting" | "live" | "waiting" | "closed";

export interface FreyaEvents {
  ready: Ready;
  listening: Listening;
  thinking: Thinking;
  token: Token;
  reply: Reply;
  memory: Memory;
  beat: { head: number };
  bye: Bye;
  status: { status: Status; reason: string };
}

export interface FreyaOptions {
  /** The gateway's address; the page's own origin if not given. */
  url?: string;
  /** The bearer: a JWT or an API key. Asked for at first, shortly before a JWT ends, and when one was `refused`. */
  getToken?: (why: { refused: boolean }) => string | null | Promise<string | null>;
  /** For fetch: `include` sends cookies to a gateway (behind a proxy) of another origin. Default `same-origin`. */
  credentials?: RequestCredentials;
  /** Open streams with a ticket in the URL instead of the `authorization` header. */
  tickets?: boolean;
  /** Names whose tabs share one connection; by default the `sub` of the token. */
  account?: string;
  /** A connection of this tab's own. */
  alone?: boolean;
  /** Connect at `pageshow`, or when something is sent before; so does the classic script in a page that still loads. */
  deferred?: boolean;
  /** Milliseconds that a send is tried for before it is given up. Default 12000. */
  patience?: number;
  /** What `speak` says when the gateway cannot be reached. */
  words?: string;
  /** Where `freya:<event>` is dispatched; `null` for nowhere. Default `window`. */
  window?: EventTarget | null;
}

export interface Sent {
  turn: string;
  message: string;
}

export interface Freya {
  /** Says something. Resolves when it is stored; rejects with a FreyaError when refused, or given up. */
  send(text: string, options?: { ifBusy?: "queue" | "interrupt" | "reject"; id?: string }): Promise<Sent>;
  /** Like `send` for pages without error handling: what fails ends in a `freya:reply` with kind words. */
  speak(text: string, showStatus?: (words: string) => void): Promise<Sent | null>;
  /** Ends a turn, by default the oldest open one; what was said is kept. */
  stop(turn?: string): Promise<unknown>;
  /** Authorised JSON call of the gateway, e.g. `request("GET", "/v1/facts")`. */
  request<T = unknown>(method: string, path: string, body?: unknown): Promise<T>;
  /** Listens, until the returned function is called. `*` for every event, its name as second argument. */
  on<Name extends keyof FreyaEvents>(event: Name, fn: (data: FreyaEvents[Name]) => void): () => void;
  on(event: string, fn: (data: unknown, event: string) => void): () => void;
  /** Lets go of the connection; another tab takes over. */
  close(): void;
  readonly status: Status;
  /** Whether this tab holds the browser's connection. */
  readonly leads: boolean;
}

export class FreyaError extends Error {
  /** HTTP status, 0 if there was no answer. */
  readonly status: number;
  readonly code: string;
  readonly problem: unknown;
  /** Milliseconds. */
  readonly retryAfter: number;
}

export function connectFreya(options?: FreyaOptions): Freya;

declare global {
  interface Window {
    /** Installed by the classic script. */
    freya?: Freya;
    sendMessageToAPI?: (text: string, showStatus?: (words: string) => void) => Promise<Sent | null>;
  }
  interface WindowEventMap {
    "freya:ready": CustomEvent<Ready>;
    "freya:listening": CustomEvent<Listening>;
    "freya:thinking": CustomEvent<Thinking>;
    "freya:token": CustomEvent<Token>;
    "freya:reply": CustomEvent<Reply>;
    "freya:memory": CustomEvent<Memory>;
    "freya:beat": CustomEvent<{ head: number }>;
    "freya:bye": CustomEvent<Bye>;
    "freya:status": CustomEvent<{ status: Status; reason: string }>;
  }
}
