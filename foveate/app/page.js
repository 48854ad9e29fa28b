// Reads out the token under the pointer, or under the arrow keys where the map has the focus, and
// tells screen readers which of Gradio's pictures are decoration.
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
  // The server refuses too large files as well; here the sentence says what to do about it.
  const refuse = (event, files) => {
    const limit = window.foveateMostBytes;
    const large = [...(files ?? [])].find((file) => file.size > limit);
    if (!large) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
    const sentence = document.createElement("p");
    sentence.className = "error";
    sentence.setAttribute("role", "alert");
    sentence.textContent =
      `the file has ${megabytes(large.size)} MB, above the limit of ${megabytes(limit)} MB; ` +
      "make it smaller, or start the playground with a larger --max-upload.";
    const panel = event.target.closest("[role=tabpanel]") ?? document;
    panel.querySelector(".mistakes .prose, .mistakes")?.replaceChildren(sentence);
    if (event.target.type === "file") event.target.value = "";
  };
  document.addEventListener("change", (event) => refuse(event, event.target.files), true);
  document.addEventListener("drop", (event) => refuse(event, event.dataTransfer?.files), true);

  const decorate = () => {
    for (const icon of document.querySelectorAll("svg:not([role]):not([aria-hidden])"))
      icon.setAttribute("aria-hidden", "true");
    for (const image of document.querySelectorAll("img:not([alt]), #carve-image img[alt='']"))
      image.alt = "the image to ask about";
  };
  new MutationObserver(decorate).observe(document, { childList: true, subtree: true });
  decorate();
})();
