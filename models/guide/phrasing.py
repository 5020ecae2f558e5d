"""Turns facts into questions in many wordings."""
import re

from grammar import expand

# How to ask about a thing (a noun phrase) and about a deed (an infinitive).
TOPIC = """
what is {} ; what's {} ; whats {} ; {} ; {} ; {} ; tell me about {} ; (please |)explain {} ; what about {} ; (some |)info on {} ;
(can|could) you (explain|tell me about|describe) {} ; i (want|need|would like|'d like) to know (more |)about {} ; (i have |)a question about {} ;
help (me |)with {} ; how does {} work ; how about {} ; what do you know about {} ; (details|information) (on|about) {} ; {} please ; {}, please ;
do you know (anything about |){} ; what can you tell me about {} ; (give|show) me {} ; describe {} ; i (do not|don't) understand {} ; {} explained ;
where (do|can) i find {} ; (what is|what's) {} (here|in quern|for quern|of the server) ; does @q have {} ; (what does|what do) {} mean ; {} quern ; quern {} ;
(can i|where do i) read (more |)about {} ; what should i know about {} ; what's the story (with|on|behind) {} ; i (keep reading|heard|read|wonder) about {} ; {} - what is that ; is there anything about {} ; (not clear to me|unclear to me|open question): {} ;
how is {} meant ; (say|tell me) something (on|about) {} ; what role does {} play ; my question is about {} ; {}, how is that done here ; what is the deal with {} ; (quick|short) answer about {} ; the docs mention {} ; i am looking for {}
""".replace("\n", " ")
ACTION = """
how do i {} ; how do i {} ; how do i {} ; how can i {} ; how to {} ; how do you {} ; how would i {} ; how should i {} ; how does one {} ; how could i {} ;
how do we {} ; how can we {} ; what do i (have|need) to do to {} ; what (must|should|do) i (do|set|change|type|use) to {} ; (what's|what is) the (best |right |easiest |)way to {} ;
is there (a|any) way to {} ; is it possible to {} ; can i {} ; can you {} ; i want to {} ; i need to {} ; i would like to {} ; i'd like to {} ;
i am trying to {} ; im trying to {} ; we (want|need) to {} ; {} ; {} how ; how {} ; (tell|show) me how to {} ; (can|could) you (tell|show) me how to {} ;
(please |)help me {} ; where do i {} ; how (is it|is) possible to {} ; what do i need (in order |)to {} ; steps to {} ; i wish to {} ; best way to {} ;
(do you|does anyone) know how to {} ; am i able to {} ; what if i want to {} ; any (idea|hint|tip) how to {} ; i (have no idea|don't know|am not sure) how to {} ;
(my team|my boss|a colleague|a user) wants to {} ; i have to {}, how ; explain how to {} ; how might i {} ; (instructions|a guide) to {} ; i can't {} ; let me {} ; make it {} ;
(does|will) @q let me {} ; does @q (allow|offer a way) to {} ; my goal is to {} ; (i am |)looking for a way to {} ; i'm trying to figure out how to {} ; (is there|do you have) (a setting|an option|a command|something|a trick) to {} ; what would you do to {} ;
(our admin|my customer|my manager|the team) asks how to {} ; (i was told|i have been asked|the task is) to {} ; (what|which) steps are needed to {} ; the (correct|proper|simplest) way to {} ; i (never managed|fail|struggle) to {} ; what does it take to {} ; suppose i want to {} ;
(i could not find|i did not find out|nobody could tell me) how to {} ; i'm supposed to {} ; where do i start if i want to {} ; we are planning to {} ; would like to {}, any advice ; in order to {}, what do i do ; {} - how ; {}: how
""".replace("\n", " ")
KNOB = """
(what|which) {k} (do i use|do i set|do i change|should i set|must i set|should i use|lets me|is used|is needed|is there) to {v} ; (what|which) {k} (would|will|can) {v} ;
(what|which) {k} (is for|controls|sets|is about|determines|affects|governs|has to do with|concerns) {n} ; (is there a|name the|tell me the|what's the|what is the) {k} (for|that controls|that sets) {n} ;
{k} for {n} ; {k} to {v} ; where (do i|can i) (set|change|configure) {n} ; how (do|can) i (set|change|configure|adjust) {n} ; change {n} ; set {n} ; configure {n} ;
what is the default (for|of|value of) {n} ; default (of|for|value of) {n} ; {n} default ; (can i|how to) (change|set|configure|adjust) {n} ; where is {n} (set|configured|defined) ; how is {n} (set|controlled|configured|determined) ;
what (controls|determines|decides|limits) {n} ; can {n} be (changed|set|configured|limited) ; what is {n} (out of the box|unless told otherwise|if i set nothing|if i change nothing|normally|initially) ;
{n} (out of the box|unless told otherwise|if i leave everything as it is|without any settings) ; is {n} configurable ; how do i override {n} ; {n}: where and how ; i want a different value for {n} ;
i want to (change|set|adjust) {n} ; i'd like to {v}, (what|which) {k} is it ; (can|could) you tell me the {k} (for|of) {n} ; the {k} that (controls|sets|changes) {n} ; name of the {k} for {n}
""".replace("\n", " ")
KNOBS = "(variable|variable|environment variable|env var|env variable|setting|setting|option|parameter|config variable|config option|knob)"
NAME = """
what (does|is) {} (do|for|mean|) ; what is {} ; what's {} ; {} ; {} ; {} meaning ; explain {} ; tell me about {} ; what is the default (of|for|value of) {} ; default (of|for) {} ;
{} default ; how do i (use|set|change) {} ; what (values|value) (can|does) {} (have|take|accept) ; what should i set {} to ; when do i (need|use|set) {} ;
meaning of {} ; what happens (if|when) i (set|change) {} ; do i need {} ; what does the {} (variable|setting|option) (do|mean) ; the {} setting ; help with {} ; what is {} used for ;
is {} (on|set) by default ; describe {} ; (example|an example) (of|for) {} ; which values are allowed for {} ; allowed values of {} ; purpose of {} ;
(i saw|i found|there is) {} in (a|the|our) .env (file|) ; what would {} change ; somebody set {}, what does it do ; is {} important ; export {} ; {}=... ; {} in .env ; can i leave {} out ; what if {} is not set ; what is the effect of {} ; why would i set {} ; is there a default for {} ; which setting is {} ; what does {} control
""".replace("\n", " ")
COMMAND = """
what does (the |){} (command |)do ; {} ; {} ; what is {} (for|) ; how do i use {} ; explain {} ; (example|an example) of {} ; when do i use {} ; usage of {} ; options of {} ;
tell me about {} ; {} usage ; {} help ; {} command ; how does {} work ; what's {} ; flags of {} ; {} options ; what is the {} command (for|good for) ;
what happens when i (run|call|type) {} ; what do i get from {} ; what is {} good for ; purpose of {} ; {} - what is it ; describe {} ; what can i do with {} ; someone told me to (use|try|call) {} ; what comes out of {} ; why would i use {}
""".replace("\n", " ")
FORMAT = """
what is {} ; what's {} ; {} ; {} ; explain {} ; tell me about {} ; what does {} mean ; how many bits (per weight |)(does {} (have|use|need|take)|are in {}|is {}|has {}) ;
bits per weight of {} ; {} bits per weight ; {} bits ; {} bpw ; when (do|should) i use {} ; when to use {} ; should i use {} ; is {} (any |)(good|ok|worth it|better|recommended|lossy|bad|enough) ;
how good is {} ; {} quality ; {} size ; how (big|large|small|accurate|precise) is {} ; what kind of quantization is {} ; what is {} (good |)for ; what are the (advantages|drawbacks) of {} ;
describe {} ; info on {} ; what do you (think of|say about) {} ; how many bits per weight has {} ; how does {} work ; the {} format ; {} quantization ; what is a {} (file|model|quant) ; does {} lose (much |)quality ;
why (would i |)(use|choose|take) {} ; who should use {} ; how much (memory|space) does {} (need|take) ;
is {} (usable|fine|ok|a good choice|too lossy|too small|overkill) (for daily use|for coding|for chat|) ; someone recommended {} ; i (downloaded|have|see) a {} file, (is it any good|what is that) ; (can i trust|what about) {} ; how lossy is {} ; {} compared to the original ; {} in a few words ;
what do i lose with {} ; (your opinion on|pros and cons of) {} ; what's in a {} file ; what does the name {} tell me ; how are weights stored in {} ; block size of {} ; is {} smaller than the others ; effective bits of {}
""".replace("\n", " ")

