(function () {
  "use strict";
  var root = document.documentElement;
  var themes = ["auto", "light", "dark"];
  var button = document.querySelector("[data-theme-button]");

  function stored() {
    try { return localStorage.getItem("mtpgraft-theme"); } catch (error) { return null; }
  }
  function apply(theme) {
    if (theme === "auto") { root.removeAttribute("data-theme"); } else { root.setAttribute("data-theme", theme); }
    button.textContent = "Theme: " + theme;
    try { localStorage.setItem("mtpgraft-theme", theme); } catch (error) { /* a page from a file may not store */ }
  }
  var current = themes.indexOf(stored());
  if (current < 0) { current = 0; }
  apply(themes[current]);
  button.hidden = false;
  button.addEventListener("click", function () {
    current = (current + 1) % themes.length;
    apply(themes[current]);
  });

  function byHand(element) {
    var range = document.createRange();
    range.selectNodeContents(element);
    var selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    try { return document.execCommand("copy"); } catch (error) { return false; }
  }
  document.querySelectorAll("[data-copy]").forEach(function (copy) {
    var source = copy.parentNode.querySelector("code");
    function say(copied) {
      copy.textContent = copied ? "Copied" : "Selected";
      setTimeout(function () { copy.textContent = "Copy"; }, 1600);
    }
    copy.hidden = false;
    copy.addEventListener("click", function () {
      if (navigator.clipboard && navigator.clipboard.writeText) {
        navigator.clipboard.writeText(source.textContent).then(
          function () { say(true); },
          function () { say(byHand(source)); }
        );
      } else {
        say(byHand(source));
      }
    });
  });
})();
