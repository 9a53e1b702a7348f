import "./freya.js";
export const { connectFreya } = globalThis;
export const { FreyaError } = connectFreya;
