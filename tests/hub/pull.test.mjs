// quern pull against every fault of a hub and a network.
import { createHash } from "node:crypto";
import { execFileSync } from "node:child_process";
import { appendFileSync, existsSync, mkdirSync, readdirSync, symlinkSync, unlinkSync, writeFileSync } from "node:fs";
import { after, before, beforeEach, test } from "node:test";
import { HubServer, noise } from "./hub_server.mjs";
import { Home, assert, checkClean, checkSnapshots, join, newFolder, readFileSync, statSync, walk } from "./quern.mjs";

const REPO = "owner/Model-7B-GGUF";
const SIZE = 40_000_123;
let hub, big, commit;
before(async () => {
  hub = await HubServer.start();
  big = noise(SIZE, 7);
  commit = hub.add(REPO, { "README.md": "# read", "config.json": "{}", "m.Q2_K.gguf": noise(20_000, 2), "m.Q4_K_M.gguf": big, "m.Q8_0.gguf": noise(30_000, 3) });
});
after(() => hub.stop());
beforeEach(() => hub.reset());

const sha256 = (data) => createHash("sha256").update(data).digest("hex");

/** Pulls and checks the bytes; the file's path. */
async function pulled(home, reference = REPO, expected = big) {
  const [report] = await home.json(["pull", reference]);
  assert.ok(readFileSync(report.files[0]).equals(expected), "other bytes than the hub's");
  checkSnapshots(home, hub, REPO);
  checkClean(home, REPO);
  return report;
}

test("the default is Q4_K_M; it is laid out as huggingface_hub does, and fetched once", async () => {
  const home = new Home(hub);
  const report = await pulled(home);
  assert.equal(report.quantization, "Q4_K_M");
  assert.equal(report.commit, commit);
  const repo = home.repo(REPO);
  assert.equal(readFileSync(join(repo, "refs/main"), "utf8"), commit);
  assert.deepEqual(readdirSync(join(repo, "blobs")), [sha256(big)]);
  assert.deepEqual(readdirSync(join(repo, "snapshots", commit)), ["m.Q4_K_M.gguf"]);
  assert.deepEqual(readdirSync(join(home.cache, ".locks/models--owner--Model-7B-GGUF")), [sha256(big) + ".lock"]);
  assert.ok(hub.bodies().filter((r) => r.headers.range).length > 1, "several ranges");
  hub.reset();
  await pulled(home);
  assert.deepEqual(hub.requests.map((r) => r.path), [`/api/models/${REPO}/revision/main`], "a branch costs one request");
  hub.reset();
  const again = await pulled(home, `${REPO}:${commit}`);
  assert.equal(again.commit, commit);
  assert.equal(hub.requests.length, 0, "a commit that is here costs none");
});

test("selectors: type, file, another branch", async () => {
  const home = new Home(hub);
  await pulled(home, `${REPO}:q8_0`, noise(30_000, 3));
  await pulled(home, `${REPO}:m.Q2_K.gguf`, noise(20_000, 2));
  const other = hub.add(REPO, { "m.Q4_K_M.gguf": noise(15_000, 9) }, "refs/pr/1");
  const report = await pulled(home, `${REPO}:refs/pr/1`, noise(15_000, 9));
  assert.equal(report.commit, other);
  assert.equal(readFileSync(join(home.repo(REPO), "refs/refs/pr/1"), "utf8"), other);
});

test("wrong references name the nearest right ones", async () => {
  const home = new Home(hub);
  await home.fails(["pull", `${REPO}:Q4_K_S`], /Q4_K_S is not in .*did you mean Q4_K_M/);
  await home.fails(["pull", `${REPO}:m.Q4_K_N.gguf`], /did you mean m\.Q4_K_M\.gguf/);
  await home.fails(["pull", `${REPO}:mian`], /no type, branch, tag or commit .*did you mean main/);
  await home.fails(["pull", `${REPO}:Q4KM`], /did you mean Q4_K_M/);
  await home.fails(["pull", "owner/absent"], /no such repo, or it is private.*HF_TOKEN=/);
  await home.fails(["pull", "no/such/file.gguf"], /no such file or folder/);
  assert.ok(!existsSync(home.cache), "a wrong reference leaves no trace");
});

