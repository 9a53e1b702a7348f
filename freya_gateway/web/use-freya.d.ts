import type { Freya, FreyaOptions, Reply, Status } from "./freya";

export interface UseFreya extends Pick<Freya, "send" | "stop" | "request"> {
  status: Status;
  phase: "idle" | "listening" | "thinking" | "replying";
  /** The turn that is under way. */
  turn: string | null;
  /** Freya's words so far, and after the reply all of them. */
  text: string;
  reply: Reply | null;
}

export function useFreya(options?: FreyaOptions): UseFreya;