# Words that people use for each other; applied at random to a finished question.
SYNONYMS = [(re.compile(rf"\b{a}\b"), b.split("|")) for a, b in [
    ("change", "modify|adjust|alter|edit|switch|tweak|configure|set|update"), ("show", "display|print|list|tell"),
    ("delete", "remove|erase|drop"), ("remove", "delete|erase"), ("start", "launch|run|begin|boot"), ("stop", "end|halt|quit"),
    ("use", "employ|apply|work with|try"), ("limit", "restrict|cap|bound"), ("increase", "raise|bump|extend|grow"),
    ("raise", "increase|bump up|extend|lift"), ("lower", "reduce|decrease"), ("reduce", "lower|decrease|cut|shrink"),
    ("download", "fetch|get|pull|grab"), ("see", "view|check|find|look at|get"), ("find out", "learn|know|determine|check"),
    ("check", "verify|test|see|find out"), ("enable", "turn on|activate|switch on|use"), ("disable", "turn off|deactivate|switch off"),
    ("turn on", "enable|activate|switch on"), ("turn off", "disable|deactivate|switch off"), ("which", "what"), ("what", "which"),
    ("variable", "setting|env var|environment variable|option"), ("setting", "variable|option|env var|parameter"),
    ("choose", "select|pick|decide"), ("pick", "choose|select"), ("a lot of", "lots of|much|plenty of"), ("need", "require|want"),
    ("large", "big"), ("big", "large|huge"), ("small", "little|tiny"), ("fast", "quick|quickly"), ("faster", "quicker|speedier"),
    ("machine", "computer|host|box|pc|server|laptop"), ("folder", "directory|dir|path"), ("directory", "folder|dir"), ("file", "files"),
    ("model", "models|llm|language model"), ("models", "model|llms|language models"), ("memory", "ram"), ("ram", "memory"),
    ("gpu", "graphics card|video card|nvidia gpu|nvidia card"), ("requests", "queries|calls|prompts|users"), ("request", "query|call"),
    ("answer", "reply|response|output|completion"), ("answers", "replies|responses|outputs|completions"), ("documentation", "docs"),
    ("default", "standard|preset|initial"), ("maximum", "max|highest|largest"), ("minimum", "min|lowest"), ("number", "amount|count"),
    ("quantization", "quant|quantisation|quantized format"), ("quantize", "quantise|compress|convert"), ("supported", "possible|available|allowed"),
    ("support", "offer|provide|handle|know|have"), ("works", "functions"), ("address", "ip|url"), ("error", "message|failure|problem"),
    ("token", "tokens"), ("allow", "permit|let|enable"), ("happens", "occurs|goes on"), ("mean", "stand for|do|signify"), ("server", "service|api server"),
    ("client", "program|app|script|application"), ("terminal", "console|shell|command line"), ("install", "set up|get"), ("configure", "set up|adjust"),
    ("stored", "kept|saved|put|cached"), ("saved", "stored|kept"), ("connect", "talk|get through"), ("threads", "cpu threads|cores"), ("cores", "threads|cpu cores"),
    ("full", "exhausted|at the limit"), ("slow", "sluggish|laggy|not fast"), ("problem", "issue|trouble"), ("wait", "be waiting|stay"), ("best", "optimal|right|ideal"),
    ("list", "show|print|see|display"), ("quickly", "fast"), ("longest", "maximum|largest"), ("refused", "rejected|denied|turned away"), ("key", "token|secret|password"),
]]

