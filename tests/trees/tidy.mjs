// clang-tidy over the sources of the build trees: tidy.mjs [-j JOBS] [FOLDER-OR-FILE…], from the top of the project.
// A source that passed is looked at again only when something it is made of has changed: build/tidy/ keeps for each one the
// hash of clang-tidy's version, .clang-tidy, the compile command and every file that the last build read for it.
import { execFile, execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, relative, resolve } from "node:path";

const tool = "clang-tidy-19";
// What a tree is looked at for. Each source belongs to the first tree that claims it.
const trees = [
  { tree: "build/arm64", claims: (source) => source.includes("/isa/neon/") },
  { tree: "build/dev", claims: () => true },
  { tree: "build/fuzz", claims: (source) => source.startsWith("fuzz/") },
];

const hashes = new Map();
const hash = (text) => createHash("sha256").update(text).digest("hex");
function fileHash(path) {
  if (!hashes.has(path)) hashes.set(path, existsSync(path) ? hash(readFileSync(path)) : "gone");
  return hashes.get(path);
}

/// source → the files that the tree's last build read for it. Of the project's own, compilers name the source itself first.
function filesRead(tree) {
  const read = new Map();
  const deps = execFileSync("ninja", ["-t", "deps"], { cwd: tree, encoding: "utf8", maxBuffer: 1 << 30 });
  for (const block of deps.split("\n\n")) {
    const files = block.split("\n").slice(1).map((line) => resolve(tree, line.trim()));
    const source = files.find((path) => path.startsWith(`${resolve(".")}/`));
    if (source) read.set(source, files);
  }
  return read;
}

/// The wanted sources of the trees that are built, as {source, tree, key}.
function sources(wanted) {
  const common = execFileSync(tool, ["--version"], { encoding: "utf8" }) + fileHash(".clang-tidy");
  const found = new Map();
  for (const { tree, claims } of trees) {
    if (!existsSync(`${tree}/.ninja_deps`)) continue;
    const read = filesRead(tree);
    for (const { file, command } of JSON.parse(readFileSync(`${tree}/compile_commands.json`, "utf8"))) {
      const source = relative(".", file);
      if (found.has(source) || !claims(source) || !wanted(source)) continue;
      const files = read.get(file);
      if (!files) throw new Error(`${source}: not compiled in ${tree}: build it first`);
      const key = hash([common, command, ...files.map((path) => `${path} ${fileHash(path)}`)].join("\n"));
      found.set(source, { source, tree, key });
    }
  }
  return [...found.values()];
}

const stamp = (source) => `build/tidy/${source}`;
const passed = ({ source, key }) => existsSync(stamp(source)) && readFileSync(stamp(source), "utf8") === key;

/// Resolves to whether the source is clean; prints what was found, and remembers a pass.
function look({ source, tree, key }) {
  const started = Date.now();
  return new Promise((done) => {
    execFile(tool, ["-p", tree, "--quiet", "--warnings-as-errors=*", source], { maxBuffer: 1 << 28 }, (error, out, err) => {
      console.log(`${source} ${((Date.now() - started) / 1000).toFixed(0)} s${error ? `: not clean\n${out}${out ? "" : err}` : ""}`);
      if (!error) {
        mkdirSync(dirname(stamp(source)), { recursive: true });
        writeFileSync(stamp(source), key);
      }
      done(!error);
    });
  });
}

const args = process.argv.slice(2);
const jobs = args[0] === "-j" ? Number(args.splice(0, 2)[1]) : availableParallelism();
const wanted = (source) => args.length === 0 || args.some((path) => source === path || source.startsWith(path.replace(/\/*$/, "/")));
const all = sources(wanted);
const left = all.filter((source) => !passed(source));
console.log(`clang-tidy: ${all.length} sources, ${left.length} of them new or changed`);
const total = left.length;
let failed = 0;
async function worker() {
  for (let next = left.shift(); next; next = left.shift()) if (!(await look(next))) failed += 1;
}
await Promise.all(Array.from({ length: jobs }, worker));
if (failed > 0) {
  console.log(`${failed} of ${total} are not clean`);
  process.exit(1);
}