test("split files, sharded checkpoints, GPTQ", async () => {
  const home = new Home(hub);
  const parts = Object.fromEntries([1, 2, 3].map((i) => [`s-Q4_K_M-0000${i}-of-00003.gguf`, noise(20_000 + i, i)]));
  hub.add("a/split", { ...parts, "x.Q8_0.gguf": noise(10, 1) });
  const [split] = await home.json(["pull", "a/split"]);
  assert.equal(split.files.length, 3);
  assert.equal(checkSnapshots(home, hub, "a/split"), 3);
  const index = JSON.stringify({ metadata: {}, weight_map: { a: "model-00001-of-00002.safetensors", b: "model-00002-of-00002.safetensors" } });
  const plain = { "config.json": "{}", "tokenizer.json": "{}", "model.safetensors.index.json": index, "model-00001-of-00002.safetensors": noise(30_000, 4), "model-00002-of-00002.safetensors": noise(30_000, 5) };
  hub.add("a/plain", { ...plain, "README.md": "no", "pytorch_model.bin": noise(50_000, 6), ".gitattributes": "no" });
  const [sharded] = await home.json(["pull", "a/plain"]);
  assert.equal(sharded.files.length, 2);
  assert.equal(checkSnapshots(home, hub, "a/plain"), Object.keys(plain).length, "what the model needs, and nothing else");
  hub.add("a/gptq", { "config.json": JSON.stringify({ quantization_config: { quant_method: "gptq", bits: 4 } }), "model.safetensors": noise(20_000, 8) });
  assert.equal((await home.json(["pull", "a/gptq"]))[0].quantization, "gptq");
  hub.add("a/awq", { "config.json": JSON.stringify({ quantization_config: { quant_method: "awq" } }), "model.safetensors": noise(20_000, 8) });
  hub.reset();
  await home.fails(["pull", "a/awq"], /quantized by awq/);
  assert.ok(!hub.bodies().some((r) => r.path.endsWith(".safetensors")), "refused before the weights are fetched");
  hub.add("a/broken", { ...plain, "model.safetensors.index.json": JSON.stringify({ weight_map: { a: "../../../escape" } }) });
  await home.fails(["pull", "a/broken"], /leaves its folder/);
});

test("a tokenizer from another repo", async () => {
  const home = new Home(hub);
  hub.add("t/tok", { "tokenizer.json": "{}", "tokenizer_config.json": "{}", "model.safetensors": noise(50_000, 1) });
  const [report] = await home.json(["pull", `${REPO}:Q8_0@t/tok`]);
  assert.deepEqual(readdirSync(report.tokenizer).sort(), ["tokenizer.json", "tokenizer_config.json"]);
  await home.fails(["pull", `${REPO}:Q8_0@${REPO}`], /it has no tokenizer/);
});

test("connections that drop at random bytes", async () => {
  hub.faults = { cut: 3_000_000 };
  await pulled(new Home(hub));
  assert.ok(hub.bytesSent < SIZE * 1.5, `${hub.bytesSent} bytes sent for ${SIZE}: what had arrived was fetched again`);
});

test("a truncated body, 500s, 429 with Retry-After", async () => {
  hub.faults = { truncate: 3 };
  await pulled(new Home(hub));
  hub.reset();
  hub.faults = { status: [500, 503, 502], apiStatus: [500, 504] };
  await pulled(new Home(hub));
  hub.reset();
  hub.faults = { status: [429], retryAfter: "2" };
  const begin = Date.now();
  await pulled(new Home(hub), `${REPO}:Q8_0`, noise(30_000, 3));
  assert.ok(Date.now() - begin >= 1900, "Retry-After was not waited for");
  hub.reset();
  hub.faults = { apiStatus: [429], retryAfter: new Date(Date.now() + 3000).toUTCString() };
  await pulled(new Home(hub), `${REPO}:Q8_0`, noise(30_000, 3));
});

test("a hub in lasting trouble is one line of error", async () => {
  hub.faults = { apiStatus: Array(20).fill(503) };
  await new Home(hub).fails(["pull", REPO], /in trouble \(status 503\): try again later: quern pull owner/);
});

