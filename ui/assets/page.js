() => {
  const root = document.documentElement;
  const chosen = () => localStorage.getItem("burnish.theme");
  const dark = () => document.body.classList.contains("dark");
  const apply = () => {
    const want = chosen();
    if (want) document.body.classList.toggle("dark", want === "dark");
    root.style.colorScheme = dark() ? "dark" : "light";
    document.querySelectorAll("[data-theme-toggle]").forEach((button) => {
      button.setAttribute("aria-label", dark() ? "Switch to light" : "Switch to dark");
    });
  };
  apply();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => {
    if (!chosen()) document.body.classList.toggle("dark", event.matches);
    apply();
  });

  const side = () => document.getElementById("side");
  const drawer = (open) => {
    side()?.classList.toggle("open", open);
    document.querySelectorAll("[data-drawer]").forEach((button) => button.setAttribute("aria-expanded", String(open)));
  };

  document.addEventListener("click", (event) => {
    const target = event.target;
    if (target.closest("[data-theme-toggle]")) {
      localStorage.setItem("burnish.theme", dark() ? "light" : "dark");
      apply();
    } else if (target.closest("[data-drawer]")) {
      drawer(!side()?.classList.contains("open"));
    } else if (!target.closest("#side") || target.closest("[data-act=open], [data-act=new]")) {
      drawer(false);
    }
  });

  // Keys 1 to 4 choose between two answers, except while something is being typed.
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") drawer(false);
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.closest("textarea, input, select, [contenteditable]")) return;
    const button = document.querySelector(`.compare [data-key="${CSS.escape(event.key)}"]`);
    if (button) {
      event.preventDefault();
      button.click();
    }
  });

  // Follow an answer as it is written, unless the person has scrolled up to read. Two at once are followed only until
  // their beginnings stand at the top, so that neither moves while it is read.
  const main = document.getElementById("main");
  const live = document.getElementById("live");
  if (main && live) {
    let following = true;
    const down = () => {
      const pair = live.querySelector(".compare");
      const bar = document.getElementById("bar")?.offsetHeight ?? 0;
      const top = pair ? pair.getBoundingClientRect().top - main.getBoundingClientRect().top - bar - 12 : Infinity;
      main.scrollTo({ top: Math.min(main.scrollHeight, main.scrollTop + top) });
    };
    main.addEventListener("scroll", () => {
      following = main.clientHeight + main.scrollTop >= main.scrollHeight - 120;
    }, { passive: true });
    let comparing = false;
    new MutationObserver(() => {
      const compared = comparing;
      comparing = live.querySelector(".choices") !== null;
      if (following && !comparing) down();
      const idle = document.activeElement === document.body && matchMedia("(hover: hover)").matches;
      if (compared && !comparing && idle) document.querySelector("#box textarea")?.focus({ preventScroll: true });
    }).observe(main, { childList: true, subtree: true, characterData: true });
  }
}
