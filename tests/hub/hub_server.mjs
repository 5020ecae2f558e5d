// A hub on this machine for tests: Hugging Face's API over made-up repos, with faults that can be switched on.
import { createHash, randomBytes } from "node:crypto";
import { createServer } from "node:http";

const sha256 = (data) => createHash("sha256").update(data).digest("hex");
const gitSha1 = (data) => createHash("sha1").update(`blob ${data.length}\0`).update(data).digest("hex");
const LARGE = 10_000; // bytes; from here on a file counts as large (LFS): SHA-256 as its etag, on a storage host

/** Bytes that look like noise, the same for the same seed. */
export function noise(size, seed = 1) {
  const out = Buffer.allocUnsafe(size);
  let x = (seed * 2654435761) >>> 0 || 1;
  for (let i = 0; i < size; ++i) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    out[i] = x & 255;
  }
  return out;
}

/** Until the client has taken what was written, or has gone. */
const room = (response) =>
  new Promise((resolve) => {
    const done = () => {
      response.off("drain", done);
      response.off("close", done);
      resolve();
    };
    response.on("drain", done);
    response.on("close", done);
  });

async function listen(server) {
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${server.address().port}`;
}

/**
 * Faults, all off by default (fields of `faults`):
 *   cut: bytes           end the connection of each body after about so many (random) bytes, `cutTimes` times
 *   status: [503, …]     answer the next requests for bodies with these first; `retryAfter` goes with them
 *   apiStatus: [500, …]  the same for the API
 *   wrongHash: n         the next n bodies have a byte changed (of those of `wrongFrom` bytes or more)
 *   truncate: n          the next n bodies end early, though announced so
 *   noRanges: true       every body is a 200 with everything
 *   dripBytes: n         write n bytes every `dripMs`
 *   slowMs               before every body
 *   listing: string|fn   what the API says instead of the listing
 *   noSize: true         HEAD does not tell the size
 *   away: true           large files are redirected to another host
 *   gated / needToken    401 or 403 without this token
 */
export class HubServer {
  repos = new Map(); // "owner/repo" → {branches: {main: commit}, commits: {commit: {file: Buffer}}}
  faults = {};
  requests = []; // {host, method, path, headers, status}
  bytesSent = 0;

  static async start() {
    const hub = new HubServer();
    hub.hubServer = createServer((q, s) => hub.answer("hub", q, s));
    hub.storageServer = createServer((q, s) => hub.answer("storage", q, s));
    hub.url = await listen(hub.hubServer);
    hub.storageUrl = await listen(hub.storageServer);
    return hub;
  }

  async stop() {
    for (const server of [this.hubServer, this.storageServer]) {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  }

  /** Adds a commit with these files and lets the branch stand for it. */
  add(repo, files, branch = "main") {
    const entry = this.repos.get(repo) ?? { branches: {}, commits: {} };
    const commit = createHash("sha1").update(repo + branch + JSON.stringify(Object.keys(files)) + Object.keys(entry.commits).length).digest("hex");
    entry.commits[commit] = Object.fromEntries(Object.entries(files).map(([name, data]) => [name, Buffer.from(data)]));
    entry.branches[branch] = commit;
    this.repos.set(repo, entry);
    return commit;
  }

  reset() {
    this.faults = {};
    this.requests = [];
    this.bytesSent = 0;
  }

  bodies() {
    return this.requests.filter((r) => r.method === "GET" && (r.host === "storage" || r.path.includes("/resolve/")));
  }

  answer(host, request, response) {
    const url = new URL(request.url, "http://x");
    const path = decodeURI(url.pathname);
    const record = { host, method: request.method, path: url.pathname, headers: request.headers };
    this.requests.push(record);
    response.on("close", () => (record.status = response.statusCode));
    const send = (status, body, headers = {}) => {
      response.writeHead(status, { "content-length": Buffer.byteLength(body), ...headers });
      response.end(request.method === "HEAD" ? "" : body);
    };
    if (host === "storage") return this.storage(request, response, url, send);
    const api = url.pathname.match(/^\/api\/models\/([^/]+\/[^/]+)(?:\/(revision|tree|refs|paths-info)(?:\/([^/]+))?)?/);
    if (api) return this.api(request, response, api[1], api[2] ?? "revision", decodeURIComponent(api[3] ?? "main"), send);
    const resolve = path.match(/^\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/);
    if (resolve) return this.resolve(request, response, resolve[1], decodeURIComponent(resolve[2]), resolve[3], send);
    send(404, "no");
  }

  denied(request, send, gated) {
    const { needToken } = this.faults;
    const given = request.headers.authorization;
    if (!needToken || given === `Bearer ${needToken}`) return false;
    if (this.faults.gated && !gated) return false; // the API of a gated repo is open
    send(given ? 403 : 401, "no", this.faults.gated ? { "x-error-code": "GatedRepo" } : { "x-error-code": "RepoNotFound" });
    return true;
  }

  find(repo, revision, send) {
    const entry = this.repos.get(repo);
    if (!entry) return void send(404, "{}", { "x-error-code": "RepoNotFound" });
    const commit = entry.branches[revision] ?? (entry.commits[revision] ? revision : undefined);
    if (!commit) return void send(404, "{}", { "x-error-code": "RevisionNotFound" });
    return { commit, files: entry.commits[commit] };
  }

  info(name, data) {
    const large = data.length >= LARGE;
    const lfs = large ? { lfs: { oid: sha256(data), size: data.length, pointerSize: 130 } } : {};
    return { type: "file", path: name, size: data.length, oid: gitSha1(data), ...lfs };
  }

  async api(request, response, repo, what, revision, send) {
    if (this.faults.apiStatus?.length)
      return send(this.faults.apiStatus.shift(), "trouble", this.faults.retryAfter ? { "retry-after": this.faults.retryAfter } : {});
    if (this.denied(request, send, false)) return;
    if (this.faults.listing !== undefined && what === "revision") return send(200, typeof this.faults.listing === "function" ? this.faults.listing() : this.faults.listing);
    if (what === "refs") {
      const entry = this.repos.get(repo);
      if (!entry) return send(404, "{}", { "x-error-code": "RepoNotFound" });
      return send(200, JSON.stringify({ branches: Object.entries(entry.branches).map(([name, c]) => ({ name, ref: `refs/heads/${name}`, targetCommit: c })), tags: [] }));
    }
    const found = this.find(repo, revision, send);
    if (!found) return;
    const { commit, files } = found;
    const json = { "content-type": "application/json" };
    if (what === "tree") return send(200, JSON.stringify(Object.entries(files).map(([n, d]) => this.info(n, d))), json);
    if (what === "paths-info") {
      let body = "";
      for await (const chunk of request) body += chunk;
      const { paths } = JSON.parse(body);
      return send(200, JSON.stringify(paths.filter((p) => files[p]).map((p) => ({ ...this.info(p, files[p]), lastCommit: { id: commit, title: "x", date: "2024-01-01T00:00:00.000Z" } }))), json);
    }
    const siblings = Object.keys(files).map((rfilename) => ({ rfilename }));
    send(200, JSON.stringify({ _id: "x", id: repo, modelId: repo, sha: commit, private: false, gated: this.faults.gated ? "manual" : false, tags: [], downloads: 0, likes: 0, lastModified: "2024-01-01T00:00:00.000Z", siblings }), json);
  }

  resolve(request, response, repo, revision, name, send) {
    if (this.denied(request, send, true)) return;
    const found = this.find(repo, revision, send);
    if (!found) return;
    const data = found.files[name];
    if (data === undefined) return send(404, "", { "x-error-code": "EntryNotFound" });
    const large = data.length >= LARGE;
    const headers = { "x-repo-commit": found.commit, "accept-ranges": "bytes", etag: `"${gitSha1(data)}"` };
    if (large) {
      const etag = this.faults.etag ?? sha256(data);
      Object.assign(headers, { "x-linked-etag": `"${etag}"`, "x-linked-size": String(data.length), etag: `"${etag}"` });
      if (this.faults.noSize) delete headers["x-linked-size"];
      if (this.faults.away)
        return send(302, "", { ...headers, location: `${this.storageUrl}/store/${repo}/${found.commit}/${name}?signature=${randomBytes(4).toString("hex")}` });
    }
    this.body(request, response, data, headers, send);
  }

  storage(request, response, url, send) {
    const [, repo, commit, name] = decodeURI(url.pathname).match(/^\/store\/([^/]+\/[^/]+)\/([^/]+)\/(.+)$/) ?? [];
    const data = this.repos.get(repo)?.commits[commit]?.[name];
    if (!data) return send(404, "");
    this.body(request, response, data, { etag: '"of-the-storage-host"', "accept-ranges": "bytes" }, send);
  }

  async body(request, response, data, headers, send) {
    const f = this.faults;
    if (request.method === "HEAD") return f.noSize ? (response.writeHead(200, headers), response.end()) : send(200, data, headers);
    if (f.status?.length) return send(f.status.shift(), "trouble", f.retryAfter ? { "retry-after": f.retryAfter } : {});
    if (f.slowMs) await new Promise((resolve) => setTimeout(resolve, f.slowMs));
    const range = f.noRanges ? null : /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "");
    const first = range ? Number(range[1]) : 0;
    const last = range && range[2] !== "" ? Math.min(Number(range[2]), data.length - 1) : data.length - 1;
    let part = Buffer.from(data.subarray(first, last + 1));
    if (f.wrongHash > 0 && part.length > 0 && part.length >= (f.wrongFrom ?? 0)) {
      --f.wrongHash;
      part[Math.floor(part.length / 2)] ^= 1;
    }
    if (f.truncate > 0) {
      --f.truncate;
      part = part.subarray(0, Math.floor(part.length / 3));
    }
    const all = { ...headers, "content-length": String(part.length) };
    if (range) all["content-range"] = `bytes ${first}-${last}/${data.length}`;
    response.writeHead(range ? 206 : 200, all);
    const cutAt = f.cut && (f.cutTimes === undefined || f.cutTimes-- > 0) ? Math.floor(Math.random() * f.cut) : Infinity;
    const step = f.dripBytes ?? 64 << 10;
    for (let at = 0; at < part.length && !response.destroyed; at += step) {
      const piece = part.subarray(at, Math.min(at + step, part.length, cutAt));
      this.bytesSent += piece.length;
      if (!response.write(piece)) await room(response);
      if (at + step > cutAt) return void setTimeout(() => response.destroy(), 5);
      if (f.dripMs) await new Promise((resolve) => setTimeout(resolve, f.dripMs));
    }
    response.end();
  }
}
