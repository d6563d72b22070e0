// The overview's figures are asked for every few seconds: when that may be, where the keyboard stays meanwhile, and what is
// said while nobody answers.

// Not in a tab that nobody sees.
window.overviewMayRefresh = () => !document.hidden;

(() => {
  const isOurs = (event) => ["overview-live", "overview-happened"].includes(event.detail.elt?.id);

  // What has the keyboard's focus may be put in anew: the same link of the new part has it then, else the one in its place.
  const PARTS = "#overview-notices, #overview-live, #overview-trend, #overview-happened, #overview-saved";
  const SELECTABLE = "a[href], summary, [tabindex='0']";
  let focused = null;
  document.addEventListener("htmx:beforeSwap", () => {
    const active = document.activeElement;
    const part = active?.closest(PARTS);
    focused = part && { part: part.id, href: active.getAttribute("href"), place: [...part.querySelectorAll(SELECTABLE)].indexOf(active) };
  });
  document.addEventListener("htmx:afterSettle", () => {
    if (!focused || document.activeElement !== document.body) return;
    const found = [...(document.getElementById(focused.part)?.querySelectorAll(SELECTABLE) ?? [])];
    const same = focused.href && found.find((each) => each.getAttribute("href") === focused.href);
    (same || found[Math.min(focused.place, found.length - 1)])?.focus({ preventScroll: true });
  });

  let answeredAt = null;
  const lost = () => {
    const told = document.getElementById("overview-lost");
    if (!told) return;
    const asOf = document.getElementById("overview-live")?.dataset.asOf;
    told.querySelector("[data-as-of]").textContent = asOf ? new Date(answeredAt ?? asOf).toLocaleTimeString("en-GB") : "";
    told.hidden = false;
  };
  for (const name of ["htmx:sendError", "htmx:timeout", "htmx:responseError"])
    document.addEventListener(name, (event) => isOurs(event) && lost());
  document.addEventListener("htmx:afterRequest", (event) => {
    if (!isOurs(event) || !event.detail.successful) return;
    answeredAt = Date.now();
    document.getElementById("overview-lost")?.setAttribute("hidden", "");
  });
})();
