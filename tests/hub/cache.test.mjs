// The cache beside other tools: what @huggingface/hub reads and writes, list, rm, inspect.
import { existsSync, mkdirSync, readFileSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import { spawn, spawnSync } from "node:child_process";
import { after, before, beforeEach, test } from "node:test";
import { HubServer, noise } from "./hub_server.mjs";
import { Home, assert, bin, checkSnapshots, join, newFolder, walk } from "./quern.mjs";

const REPO = "owner/Model-7B-GGUF";
const FILES = { "README.md": "# read", "m.Q4_K_M.gguf": noise(60_000, 1), "m.Q8_0.gguf": noise(70_000, 2), "sub/m.Q2_K.gguf": noise(20_000, 3) };
let hub, commit, js;
before(async () => {
  hub = await HubServer.start();
  commit = hub.add(REPO, FILES);
  try {
    js = await import("@huggingface/hub");
  } catch {}
});
after(() => hub.stop());
beforeEach(() => hub.reset());
const needsPackage = (t) => (js ? false : (t.skip("no @huggingface/hub: npm install --no-save --omit=optional"), true));

test("@huggingface/hub scans what we fetched", async (t) => {
  if (needsPackage(t)) return;
  const home = new Home(hub);
  await home.json(["pull", `${REPO}:Q4_K_M`, `${REPO}:Q2_K`]);
  hub.add("a/pinned", { "only.Q8_0.gguf": noise(12_000, 5) });
  await home.json(["pull", `a/pinned:${hub.repos.get("a/pinned").branches.main}`]);
  const { repos, warnings } = await js.scanCacheDir(home.cache);
  assert.deepEqual(warnings, []);
  const repo = repos.find((r) => r.id.name === REPO);
  assert.equal(repo.id.type, "model");
  assert.equal(repo.revisions[0].commitOid, commit);
  assert.deepEqual(repo.revisions[0].refs, ["main"]);
  const file = repo.revisions[0].files.find((f) => f.path.endsWith("m.Q4_K_M.gguf"));
  assert.equal(file.blob.size, 60_000);
  assert.ok(readFileSync(file.blob.path).equals(FILES["m.Q4_K_M.gguf"]));
});

test("we use what @huggingface/hub downloaded, and the reverse", async (t) => {
  if (needsPackage(t)) return;
  const home = new Home(hub);
  await js.snapshotDownload({ repo: REPO, hubUrl: hub.url, cacheDir: home.cache });
  hub.reset();
  const [report] = await home.json(["pull", `${REPO}:Q8_0`]);
  assert.ok(readFileSync(report.files[0]).equals(FILES["m.Q8_0.gguf"]));
  assert.equal(hub.bodies().length, 0, "nothing was fetched again");
  const ours = new Home(hub);
  await ours.json(["pull", `${REPO}:Q8_0`]);
  hub.reset();
  const path = await js.downloadFileToCacheDir({ repo: REPO, path: "m.Q8_0.gguf", revision: commit, hubUrl: hub.url, cacheDir: ours.cache });
  assert.ok(readFileSync(path).equals(FILES["m.Q8_0.gguf"]));
  assert.equal(hub.requests.length, 0, "it found ours without asking");
});

test("list: hub, local and bundled", async () => {
  const home = new Home(hub);
  const models = newFolder();
  const made = spawnSync(join(bin, "quern_make_model"), ["tiny", join(models, "mine.Q8_0.gguf"), "--type", "Q8_0"], { encoding: "utf8" });
  assert.equal(made.status, 0, made.stderr);
  mkdirSync(join(models, "checkpoint"));
  writeFileSync(join(models, "checkpoint/config.json"), "{}");
  writeFileSync(join(models, "checkpoint/model.safetensors"), "x");
  hub.add("a/gptq", { "config.json": JSON.stringify({ quantization_config: { quant_method: "gptq" } }), "model.safetensors": noise(20_000, 8) });
  await home.json(["pull", REPO, `${REPO}:Q8_0`, "a/gptq"]);
  const env = { LLM_MODEL_PATH: models };
  const rows = await home.json(["list"], env);
  const find = (id) => rows.find((r) => r.id === id);
  assert.deepEqual(find(`${REPO}:Q8_0`), { ...find(`${REPO}:Q8_0`), source: "hub", type: "GGUF", bytes: 70_000, quantization: "Q8_0", commit, refs: ["main"] });
  assert.ok(Math.abs(find(`${REPO}:Q4_K_M`).last_used - Date.now() / 1000) < 100);
  assert.equal(find("a/gptq").type, "GPTQ");
  assert.equal(find("mine.Q8_0.gguf").source, "local");
  assert.equal(find("checkpoint").type, "safetensors");
  const text = await home.run(["list"], env);
  assert.match(text.out, /^MODEL +TYPE +SIZE +REVISION +SOURCE +LAST USED\n/);
  assert.match(text.out, /Q8_0 +GGUF Q8_0 +68\.36 KiB +[0-9a-f]{8} \(main\) +hub/);
  // Each id of the hub is a reference that finds the same file.
  for (const row of rows.filter((r) => r.source === "hub"))
    assert.equal((await home.json(["pull", row.id], { HF_HUB_OFFLINE: "1" }))[0].bytes, row.bytes, row.id);
});

test("rm frees blobs that nobody else refers to, and only those", async () => {
  const home = new Home(hub);
  const shared = { "m.Q4_K_M.gguf": noise(40_000, 6) };
  hub.add("a/two", { ...shared, "m.Q8_0.gguf": noise(30_000, 7) });
  hub.add("a/two", { ...shared, "m.Q8_0.gguf": noise(30_001, 8) }, "next");
  await home.json(["pull", "a/two", "a/two:next", "a/two:Q8_0", REPO]);
  const blobs = () => readdirSync(join(home.repo("a/two"), "blobs")).length;
  assert.equal(blobs(), 2);
  assert.equal((await home.json(["rm", "a/two:next"]))[0].bytes_freed, 0, "main refers to the same blob");
  assert.equal((await home.json(["rm", "a/two:Q8_0"]))[0].bytes_freed, 30_000);
  assert.equal(blobs(), 1);
  assert.equal(checkSnapshots(home, hub, "a/two"), 1);
  assert.equal((await home.json(["rm", "a/two"]))[0].bytes_freed, 40_000);
  assert.ok(!existsSync(home.repo("a/two")));
  assert.equal(checkSnapshots(home, hub, REPO), 1, "another repo stays");
  await home.fails(["rm", "a/two"], /not in the cache: did you mean owner\/Model-7B-GGUF:Q4_K_M/);
  await home.fails(["rm", "quern/guide"], /part of the program/);
  await home.fails(["rm", "/etc/passwd"], /your own files/);
});

test("rm touches nothing outside the cache, and not what is being fetched", async () => {
  const outside = newFolder();
  writeFileSync(join(outside, "keep"), "me");
  const home = new Home(hub);
  await home.json(["pull", REPO]);
  const snapshot = join(home.repo(REPO), "snapshots", commit);
  symlinkSync(outside, join(snapshot, "folder"));
  symlinkSync(join(outside, "keep"), join(snapshot, "evil.Q2_K.gguf"));
  const lock = join(home.cache, ".locks/models--owner--Model-7B-GGUF", readdirSync(join(home.cache, ".locks/models--owner--Model-7B-GGUF"))[0]);
  // flock(1) holds it as Python's filelock would, until its command ends.
  const holder = spawn("flock", [lock, "cat"], { stdio: ["pipe", "pipe", "inherit"] });
  holder.stdin.write("held\n");
  await new Promise((resolve) => holder.stdout.once("data", resolve));
  await home.fails(["rm", REPO], /another process is fetching/);
  holder.stdin.end();
  await new Promise((resolve) => holder.on("close", resolve));
  await home.json(["rm", REPO]);
  assert.ok(!existsSync(home.repo(REPO)));
  assert.equal(readFileSync(join(outside, "keep"), "utf8"), "me");
});

test("inspect: of the hub before the download, by ranges; of the cache after it", async () => {
  const home = new Home(hub);
  const path = join(newFolder(), "tiny.gguf");
  const made = spawnSync(join(bin, "quern_make_model"), ["tiny", path, "--type", "F16"], { encoding: "utf8" });
  assert.equal(made.status, 0, made.stderr);
  const model = readFileSync(path);
  hub.add("a/tiny", { "tiny.F16.gguf": model, "other.Q2_K.gguf": noise(100, 1) });
  const before = await home.json(["inspect", "a/tiny:F16"]);
  assert.equal(before.architecture, "llama");
  assert.equal(walk(home.cache).length, 0, "nothing is kept");
  assert.ok(hub.bytesSent < model.length / 2, `${hub.bytesSent} bytes sent to read a header`);
  await home.json(["pull", "a/tiny:F16"]);
  hub.reset();
  const later = await home.json(["inspect", "a/tiny:F16"]);
  assert.equal(hub.bodies().length, 0);
  const local = await home.json(["inspect", path]);
  for (const report of [before, later, local]) delete report.file, delete report.name, delete report.source;
  assert.deepEqual(before, local);
  assert.deepEqual(later, local);
  await home.fails(["inspect", "a/tiny:Q2_K"], /GGUF/);
  await home.fails(["inspect", "a/absent"], /no such repo/);
});

test("a checkpoint: inspected by its headers, pulled, and run from the cache", async () => {
  const home = new Home(hub);
  const guide = join(process.env.QUERN_SOURCE_DIR ?? join(import.meta.dirname, "../.."), "models/guide/checkpoint");
  const files = Object.fromEntries(readdirSync(guide).map((name) => [name, readFileSync(join(guide, name))]));
  hub.add("a/Guide", files);
  hub.reset();
  const before = await home.json(["inspect", "a/Guide", "--tensors"]);
  assert.equal(before.architecture, "llama");
  assert.equal(before.name, "Guide");
  assert.equal(before.quantization, "BF16");
  assert.equal(before.bits_per_weight, 16);
  assert.ok(hub.bytesSent < 300_000, `${hub.bytesSent} bytes sent to read headers`);
  assert.equal(walk(home.cache).length, 0, "nothing is kept");
  const { status, out, err } = await home.run(["run", "a/Guide", "-p", "Which port does the server listen on?", "--temperature", "0"]);
  assert.equal(status, 0, err);
  assert.match(out, /8091/);
  const later = await home.json(["inspect", "a/Guide", "--tensors"]);
  for (const report of [before, later]) delete report.file;
  assert.deepEqual(later, before);

  const config = JSON.parse(files["config.json"]);
  hub.add("a/fp8", { ...files, "config.json": JSON.stringify({ ...config, quantization_config: { quant_method: "fp8" } }) });
  assert.match((await home.json(["inspect", "a/fp8"])).problem, /a\/fp8: config\.json: .*fp8/);
  hub.add("a/bert", { ...files, "config.json": JSON.stringify({ ...config, architectures: ["BertModel"] }) });
  assert.match((await home.json(["inspect", "a/bert"])).problem, /BertModel.*LlamaForCausalLM/);
  hub.add("a/cut", { ...files, "model.safetensors": files["model.safetensors"].subarray(0, 4000) });
  assert.match((await home.json(["inspect", "a/cut"])).problem, /whole/);
});
