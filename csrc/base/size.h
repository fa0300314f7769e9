#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"

namespace sllm {

inline constexpr std::uint64_t kKiB = 1024;
inline constexpr std::uint64_t kMiB = 1024 * kKiB;

// What direct I/O is aligned to, in memory and in the file: no device in use has larger blocks.
inline constexpr std::uint64_t kBlockBytes = 4096;

// `multiple` is a power of two.
constexpr std::uint64_t align_down(std::uint64_t value, std::uint64_t multiple) {
  return value & ~(multiple - 1);
}

// Throws `invalid` where the result would not fit.
inline std::uint64_t checked_add(std::uint64_t a, std::uint64_t b) {
  std::uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) {
    throw Error(ErrorCode::kInvalid, "size overflow in " + std::to_string(a) + " + " + std::to_string(b));
  }
  return sum;
}

// `multiple` is a power of two. Throws `invalid` where the result would not fit.
inline std::uint64_t align_up(std::uint64_t value, std::uint64_t multiple) {
  return align_down(checked_add(value, multiple - 1), multiple);
}

}  // namespace sllm
