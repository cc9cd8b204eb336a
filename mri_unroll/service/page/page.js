// The page of the service: sends files, watches jobs, shows results. No library, nothing from elsewhere.
"use strict";

const $ = (id) => document.getElementById(id);
const PIECE = 8 * 2 ** 20; // bytes a request; a piece that is lost is sent again
let token = sessionStorage.getItem("token") || "";
let stopped = false;
let shown = null; // what the viewer shows: {job, shape, volumes, data, window, level, slice}

// --- talking to the service

async function ask(path, options = {}) {
  const headers = { ...(options.headers || {}), Authorization: `Bearer ${token}` };
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  let said = { message: `The service answered ${answer.status}.`, hint: "" };
  try { said = (await answer.json()).error; } catch { /* the status says it */ }
  const error = new Error(`${said.message} ${said.hint || ""}`.trim());
  error.status = answer.status;
  if (answer.status === 401) leave();
  throw error;
}

const get = async (path) => (await ask(path)).json();

function tell(error) {
  $("trouble").textContent = error ? error.message || String(error) : "";
  $("trouble").hidden = !error;
}

const safely = (work) => async (...values) => {
  try { tell(null); await work(...values); } catch (error) { tell(error); }
};

// --- coming and going

async function enter() {
  const methods = await get("/v1/methods");
  $("method").replaceChildren(new Option("default", ""), ...methods.map((one) => new Option(one.name, one.name)));
  sessionStorage.setItem("token", token);
  $("login").hidden = true;
  $("inside").hidden = $("leave").hidden = false;
  await refresh();
}

function leave() {
  sessionStorage.removeItem("token");
  token = "";
  shown = null;
  $("token").value = "";
  $("inside").hidden = $("leave").hidden = $("viewer").hidden = true;
  $("login").hidden = false;
}

// --- sending

async function send(file) {
  stopped = false;
  $("sending").hidden = false;
  let upload = null;
  try {
    // A file that was begun before goes on where it stopped, if its name and what has come fit.
    const begun = (await get("/v1/uploads")).find((one) => !one.complete && one.name === plain(file.name));
    const fits = begun && begun.received <= file.size && sessionStorage.getItem(`size ${begun.upload}`) === String(file.size);
    let offset = fits ? begun.received : 0;
    upload = fits ? begun.upload : null;
    for (let tries = 0; offset < file.size || !upload; ) {
      if (stopped) return;
      $("sent").value = offset / file.size;
      $("sent-text").textContent = `${(offset / 1e6).toFixed(1)} of ${(file.size / 1e6).toFixed(1)} MB`;
      const end = Math.min(offset + PIECE, file.size);
      const last = end === file.size ? "" : "&more=true";
      const name = encodeURIComponent(file.name);
      const path = upload ? `/v1/uploads/${upload}?offset=${offset}${last}` : `/v1/uploads?name=${name}${last}`;
      try {
        const got = await (await ask(path, { method: "PUT", body: file.slice(offset, end) })).json();
        upload = got.upload;
        sessionStorage.setItem(`size ${upload}`, String(file.size));
        offset = got.received;
        tries = 0;
      } catch (error) {
        if (error.status || ++tries > 5) throw error; // the service said no; or the network stays away
        await new Promise((wake) => setTimeout(wake, 1000 * tries));
        if (upload) offset = (await get(`/v1/uploads/${upload}`)).received;
      }
    }
    const options = {};
    if ($("method").value && $("mode").value !== "restore") options.method = $("method").value;
    if ($("accelerate").value) options.accelerate = Number($("accelerate").value);
    if ($("mode").value) options.mode = $("mode").value;
    if ($("mode").value === "restore") {
      options.psf = `gaussian:${Number($("fwhm").value)}`;
      delete options.accelerate;
    }
    const body = JSON.stringify({ upload, options });
    await ask("/v1/jobs", { method: "POST", body, headers: { "Content-Type": "application/json" } });
    await refresh();
  } finally {
    $("sending").hidden = true;
    $("file").value = "";
  }
}

const plain = (name) => name.replace(/[^\w.+ -]/g, "_").replace(/^[ .]+|[ .]+$/g, "").slice(-120) || "scan";

// --- jobs

const watched = new Map(); // job: its line

async function refresh() {
  const jobs = await get("/v1/jobs");
  const lines = jobs.map((job) => {
    const line = watched.get(job.job) || newLine(job);
    update(line, job);
    return line;
  });
  for (const id of watched.keys()) if (!jobs.some((job) => job.job === id)) watched.delete(id);
  $("jobs").replaceChildren(...lines);
  $("no-jobs").hidden = jobs.length > 0;
}