# Commands, paths and flags are not to be replaced by other words.
VERBATIM = re.compile(r"/|--|quern (serve|run|pull|list|rm|inspect|quantize|imatrix|perplexity|bench|tokenize)\b|^(stop|seed|list)$")

OPENERS = """hi, |hello, |hey, |hey |please |please tell me |quick question: |question: |ok, |so, |so |well, |and |sorry, |excuse me, |i was wondering, |
just curious, |one more thing: |tell me, |can you tell me |could you tell me |do you know |i'd like to know |i want to know |i wonder |now |also, |
good morning, |dear guide, |hi guide, |hi quern, |not sure if you know, but |i am new here. |i'm new to this. |for my project: |at work: |on my server, |
on my laptop, |in quern, |with quern, |when i use quern, |using quern, |after installing quern, |regarding quern: |about quern: |we use quern at work. |i use quern at home. |help! |again: |
i read the docs but |my friend asks: |let's say i run quern, |in production, |under linux, |on ubuntu, |on debian, |as a beginner, |as an admin, |once more, |hm, |then |we are a small company. |i run this at home. |i come from ollama. |i come from vllm. |coming from llama.cpp, |i use it for a chatbot. |
first question: |next question: |another question: |something else: |hey there, |stupid question, |silly question: |maybe a dumb question, |it is urgent: |for a customer: |i'm a student. |i'm a developer. |i'm not an expert. |my setup is simple. |we plan to use quern. |before i start: |in short, |to be clear, |honestly, |yo, |pls |plz |tell us |anyone know """.replace("\n", "").split("|")
CLOSERS = """ please| thanks| thank you| exactly| in quern| with quern| for quern| here| on my machine| on linux| at all| anyway| again| now| actually| then| in general|
 in short| briefly| for me| on my server| on my laptop| in production| when using quern| in this server| on ubuntu|, please|, thanks|, i forgot| if i may ask| by the way| in detail|
 under linux| today| for my project| out of the box| unless told otherwise| if i leave everything as it is| if i change nothing| without changing anything| by default| normally| right away| for my app| correctly| properly| in the api| these days| for a small team| with this server|, do you know|, any idea""".replace("\n", "").split("|")