test("wrong bytes once are fetched anew; wrong bytes always are an error that keeps nothing", async () => {
  hub.faults = { wrongHash: 1 };
  await pulled(new Home(hub));
  hub.reset();
  hub.faults = { wrongHash: 1e9 };
  const home = new Home(hub);
  await home.fails(["pull", REPO], /SHA-256/);
  assert.equal(checkSnapshots(home, hub, REPO), 0);
  checkClean(home, REPO);
  assert.deepEqual(readdirSync(join(home.repo(REPO), "blobs")), []);
  hub.add("a/small", { "config.json": "{}", "model.safetensors": noise(5000, 3) });
  await home.fails(["pull", "a/small"], /SHA-1/);
});

test("a server without ranges, and one that drips", async () => {
  hub.faults = { noRanges: true };
  await pulled(new Home(hub));
  hub.reset();
  hub.faults = { noRanges: true, cut: SIZE, cutTimes: 2 };
  await pulled(new Home(hub));
  hub.reset();
  hub.faults = { dripBytes: 1000, dripMs: 100 };
  await pulled(new Home(hub), `${REPO}:Q8_0`, noise(30_000, 3));
  hub.reset();
  hub.faults = { slowMs: 2500 }; // longer than the time-out: an error, not a wait for ever
  await new Home(hub).fails(["pull", `${REPO}:Q8_0`], /try again later/, { HF_HUB_DOWNLOAD_TIMEOUT: "1" });
});

test("a hub that tells no size in its answer to HEAD", async () => {
  for (const away of [false, true]) {
    hub.faults = { noSize: true, away };
    await pulled(new Home(hub), `${REPO}:Q8_0`, noise(30_000, 3));
  }
});

test("the token goes to the hub and not to where it redirects", async () => {
  hub.faults = { away: true, needToken: "hf_secret" };
  const home = new Home(hub, { HF_TOKEN: "hf_secret" });
  await pulled(home);
  const away = hub.requests.filter((r) => r.host === "storage");
  assert.ok(away.length > 1);
  assert.ok(away.every((r) => !JSON.stringify(r.headers).includes("hf_secret")), "the token leaked");
  assert.ok(hub.requests.filter((r) => r.host === "hub").every((r) => r.headers.authorization === "Bearer hf_secret"));
  const filed = new Home(hub);
  mkdirSync(join(filed.folder, ".cache/huggingface"), { recursive: true });
  writeFileSync(join(filed.folder, ".cache/huggingface/token"), "hf_secret\n");
  await pulled(filed, `${REPO}:Q8_0`, noise(30_000, 3));
});

test("gated and private repos say what to do", async () => {
  hub.faults = { gated: true, needToken: "hf_right" };
  const line = await new Home(hub).fails(["pull", REPO], /gated: ask for access at http.*\/owner\/Model-7B-GGUF/);
  assert.match(line, /HF_TOKEN=hf_… quern pull owner\/Model-7B-GGUF/);
  await new Home(hub, { HF_TOKEN: "hf_other" }).fails(["pull", REPO], /your token does not open it/);
  hub.faults = { needToken: "hf_right" };
  await new Home(hub).fails(["pull", REPO], /private/);
  await pulled(new Home(hub, { HF_TOKEN: "hf_right" }), `${REPO}:Q8_0`, noise(30_000, 3));
});

test("offline and without a network", async () => {
  const home = new Home(hub);
  await home.fails(["pull", REPO], /HF_HUB_OFFLINE=0 quern pull/, { HF_HUB_OFFLINE: "1" });
  await home.fails(["pull", REPO], /cannot be reached.*check the network/, { HF_ENDPOINT: "http://127.0.0.1:9" });
  await home.fails(["pull", REPO], /cannot be reached/, { HF_ENDPOINT: "http://no-such-host.invalid" });
  await pulled(home, `${REPO}:Q8_0`, noise(30_000, 3));
  hub.reset();
  await home.json(["pull", `${REPO}:Q8_0`], { HF_HUB_OFFLINE: "1" });
  assert.equal(hub.requests.length, 0);
  const done = await home.run(["pull", `${REPO}:Q8_0`], { HF_ENDPOINT: "http://127.0.0.1:9" });
  assert.equal(done.status, 0, done.err);
  assert.match(done.err, /using what the cache holds/);
});

