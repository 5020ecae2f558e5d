#include "engine/embedded_guide.h"

#ifdef QUERN_GUIDE_FILE

// The assembler takes the file in as it is: the fastest way to compile millions of bytes.
__asm__(
    ".pushsection .rodata\n"
    ".balign 64\n"
    "quern_guide_begin:\n"
    ".incbin \"" QUERN_GUIDE_FILE
    "\"\n"
    "quern_guide_end:\n"
    ".byte 0\n"
    ".popsection\n");

extern "C" {
extern const std::byte quern_guide_begin[];
extern const std::byte quern_guide_end[];
}

namespace quern {
std::span<const std::byte> embedded_guide() { return {quern_guide_begin, quern_guide_end}; }
}  // namespace quern

#else

namespace quern {
std::span<const std::byte> embedded_guide() { return {}; }
}  // namespace quern

#endif
