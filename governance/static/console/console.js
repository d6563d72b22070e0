// What every page of the console has: charts of figures in the page, and moments in the reader's own zone.

(() => {
  // Chart.js knows no oklch(): a painted pixel tells any colour as plain red, green and blue.
  const colour = (name, opacity = 1) => {
    const pixel = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d");
    pixel.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    pixel.fillRect(0, 0, 1, 1);
    return `rgba(${[...pixel.getImageData(0, 0, 1, 1).data.slice(0, 3)].join(", ")}, ${opacity})`;
  };
  const dollars = (value) =>
    (value < 0 ? "-$" : "$") +
    Math.abs(value).toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: Math.abs(value) < 1 ? 4 : 2 });

  const count = (value) => value.toLocaleString("en-US");
  // <canvas data-unit="count"> is no chart of dollars.
  const amounts = (canvas) => (canvas.dataset.unit === "count" ? count : dollars);

  // A chart is <canvas data-chart="ID">; the script #ID of the page holds its figures:
  // {kind: "bars" | "lines", labels, series: [{name, values, colour, calls?, dashed?, filled?}], links?: [[address]],
  // legend?: false where the page has its own}.
  // `colour` names a property of the style sheet; values are dollars as text, null where there is none.
  const figuresOf = (canvas) => JSON.parse(document.getElementById(canvas.dataset.chart).textContent);

  const dataset = (kind, series) => ({
    label: series.name,
    data: series.values.map((value) => (value === null ? null : Number(value))),
    calls: series.calls,
    tone: series.colour,
    ...(kind === "bars"
      ? { borderRadius: 2, maxBarThickness: 32 }
      : { borderDash: series.dashed ? [5, 4] : [], borderWidth: 2, pointRadius: 0, pointHitRadius: 12, fill: series.filled ? "origin" : false, stepped: series.stepped ?? false, spanGaps: false }),
  });

  const paint = (chart) => {
    for (const each of chart.data.datasets) {
      each.borderColor = colour(each.tone);
      each.backgroundColor = chart.config.type === "bar" ? colour(each.tone) : colour(each.tone, 0.14);
    }
    const { x, y } = chart.options.scales;
    x.ticks.color = y.ticks.color = chart.options.plugins.legend.labels.color = colour("--sg-soft");
    y.grid.color = colour("--sg-line");
    // Not in mode "none", in which bars keep the colour that they had: nothing moves anyway.
    chart.update();
  };

  const label = (item) => {
    const calls = item.dataset.calls?.[item.dataIndex];
    const name = item.chart.data.datasets.length > 1 ? `${item.dataset.label}: ` : "";
    return `${name}${amounts(item.chart.canvas)(item.raw)}` + (calls === undefined ? "" : ` in ${calls.toLocaleString("en-US")} calls`);
  };

  const options = (canvas, { kind, series, legend = true }) => ({
    animation: false,
    maintainAspectRatio: false,
    interaction: { mode: "index", intersect: false },
    onClick: (event, _, chart) => {
      const hit = chart.getElementsAtEventForMode(event, "nearest", { intersect: true }, false)[0];
      const address = hit && figuresOf(canvas).links?.[hit.datasetIndex]?.[hit.index];
      if (address) window.location.assign(address);
    },
    scales: {
      x: { stacked: kind === "bars", grid: { display: false }, border: { display: false }, ticks: { maxRotation: 0, autoSkipPadding: 16 } },
      y: { stacked: kind === "bars", beginAtZero: true, border: { display: false }, grid: {}, ticks: { maxTicksLimit: 5, callback: amounts(canvas) } },
    },
    plugins: {
      colors: { enabled: false },
      legend: { display: legend && series.length > 1, position: "bottom", align: "start", labels: { usePointStyle: kind === "lines", pointStyle: "line", boxWidth: 10, boxHeight: 10, useBorderRadius: true, borderRadius: 3 } },
      tooltip: { displayColors: series.length > 1, filter: (item) => item.raw !== null && (item.raw !== 0 || series.length === 1), callbacks: { label } },
    },
  });

  const draw = (canvas) => {
    const figures = figuresOf(canvas);
    Chart.defaults.font.family = "Inter, sans-serif";
    const data = { labels: figures.labels, datasets: figures.series.map((each) => dataset(figures.kind, each)) };
    const chart = new Chart(canvas, { type: figures.kind === "bars" ? "bar" : "line", data, options: options(canvas, figures) });
    paint(chart);
    // The page's font may come after the first drawing.
    document.fonts.ready.then(() => paint(chart));
  };

  const renew = (canvas) => {
    const chart = Chart.getChart(canvas);
    if (!chart) return draw(canvas);
    const figures = figuresOf(canvas);
    const isEmpty = figures.series.every((each) => each.values.every((value) => !Number(value)));
    canvas.parentElement.querySelector(".sg-over")?.toggleAttribute("hidden", !isEmpty);
    chart.data.labels = figures.labels;
    chart.data.datasets = figures.series.map((each) => dataset(figures.kind, each));
    paint(chart);
  };

  // <time data-moment="minute | second | day | year" datetime="...">: its title says the same in UTC.
  const styles = {
    minute: { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
    second: { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" },
    day: { weekday: "short", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
    year: { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
  };
  const tellTime = (part) => {
    for (const time of part.querySelectorAll("time[data-moment]"))
      time.textContent = new Intl.DateTimeFormat("en-US", styles[time.dataset.moment]).format(new Date(time.dateTime));
  };
  const refresh = () => {
    document.querySelectorAll("canvas[data-chart]").forEach(renew);
    tellTime(document);
  };

  window.addEventListener("load", () => {
    refresh();
    const repaint = () => document.querySelectorAll("canvas[data-chart]").forEach((canvas) => paint(Chart.getChart(canvas)));
    new MutationObserver(repaint).observe(document.documentElement, { attributeFilter: ["class"] });
  });
  document.addEventListener("htmx:afterSwap", refresh);

  // Unfold fits its tabs before it knows the width of their font and of its own "...": they are fitted once more, and again
  // when that is drawn.
  const fitTabs = () => window.dispatchEvent(new Event("resize"));
  window.addEventListener("load", () => document.fonts.ready.then(() => (fitTabs(), setTimeout(fitTabs, 100))));
  // A phone that is turned, too.
  window.addEventListener("resize", ({ isTrusted }) => isTrusted && setTimeout(fitTabs, 100));

  // The search: "/" opens it, wherever nothing is typed; Enter takes its first hit.
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select, [contenteditable]");
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || typing) return;
    event.preventDefault();
    window.dispatchEvent(new CustomEvent("opencommand"));
  });
  // By this name of the event Unfold begins at none: it comes first, being nearer to the list.
  document.addEventListener("htmx:after-swap", (event) => {
    const box = event.target.id === "command-results" && event.target.closest("[x-data]");
    if (box) Alpine.$data(box).currentIndex = 1;
  });
  window.addEventListener("load", () => {
    const input = document.getElementById("search-input-command");
    input?.setAttribute("aria-label", "Search");
    input?.setAttribute("placeholder", "A customer, agent, key, model, any id, or: stop support, raise acme");
  });

  // Names for what Unfold, its scrollers and its lists to choose from leave without one, or give the same.
  const nameParts = () => {
    const name = (part, text) => part?.setAttribute("aria-label", text);
    name(document.getElementById("nav-sidebar-inner"), "Menu");
    name(document.getElementById("tabs-items"), "Tabs");
    name(document.getElementById("searchbar-submit"), "Search this list");
    name(document.querySelector("#nav-sidebar .simplebar-content-wrapper"), "Menu, scrollable");
    name(document.querySelector("#changelist-filter .simplebar-content-wrapper"), "Filters, scrollable");
    for (const list of document.querySelectorAll("select.select2-hidden-accessible")) {
      const title = list.labels[0]?.textContent.trim() ?? list.name;
      const drawn = list.parentElement.querySelectorAll(".select2-selection, .select2-selection__rendered");
      drawn.forEach((part) => name(part, `${title}: ${list.selectedOptions[0]?.textContent.trim() || "none"}`));
    }
  };
  window.addEventListener("load", () => {
    nameParts();
    // Lists to choose from are drawn when their script gets to it, which may be later.
    const lists = document.querySelectorAll("select.admin-autocomplete");
    lists.forEach((list) => new MutationObserver(nameParts).observe(list, { attributeFilter: ["class"] }));
  });
  document.addEventListener("formset:added", nameParts);

  document.addEventListener("click", (event) => event.target.closest("[data-print]") && window.print());
  // A canvas keeps its size on paper.
  window.addEventListener("beforeprint", () => document.querySelectorAll("canvas[data-chart]").forEach((canvas) => Chart.getChart(canvas)?.resize(680, 240)));
  window.addEventListener("afterprint", () => document.querySelectorAll("canvas[data-chart]").forEach((canvas) => Chart.getChart(canvas)?.resize()));

  // A form is sent once, however often its button is pressed; one that the browser shows again can be sent again.
  const buttonsOf = (form) => [...form.elements].filter(({ type }) => type === "submit");
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method !== "post" || event.defaultPrevented) return;
    if (form.dataset.sent) return event.preventDefault();
    form.dataset.sent = "yes";
    // Afterwards: a button that is disabled is not sent.
    setTimeout(() => buttonsOf(form).forEach((button) => (button.disabled = true)));
  });
  window.addEventListener("pageshow", ({ persisted }) => {
    if (!persisted) return;
    for (const form of document.querySelectorAll("form[data-sent]")) {
      delete form.dataset.sent;
      buttonsOf(form).forEach((button) => (button.disabled = false));
    }
  });

  // <input type="checkbox" data-selects="NAME"> ticks every box of its form that has that name.
  document.addEventListener("change", ({ target }) => {
    const { form, checked, dataset } = target;
    if (dataset.selects && form) form.querySelectorAll(`input[name="${dataset.selects}"]`).forEach((box) => (box.checked = checked));
  });
})();
