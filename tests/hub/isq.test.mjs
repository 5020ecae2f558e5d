// ISQ straight from a download: checkpoints of the hub, quantized as their shards arrive.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { existsSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { Quern, quern } from "../e2e/server.mjs";
import { HubServer } from "./hub_server.mjs";
import { guide, isShard, sharded, weightBytes } from "./checkpoint_files.mjs";
import { walk } from "./quern.mjs";

const REPO = "owner/Guide";
const COUNT = 7;
const files = sharded(COUNT);
const SIZE = weightBytes(files);
let hub, commit;
const servers = [];
before(async () => {
  hub = await HubServer.start();
  commit = hub.add(REPO, files);
});
after(() => hub.stop());
afterEach(async () => {
  for (const server of servers.splice(0)) await server.stop();
  hub.reset();
});

/** A home of its own for caches. */
class Home {
  constructor(where) {
    this.folder = where ?? mkdtempSync(join(tmpdir(), "quern-isq-"));
    process.on("exit", () => rmSync(this.folder, { recursive: true, force: true }));
    this.cache = join(this.folder, "hub");
    this.env = { HF_ENDPOINT: hub.url, HF_HUB_CACHE: this.cache, HF_HUB_DOWNLOAD_TIMEOUT: "5", XDG_CACHE_HOME: this.folder, HOME: this.folder, no_proxy: "*" };
  }
  async start(more = {}, options) {
    const server = await Quern.start({ ...this.env, LLM_ALLOWED_MODELS: REPO, LLM_ENABLE_ISQ: "true", LLM_ISQ_TYPE: "Q8_0", ...more }, options);
    servers.push(server);
    return server;
  }
  /** Not spawnSync: the hub answers from this process. */
  run(args, env = {}) {
    return new Promise((resolve) => {
      const child = spawn(quern, args, { cwd: this.folder, env: { PATH: process.env.PATH, ...this.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
      const result = { out: "", err: "" };
      child.stdout.on("data", (data) => (result.out += data));
      child.stderr.on("data", (data) => (result.err += data));
      child.on("close", (status) => resolve({ status, ...result }));
    });
  }
  results() {
    const folder = join(this.folder, "quern/isq");
    return existsSync(folder) ? readdirSync(folder).filter((name) => !name.endsWith(".lock")) : [];
  }
  /** What the cache has of weights: links in snapshots, and blobs of their size. */
  weights() {
    const sizes = new Set(Object.keys(files).filter(isShard).map((name) => files[name].length));
    return walk(join(this.cache, "models--owner--Guide")).filter((path) => isShard(path) || (path.includes("/blobs/") && sizes.has(lstatSync(path).size)));
  }
}
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const status = async (server) => (await (await fetch(server.url + "/health/ready")).json()).models[0];
/** Waits for it; the reason. */
const failure = async (server) => {
  for (let now; ; await sleep(20)) {
    now = await status(server);
    assert.notEqual(now.state, "ready");
    if (now.state === "failed") return now.error;
  }
};
const chat = async (server, model = REPO) => {
  const messages = [{ role: "user", content: "Which port does the server listen on?" }];
  const { status, text, json } = await server.post("/api/chat", { model, messages, temperature: 0, max_tokens: 60 });
  assert.equal(status, 200, text);
  return json.message.content;
};
/** What the same type gives of the folder. */
let expected;
const right = async (server) => {
  const answer = await chat(server);
  assert.match(answer, /8091/);
  if (expected === undefined) {
    const home = new Home();
    const local = await home.start({ LLM_ALLOWED_MODELS: join(guide, "checkpoint") });
    expected = await chat(local, join(guide, "checkpoint"));
  }
  assert.equal(answer, expected);
};

test("quantized while it downloads; the next start needs neither", async () => {
  const home = new Home();
  hub.faults = { dripBytes: 64 << 10, dripMs: 8 };
  let server = await home.start({}, { ready: false });
  const seen = new Set();
  for (let last = 0, now; (now = await status(server)).state !== "ready"; await sleep(10)) {
    assert.notEqual(now.state, "failed", now.error);
    seen.add(now.state);
    if (now.state !== "downloading" || !now.bytes_done) continue;
    assert.equal(now.bytes_total, SIZE);
    assert.ok(now.bytes_done >= last && now.bytes_done <= SIZE, `${last} then ${now.bytes_done}`);
    last = now.bytes_done;
  }
  assert.ok(seen.has("downloading"), [...seen].join());
  assert.match(server.log, /"quantized"/);
  await right(server);
  assert.equal(home.results().length, 1);
  assert.equal(home.weights().length, 2 * COUNT, "shards are kept by default");
  const { tensors } = await (await fetch(`${server.url}/api/llms/${REPO}/quantization`)).json();
  assert.ok(tensors.some((t) => t.used === "Q8_0" && t.error > 0));
  await server.stop();

  hub.reset();
  server = await home.start({ HF_HUB_OFFLINE: "1" });
  assert.match(server.log, /taken from the cache/);
  await right(server);
  assert.equal(hub.requests.length, 0);
});

test("shards are dropped once they are quantized, and fetched again for another type", async () => {
  const home = new Home();
  const settings = { LLM_ISQ_KEEP_SOURCE: "false" };
  let server = await home.start(settings);
  await right(server);
  assert.match(server.log, /shards dropped/);
  assert.deepEqual(home.weights(), []);
  const snapshot = join(home.cache, "models--owner--Guide/snapshots", commit);
  assert.deepEqual(readdirSync(snapshot).sort(), Object.keys(files).filter((name) => !isShard(name)).sort(), "small files stay");
  await server.stop();

  for (const more of [{}, { HF_HUB_OFFLINE: "1" }, { HF_ENDPOINT: "http://127.0.0.1:9" }]) {
    hub.reset();
    server = await home.start({ ...settings, ...more });
    await right(server);
    assert.equal(hub.bodies().length, 0);
    await server.stop();
  }
  // Also where shards are to be kept from now on.
  hub.reset();
  server = await home.start();
  assert.equal(hub.bodies().length, 0);
  await server.stop();

  const rows = JSON.parse((await home.run(["list", "--json"])).out).filter((row) => row.source !== "bundled");
  assert.deepEqual(rows.map((row) => [row.id, row.source, row.quantization]), [[REPO, "isq", "Q8_0"]]);
  const inspected = JSON.parse((await home.run(["inspect", REPO, "--json"])).out);
  assert.equal(inspected.quantization, "BF16");
  assert.match((await home.run(["inspect", REPO], { HF_HUB_OFFLINE: "1" })).err, /^error: .*HF_HUB_OFFLINE/);
  assert.match((await home.run(["perplexity", REPO, "-f", join(guide, "heldout.txt")], { HF_HUB_OFFLINE: "1" })).err, /^error: .*not in the cache/);
  const answered = await home.run(["run", REPO, "-p", "Which port does the server listen on?", "--temperature", "0"], { LLM_ENABLE_ISQ: "true", LLM_ISQ_TYPE: "Q8_0" });
  assert.match(answered.out, /8091/, answered.err);

  hub.reset();
  server = await home.start({ ...settings, LLM_ISQ_TYPE: "Q5_K" });
  assert.match(await chat(server), /8091/);
  assert.ok(hub.bytesSent >= SIZE, "the shards were needed again");
  assert.deepEqual(home.weights(), []);
  assert.equal(home.results().length, 2);
  await server.stop();

  const offline = await home.start({ ...settings, LLM_ISQ_TYPE: "Q4_0", HF_HUB_OFFLINE: "1" }, { ready: false });
  assert.match(await failure(offline), /HF_HUB_OFFLINE/);
  await offline.stop();

  const removed = await home.run(["rm", REPO]);
  assert.match(removed.out, /removed/, removed.err);
  assert.deepEqual(home.results(), []);
  assert.ok(!existsSync(join(home.cache, "models--owner--Guide")));
});

test("what others refer to is not dropped", async () => {
  hub.add("owner/Two", files);
  hub.add("owner/Two", { ...files, "generation_config.json": JSON.stringify({ temperature: 0.5 }) }, "next");
  const home = new Home();
  const pulled = await home.run(["pull", "owner/Two:next"]);
  assert.equal(pulled.status, 0, pulled.err);
  const server = await home.start({ LLM_ALLOWED_MODELS: "owner/Two", LLM_ISQ_KEEP_SOURCE: "false" });
  await server.stop();
  const listed = JSON.parse((await home.run(["list", "--json"])).out).filter((row) => row.source === "hub");
  assert.deepEqual(listed.map((row) => [row.id, row.bytes]), [["owner/Two:next", SIZE]], "whole still");

  const folder = join(home.folder, "own");
  mkdirSync(folder);
  for (const [name, data] of Object.entries(files)) writeFileSync(join(folder, name), data);
  const local = await home.start({ LLM_ALLOWED_MODELS: folder, LLM_ISQ_KEEP_SOURCE: "false" });
  await local.stop();
  assert.deepEqual(readdirSync(folder).sort(), Object.keys(files).sort(), "a user's own folder");
});

test("kill -9 at random moments of download and quantizing: the next start goes on", { timeout: 300_000 }, async () => {
  const home = new Home();
  for (const keep of ["true", "false"]) {
    hub.reset();
    hub.faults = { dripBytes: 64 << 10, dripMs: 10 };
    const type = keep === "true" ? "Q4_K" : "Q6_K";
    const settings = { LLM_ISQ_TYPE: type, LLM_ISQ_KEEP_SOURCE: keep };
    for (let i = 0; i < 10; ++i) {
      const server = await home.start(settings, { ready: false });
      await sleep(Math.random() * 400);
      await server.stop("SIGKILL");
      servers.pop();
      for (const name of home.results()) {
        const inspected = await home.run(["inspect", join(home.folder, "quern/isq", name)]);
        assert.equal(inspected.status, 0, name + inspected.err);
      }
    }
    hub.faults = {};
    const server = await home.start(settings);
    assert.match(await chat(server), /8091/);
    await server.stop();
    assert.ok(hub.bytesSent < 2.5 * SIZE, `${hub.bytesSent} bytes sent for ${SIZE}`);
    assert.equal(home.results().filter((name) => name.includes(type)).length, 1);
    assert.ok(home.results().every((name) => name.endsWith(".gguf")), home.results().join());
  }
  assert.deepEqual(home.weights(), []);
});

test("two servers that start at once make it once", async () => {
  const home = new Home();
  hub.faults = { dripBytes: 256 << 10, dripMs: 5 };
  const both = await Promise.all([home.start(), home.start()]);
  assert.equal(both.filter((server) => server.log.includes('"quantized"')).length, 1);
  assert.ok(both.some((server) => server.log.includes("another process quantizes this model")), both.map((s) => s.log).join("\n"));
  for (const server of both) await right(server);
  assert.ok(hub.bytesSent < 1.5 * SIZE, `${hub.bytesSent} bytes sent for ${SIZE}`);
});

test("a stop is quick, whatever it is at", async () => {
  const home = new Home();
  hub.faults = { dripBytes: 16_000, dripMs: 20 };
  const waiting = await home.start({}, { ready: false });
  while (!((await status(waiting)).bytes_done > 0)) await sleep(20);
  const second = await home.start({}, { ready: false });
  while (!second.log.includes("another process quantizes this model")) await sleep(20);
  for (const server of [second, waiting]) {
    const begin = Date.now();
    assert.equal(await server.stop(), 0);
    assert.ok(Date.now() - begin < 10_000);
    servers.splice(servers.indexOf(server), 1);
  }
});

test("bytes that are not the hub's never become a result", async () => {
  const home = new Home();
  // Everything but the shards comes as it is.
  const small = await home.run(["pull", `${REPO}@${REPO}`, "--json"]);
  assert.equal(small.status, 0, small.err);
  for (const path of home.weights()) rmSync(path);
  hub.faults = { wrongHash: 1e9, wrongFrom: 200_000 };
  let server = await home.start({}, { ready: false });
  assert.match(await failure(server), /SHA-256/);
  assert.deepEqual(home.results(), []);
  assert.deepEqual(home.weights(), []);
  await server.stop();
  hub.faults = {};
  server = await home.start();
  await right(server);
});

test("a checkpoint that cannot be quantized is refused before its weights come", async () => {
  const home = new Home();
  const config = JSON.parse(files["config.json"]);
  hub.add("owner/Bert", { ...files, "config.json": JSON.stringify({ ...config, architectures: ["BertModel"] }) });
  const server = await home.start({ LLM_ALLOWED_MODELS: "owner/Bert" }, { ready: false });
  assert.match(await failure(server), /BertModel/);
  assert.ok(hub.bytesSent < SIZE / 4, `${hub.bytesSent} bytes`);
});

test("headers that are larger than most, and servers that know no ranges", async () => {
  const home = new Home();
  const wide = { ...files };
  for (const name of Object.keys(files).filter(isShard)) {
    const length = Number(files[name].readBigUInt64LE(0));
    const grown = Buffer.alloc(8);
    grown.writeBigUInt64LE(BigInt(length + 400_000));
    wide[name] = Buffer.concat([grown, files[name].subarray(8, 8 + length), Buffer.alloc(400_000, " "), files[name].subarray(8 + length)]);
  }
  hub.add("owner/Wide", wide);
  hub.faults = { noRanges: true };
  const server = await home.start({ LLM_ALLOWED_MODELS: "owner/Wide" });
  assert.match(await chat(server, "owner/Wide"), /8091/);
});

/** A small disk, or the reason why there is none. */
function smallDisk(bytes) {
  const folder = mkdtempSync(join(tmpdir(), "quern-disk-"));
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", `size=${bytes}`, "tmpfs", folder], { stdio: "pipe" });
  } catch (error) {
    rmSync(folder, { recursive: true });
    return { why: `no small disk to test with: ${String(error.stderr ?? error).trim()}` };
  }
  const end = () => {
    try {
      execFileSync("umount", [folder], { stdio: "pipe" });
      rmSync(folder, { recursive: true, force: true });
    } catch {}
  };
  process.on("exit", end);
  return { folder, end };
}

test("a disk that is too small for all shards holds the model where shards are dropped", async (t) => {
  const disk = smallDisk(Math.round(SIZE * 0.6));
  if (disk.why) return t.skip(disk.why);
  const home = new Home();
  const settings = { HF_HUB_CACHE: join(disk.folder, "hub") };
  home.cache = settings.HF_HUB_CACHE;
  const refused = await home.start(settings, { ready: false });
  assert.match(await failure(refused), /needs \d.* on the disk of .*, which has .* left.*LLM_ISQ_KEEP_SOURCE=false/);
  await refused.stop();
  hub.reset();
  const server = await home.start({ ...settings, LLM_ISQ_KEEP_SOURCE: "false" });
  assert.match(server.log, /each goes when it is quantized/);
  await right(server);
  assert.deepEqual(home.weights(), []);
  await server.stop();
  disk.end();
});

test("a full disk under the result is an error, and nothing of it stays", async (t) => {
  const disk = smallDisk(Math.round(SIZE * 0.3));
  if (disk.why) return t.skip(disk.why);
  const home = new Home();
  const server = await home.start({ XDG_CACHE_HOME: disk.folder, LLM_ALLOWED_MODELS: `${REPO},quern/guide` }, { ready: false });
  let models;
  do {
    await sleep(20);
    models = (await (await fetch(server.url + "/health/ready")).json()).models;
    assert.notEqual(models[0].state, "ready");
  } while (models[0].state !== "failed" || models[1].state !== "ready");
  assert.match(models[0].error, /reserve \d+ bytes: the disk is full/);
  assert.match(await chat(server, "quern/guide"), /8091/);
  assert.ok(hub.bytesSent < SIZE / 4, "before the shards were fetched");
  await server.stop();
  assert.deepEqual(walk(disk.folder).filter((path) => !path.endsWith(".lock")), []);
  assert.ok(Number(execFileSync("df", ["--output=used", "-B1", disk.folder], { encoding: "utf8" }).split("\n")[1]) < 100_000, "no room is taken");
  disk.end();
});