function newLine(job) {
  const line = $("job").content.cloneNode(true).firstElementChild;
  watched.set(job.job, line);
  line.querySelector(".open").onclick = safely(() => view(line.job));
  line.querySelector(".cancel").onclick = safely(async () => {
    update(line, await (await ask(`/v1/jobs/${job.job}/cancel`, { method: "POST" })).json());
  });
  line.querySelector(".delete").onclick = safely(async () => {
    await ask(`/v1/jobs/${job.job}`, { method: "DELETE" });
    if (shown && shown.job === job.job) { shown = null; $("viewer").hidden = true; }
    await refresh();
  });
  if (job.state === "queued" || job.state === "running") watch(job.job, line);
  return line;
}

function update(line, job) {
  line.job = job;
  const running = job.state === "queued" || job.state === "running";
  const open = line.querySelector(".open");
  open.textContent = `${job.name}${job.options.method ? `, ${job.options.method}` : ""}`;
  open.disabled = job.state !== "done";
  line.querySelector(".state").textContent = job.state === "running" && job.stage ? job.stage : job.state;
  const bar = line.querySelector("progress");
  bar.hidden = !running;
  bar.max = job.total || 1;
  if (job.total) bar.value = job.done; else bar.removeAttribute("value");
  line.querySelector(".cancel").hidden = !running;
  line.querySelector(".delete").hidden = running;
  const reason = line.querySelector(".reason");
  reason.hidden = !job.error;
  reason.textContent = job.error ? `${job.error.message} ${job.error.hint}` : "";
}

async function watch(id, line) {
  // EventSource cannot send a token, so that the stream is read by hand.
  try {
    const reader = (await ask(`/v1/jobs/${id}/events`)).body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      const parts = text.split("\n\n");
      text = parts.pop();
      for (const part of parts) {
        const data = part.split("\n").find((row) => row.startsWith("data: "));
        if (data && part.startsWith("event: job")) update(line, JSON.parse(data.slice(6)));
      }
    }
  } catch (error) {
    if (token && watched.get(id) === line) setTimeout(() => watch(id, line), 3000); // the service may be starting anew
  }
}

// --- the viewer

async function view(job) {
  const base = `/v1/jobs/${job.job}/result`;
  const [about, sidecar, files] = [await get(`${base}/viewer`), await get(`${base}/sidecar`), await get(base)];
  const [slices] = about.shape;
  shown = { job: job.job, base, ...about, data: new Map(), slice: Math.floor(slices / 2) };
  resetWindow();
  $("viewer-title").textContent = `Result of ${job.name}`;
  const residual = sidecar.data_residual_median ?? median(sidecar.data_residual || []);
  const short = (value) => Number(value).toPrecision(2);
  const predicted = sidecar.predicted
    ? `NMSE ${short(sidecar.predicted.nmse)} (${short(sidecar.predicted.low)} to ${short(sidecar.predicted.high)})` : "not predicted";
  const facts = [["Method", sidecar.method], ["Size", about.shape.join(" x ")],
    ["Data residual", residual === null ? "not judged" : Number(residual).toPrecision(3)],
    ["Predicted error", predicted], ["Verdict", sidecar.verdict || "none"]];
  if (sidecar.metrics) facts.push(["Against the reference", `SSIM ${sidecar.metrics.ssim.toFixed(3)}, PSNR ${sidecar.metrics.psnr.toFixed(1)} dB`]);
  $("facts").replaceChildren(...facts.map(([name, value]) => {
    const pair = document.createElement("div");
    const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
    [dt.textContent, dd.textContent] = [name, value];
    pair.append(dt, dd);
    return pair;
  }));
  $("warnings").replaceChildren(...[...(sidecar.advice || []), ...(sidecar.warnings || [])].map((text) => {
    const item = document.createElement("li");
    item.textContent = text;
    return item;
  }));
  $("slice").max = slices - 1;
  $("slice").value = shown.slice;
  const compares = about.volumes.length > 1;
  $("compare-label").hidden = !compares;
  $("compare").value = compares ? 50 : 0;
  $("left-name").textContent = compares ? (sidecar.mode ? "source" : "zero-filled") : "";
  $("right-name").textContent = compares ? sidecar.method : "";
  $("downloads").replaceChildren(...["h5", "nifti", "dicom.zip", "report", "preview", "sidecar"].filter((kind) => kind in files).map((kind) => {
    const button = document.createElement("button");
    button.textContent = kind;
    button.onclick = safely(() => download(kind));
    return button;
  }));
  $("viewer").hidden = false;
  await draw();
  $("viewer").scrollIntoView({ behavior: "smooth" });
}

