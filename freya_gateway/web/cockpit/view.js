/** Small helpers of every panel. Text enters the page only as text. */
export const at = (id) => document.getElementById(id);

export function make(tag, className = "", text = "") {
  const one = document.createElement(tag);
  if (className) one.className = className;
  one.textContent = text;
  return one;
}

export function notice(text) {
  at("notice").textContent = text;
  clearTimeout(notice.timer);
  notice.timer = setTimeout(() => at("notice").replaceChildren(), 6000);
}

/** Runs what may be refused, and says why it was. */
export async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    notice((error.problem && error.problem.detail) || error.message);
    return undefined;
  }
}

/** Asks in the dialog; the words given, or null. Without `label` it only asks for consent. */
export function ask(title, { label = "", value = "", yes = "Save", type = "text" } = {}) {
  const [dialog, field] = [at("dialog"), at("dialog-field")];
  at("dialog-title").textContent = title;
  at("dialog-label").textContent = label;
  at("dialog-yes").textContent = yes;
  field.type = type;
  field.value = value;
  field.hidden = at("dialog-label").hidden = !label;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((done) => {
    dialog.addEventListener("close", () => done(dialog.returnValue === "yes" ? field.value : null), { once: true });
  });
}

/** When no dialog is open: what stands behind one stays as it is, so that focus finds its way back. */
export function undisturbed() {
  if (!at("dialog").open) return Promise.resolve();
  return new Promise((done) => { at("dialog").addEventListener("close", done, { once: true }); });
}
