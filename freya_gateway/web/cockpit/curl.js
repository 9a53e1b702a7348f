/** Copy-as-curl. The token stays out of the clipboard: the command reads it from $FREYA_TOKEN. */
import { make, notice } from "./view.js";

const TOKEN = "freya.token";
export const getToken = () => sessionStorage.getItem(TOKEN);
export const keepToken = (token) => (token ? sessionStorage.setItem(TOKEN, token) : sessionStorage.removeItem(TOKEN));

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function curl(method, path, body) {
  const parts = ["curl", "-N", "-X", method, quoted(location.origin + path)];
  if (getToken()) parts.push('-H "authorization: Bearer $FREYA_TOKEN"');
  if (body !== undefined) parts.push("-H 'content-type: application/json'", "--data-raw", quoted(JSON.stringify(body)));
  return parts.join(" ");
}

/** A button that copies the call that `what` gives as [method, path, body] when it is pressed. */
export function curlButton(name, what) {
  const button = make("button", "curl", "curl");
  button.type = "button";
  button.setAttribute("aria-label", `curl: copy “${name}” as a command`);
  button.addEventListener("click", async () => {
    const command = curl(...what());
    try {
      await navigator.clipboard.writeText(command);
      notice("Copied: " + command);
    } catch {
      notice(command);
    }
  });
  return button;
}

/** A button for an action with its curl. `what` is [method, path, body] for the command; `run` does it. */
export function action(label, about, what, run) {
  const pair = make("span", "pair");
  const button = make("button", "", label);
  button.type = "button";
  button.setAttribute("aria-label", `${label}: ${about}`);
  button.addEventListener("click", run);
  const copy = curlButton(`${label}: ${about}`, () => what);
  button.dataset.does = label;
  copy.dataset.does = `curl ${label}`;
  pair.append(button, copy);
  return pair;
}
