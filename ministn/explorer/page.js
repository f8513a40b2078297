// The page only draws: whatever is computed comes from ministn, at /look. State goes out, an answer comes in, all is drawn anew.
"use strict";

const $ = (id) => document.getElementById(id);
const token = document.querySelector('meta[name="token"]').content;
const SIDE = 28, MARGIN = 0.22; // pixels of a digit; what is shown around the input, in input sizes
const FLAT = 0.005; // a slope that is shown as none
const OUTSIDE = "#3a3f47"; // behind the input, as in page.css
const COLOURS = Object.fromEntries(["grid", "top", "chosen", "tap0", "tap1", "tap2", "tap3"].map(
  (name) => [name, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`)]));
const NAMES = { // of the parameters; null: the 1 in the corner of a projective matrix
  affine: ["11", "12", "13", "21", "22", "23"],
  projective: ["11", "12", "13", "21", "22", "23", "31", "32", null],
};

let start; // what /start said
let answer; // the last one
const state = { image: null, turn: 0, by: "hand", transform: "affine", parameters: {}, pixel: [14, 14] };

// --- asking -----------------------------------------------------------------------------------------------------

async function post(path, body) {
  let response;
  try {
    response = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Ministn-Token": token },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Error("No answer: does python -m ministn explore still run?");
  }
  const json = await response.json();
  if (!response.ok) throw new Error(json.error);
  return json;
}

let asking = false, changed = false;

async function look() { // one question at a time; of those that come meanwhile, only the latest is asked
  changed = true;
  if (asking) return;
  asking = true;
  while (changed) {
    changed = false;
    const { image, turn, by, transform, parameters, pixel } = state;
    try {
      answer = await post("look", { image, turn: [turn], by, transform, parameters: parameters[transform], pixel });
      $("error").hidden = true;
      show();
    } catch (error) {
      $("error").textContent = error.message;
      $("error").hidden = false;
    }
  }
  asking = false;
}

// --- small parts ------------------------------------------------------------------------------------------------

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const number = (value, digits = 2) => value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1").replace("-", "−");
const signed = (value, digits = 2) => (number(value, digits)[0] === "−" ? "" : "+") + number(value, digits);

function bitmap(pixels, size) {
  const canvas = element("canvas", { width: size, height: size });
  const image = new ImageData(size, size);
  pixels.forEach((value, k) => image.data.set([value, value, value, 255], 4 * k));
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// A context in pixels of the picture, 0 in the middle of the first one; `edge` is the left and upper edge of what is shown.
function paper(canvas, edge, across) {
  const width = Math.round(canvas.clientWidth * devicePixelRatio);
  if (canvas.width !== width) canvas.width = canvas.height = width;
  const context = canvas.getContext("2d"), scale = width / across;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, width, width);
  context.setTransform(scale, 0, 0, scale, -edge * scale, -edge * scale);
  context.imageSmoothingEnabled = false;
  context.dot = devicePixelRatio / scale; // one CSS pixel
  return context;
}

function paint(context, { size, pixels }) {
  context.drawImage(bitmap(pixels, size), -0.5, -0.5, size, size);
}

function path(context, points, colour, width) {
  context.beginPath();
  let pen = false;
  for (const point of points) {
    if (point) context[pen ? "lineTo" : "moveTo"](...point);
    pen = Boolean(point);
  }
  context.strokeStyle = colour;
  context.lineWidth = width * context.dot;
  context.stroke();
}

function arrow(context, [x, y], [dx, dy]) { // with a dot at (x, y); longer where the slope is steeper
  const length = Math.hypot(dx, dy), dot = context.dot;
  context.fillStyle = COLOURS.chosen;
  context.beginPath();
  context.arc(x, y, 4.5 * dot, 0, 7);
  context.fill();
  context.strokeStyle = "white";
  context.lineWidth = dot;
  context.stroke();
  if (length < FLAT) return;
  const long = (16 + 34 * Math.min(length, 1)) * dot, u = dx / length, v = dy / length, head = 7 * dot;
  const tip = [x + u * long, y + v * long];
  path(context, [[x, y], [tip[0] - u * head, tip[1] - v * head]], COLOURS.chosen, 3);
  context.beginPath();
  context.moveTo(...tip);
  context.lineTo(tip[0] - u * head - v * head * 0.7, tip[1] - v * head + u * head * 0.7);
  context.lineTo(tip[0] - u * head + v * head * 0.7, tip[1] - v * head - u * head * 0.7);
  context.fill();
}

// --- showing an answer ------------------------------------------------------------------------------------------

function show() {
  showInput();
  showOutput();
  showTheta();
  showReading();
  showPixel();
}

function showInput() {
  const { input, lines, grid, pixel } = answer, size = input.size;
  const context = paper($("input"), -0.5 - MARGIN * size, size * (1 + 2 * MARGIN));
  paint(context, input);
  context.strokeStyle = "#ffffff70";
  context.lineWidth = context.dot;
  context.strokeRect(-0.5, -0.5, size, size);
  context.fillStyle = COLOURS.grid;
  const dot = 1.4 * context.dot;
  for (const point of grid) if (point) context.fillRect(point[0] - dot / 2, point[1] - dot / 2, dot, dot);
  for (const line of lines) path(context, line, COLOURS.grid + "d0", 1);
  path(context, lines[0], COLOURS.top, 3);
  if (answer.transform === "tps") { // the gradient at each control point, the longest 40 CSS pixels long
    const scale = 40 * context.dot / Math.max(...pixel.gradient.map(Math.abs), 0.1);
    for (let k = 0; k < pixel.gradient.length; k += 2) {
      const at = [0, 1].map((axis) => ((answer.parameters[k + axis] + 1) * size - 1) / 2);
      path(context, [at, at.map((place, axis) => place + scale * pixel.gradient[k + axis])], COLOURS.chosen, 2);
    }
  }
  arrow(context, pixel.at, pixel.slope);
}

function showOutput() {
  const { output, pixel } = answer;
  const context = paper($("output"), -0.5, output.size), { row, column } = pixel;
  paint(context, output);
  path(context, [[-0.5, -0.42], [output.size - 0.5, -0.42]], COLOURS.top, 3);
  for (const [colour, width] of [["white", 4], [COLOURS.chosen, 2]]) {
    context.strokeStyle = colour;
    context.lineWidth = width * context.dot;
    context.strokeRect(column - 0.5, row - 0.5, 1, 1);
  }
}

function showTheta() {
  const { transform, angle, pixel } = answer;
  if ($("theta").dataset.transform !== transform) buildControls(transform);
  const own = state.by === "hand" && state.transform === transform; // then a hand may be further than the answer
  const parameters = own ? state.parameters[transform] : answer.parameters;
  if (transform === "tps") {
    const places = $("points").children, size = answer.input.size, across = 1 + 2 * MARGIN;
    for (let k = 0; k < places.length; k++) {
      const [x, y] = parameters.slice(2 * k, 2 * k + 2);
      places[k].style.left = `${100 * ((x + 1) / 2 + MARGIN) / across}%`;
      places[k].style.top = `${100 * ((y + 1) / 2 + MARGIN) / across}%`;
      places[k].setAttribute("aria-label", `Control point ${k + 1}: x ${number(x)}, y ${number(y)}; ` +
        `gradient ${signed(pixel.gradient[2 * k])}, ${signed(pixel.gradient[2 * k + 1])}`);
    }
  } else {
    parameters.forEach((value, k) => {
      const slider = $(`theta${k}`);
      slider.value = value;
      slider.previousElementSibling.textContent = number(value);
      slider.nextElementSibling.textContent = `∂V/∂θ ${signed(pixel.gradient[k])}`;
    });
  }
  $("hint").textContent = state.by === "network"
    ? "The network has looked at the input and answered this θ" +
      (angle === null ? ". " : `, which turns the grid by ${number(angle, 0)}°. `) + `Move a ${transform === "tps" ? "point" : "number"} to take over.`
    : transform === "tps" ? "Drag the blue points, or move them with the arrow keys: the grid bends like a thin sheet of metal."
    : "Below each number: how fast the chosen output pixel V gets brighter with it.";
}

function showReading() {
  const { probabilities } = answer;
  if (!probabilities) return;
  const best = probabilities.indexOf(Math.max(...probabilities));
  $("read").replaceChildren(`The trained network reads this as `, element("strong", { textContent: best }),
    `, ${(100 * probabilities[best]).toFixed(0)} % sure.`);
  [...$("bars").children].forEach((bar, digit) => {
    bar.classList.toggle("best", digit === best);
    bar.querySelector(".bar").style.height = `${100 * probabilities[digit]}%`;
  });
}

function showPixel() {
  const { row, column, value, at, taps, slope, gradient, target } = answer.pixel;
  for (const [id, place] of [["row", row], ["column", column]]) {
    if (document.activeElement !== $(id)) $(id).value = place;
  }
  $("formula").replaceChildren(element("i", { textContent: "V" }), ` [${row}, ${column}]  =  `, ...taps.flatMap((tap, k) => [
    k ? " + " : "", element("span", { className: `tap tap${k}`, textContent: `${number(tap.weight)} · ${number(tap.value)}` }),
  ]), `  =  ${number(value, 3)}`);
  const outside = taps.filter((tap) => !tap.inside).length;
  $("pulls").textContent = `It looks at x = ${number(at[0])}, y = ${number(at[1])} and mixes the four pixels around: weight · value, ` +
    "the nearer, the heavier. A weight is also the gradient ∂V/∂U of that pixel U; all others have none." +
    (outside ? ` ${["One", "Two", "Three", "All four"][outside - 1]} of the four lie outside the input.` : "");
  $("slope").textContent = `∂V/∂x = ${signed(slope[0])}, ∂V/∂y = ${signed(slope[1])} per input pixel. ` +
    (Math.hypot(...slope) < FLAT ? "All is flat here: to move changes nothing, so nothing is learned." : "The arrow points that way.");
  const axis = Math.abs(slope[1]) > Math.abs(slope[0]) ? 1 : 0; // the example of the chain rule is that of the steeper one
  const [name, theta] = [["x", "θ₁₁"], ["y", "θ₂₂"]][axis];
  $("chain").textContent = answer.transform === "affine"
    ? `It moves the point, and the slope does the rest. Here at ${name}ₜ = ${number(target[axis])} of the output, and with ${name} in half ` +
      `${["widths", "heights"][axis]}: ∂V/∂${theta} = ∂V/∂${name} · ${name}ₜ = ${signed(gradient[3 * axis + 2])} · ${number(target[axis])} = ${signed(gradient[4 * axis])}.`
    : answer.transform === "tps" ? "Each control point moves the point, a near one most. The lines at the blue points are ∂V/∂(point): follow them, and V gets brighter."
    : "Each number moves the point, and the slope does the rest: ∂V/∂θ stands below it.";
  showLens();
}

function showLens() { // four by four input pixels, and the weights of the middle ones
  const { input, pixel } = answer, [left, top] = pixel.at.map((place) => Math.floor(place) - 1);
  const context = paper($("lens"), -0.5, 4);
  for (let row = 0; row < 4; row++) {
    for (let column = 0; column < 4; column++) {
      const r = top + row, c = left + column, value = input.pixels[r * input.size + c];
      const inside = r >= 0 && r < input.size && c >= 0 && c < input.size;
      context.fillStyle = inside ? `rgb(${value} ${value} ${value})` : OUTSIDE;
      context.fillRect(column - 0.49, row - 0.49, 0.98, 0.98);
    }
  }
  const places = [[1, 1], [2, 1], [1, 2], [2, 2]]; // of the taps
  context.lineWidth = 0.08;
  places.forEach(([column, row], k) => {
    context.strokeStyle = COLOURS[`tap${k}`];
    context.strokeRect(column - 0.45, row - 0.45, 0.9, 0.9);
  });
  arrow(context, [pixel.at[0] - left, pixel.at[1] - top], pixel.slope);
  Object.assign(context, { font: "0.28px system-ui, sans-serif", textAlign: "center", lineJoin: "round", lineWidth: 0.08 });
  places.forEach(([column, row], k) => {
    const at = [number(pixel.taps[k].weight), column, row + (k < 2 ? -0.2 : 0.4)];
    context.strokeStyle = "black";
    context.strokeText(...at);
    context.fillStyle = "white";
    context.fillText(...at);
  });
}

// --- what can be moved ------------------------------------------------------------------------------------------

const choice = (value) => document.querySelector(`input[name="choice"][value="${value}"]`);

function takeOver(transform, change) { // from the network with the numbers that it has answered, or go on with one's own
  if (state.by === "network" && answer.transform === transform) state.parameters[transform] = [...answer.parameters];
  state.by = "hand";
  state.transform = transform;
  choice(transform).checked = true;
  change(state.parameters[transform]);
  look();
}

function buildControls(transform) {
  $("theta").dataset.transform = transform;
  $("theta").replaceChildren();
  $("points").replaceChildren();
  $("examples").replaceChildren(...Object.entries(start.examples[transform]).map(([name, parameters]) =>
    element("button", { textContent: name, onclick: () => takeOver(transform, (mine) => mine.splice(0, mine.length, ...parameters)) })));
  if (transform === "tps") {
    for (let k = 0; k < start.examples.tps.identity.length / 2; k++) $("points").append(controlPoint(k));
    return;
  }
  let k = 0;
  for (const name of NAMES[transform]) {
    if (name === null) {
      $("theta").append(element("label", { textContent: "1" }));
      continue;
    }
    const place = k++, reach = name[0] === "3" ? 0.8 : 1.5;
    const slider = element("input", {
      type: "range", id: `theta${place}`, min: -reach, max: reach, step: 0.01,
      oninput: (event) => takeOver(transform, (mine) => { mine[place] = Number(event.target.value); }),
    });
    slider.setAttribute("aria-label", `theta ${name[0]} ${name[1]}`);
    $("theta").append(element("label", {}, element("i", { textContent: "θ" }), element("sub", { textContent: name }), " = ",
      element("span"), slider, element("span", { className: "gradient" })));
  }
}

function controlPoint(k) {
  const move = (x, y) => takeOver("tps", (mine) => {
    mine[2 * k] = Math.min(Math.max(x, -1.4), 1.4);
    mine[2 * k + 1] = Math.min(Math.max(y, -1.4), 1.4);
  });
  const button = element("button");
  let held = false;
  button.onpointerdown = (event) => { held = true; button.setPointerCapture(event.pointerId); };
  button.onpointerup = button.onpointercancel = () => { held = false; };
  button.onpointermove = (event) => {
    if (!held) return;
    const box = $("input").getBoundingClientRect();
    const at = (position, from, length) => 2 * ((position - from) / length * (1 + 2 * MARGIN) - MARGIN) - 1;
    move(at(event.clientX, box.left, box.width), at(event.clientY, box.top, box.height));
  };
  button.onkeydown = (event) => {
    const step = { ArrowLeft: [-0.05, 0], ArrowRight: [0.05, 0], ArrowUp: [0, -0.05], ArrowDown: [0, 0.05] }[event.key];
    if (!step) return;
    event.preventDefault();
    const [x, y] = (state.by === "hand" ? state.parameters.tps : answer.parameters).slice(2 * k, 2 * k + 2);
    move(x + step[0], y + step[1]);
  };
  return button;
}

// --- the digit --------------------------------------------------------------------------------------------------

const sheet = element("canvas", { width: SIDE, height: SIDE }); // what is drawn on, pixel by pixel
const pencil = sheet.getContext("2d", { willReadFrequently: true });
let picked = true; // so that the first stroke begins on an empty sheet
let set = 0; // which of the digits to pick from are shown

function showDigit() {
  paint(paper($("draw"), -0.5, SIDE), { size: SIDE, pixels: state.image });
}

function setDigit(image) {
  picked = true;
  state.image = image;
  pencil.drawImage(bitmap(image, SIDE), 0, 0);
  showDigit();
  return look();
}

function showDigits() {
  $("digits").title = start.source;
  $("digits").replaceChildren(...start.digits.map((images, digit) => {
    const button = element("button", { onclick: () => setDigit(images[set]) }, bitmap(images[set], SIDE));
    button.setAttribute("aria-label", `Digit ${digit}`);
    return button;
  }));
}

function drawing() {
  let last = null;
  const place = (event) => {
    const box = $("draw").getBoundingClientRect();
    return [(event.clientX - box.left) / box.width * SIDE, (event.clientY - box.top) / box.height * SIDE];
  };
  const stroke = (to) => {
    pencil.beginPath();
    pencil.moveTo(...last);
    pencil.lineTo(to[0] + 0.01, to[1]); // a line of no length would leave no dot
    pencil.lineWidth = 2.4;
    pencil.lineCap = "round";
    pencil.strokeStyle = "white";
    pencil.stroke();
    last = to;
    state.image = [...pencil.getImageData(0, 0, SIDE, SIDE).data].filter((_, k) => k % 4 === 0); // red of r g b a
    showDigit();
    look();
  };
  $("draw").onpointerdown = (event) => {
    $("draw").setPointerCapture(event.pointerId);
    if (picked) wipe();
    last = place(event);
    stroke(last);
  };
  $("draw").onpointermove = (event) => { if (last) stroke(place(event)); };
  $("draw").onpointerup = $("draw").onpointercancel = () => { last = null; };
}

function wipe() {
  picked = false;
  pencil.fillStyle = "black";
  pencil.fillRect(0, 0, SIDE, SIDE);
  state.image = Array(SIDE * SIDE).fill(0);
}

function setTurn(degrees) {
  state.turn = degrees;
  $("turn").value = degrees;
  $("turned").textContent = `${number(degrees, 0)}°`;
  look();
}

function swing() { // left and right, until it is pressed again or the slider is moved
  const on = $("swing").getAttribute("aria-pressed") !== "true";
  $("swing").setAttribute("aria-pressed", on);
  const began = performance.now() - 2000 / Math.PI * Math.asin(Math.max(-1, Math.min(1, state.turn / 75)));
  const step = (now) => {
    if ($("swing").getAttribute("aria-pressed") !== "true") return;
    setTurn(Math.round(75 * Math.sin((now - began) * Math.PI / 2000)));
    requestAnimationFrame(step);
  };
  if (on) requestAnimationFrame(step);
}

// --- the output pixel -------------------------------------------------------------------------------------------

function setPixel(row, column) {
  const inside = (place) => Math.min(Math.max(Math.trunc(place) || 0, 0), start.outputSize - 1);
  state.pixel = [inside(row), inside(column)];
  look();
}

function choosing() {
  const choosePlace = (event) => {
    const box = $("output").getBoundingClientRect();
    setPixel((event.clientY - box.top) / box.height * start.outputSize, (event.clientX - box.left) / box.width * start.outputSize);
  };
  $("output").onpointerdown = (event) => { $("output").setPointerCapture(event.pointerId); choosePlace(event); };
  $("output").onpointermove = (event) => { if (event.buttons) choosePlace(event); };
  $("output").onkeydown = (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    setPixel(state.pixel[0] + step[0], state.pixel[1] + step[1]);
  };
  for (const id of ["row", "column"]) {
    $(id).max = start.outputSize - 1;
    $(id).oninput = () => setPixel($("row").value, $("column").value);
  }
}

// --- beginning --------------------------------------------------------------------------------------------------

async function begin() {
  start = await post("start", {});
  for (const [transform, examples] of Object.entries(start.examples)) state.parameters[transform] = [...examples.identity];
  if (start.network) {
    choice("network").disabled = false;
    choice("network").checked = true;
    choice("network").parentElement.append(element("span", { className: "small", textContent: ` (${start.network})` }));
    state.by = "network";
    $("bars").hidden = false;
    $("bars").append(...start.digits.map((_, digit) => element("div", {},
      element("div", { className: "track" }, element("div", { className: "bar" })), `${digit}`)));
  } else {
    state.parameters.affine = [...start.examples.affine.turn];
    $("read").append("No trained network yet. Train one, which takes two minutes, and start again with its folder RUN:",
      element("code", { textContent: "python examples/train_mnist.py" }),
      element("code", { textContent: "python -m ministn explore RUN" }));
  }
  for (const radio of document.querySelectorAll('input[name="choice"]')) {
    radio.onchange = () => {
      state.by = radio.value === "network" ? "network" : "hand";
      if (state.by === "hand") state.transform = radio.value;
      look();
    };
  }
  $("clear").onclick = () => { wipe(); showDigit(); look(); };
  $("more").onclick = () => { set = (set + 1) % start.digits[0].length; showDigits(); };
  $("swing").onclick = swing;
  $("turn").oninput = (event) => {
    $("swing").setAttribute("aria-pressed", false);
    setTurn(Number(event.target.value));
  };
  showDigits();
  drawing();
  choosing();
  const shown = setDigit(start.digits[7][0]);
  if (start.network) setTurn(45);
  new ResizeObserver(() => { showDigit(); if (answer) show(); }).observe(document.querySelector("main"));
  await shown;
  const grey = answer.output.pixels.map((value) => Math.abs(value - 140)); // most so at an edge, where there is a slope
  const place = grey.indexOf(Math.min(...grey));
  setPixel(place / start.outputSize, place % start.outputSize);
  document.body.dataset.ready = "yes";
}

begin().catch((error) => {
  $("error").textContent = error.message;
  $("error").hidden = false;
});
