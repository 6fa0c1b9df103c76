// Runs before the first paint, so that a page whose colours were chosen does not flash in the other ones.
try {
  var chosen = localStorage.getItem("turnwire.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch (error) {
  // A browser that keeps nothing shows the colours of its system.
}
