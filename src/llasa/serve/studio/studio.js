// Players, seeking, words that light up while they are heard, and the switch from a live sound to the whole one.
// All by delegation: the page's pieces come and go.
(() => {
  "use strict";
  const at = id => document.getElementById(id);
  const clock = s => `${Math.floor(s / 60)}:${(s % 60).toFixed(1).padStart(4, "0")}`;

  function buttons(sound) {
    for (const one of document.querySelectorAll(`[data-play="${sound.id}"]`)) {
      one.setAttribute("aria-pressed", String(!sound.paused));
      one.setAttribute("aria-label", one.getAttribute("aria-label").replace(/^\w+/, sound.paused ? "Play" : "Pause"));
    }
  }

  function toggle(sound) {
    if (!sound.paused) return sound.pause();
    for (const other of document.querySelectorAll("audio")) if (other !== sound) other.pause();
    if (sound.dataset.live && sound.ended) whole(sound);
    sound.play().catch(() => {});
  }

  function length(sound) {
    const seek = document.querySelector(`[data-seek="${sound.id}"]`);
    return seek ? Number(seek.max) : Number.isFinite(sound.duration) && !sound.dataset.live ? sound.duration : 0;
  }

  function show(sound) {
    const now = sound.currentTime, total = length(sound);
    const time = document.querySelector(`[data-time="${sound.id}"]`);
    if (time) time.textContent = total ? `${clock(now)} / ${clock(total)}` : clock(now);
    const sight = document.querySelector(`[data-sight="${sound.id}"]`);
    if (sight && total) {
      sight.style.setProperty("--at", `${Math.min(100, (100 * now) / total)}%`);
      const seek = sight.querySelector("input");
      seek.value = now;
      seek.setAttribute("aria-valuetext", `${now.toFixed(1)} of ${total.toFixed(1)} seconds`);
    }
    const words = document.querySelector(`[data-words="${sound.id}"]`);
    if (!words) return;
    for (const word of words.querySelectorAll("[data-s]"))
      word.classList.toggle("st-on", now > 0 && now >= Number(word.dataset.s) && now < Number(word.dataset.e) && !sound.ended);
  }

  // A live sound has no end that can be sought in: once all is made, the whole one takes its place.
  function whole(sound, seconds = 0, playing = false) {
    if (!sound.dataset.live) return;
    delete sound.dataset.live;
    sound.src = sound.dataset.final;
    sound.addEventListener("loadedmetadata", () => {
      sound.currentTime = seconds;
      if (playing) sound.play().catch(() => {});
    }, { once: true });
    sound.load();
  }

  function ready() {
    const sound = at("st-sound"), result = document.querySelector("[data-ready]");
    if (!sound || !result || !sound.dataset.live) return sound && show(sound);
    if (!(sound.dataset.final || "").includes(result.dataset.ready)) return;
    if (sound.ended || (sound.paused && sound.currentTime > 0)) whole(sound, sound.ended ? 0 : sound.currentTime);
    else if (sound.paused) whole(sound, 0, !sound.dataset.stopped);
    show(sound);
  }

  document.addEventListener("click", event => {
    const button = event.target.closest("[data-play]"), word = event.target.closest("[data-words] [data-s]");
    const scheme = event.target.closest("[data-scheme]");
    if (button) { const sound = at(button.dataset.play); sound.dataset.stopped = "1"; toggle(sound); }
    else if (word) seek(at(word.closest("[data-words]").dataset.words), Number(word.dataset.s), true);
    else if (scheme) setScheme(document.body.classList.contains("dark") ? "light" : "dark");
  });

  function seek(sound, seconds, play) {
    if (sound.dataset.live) return whole(sound, seconds, play || !sound.paused);
    sound.currentTime = seconds;
    if (play) sound.play().catch(() => {});
    show(sound);
  }

  document.addEventListener("input", event => {
    const slider = event.target.closest && event.target.closest("[data-seek]");
    if (slider) seek(at(slider.dataset.seek), Number(slider.value), false);
  });

  document.addEventListener("keydown", event => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      const speak = at("st-speak");
      if (speak && !speak.disabled) { event.preventDefault(); speak.click(); }
    }
  });

  for (const name of ["play", "pause", "ended"])
    document.addEventListener(name, event => {
      if (event.target.tagName !== "AUDIO") return;
      buttons(event.target); show(event.target);
      if (name === "ended" && document.querySelector("[data-ready]")) ready();
      if (name === "play") requestAnimationFrame(() => tick(event.target));
    }, true);
  document.addEventListener("loadedmetadata", event => event.target.tagName === "AUDIO" && show(event.target), true);

  function tick(sound) {  // timeupdate comes four times a second, too seldom for words
    show(sound);
    if (!sound.paused && sound.isConnected) requestAnimationFrame(() => tick(sound));
  }

  function begun(sound) {  // a player that has just come begins by itself, if its sound is being made
    if (sound.dataset.live && !sound.dataset.begun) {
      sound.dataset.begun = "1";
      sound.play().catch(() => {});
      const stage = at("st-stage");  // on a phone it is below what one has written
      if (stage && stage.getBoundingClientRect().top > innerHeight * 0.7)
        stage.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    }
  }

  let last = null, lastReady = null;
  new MutationObserver(() => {
    const sound = at("st-sound"), result = document.querySelector("[data-ready]"), status = at("st-status");
    if (status && !status.role) status.setAttribute("role", "status");  // told by screen readers as it changes
    if (sound && sound !== last) { last = sound; begun(sound); }
    if (result !== lastReady) { lastReady = result; ready(); }
  }).observe(document.documentElement, { childList: true, subtree: true });

  function setScheme(name) {
    document.body.classList.toggle("dark", name === "dark");
    try { localStorage.setItem("llasa-scheme", name); } catch (error) { /* it is not kept then */ }
  }
  let kept = null;
  try { kept = localStorage.getItem("llasa-scheme"); } catch (error) { /* as the system has it */ }
  if (kept) {
    const apply = () => document.body && setScheme(kept);
    apply();
    window.addEventListener("load", () => setTimeout(apply, 0));
  }
  document.documentElement.lang = "en";
})();
