"use strict";
// Filters, search, sorting and the theme. Without it everything is shown, in the order it was chosen.
(function () {
  const root = document.documentElement;
  const themes = { system: "", light: "light", dark: "dark" };
  const button = document.getElementById("theme");
  button.hidden = false;
  button.addEventListener("click", function () {
    const names = Object.keys(themes);
    const label = button.querySelector("span");
    const next = names[(names.indexOf(label.textContent) + 1) % names.length];
    label.textContent = next;
    root.style.colorScheme = themes[next];
  });

  const controls = document.getElementById("controls");
  if (!controls) return;
  const list = document.getElementById("cards");
  const cards = Array.from(list.children);
  const shown = document.getElementById("shown");
  const none = document.getElementById("none");
  controls.hidden = false;
  controls.addEventListener("submit", function (event) { event.preventDefault(); });

  function filter() {
    const tag = controls.elements.tag.value;
    const words = controls.elements.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const card of cards) {
      const tagged = !tag || card.dataset.tags.split(" ").includes(tag);
      const found = words.every(function (word) { return card.dataset.search.includes(word); });
      card.hidden = !(tagged && found);
      count += card.hidden ? 0 : 1;
    }
    shown.textContent = count + " of " + cards.length + " shown";
    none.hidden = count > 0;
  }

  function sort() {
    const value = controls.elements.sort.value;
    const descending = value.startsWith("-");
    const key = value.replace("-", "");
    const sorted = cards.slice().sort(function (a, b) {
      const difference = Number(a.dataset[key]) - Number(b.dataset[key]);
      return (descending ? -difference : difference) || Number(a.dataset.order) - Number(b.dataset.order);
    });
    list.append(...sorted);
  }

  function colour() {
    document.body.className = controls.elements.colour.value + (controls.elements.numbers.checked ? " numbers" : "");
  }

  controls.elements.search.addEventListener("input", filter);
  controls.addEventListener("change", function () { filter(); sort(); colour(); });
  controls.reset(); // browsers keep the state of forms over a reload
  filter();
})();