test("settings that are wrong", async () => {
  await new Home(hub, { HF_ENDPOINT: "ftp://x" }).fails(["pull", REPO], /HF_ENDPOINT/);
  await new Home(hub, { HF_HUB_DOWNLOAD_TIMEOUT: "soon" }).fails(["pull", REPO], /HF_HUB_DOWNLOAD_TIMEOUT: "soon"/);
  await new Home(hub, { HF_TOKEN: "two words" }).fails(["pull", REPO], /HF_TOKEN: that is no token/);
});

test("kill -9 at random moments, fifty times, then the bytes are right", { timeout: 300_000 }, async () => {
  const home = new Home(hub);
  hub.faults = { dripBytes: 256 << 10, dripMs: 25 };
  let finished = 0;
  for (let i = 0; i < 50; ++i) {
    const child = home.start(["pull", REPO]);
    const timer = setTimeout(() => child.kill("SIGKILL"), 20 + Math.random() * 300);
    finished += (await child.done).status === 0;
    clearTimeout(timer);
    checkSnapshots(home, hub, REPO);
  }
  hub.faults = {};
  await pulled(home);
  assert.ok(hub.bytesSent < 3 * SIZE, `${hub.bytesSent} bytes sent for ${SIZE} (${finished} runs finished)`);
});

test("two processes at once fetch once", async () => {
  hub.faults = { dripBytes: 1 << 20, dripMs: 20 };
  const home = new Home(hub);
  const done = await Promise.all([0, 1, 2].map(() => home.run(["pull", REPO])));
  for (const { status, err } of done) assert.equal(status, 0, err);
  assert.equal(checkSnapshots(home, hub, REPO), 1);
  assert.ok(hub.bytesSent < SIZE * 1.3, `${hub.bytesSent} bytes sent for ${SIZE}`);
  // The same model twice, and another, in one process.
  const both = new Home(hub);
  assert.equal((await both.json(["pull", REPO, REPO, `${REPO}:Q8_0`])).length, 3);
  checkClean(both, REPO);
});

test("a prefix that huggingface_hub began is continued; a wrong one does no harm", async () => {
  const home = new Home(hub);
  const blobs = join(home.repo(REPO), "blobs");
  mkdirSync(blobs, { recursive: true });
  writeFileSync(join(blobs, sha256(big) + ".incomplete"), big.subarray(0, 30_000_000));
  await pulled(home);
  assert.ok(hub.bytesSent < 11_000_000, `${hub.bytesSent} bytes`);
  const other = new Home(hub);
  mkdirSync(join(other.repo(REPO), "blobs"), { recursive: true });
  writeFileSync(join(other.repo(REPO), "blobs", sha256(big) + ".incomplete"), noise(1_000_000, 99));
  await pulled(other);
});

test("a new commit fetches what changed and nothing else", async () => {
  const home = new Home(hub);
  hub.add("a/moving", { "m.Q4_K_M.gguf": noise(50_000, 1), "README.md": "1" });
  await home.json(["pull", "a/moving"]);
  const next = hub.add("a/moving", { "m.Q4_K_M.gguf": noise(50_000, 1), "README.md": "2" });
  hub.reset();
  const [report] = await home.json(["pull", "a/moving"]);
  assert.equal(report.commit, next);
  assert.equal(hub.bodies().length, 0);
  assert.equal(checkSnapshots(home, hub, "a/moving"), 2);
});

