// The page's drawings.

const SVG = "http://www.w3.org/2000/svg";

// Outlines on a grid of 24 by 24, stroked in the colour of the text.
const ICONS = {
  plus: "M12 5v14M5 12h14",
  close: "M6 6l12 12M18 6L6 18",
  menu: "M4 7h16M4 12h16M4 17h16",
  search: "M11 4a7 7 0 1 0 0 14a7 7 0 0 0 0-14M20 20l-4-4",
  send: "M12 19V5M6 11l6-6l6 6",
  stop: "M7 7h10v10H7z",
  more: "M4.8 12a.7.7 0 1 0 1.4 0a.7.7 0 1 0-1.4 0M11.3 12a.7.7 0 1 0 1.4 0a.7.7 0 1 0-1.4 0M17.8 12a.7.7 0 1 0 1.4 0a.7.7 0 1 0-1.4 0",
  pin: "M9 4h6l-1 6l3 3v2H7v-2l3-3zM12 15v5",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  edit: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  download: "M12 4v11M7 11l5 5l5-5M5 20h14",
  image: "M4 5h16v14H4zM4 16l5-5l4 4l3-3l4 4M9 9h.01",
  settings: "M4 8h9M17 8h3M15 6v4M4 16h3M11 16h9M9 14v4",
  down: "M12 5v14M6 13l6 6l6-6",
  left: "M15 6l-6 6l6 6",
  right: "M9 6l6 6l-6 6",
  retry: "M19 12a7 7 0 1 1-2-5M19 4v4h-4",
  fork: "M6 4v16M6 14c0-5 3-5 6-5h6M15 6l3 3l-3 3",
  check: "M5 12l5 5L19 7",
  key: "M8 11a4 4 0 1 0 0 8a4 4 0 0 0 0-8M11 12l8-8M16 7l3 3",
  help: "M12 3a9 9 0 1 0 0 18a9 9 0 0 0 0-18M9.7 9.500a2.4 2.4 0 1 1 3.3 2.300c-.7.3-1 .8-1 1.7M12 16.7v.01",
};

/** A drawing for the eye alone; the button around it has the words. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" })) {
    svg.setAttribute(key, value);
  }
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}
