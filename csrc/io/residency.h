#pragma once

#include <cstdint>

namespace sllm {

// Whether nearly all pages of a range of a file are in the page cache, so that going around it would be the
// slower way. False where the kernel does not tell: neither cachestat (Linux 6.5) nor, for a file that the
// caller may write or owns, mincore(2).
bool is_cached(int fd, std::uint64_t offset, std::uint64_t bytes);

}  // namespace sllm
