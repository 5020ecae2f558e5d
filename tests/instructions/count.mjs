// Instructions of the CPU's main kernels beside figures.json: count.mjs BUILD-FOLDER COMPILER [--update].
// AVX2: what one call takes, counted by callgrind, which is exact and the same on every machine. AVX-512 and AVX-VNNI, which
// valgrind does not know: the lengths of each function's innermost loops, read from objdump. A figure that is over by more than 1 % fails, and so
// does one that is under, so that what was won is written down: --update does that.
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [build, compiler, flag] = process.argv.slice(2);
const file = join(import.meta.dirname, "figures.json");
const tolerance = 0.01;

function skip(why) {
  console.log(`skipped: ${why}`);
  process.exit(77);
}

const output = (program, args, options = {}) =>
  execFileSync(program, args, { encoding: "utf8", maxBuffer: 1 << 28, stdio: ["ignore", "pipe", "pipe"], ...options });
const has = (program) => {
  try {
    output(program, ["--version"]);
    return true;
  } catch {
    return false;
  }
};

/// {piece of work: instructions}
function callgrind() {
  const folder = mkdtempSync(join(tmpdir(), "quern-instructions-"));
  try {
    const names = output("valgrind",
      ["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=quern_measured", "--dump-after=quern_measured",
        `--callgrind-out-file=${folder}/out`, `${build}/bin/quern_kernel_work`],
      { env: { ...process.env, QUERN_FORCE_ISA: "avx2" } }).trim().split("\n");
    return Object.fromEntries(names.map((name, i) =>
      [name, Number(/^(?:totals|summary): (\d+)/m.exec(readFileSync(`${folder}/out.${i + 1}`, "utf8"))[1])]));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/// {function: lengths of the loops that hold no other loop, in the order of the code}
function innermostLoops(object) {
  const found = {};
  for (const text of output("objdump", ["-d", "-C", "--no-show-raw-insn", object]).split("\n\n")) {
    const name = /^[0-9a-f]+ <(.*)>:$/m.exec(text)?.[1];
    if (!name) continue;
    const addresses = [], jumps = [];
    for (const [, address, instruction] of text.matchAll(/^ *([0-9a-f]+):\t(.*)$/gm)) {
      const at = parseInt(address, 16);
      addresses.push(at);
      const target = /^j[a-z]+ +([0-9a-f]+) </.exec(instruction);
      if (target && parseInt(target[1], 16) <= at) jumps.push({ from: parseInt(target[1], 16), to: at });
    }
    const loops = jumps.filter(({ from, to }) => from >= addresses[0] &&
      !jumps.some((other) => other.from >= from && other.to <= to && (other.from > from || other.to < to)));
    if (loops.length === 0) continue;
    const short = name.replaceAll(/quern::cpu::|\(anonymous namespace\)::|^void /g, "").replace(/\([^()]*\)$/, "");
    found[short] = (found[short] ?? []).concat(loops.map(({ from, to }) => addresses.filter((at) => at >= from && at <= to).length));
  }
  return found;
}

if (process.arch !== "x64") skip("the figures are of x86-64");
if (!has("valgrind")) skip("no valgrind");
if (!has("objdump")) skip("no objdump");
/// The build's own file, and not the archive: functions have the same names in every ISA.
function objectOf(source) {
  const object = `${build}/CMakeFiles/quern_backend.dir/src/backend/cpu/isa/${source}.cc.o`;
  if (!existsSync(object)) throw new Error(`${object} is not there: build ${build} first`);
  return object;
}
const products = ([name]) => name.startsWith("dot_super<");
const version = output(compiler, ["--version"]).split("\n")[0].replace(/^\S+/, "").trim();
const committed = flag === "--update" ? {} : JSON.parse(readFileSync(file, "utf8"));
if (flag !== "--update" && committed.compiler !== version)
  skip(`the figures are of ${committed.compiler}, this compiler is ${version}`);

const counted = {
  avx2: callgrind(),
  // The rest of it is what AVX2 has.
  "avx2-vnni": Object.fromEntries(Object.entries(innermostLoops(objectOf("avx2/kernels_vnni"))).filter(products)),
  avx512: innermostLoops(objectOf("avx512/kernels")),
};
const isas = Object.keys(counted);
const totals = isas.map((isa) => `${isa} ${Object.keys(counted[isa]).length}`).join(", ");
if (flag === "--update") {
  const lines = (figures) => Object.entries(figures).map(([name, value]) => `    ${JSON.stringify(name)}: ${JSON.stringify(value)}`).join(",\n");
  const parts = isas.map((isa) => `  ${JSON.stringify(isa)}: {\n${lines(counted[isa])}\n  }`);
  writeFileSync(file, `{\n  "compiler": ${JSON.stringify(version)},\n${parts.join(",\n")}\n}\n`);
  console.log(`figures written to ${file}: ${totals}`);
  process.exit(0);
}

let wrong = 0;
function complain(text) {
  console.log(text);
  wrong += 1;
}
const sum = (value) => [value].flat().reduce((a, b) => a + b, 0);
for (const isa of isas) {
  const figures = committed[isa] ?? {};
  for (const name of new Set([...Object.keys(figures), ...Object.keys(counted[isa])])) {
    const before = figures[name], now = counted[isa][name];
    if (before === undefined || now === undefined) {
      complain(`${isa} ${name}: ${before === undefined ? "has no committed figure" : "is gone"}`);
      continue;
    }
    const ratio = sum(now) / sum(before);
    if (Math.abs(ratio - 1) > tolerance)
      complain(`${isa} ${name}: ${JSON.stringify(now)} instructions, committed ${JSON.stringify(before)} (${ratio.toFixed(3)})`);
  }
}
console.log(`figures of ${totals}: ${wrong} differ`);
if (wrong > 0) {
  console.log("If that is meant: node tests/instructions/count.mjs build/dev g++ --update");
  process.exit(1);
}