test("hostile listings are errors, and nothing outside the cache is touched", async () => {
  const outside = newFolder();
  const home = new Home(hub);
  const listing = (names, sha = commit) => JSON.stringify({ sha, siblings: names.map((rfilename) => ({ rfilename })) });
  for (const [answer, pattern] of [
    [listing(["../../../../../../../../../tmp/evil.Q4_K_M.gguf"]), /leaves its folder/],
    [listing([join(outside, "evil.Q4_K_M.gguf")]), /absolute path/],
    [listing(["a\\b.Q4_K_M.gguf"]), /backslash/],
    [listing(["x".repeat(4096) + ".Q4_K_M.gguf"]), /longer than/],
    [listing(["m.gguf"], "../../../../../../../../../../tmp/commit"), /not 40 hexadecimal/],
    [listing(["m.gguf"], "main"), /not 40 hexadecimal/],
    ["[".repeat(100_000), /JSON|nested/],
    ['{"x":' + "[".repeat(100_000) + "]".repeat(100_000) + "}", /nested deeper/],
    [() => Buffer.alloc(100 << 20, 32), /larger than/],
    ["<html>not a hub</html>", /HF_ENDPOINT/],
  ]) {
    hub.faults = { listing: answer };
    await home.fails(["pull", REPO], pattern);
  }
  hub.faults = { etag: "../../../../evil" };
  await home.fails(["pull", REPO], /etag/);
  assert.deepEqual(walk(outside), []);
  assert.deepEqual(walk(home.cache), []);
});

test("links that somebody left in a snapshot are not followed", async () => {
  const outside = newFolder();
  const home = new Home(hub);
  const made = hub.add("a/linked", { "sub/m.Q4_K_M.gguf": noise(20_000, 1) });
  mkdirSync(join(home.repo("a/linked"), "snapshots", made), { recursive: true });
  symlinkSync(outside, join(home.repo("a/linked"), "snapshots", made, "sub"));
  await home.fails(["pull", "a/linked"], /cannot open the folder/);
  assert.deepEqual(walk(outside), []);
});

test("a full disk: said before anything is fetched, and in the middle", async (t) => {
  const disk = newFolder();
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], { stdio: "pipe" });
  } catch {
    return t.skip("mounting a tmpfs is not permitted here");
  }
  t.after(() => execFileSync("umount", [disk]));
  const home = new Home(hub, { HF_HUB_CACHE: join(disk, "hub") });
  await home.fails(["pull", REPO], /needs .* on the disk of .*HF_HUB_CACHE/);
  assert.equal(hub.bodies().length, 0);
  // Another fills the disk after the check: the file system says so while the room is reserved or written.
  hub.faults = { slowMs: 700 };
  hub.add("a/fits", { "a-Q4_K_M-00001-of-00002.gguf": noise(6_000_000, 1), "a-Q4_K_M-00002-of-00002.gguf": noise(6_000_000, 2) });
  const running = home.run(["pull", "a/fits"]);
  while (!existsSync(join(home.repo("a/fits"), "blobs")) || readdirSync(join(home.repo("a/fits"), "blobs")).length === 0) await new Promise((r) => setTimeout(r, 20));
  try {
    for (;;) appendFileSync(join(disk, "filler"), Buffer.alloc(1 << 16));
  } catch {}
  const done = await running;
  assert.equal(done.status, 1);
  assert.match(done.err, /error: .*the disk is full: free some space/);
  checkSnapshots(home, hub, "a/fits");
  unlinkSync(join(disk, "filler"));
  hub.faults = {};
  await home.json(["pull", "a/fits"]);
  assert.equal(checkSnapshots(home, hub, "a/fits"), 2);
});

test("plain lines without a terminal; bars on one", async () => {
  hub.faults = { dripBytes: 256 << 10, dripMs: 20 };
  const home = new Home(hub);
  const lines = await home.run(["pull", REPO]);
  assert.equal(lines.status, 0, lines.err);
  assert.doesNotMatch(lines.err, /\x1b/);
  assert.match(lines.err, /MiB/);
  try {
    execFileSync("script", ["--version"], { stdio: "pipe" });
  } catch {
    return;
  }
  const other = new Home(hub);
  const { spawn } = await import("node:child_process");
  const { bin } = await import("./quern.mjs");
  const child = spawn("script", ["-qec", `${join(bin, "quern")} pull ${REPO} ${REPO}:Q8_0`, "/dev/null"], { env: other.env, cwd: other.folder, stdio: ["ignore", "pipe", "pipe"] });
  let out = "";
  child.stdout.on("data", (d) => (out += d));
  await new Promise((resolve) => child.on("close", resolve));
  assert.match(out, /\[#+ *\] .*%.*MiB\/s.* left/);
});
