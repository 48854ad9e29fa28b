// Reads out the token under the pointer, or under the arrow keys where the map has the focus.
(() => {
  const select = (map, token) => {
    const old = map.querySelector("rect.current");
    if (old) old.classList.remove("current");
    map.querySelectorAll("g.current").forEach((link) => link.classList.remove("current"));
    token.classList.add("current");
    const index = token.dataset.token;
    map
      .querySelectorAll(`g[data-from="${index}"], g[data-to="${index}"]`)
      .forEach((link) => link.classList.add("current"));
    const readout = map.parentElement.querySelector(".readout");
    const title = token.querySelector("title");
    if (readout && title) readout.textContent = title.textContent;
  };
  document.addEventListener("pointerover", (event) => {
    const token = event.target.closest?.(".map rect[data-token]");
    if (token) select(token.closest(".map"), token);
  });
  document.addEventListener("keydown", (event) => {
    const map = event.target.closest?.(".map");
    if (!map) return;
    const columns = Number(map.dataset.columns);
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const current = map.querySelector("rect.current");
    const index = current ? Number(current.dataset.token) + steps[event.key] : 0;
    const next = map.querySelector(`rect[data-token="${index}"]`);
    if (next) select(map, next);
  });
})();