DROPPABLE = {"the", "a", "an", "do", "does", "i", "is", "are", "to", "of", "my", "it", "for", "can", "in", "on", "please", "quern", "me", "you"}


class Phrasing:
    """Questions for a fact; what they look like depends on the generator of random numbers alone."""

    def __init__(self, rng, words=None):
        self.rng, self.words = rng, words
        split = lambda text: [p.strip() for p in text.split(";") if p.strip()]
        self.topic, self.action, self.knob, self.name, self.command, self.format = map(
            split, (TOPIC, ACTION, KNOB, NAME, COMMAND, FORMAT))

    def expand(self, text):
        return expand(text, self.rng, self.words)

    def clean(self, fact):
        """A correct question for the fact, and whether it asks for yes or no."""
        rng = self.rng
        ways = ["asks"] * (4 if fact.asks else 0) + ["topic"] * (2 if fact.topics else 0) + ["action"] * (4 if fact.actions else 0)
        ways += ["yes"] * (1 if fact.yes else 0) + ["name"] * (2 if fact.setting else 0) + ["command"] * (1 if fact.command or fact.endpoint else 0)
        ways += ["format"] * (6 if fact.format else 0) + ["knob"] * (3 if fact.setting and fact.topics and fact.actions else 0)
        way = rng.choice(ways)
        if way == "asks":
            return self.expand(rng.choice(fact.asks)), False
        if way == "yes":
            return self.expand(rng.choice(fact.yes)), True
        if way == "topic":
            return self.fill(self.topic, rng.choice(fact.topics)), False
        if way == "action":
            return self.fill(self.action, rng.choice(fact.actions)), False
        if way == "name":
            return self.fill(self.name, rng.choice([fact.setting[0], *fact.aliases])), False
        if way == "command":
            return self.fill(self.command, fact.command or rng.choice([fact.endpoint, fact.endpoint.split()[-1]])), False
        if way == "format":
            return self.fill(self.format, rng.choice([fact.format, fact.format, fact.format.lower(), fact.format.lower().replace("_", " "),
                                                      fact.format.replace("_", "")])), False
        frame = rng.choice(self.knob).replace("{k}", KNOBS)
        return self.expand(frame.replace("{n}", rng.choice(fact.topics)).replace("{v}", rng.choice(fact.actions))), False

    def fill(self, frames, thing):
        return self.expand(self.rng.choice(frames).replace("{}", thing))

    def question(self, fact, roughness=1.0):
        """A question as a user might type it, and whether it asks for yes or no."""
        text, yes = self.clean(fact)
        return self.roughen(text, roughness), yes

    def roughen(self, text, roughness=1.0):
        rng = self.rng
        if rng.random() < 0.4 * roughness and not VERBATIM.search(text):
            for pattern, others in rng.sample(SYNONYMS, len(SYNONYMS)):
                if rng.random() < 0.5:
                    text = pattern.sub(lambda m: rng.choice(others), text, count=1)
        if rng.random() < 0.12 * roughness:
            words = [w for w in text.split() if w not in DROPPABLE or rng.random() < 0.4]
            text = " ".join(words) or text
        if rng.random() < 0.15 * roughness:
            text = rng.choice(OPENERS) + text
        if rng.random() < 0.12 * roughness:
            text += rng.choice(CLOSERS)
        if rng.random() < 0.12 * roughness:
            text = self.typo(text)
        return self.dress(text)

    def typo(self, text):
        """One or two slips of the fingers."""
        rng = self.rng
        for _ in range(rng.choice([1, 1, 2])):
            if len(text) < 6:
                break
            i = rng.randrange(1, len(text) - 1)
            kind = rng.randrange(4)
            if kind == 0:
                text = text[:i] + text[i + 1:]
            elif kind == 1:
                text = text[:i] + text[i] + text[i:]
            elif kind == 2:
                text = text[:i] + text[i + 1] + text[i] + text[i + 2:]
            else:
                text = text[:i] + rng.choice("abcdefghijklmnopqrstuvwxyz") + text[i + 1:]
        return text

    def dress(self, text):
        """Capital letter and end mark, or not."""
        rng = self.rng
        style = rng.random()
        if style < 0.55:
            text = text[:1].upper() + text[1:]
            text = re.sub(r"\bi\b(?=[ ',]|$)", "I", text)
            text = re.sub(r"\b(gguf|gptq|isq|gpu|gpus|cpu|api|cors|tls|https|http|url|json|kv|llm|vram|ram|cli|sse|openai|cuda)\b",
                          lambda m: "OpenAI" if m.group(1) == "openai" else m.group(1).upper().replace("GPUS", "GPUs"), text)
            text = re.sub(r"\bhugging face\b", "Hugging Face", text)
            text = re.sub(r"\b(q\d_(?:k(?:_[sml])?|[01]))\b", lambda m: m.group(1).upper(), text)
            text = re.sub(r"\bquern\b(?! (?:serve|run|pull|list|rm|inspect|quantize|imatrix|perplexity|bench|tokenize)\b)", "Quern", text)
            mark = "?" if not text.startswith(("I ", "Tell", "Show", "Explain", "Please", "Give", "My ", "Describe", "List")) else rng.choice([".", ""])
            return text + (mark if rng.random() < 0.92 else "")
        if style < 0.62:
            return text.upper() if len(text) < 40 and rng.random() < 0.15 else text + "??"
        return text + ("?" if rng.random() < 0.4 else "")
