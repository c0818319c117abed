"use strict";
// How things are written, and how they come to stand on the page: as text, never as HTML, for clients chose some of it.
const format = (() => {
  const SVG = "http://www.w3.org/2000/svg";

  function element(tag, text, className) {
    const made = document.createElement(tag);
    if (text !== undefined && text !== null) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function shape(tag, attributes, text) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // Set a text only if it is another one: what is selected stays so, and nothing is drawn anew.
  function say(node, text) {
    if (node.textContent !== text) node.textContent = text;
  }

  function seconds(value) {
    if (value === null || value === undefined) return "";
    if (value < 10) return value.toFixed(1) + " s";
    if (value < 120) return Math.round(value) + " s";
    if (value < 7200) return Math.round(value / 60) + " min";
    return value < 172800 ? Math.round(value / 3600) + " h" : Math.round(value / 86400) + " d";
  }

  function bytes(value) {
    if (value < 1024) return String(value);
    return value < 1048576 ? (value / 1024).toFixed(1) + " KiB" : (value / 1048576).toFixed(1) + " MiB";
  }

  // Three digits are enough to see, and 1234 is easier to read as 1 234 (with a narrow space that does not break).
  function count(value) {
    if (value === null || value === undefined) return "\u2013";
    if (value > 0 && value < 9.95) return String(Number(value.toPrecision(2)));
    return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, "\u202F");
  }

  // A time that something took, and its unit.
  function duration(value) {
    if (value === null || value === undefined) return ["\u2013", ""];
    if (value < 0.0995) return [String(Number((value * 1000).toPrecision(2))), "ms"];
    if (value < 0.9995) return [String(Math.round(value * 1000)), "ms"];
    return [value < 9.95 ? value.toFixed(1) : String(Math.round(value)), "s"];
  }

  function plural(number, one, many) {
    return `${count(number)} ${number === 1 ? one : many ?? one + "s"}`;
  }

  const two = (number) => String(number).padStart(2, "0");

  // The time of day here, of seconds since the epoch.
  function time(at, withSeconds = true) {
    const date = new Date(at * 1000);
    const minutes = `${two(date.getHours())}:${two(date.getMinutes())}`;
    return withSeconds ? `${minutes}:${two(date.getSeconds())}` : minutes;
  }

  function ago(span) {
    const whole = Math.max(0, Math.round(span));
    if (whole < 60) return `${whole} s ago`;
    return `${Math.floor(whole / 60)} min ${two(whole % 60)} s ago`;
  }

  return {element, shape, say, seconds, bytes, count, duration, plural, time, ago};
})();
