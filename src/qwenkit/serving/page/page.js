// What gradio's page lacks: text files read in the browser, light and dark, keys. No request leaves from here.
"use strict";
(() => {
  const files = [];
  let words = {}, said = "";
  const find = (selector) => document.querySelector(selector);
  const say = (template, values) => template.replace(/\{(\w+)\}/g, (all, name) => values[name] ?? all);
  const make = (tag, attributes, text) => {
    const element = Object.assign(document.createElement(tag), attributes);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const press = (id) => {
    const element = find(`#${id}`);
    const button = element && (element.matches("button") ? element : element.querySelector("button"));
    if (button && !button.disabled && button.offsetParent) button.click();
  };

  // ---- files -------------------------------------------------------------------------------------------------------

  const tell = (text) => {
    const place = find("#page-problem");
    place.textContent = text;
    place.hidden = !text;
  };
  const set = (field, value) => {
    Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(field, value);
    field.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const keep = () => {
    const field = find("#files textarea");
    if (field) set(field, files.length ? JSON.stringify(files) : "");
    const chips = find("#page-chips");
    chips.replaceChildren(...files.map((file, index) => {
      const chip = make("span", { className: "chip" }, file.name);
      const label = say(words.remove || "", file);
      const remove = make("button", { type: "button", title: label, ariaLabel: label }, "×");
      remove.addEventListener("click", () => { files.splice(index, 1); keep(); });
      chip.append(remove);
      return chip;
    }));
  };
  const read = async (list) => {
    tell("");
    for (const file of list) {
      const values = { name: file.name, most: words.most_files };
      if (files.length >= words.most_files) return tell(say(words.many_files, values));
      if (file.size > 4 * words.most_characters) {
        tell(say(words.large_file, { name: file.name, size: file.size, most: words.most_characters }));
        continue;
      }
      let text;
      try {
        text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
      } catch { text = "\0"; }
      if (text.includes("\0")) tell(say(words.bad_file, values));
      else if (text.length > words.most_characters)
        tell(say(words.large_file, { name: file.name, size: text.length, most: words.most_characters }));
      else { files.push({ name: file.name, text }); keep(); }
    }
  };

  // ---- parts of the page that gradio does not have -----------------------------------------------------------------

  let shaded = localStorage.getItem("qwenkit-dark");  // gradio follows the system whenever it likes
  const dark = (is) => document.body.classList.toggle("dark", is);
  const furnish = () => {
    const ask = find("#ask"), language = find("#language");
    if (!ask || !language) return false;
    const input = make("input", { type: "file", multiple: true, hidden: true, id: "page-input" });
    input.addEventListener("change", async () => { await read([...input.files]); input.value = ""; });
    const attach = make("button", { type: "button", id: "page-attach" }, "+");
    attach.addEventListener("click", () => input.click());
    ask.prepend(attach, input);
    ask.before(make("div", { id: "page-chips" }), make("div", { id: "page-problem", role: "alert", hidden: true }));
    const shade = make("button", { type: "button", id: "page-dark" }, "◐");
    shade.addEventListener("click", () => {
      const is = !document.body.classList.contains("dark");
      localStorage.setItem("qwenkit-dark", shaded = String(is));
      dark(is);
    });
    language.after(shade);
    const form = make("form", { method: "post", action: "key", id: "page-leave", hidden: true });
    form.append(make("input", { type: "hidden", name: "key", value: "" }), make("button", {}));
    find("#side .sidebar-content, #side")?.append(form);
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => { event.preventDefault(); read([...event.dataTransfer.files]); });
    return true;
  };
  const translate = () => {
    const data = find("#words textarea, #words input")?.value;
    if (!data || !find("#page-attach") || data === said) return;
    said = data;
    words = JSON.parse(data);
    document.documentElement.lang = words.language;
    for (const [id, name] of [["page-attach", "attach"], ["page-dark", "dark"]])
      for (const where of ["title", "ariaLabel"]) find(`#${id}`)[where] = words[name];
    find("#ask").title = words.keyboard;
    const leave = find("#page-leave");
    if (leave) { leave.hidden = !words.has_key; leave.querySelector("button").textContent = words.leave; }
  };

  // ---- keys --------------------------------------------------------------------------------------------------------

  addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("textarea, input");
    if (event.key === "Escape") press("stop");
    else if (event.altKey && event.key === "ArrowLeft" && !typing?.value) { event.preventDefault(); press("before"); }
    else if (event.altKey && event.key === "ArrowRight" && !typing?.value) { event.preventDefault(); press("after"); }
    else if (event.ctrlKey && event.key === "/") { event.preventDefault(); find("#question textarea")?.focus(); }
  });

  let ready = false;
  const look = () => {
    ready = ready || furnish();
    if (shaded !== null && document.body.classList.contains("dark") !== (shaded === "true")) dark(shaded === "true");
    translate();
    const field = find("#files textarea");
    if (files.length && field && !field.value) { files.length = 0; keep(); }  // they went with a message
  };
  addEventListener("DOMContentLoaded", () => {
    new MutationObserver(look).observe(document.body, { childList: true, subtree: true });
    setInterval(look, 500);
  });
})();
