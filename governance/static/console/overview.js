// The overview's chart, and when its live part may be exchanged.

(() => {
  const canvas = () => document.getElementById("spend-trend");
  // Chart.js knows no oklch(): a painted pixel tells any colour as plain red, green and blue.
  const colour = (name) => {
    const pixel = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d");
    pixel.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    pixel.fillRect(0, 0, 1, 1);
    return `rgb(${[...pixel.getImageData(0, 0, 1, 1).data.slice(0, 3)].join(", ")})`;
  };
  const dollars = (value) =>
    "$" + Number(value).toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: value < 1 ? 4 : 2 });

  // Not while somebody reads with the keyboard inside it, nor in a tab nobody sees.
  window.overviewMayRefresh = () =>
    !document.hidden && !document.getElementById("overview-live")?.contains(document.activeElement);

  const figures = () => JSON.parse(document.getElementById("trend-data").textContent);

  const paint = (chart) => {
    const bar = chart.data.datasets[0];
    bar.backgroundColor = colour("--sg-ok");
    bar.hoverBackgroundColor = colour("--color-primary-500");
    chart.options.scales.x.ticks.color = chart.options.scales.y.ticks.color = colour("--sg-soft");
    chart.options.scales.y.grid.color = colour("--sg-line");
    chart.update("none");
  };

  const draw = () => {
    if (!canvas()) return;
    const { labels, cost, calls } = figures();
    Chart.defaults.font.family = "Inter, sans-serif";
    const chart = new Chart(canvas(), {
      type: "bar",
      data: { labels, datasets: [{ data: cost.map(Number), backgroundColor: colour("--sg-ok"), borderRadius: 3, maxBarThickness: 28, calls }] },
      options: {
        animation: false,
        maintainAspectRatio: false,
        interaction: { mode: "index", intersect: false },
        scales: {
          x: { grid: { display: false }, border: { display: false }, ticks: { maxRotation: 0, autoSkipPadding: 16 } },
          y: { beginAtZero: true, border: { display: false }, ticks: { maxTicksLimit: 5, callback: (value) => dollars(value) } },
        },
        plugins: {
          legend: { display: false },
          tooltip: {
            displayColors: false,
            callbacks: {
              label: (item) => `${dollars(item.raw)} in ${item.dataset.calls[item.dataIndex].toLocaleString("en-US")} calls`,
            },
          },
        },
      },
    });
    paint(chart);
    // The page's font may come after the first drawing.
    document.fonts.ready.then(() => paint(chart));
    new MutationObserver(() => paint(chart)).observe(document.documentElement, { attributeFilter: ["class"] });
  };

  const renew = () => {
    const chart = canvas() && Chart.getChart(canvas());
    if (!chart) return;
    const { labels, cost, calls } = figures();
    chart.data.labels = labels;
    Object.assign(chart.data.datasets[0], { data: cost.map(Number), calls });
    chart.update("none");
    document.querySelector(".sg-over").hidden = calls.some((count) => count > 0);
  };

  window.addEventListener("load", draw);
  document.addEventListener("htmx:afterSwap", (event) => event.target.id === "overview-live" && renew());
})();