const median = (values) => {
  const known = values.filter((value) => value !== null).sort((a, b) => a - b);
  return known.length ? known[Math.floor(known.length / 2)] : null;
};

async function plane(volume, slice) {
  const key = `${volume} ${slice}`;
  if (!shown.data.has(key)) {
    const [slices, height, width] = shown.shape;
    const size = 2 * height * width;
    const first = (volume * slices + slice) * size;
    const headers = { Range: `bytes=${first}-${first + size - 1}` };
    const answer = await ask(`${shown.base}/viewer.bin`, { headers });
    if (shown.data.size > 64) shown.data.clear();
    shown.data.set(key, new Uint16Array(await answer.arrayBuffer()));
  }
  return shown.data.get(key);
}

async function draw() {
  const now = shown;
  if (!now) return;
  const slice = now.slice;
  const [slices, height, width] = now.shape;
  const compares = now.volumes.length > 1;
  const result = await plane(0, slice);
  const before = compares ? await plane(1, slice) : result;
  if (shown !== now || now.slice !== slice) return; // another slice was asked for meanwhile
  const cut = compares ? Math.round((width * $("compare").value) / 100) : 0;
  const [low, range] = [(now.level - now.width / 2) * 65535, now.width * 65535];
  const picture = new ImageData(width, height);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const grey = (255 * ((x < cut ? before : result)[at] - low)) / range;
      picture.data[4 * at] = picture.data[4 * at + 1] = picture.data[4 * at + 2] = grey;
      picture.data[4 * at + 3] = 255;
    }
  }
  $("canvas").width = width;
  $("canvas").height = height;
  $("canvas").getContext("2d").putImageData(picture, 0, 0);
  $("line").hidden = !compares;
  $("line").style.left = `${(100 * cut) / width}%`;
  $("slice").value = slice;
  $("slice-text").textContent = `${slice + 1} of ${slices}`;
}

function resetWindow() {
  const [low, high] = shown.window;
  shown.width = Math.max(high - low, 1e-3);
  shown.level = (low + high) / 2;
}

function turn(steps) {
  if (!shown) return;
  shown.slice = Math.min(Math.max(shown.slice + steps, 0), shown.shape[0] - 1);
  draw().catch(tell);
}

function widen(factor, shift = 0) {
  if (!shown) return;
  shown.width = Math.min(Math.max(shown.width * factor, 1e-3), 4);
  shown.level = Math.min(Math.max(shown.level + shift, -1), 2);
  draw().catch(tell);
}

async function download(kind) {
  const answer = await ask(`${shown.base}/${kind}`);
  const found = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") || "");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = found ? found[1] : kind;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// --- what people do

$("login").onsubmit = safely(async (event) => { event.preventDefault(); token = $("token").value.trim(); await enter(); });
$("leave").onclick = leave;
$("file").onchange = safely(async () => { if ($("file").files[0]) await send($("file").files[0]); });
$("stop").onclick = () => { stopped = true; };
$("mode").onchange = () => { $("psf-label").hidden = $("mode").value !== "restore"; };
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
  });
}
document.addEventListener("drop", safely(async (event) => {
  if (!token || $("inside").hidden) throw new Error("Log in first.");
  if (event.dataTransfer.files[0]) await send(event.dataTransfer.files[0]);
}));
$("slice").oninput = () => turn(Number($("slice").value) - shown.slice);
$("compare").oninput = () => draw().catch(tell);
$("reset").onclick = () => { resetWindow(); draw().catch(tell); };
$("stage").addEventListener("wheel", (event) => { event.preventDefault(); turn(Math.sign(event.deltaY)); }, { passive: false });
$("stage").addEventListener("pointermove", (event) => {
  if (event.buttons & 1) widen(Math.exp(event.movementX / 150), -event.movementY / 400);
});
$("stage").addEventListener("keydown", (event) => {
  const compare = (step) => { $("compare").value = Number($("compare").value) + step; draw().catch(tell); };
  const does = { ArrowUp: () => turn(1), ArrowDown: () => turn(-1), PageUp: () => turn(10), PageDown: () => turn(-10),
    ArrowLeft: () => compare(-5), ArrowRight: () => compare(5), "+": () => widen(0.9), "-": () => widen(1.1) }[event.key];
  if (does) { event.preventDefault(); does(); }
});
if (token) enter().catch((error) => { leave(); tell(error); });
