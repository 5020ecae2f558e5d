// Runs quern against the test hub, and looks at what it leaves in the cache.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { lstatSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, readlinkSync, realpathSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const root = process.env.QUERN_SOURCE_DIR ?? join(import.meta.dirname, "../..");
export const bin = process.env.QUERN_BIN ?? join(root, "build/dev/bin");

const folder = mkdtempSync(join(tmpdir(), "quern-hub-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
let counter = 0;
export const newFolder = () => {
  const path = join(folder, String(++counter));
  mkdirSync(path);
  return path;
};

/** A home with an empty cache, and quern in it. */
export class Home {
  constructor(hub, env = {}) {
    this.folder = newFolder();
    this.cache = env.HF_HUB_CACHE ?? join(this.folder, ".cache/huggingface/hub");
    this.env = { PATH: process.env.PATH, HOME: this.folder, HF_ENDPOINT: hub?.url ?? "http://127.0.0.1:9", HF_HUB_DOWNLOAD_TIMEOUT: "3", HF_HUB_ETAG_TIMEOUT: "3", no_proxy: "*", ...env };
    for (const name of ["ASAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS"]) if (process.env[name]) this.env[name] = process.env[name];
  }

  start(args, env = {}) {
    const child = spawn(join(bin, "quern"), args, { cwd: this.folder, env: { ...this.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
    const result = { out: "", err: "" };
    child.stdout.on("data", (d) => (result.out += d));
    child.stderr.on("data", (d) => (result.err += d));
    child.done = new Promise((resolve) => child.on("close", (code, signal) => resolve({ ...result, status: code ?? signal })));
    return child;
  }

  run(args, env) {
    return this.start(args, env).done;
  }

  /** Runs and expects success; the parsed --json report. */
  async json(args, env) {
    const done = await this.run([...args, "--json"], env);
    assert.equal(done.status, 0, done.err);
    return JSON.parse(done.out);
  }

  /** Runs and expects one line of error. */
  async fails(args, pattern, env) {
    const done = await this.run(args, env);
    assert.equal(done.status, 1, done.out + done.err);
    const lines = done.err.split("\n").filter((l) => l.startsWith("error: "));
    assert.equal(lines.length, 1, done.err);
    assert.match(lines[0], pattern);
    return lines[0];
  }

  repo(repo) {
    return join(this.cache, "models--" + repo.replace("/", "--"));
  }
}

/** All paths below a folder: files and links, not folders. */
export function walk(folder) {
  let found = [];
  let entries = [];
  try {
    entries = readdirSync(folder, { withFileTypes: true });
  } catch {}
  for (const entry of entries) {
    const path = join(folder, entry.name);
    found = found.concat(entry.isDirectory() ? walk(path) : [path]);
  }
  return found;
}

/** Everything under snapshots/ must be a link to a blob of the right content: never a part of one. */
export function checkSnapshots(home, hub, repo) {
  const entry = hub.repos.get(repo);
  const top = join(home.repo(repo), "snapshots");
  let checked = 0;
  for (const path of walk(top)) {
    const [commit, ...rest] = path.slice(top.length + 1).split("/");
    assert.ok(lstatSync(path).isSymbolicLink(), path);
    assert.match(readlinkSync(path), /^(\.\.\/)+blobs\/[0-9a-f]+$/);
    const expected = entry.commits[commit][rest.join("/")];
    assert.ok(expected && readFileSync(path).equals(expected), `${path}: not the bytes of the hub`);
    ++checked;
  }
  return checked;
}

/** No part of a download is left. */
export function checkClean(home, repo) {
  for (const path of walk(home.repo(repo))) assert.doesNotMatch(path.slice(home.repo(repo).length), /quern|\.tmp$|\.incomplete$/);
}

export { assert, join, realpathSync, statSync, readFileSync };
