// Runs once for each part of the page that the server draws. Clicks and forms in it become events of the part:
// "submit" for what is quick, "retry" for what has an answer written. Places, never ids, travel with them.
const tell = (holder, more) => {
  const slow = holder.dataset.slow !== undefined;
  const { act, slow: slowAct, focus, ...rest } = holder.dataset;
  trigger(slow ? "retry" : "submit", { act: slow ? slowAct : act, ...rest, ...more });
};

const copyText = async (button) => {
  const text = button.dataset.copy;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  button.classList.add("done");
  button.setAttribute("aria-label", "Copied");
  setTimeout(() => {
    button.classList.remove("done");
    button.setAttribute("aria-label", "Copy");
  }, 1600);
};

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || button.type === "submit") return;
  if (button.dataset.copy !== undefined) void copyText(button);
  else if (button.dataset.act !== undefined || button.dataset.slow !== undefined) tell(button, {});
});

element.addEventListener("submit", (event) => {
  event.preventDefault();
  const fields = new FormData(event.target);
  const recipe = fields.get("recipe") ?? "";
  tell(event.target, { text: fields.get("text") ?? "", reasons: fields.getAll("reason"), recipe });
});

element.addEventListener("keydown", (event) => {
  const form = event.target.closest("form");
  if (!form) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    form.requestSubmit();
  } else if (event.key === "Escape") {
    form.querySelector("[data-act=close_panel]")?.click();
  }
});

// A part may ask for the focus once, when it appears; what is being typed elsewhere is never interrupted. Who has read
// two long answers as they were written is not taken back to where they begin.
let focused = null;
let written = false;
watch("value", () => {
  const read = written;
  written = element.querySelector(".compare.writing") !== null;
  const wants = element.querySelector("[data-focus]");
  const name = wants?.dataset.focus ?? null;
  if (name === focused) return;
  focused = name;
  if (!wants) return;
  const typing = document.activeElement?.matches("textarea, input") && document.activeElement.value !== "";
  if (typing && !element.contains(document.activeElement)) return;
  wants.focus({ preventScroll: true });
  const whole = wants.closest("section, form") ?? wants;
  const isLong = whole.offsetHeight > innerHeight * 0.9;
  if (!isLong || !read) whole.scrollIntoView({ block: isLong ? "start" : "nearest", behavior: "smooth" });
});

// What was unfolded stays unfolded when the part is drawn anew.
const unfolded = new Set();
element.addEventListener("toggle", (event) => {
  const key = event.target.dataset?.keep;
  if (key) event.target.open ? unfolded.add(key) : unfolded.delete(key);
}, true);
watch("value", () => {
  element.querySelectorAll("details[data-keep]").forEach((fold) => {
    if (unfolded.has(fold.dataset.keep)) fold.open = true;
  });
});
