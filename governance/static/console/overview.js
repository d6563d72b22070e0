// The overview's figures are asked for every few seconds: when that may be, what its chart does with them, and what is
// said while nobody answers.

// Not while somebody reads with the keyboard inside them, nor in a tab that nobody sees.
window.overviewMayRefresh = () =>
  !document.hidden && !["overview-live", "overview-happened"].some((id) => document.getElementById(id)?.contains(document.activeElement));

(() => {
  const isOurs = (event) => ["overview-live", "overview-happened"].includes(event.detail.elt?.id);

  const redraw = () =>
    htmx.ajax("GET", window.location.href, { source: "#overview-trend", target: "#overview-trend", select: "#overview-trend", swap: "outerHTML" });

  // The last bar: of each group that the chart shows what it is by now, and the rest for all others.
  const renewBar = () => {
    const told = document.getElementById("overview-last");
    const canvas = document.querySelector("#overview-trend canvas");
    const last = told && JSON.parse(told.textContent);
    const chart = canvas && Chart.getChart(canvas);
    if (!last || !chart) return;
    // A new hour or day has begun.
    if (chart.data.labels[last.place] !== last.label) return redraw();
    let [rest, calls] = [Number(last.total[0]), last.total[1]];
    const set = (series, dollars, number) => {
      series.data[last.place] = dollars;
      if (series.calls) series.calls[last.place] = number;
    };
    for (const series of chart.data.datasets) {
      const found = last.groups[series.label];
      if (!found) continue;
      set(series, Number(found[0]), found[1]);
      rest -= Number(found[0]);
      calls -= found[1];
    }
    const others = chart.data.datasets.find((series) => series.tone === "--sg-rest");
    // Somebody spends who is not in the chart yet.
    if (!others && rest > 1e-9) return redraw();
    if (others) set(others, Math.max(0, rest), calls);
    chart.update();
    if (Number(last.total[0])) canvas.parentElement.querySelector(".sg-over")?.setAttribute("hidden", "");
  };
  document.addEventListener("htmx:afterSettle", (event) => event.target.id === "overview-live" && renewBar());

  const lost = () => {
    const told = document.getElementById("overview-lost");
    if (!told) return;
    const asOf = document.getElementById("overview-live")?.dataset.asOf;
    told.querySelector("[data-as-of]").textContent = asOf ? new Date(answeredAt ?? asOf).toLocaleTimeString("en-GB") : "";
    told.hidden = false;
  };
  let answeredAt = null;
  for (const name of ["htmx:sendError", "htmx:timeout", "htmx:responseError"])
    document.addEventListener(name, (event) => isOurs(event) && lost());
  document.addEventListener("htmx:afterRequest", (event) => {
    if (!isOurs(event) || !event.detail.successful) return;
    answeredAt = Date.now();
    document.getElementById("overview-lost")?.setAttribute("hidden", "");
  });
})();
