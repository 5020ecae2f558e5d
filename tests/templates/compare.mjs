// Renders every template of ../../shared/fixtures/templates and of models/ with Quern and with @huggingface/jinja
// and compares. Both must give the same text, or both refuse; where @huggingface/jinja alone refuses, Quern follows
// Jinja2 (it iterates over undefined values, for example), which is counted but no failure.
//
//   node compare.mjs PATH/quern_render_template
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { Template } from "@huggingface/jinja";
import { cases } from "./conversations.mjs";

process.env.LC_ALL = "C";
const here = dirname(fileURLToPath(import.meta.url));
const fixtures = join(process.env.QUERN_TEST_DATA ?? join(here, "../../../shared/fixtures"), "templates");

function templatesIn(folder) {
  const names = readdirSync(folder).filter((name) => name.endsWith(".jinja")).sort();
  return names.map((name) => ({ name, source: readFileSync(join(folder, name), "utf8") }));
}

/// Where the two differ by intent: @huggingface/jinja departs from Jinja2, with which models were trained.
function knownDifference(source, variables, ours, theirs) {
  if (/cannot combine ('str' and 'list'|'list' and 'str')/.test(ours.error)) return "a string and a list do not add up";
  if (/list of 0 items has no item/.test(ours.error)) return "attributes of undefined are errors";
  if (ours.error) return null;
  if (theirs.text.includes("[object Map]")) return "an object that joins a string becomes JSON";
  // strip("\n") and its kin take away all white space there, whatever their argument says.
  const letters = (text) => text.replace(/\s+/g, "");
  if (/strip\(['"]/.test(source) && letters(theirs.text) === letters(ours.text)) return "strip() has an argument";
  if (/!= false/.test(source) && variables.messages[0]?.content === "") return "an empty string is not false";
  if (/true|false/.test(JSON.stringify(variables)) && theirs.text === ours.text.replace(/True/g, "true").replace(/False/g, "false"))
    return "booleans print as in Python";
  return null;
}

const parsed = new Map();

function theirs(template, variables) {
  try {
    if (!parsed.has(template)) parsed.set(template, new Template(template));
    return { text: parsed.get(template).render(variables) };
  } catch (error) {
    return { error: String(error.message) };
  }
}

const templates = templatesIn(join(here, "models"));
if (existsSync(fixtures)) templates.push(...templatesIn(fixtures));
else console.log(`no folder ${fixtures}: only the project's own templates are compared`);

const jobs = templates.flatMap((template) => [...cases()].map((c) => ({ template, ...c })));
const input = jobs.map(({ template, variables }) => JSON.stringify({ template: template.source, variables }) + "\n").join("");
const run = spawnSync(process.argv[2], { input, encoding: "utf8", maxBuffer: 1 << 30 });
if (run.status !== 0) {
  console.error(`${process.argv[2]} failed: ${run.error ?? run.stderr}`);
  process.exit(1);
}
const answers = run.stdout.split("\n").filter(Boolean).map((line) => JSON.parse(line));

const counts = {};
let failures = 0;
const count = (what) => (counts[what] = (counts[what] ?? 0) + 1);
const only = new Map();
const shown = new Set(); // one failure for each template and conversation
jobs.forEach(({ template, name, variables }, i) => {
  const ours = answers[i] ?? { error: "no answer" };
  const wanted = theirs(template.source, variables);
  if (ours.text === undefined && wanted.text === undefined) return count("refused by both");
  if (ours.text === wanted.text) return count("equal");
  if (wanted.text === undefined) {
    only.set(wanted.error, (only.get(wanted.error) ?? 0) + 1);
    if (process.env.VERBOSE) console.log(`only here: ${template.name}: ${name}: ${wanted.error}\n${JSON.stringify(ours.text)}`);
    return count("rendered by Quern alone");
  }
  const known = knownDifference(template.source, variables, ours, wanted);
  if (known) return count(`differs as intended: ${known}`);
  count("DIFFERENT");
  const key = template.name + name.split(" / ")[0];
  ++failures;
  if (!shown.has(key) && shown.add(key).size <= 30) {
    console.log(`${template.name}: ${name}\n  quern:            ${JSON.stringify(ours)}\n  huggingface/jinja: ${JSON.stringify(wanted)}`);
  }
});
console.log(`${templates.length} templates, ${jobs.length} renderings:`, counts);
if (process.env.VERBOSE) console.log(only);
process.exit(failures > 0 ? 1 : 0);
