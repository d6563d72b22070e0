// When the overview's live part may be exchanged: not while somebody reads with the keyboard inside it, nor in a tab
// that nobody sees.

window.overviewMayRefresh = () =>
  !document.hidden && !document.getElementById("overview-live")?.contains(document.activeElement);
