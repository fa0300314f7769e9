#pragma once

#include <cstdint>

#include "base/mapping.h"

namespace sllm {

// Private anonymous memory, not touched, that starts at a multiple of `alignment` (a power of two, a page or
// more). `bytes` are whole pages. `protection` and the additional `flags` are those of mmap(2). Throws
// exhausted, naming the size.
Mapping map_aligned(std::uint64_t bytes, std::uint64_t alignment, int protection, int flags = 0);

}  // namespace sllm
