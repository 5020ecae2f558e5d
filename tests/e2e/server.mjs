// Starts a real quern and stops it; shared by the client tests.
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

const root = process.env.QUERN_SOURCE_DIR ?? join(import.meta.dirname, "../..");
export const bin = process.env.QUERN_BIN ?? join(root, "build/dev/bin");
export const quern = join(bin, "quern");

const folder = mkdtempSync(join(tmpdir(), "quern-e2e-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
export const scratch = (name) => join(folder, name);

/** A random-weight model: what it says is noise, but always the same noise. */
export function makeModel(shape, name, ...flags) {
  const path = scratch(name);
  if (!existsSync(path)) {
    const made = spawnSync(join(bin, "quern_make_model"), [shape, path, ...flags], { encoding: "utf8" });
    if (made.status !== 0) throw new Error(`quern_make_model ${shape}: ${made.stderr}`);
  }
  return path;
}

async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

export class Quern {
  /** @param {Record<string,string>} settings variables of the server */
  static async start(settings = {}, { ready = true } = {}) {
    const port = await freePort();
    const server = new Quern();
    server.port = port;
    server.url = `http://127.0.0.1:${port}`;
    server.log = "";
    const env = { PATH: process.env.PATH, HOME: folder, LLM_INFERENCE_PORT: String(port), LOG_FORMAT: "json", ...settings };
    for (const name of ["ASAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS", "QUERN_FORCE_ISA"])
      if (process.env[name]) env[name] = process.env[name];
    server.process = spawn(quern, ["serve"], { env, cwd: folder, stdio: ["ignore", "inherit", "pipe"] });
    server.process.stderr.on("data", (data) => (server.log += data));
    server.exited = new Promise((resolve) => server.process.on("exit", (code, signal) => resolve(code ?? signal)));
    await server.waitFor(ready ? "/health/ready" : "/health/live");
    return server;
  }

  async waitFor(path, seconds = 60) {
    for (const end = Date.now() + seconds * 1000; Date.now() < end; ) {
      try {
        if ((await fetch(this.url + path)).status === 200) return;
      } catch {}
      if (this.process.exitCode !== null) break;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`${path} did not answer 200; log:\n${this.log}`);
  }

  async post(path, body, headers = {}) {
    const response = await fetch(this.url + path, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body: typeof body === "string" ? body : JSON.stringify(body),
    });
    const text = await response.text();
    let json;
    try {
      json = JSON.parse(text);
    } catch {}
    return { status: response.status, headers: response.headers, text, json };
  }

  /** Events of a stream, "[DONE]" included. */
  async events(path, body) {
    const { status, text, headers } = await this.post(path, body);
    if (status !== 200) throw new Error(`${path}: ${status} ${text}`);
    if (!headers.get("content-type").startsWith("text/event-stream")) throw new Error(`${path}: not a stream`);
    if (!text.endsWith("\n\n")) throw new Error("the last event does not end with an empty line");
    return text
      .slice(0, -2)
      .split("\n\n")
      .filter((block) => !block.startsWith(":"))
      .map((block) => {
        if (!block.startsWith("data: ") || block.includes("\n")) throw new Error(`not one data line: ${block}`);
        return block === "data: [DONE]" ? "[DONE]" : JSON.parse(block.slice(6));
      });
  }

  async metric(name) {
    const text = await (await fetch(this.url + "/metrics")).text();
    const line = text.split("\n").find((l) => l.startsWith(name + " ") || l.startsWith(name + "{"));
    return line === undefined ? undefined : Number(line.slice(line.lastIndexOf(" ") + 1));
  }

  /** Ends the server with a signal; gives its exit status. */
  async stop(signal = "SIGTERM") {
    this.process.kill(signal);
    return this.exited;
  }
}
