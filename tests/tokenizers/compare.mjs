// tokenizer.json files in the shapes of known families, over real vocabularies: the same ids as
// @huggingface/tokenizers gives.
import { Tokenizer } from "@huggingface/tokenizers";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { byteFamilies, characterFamilies } from "./families.mjs";
import { cases, vocabularies } from "./vocabularies.mjs";

const [program] = process.argv.slice(2);
const child = spawn(program, { stdio: ["pipe", "pipe", "inherit"] });
const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
const ask = async (request) => {
  child.stdin.write(JSON.stringify(request) + "\n");
  return JSON.parse((await answers.next()).value);
};
const folder = mkdtempSync(join(tmpdir(), "quern-tokenizers-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));

// Scripts, marks that compose, white space of all kinds, digits that are no ASCII, emoji, contractions.
const PARTS = [" ", " ", "  ", "    ", "\n", "\r\n", "\t", "\u00a0", "\u2003", "\u200b", "a", "The", "WORD", "camelCase", "'s", "'LL", "don't", "1", "23", "4567", "3.14", "é", "e\u0301", "Ä", "A\u0308", "Straße", "ПРИВЕТ", "мир", "Ελλάδα", "中文", "日本語", "カタカナ", "한국어", "עברית", "عربي", "हिन्दी", "বাংলা", "தமிழ்", "ไทย", "ខ្មែរ", "ქართული", "አማርኛ", "ﬁ", "Ⅷ", "½", "²", "٣", "ǅ", "ʰ", "🚀", "👩‍👩‍👧", "🇫🇷", "!", "...", "?!", "@#", "_x", "(a)", "==", "</", "\\n", "▁"];
function randomTexts(count, extra) {
  let state = 12345;
  const random = (n) => (state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff) % n;
  const parts = [...PARTS, ...extra];
  return Array.from({ length: count }, () => Array.from({ length: 1 + random(20) }, () => parts[random(parts.length)]).join(""));
}

let failures = 0;
async function compare(name, vocabulary, shape) {
  const { config = {}, skip = /(?!)/, rstrip = false, ignore_merges = false, ...around } = shape;
  const added_tokens = vocabulary.added_tokens.map((token) => ({ ...token, rstrip: rstrip && token.content.startsWith("<|") }));
  const file = { version: "1.0", truncation: null, padding: null, normalizer: null, pre_tokenizer: null, post_processor: null, ...around, added_tokens, model: { ...vocabulary.model, ignore_merges } };
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(file));
  writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify(config));
  const theirs = new Tokenizer(file, config);
  const loaded = await ask({ folder });
  if (loaded.error) return console.log(`FAILED ${name}: ${loaded.error}`), ++failures;
  let wrong = 0;
  const texts = [...cases(), ...randomTexts(400, added_tokens.slice(0, 20).map((token) => token.content))].filter((text) => !skip.test(text));
  for (const text of texts) {
    const wanted = theirs.encode(text, { add_special_tokens: true }).ids;
    const { ids } = await ask({ text, add_special: true });
    if (JSON.stringify(ids) === JSON.stringify(wanted)) continue;
    if (wrong++ < 3) console.log(`${name}: ${JSON.stringify(text)}\n  theirs ${JSON.stringify(wanted)}\n  ours   ${JSON.stringify(ids)}`);
  }
  if (wrong > 0) ++failures;
  console.log(`${wrong > 0 ? "FAILED" : "ok"} ${name}: ${texts.length - wrong} of ${texts.length}${loaded.warnings.length > 0 ? `, ${loaded.warnings.length} warnings` : ""}`);
}

const { bytes, characters } = vocabularies();
for (const [vocabularyName, vocabulary] of bytes)
  for (const [family, shape] of Object.entries(byteFamilies))
    await compare(`${family} over ${vocabularyName}`, vocabulary, typeof shape === "function" ? shape(vocabulary.added_tokens[0]) : shape);
for (const [vocabularyName, vocabulary] of characters)
  for (const [family, shape] of Object.entries(characterFamilies)) await compare(`${family} over ${vocabularyName}`, vocabulary, shape);
child.stdin.end();
process.exit(failures > 0 ? 1 : 0);
