#include "text/known_templates.h"

namespace quern {
namespace {

// Each is the format that its models were trained with, in as few words as will do. A system message goes
// where the family puts it; where it knows none, before the first user message.

constexpr std::string_view kChatMl =
    R"({% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') + '<|im_end|>\n' }}{% endfor %})"
    R"({% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %})";

constexpr std::string_view kPhi4 =
    R"({% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %})"
    R"({% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %})";

constexpr std::string_view kLlama3 =
    R"({{ bos_token }}{% for m in messages %})"
    R"({{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %})"
    R"({% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %})";

constexpr std::string_view kLlama4 =
    R"({{ bos_token }}{% for m in messages %})"
    R"({{ '<|header_start|>' + m.role + '<|header_end|>\n\n' + m.content | trim + '<|eot|>' }}{% endfor %})"
    R"({% if add_generation_prompt %}{{ '<|header_start|>assistant<|header_end|>\n\n' }}{% endif %})";

constexpr std::string_view kLlama2 =
    R"({% set ns = namespace(system='') %})"
    R"({% for m in messages %}{% if m.role == 'system' %})"
    R"({% set ns.system = '<<SYS>>\n' + m.content + '\n<</SYS>>\n\n' %})"
    R"({% elif m.role == 'user' %})"
    R"({{ bos_token + '[INST] ' + ns.system + m.content | trim + ' [/INST]' }}{% set ns.system = '' %})"
    R"({% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %})";

constexpr std::string_view kMistral =
    R"({{ bos_token }}{% set ns = namespace(system='') %})"
    R"({% for m in messages %}{% if m.role == 'system' %}{% set ns.system = m.content + '\n\n' %})"
    R"({% elif m.role == 'user' %}{{ '[INST] ' + ns.system + m.content + ' [/INST]' }}{% set ns.system = '' %})"
    R"({% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %})";

// With [INST] as a token of its own: no space before the end mark, and the system prompt with the last
// message.
constexpr std::string_view kMistralV3 =
    R"({{ bos_token }}{% set ns = namespace(system='') %})"
    R"({% for m in messages %}{% if m.role == 'system' %}{% set ns.system = m.content + '\n\n' %})"
    R"({% elif m.role == 'user' %}{{ '[INST] ' + (ns.system if loop.last else '') + m.content + '[/INST]' }})"
    R"({% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %})";

constexpr std::string_view kMistralV7 =
    R"({{ bos_token }}{% for m in messages %})"
    R"({% if m.role == 'system' %}{{ '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }})"
    R"({% elif m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }})"
    R"({% else %}{{ m.content + eos_token }}{% endif %}{% endfor %})";

constexpr std::string_view kGemma =
    R"({{ bos_token }}{% set ns = namespace(system='') %})"
    R"({% for m in messages %}{% if m.role == 'system' %}{% set ns.system = m.content | trim + '\n\n' %})"
    R"({% else %})"
    R"({{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }})"
    R"({{ ns.system + m.content | trim + '<end_of_turn>\n' }}{% set ns.system = '' %})"
    R"({% endif %}{% endfor %})"
    R"({% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %})";

constexpr std::string_view kPhi3 =
    R"({% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %})"
    R"({% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %})";

constexpr std::string_view kZephyr =
    R"({% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %})"
    R"({% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %})";

constexpr std::string_view kGlm4 =
    R"([gMASK]<sop>{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}{% endfor %})"
    R"({% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %})";

constexpr std::string_view kGranite =
    R"({% for m in messages %})"
    R"({{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}{% endfor %})"
    R"({% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %})";

constexpr std::string_view kDeepSeek =
    R"({{ bos_token }}{% for m in messages %})"
    R"({% if m.role == 'user' %}{{ '<｜User｜>' + m.content }})"
    R"({% elif m.role == 'assistant' %}{{ '<｜Assistant｜>' + m.content + eos_token }})"
    R"({% else %}{{ m.content }}{% endif %}{% endfor %})"
    R"({% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %})";

constexpr std::string_view kDeepSeekChat =
    R"({{ bos_token }}{% for m in messages %})"
    R"({% if m.role == 'user' %}{{ 'User: ' + m.content + '\n\n' }})"
    R"({% elif m.role == 'assistant' %}{{ 'Assistant: ' + m.content + eos_token }})"
    R"({% else %}{{ m.content + '\n\n' }}{% endif %}{% endfor %})"
    R"({% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %})";

constexpr std::string_view kDeepSeekCoder =
    R"({{ bos_token }}{% for m in messages %})"
    R"({% if m.role == 'user' %}{{ '### Instruction:\n' + m.content + '\n' }})"
    R"({% elif m.role == 'assistant' %}{{ '### Response:\n' + m.content + '\n<|EOT|>\n' }})"
    R"({% else %}{{ m.content + '\n' }}{% endif %}{% endfor %})"
    R"({% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %})";

constexpr std::string_view kCommandR =
    R"({% set names = {'system': 'SYSTEM', 'user': 'USER', 'assistant': 'CHATBOT'} %})"
    R"({{ bos_token }}{% for m in messages %})"
    R"({{ '<|START_OF_TURN_TOKEN|><|' + names[m.role] + '_TOKEN|>' + m.content | trim + '<|END_OF_TURN_TOKEN|>' }}{% endfor %})"
    R"({% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %})";

constexpr std::string_view kExaone =
    R"({% for m in messages %})"
    R"({{ '[|' + m.role + '|]' + m.content + ('\n' if m.role == 'user' else '[|endofturn|]\n') }}{% endfor %})"
    R"({% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %})";

constexpr std::string_view kVicuna =
    R"({{ bos_token }}{% for m in messages %})"
    R"({% if m.role == 'user' %}{{ 'USER: ' + m.content + '\n' }})"
    R"({% elif m.role == 'assistant' %}{{ 'ASSISTANT: ' + m.content + eos_token + '\n' }})"
    R"({% else %}{{ m.content + '\n\n' }}{% endif %}{% endfor %})"
    R"({% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %})";

constexpr std::string_view kAlpaca =
    R"({{ bos_token }}{% for m in messages %})"
    R"({% if m.role == 'user' %}{{ '### Instruction:\n' + m.content + '\n\n' }})"
    R"({% elif m.role == 'assistant' %}{{ '### Response:\n' + m.content + eos_token + '\n\n' }})"
    R"({% else %}{{ m.content + '\n\n' }}{% endif %}{% endfor %})"
    R"({% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %})";

constexpr std::string_view kSolar =
    R"({{ bos_token }}{% for m in messages %})"
    R"({{ '### ' + m.role | capitalize + ':\n' + m.content + ('\n\n' if m.role != 'assistant' else eos_token + '\n\n') }})"
    R"({% endfor %})"
    R"({% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %})";

constexpr std::string_view kOpenChat =
    R"({{ bos_token }}{% for m in messages %})"
    R"({{ ('' if m.role == 'system' else 'GPT4 Correct ' + m.role | capitalize + ': ') + m.content + '<|end_of_turn|>' }}{% endfor %})"
    R"({% if add_generation_prompt %}{{ 'GPT4 Correct Assistant:' }}{% endif %})";

constexpr std::string_view kFalcon =
    R"({% for m in messages %})"
    R"({{ ('' if m.role == 'system' else m.role | capitalize + ': ') + m.content | trim + '\n\n' }}{% endfor %})"
    R"({% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %})";

constexpr KnownTemplate kTemplates[] = {
    {"chatml", kChatMl},
    {"phi-4", kPhi4},
    {"llama-2", kLlama2},
    {"llama-3", kLlama3},
    {"llama-4", kLlama4},
    {"mistral", kMistral},
    {"mistral-v3", kMistralV3},
    {"mistral-v7", kMistralV7},
    {"gemma", kGemma},
    {"phi-3", kPhi3},
    {"zephyr", kZephyr},
    {"glm-4", kGlm4},
    {"granite", kGranite},
    {"deepseek", kDeepSeek},
    {"deepseek-chat", kDeepSeekChat},
    {"deepseek-coder", kDeepSeekCoder},
    {"command-r", kCommandR},
    {"exaone", kExaone},
    {"vicuna", kVicuna},
    {"alpaca", kAlpaca},
    {"solar", kSolar},
    {"openchat", kOpenChat},
    {"falcon", kFalcon},
};

}  // namespace

std::span<const KnownTemplate> known_templates() { return kTemplates; }

std::string_view known_template(std::string_view family) {
  for (const KnownTemplate& known : kTemplates) {
    if (known.family == family) return known.source;
  }
  return {};
}

}  // namespace quern
