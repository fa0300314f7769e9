#include <cstring>

#include "base/crc32c.h"

#if defined(__x86_64__)
#include <nmmintrin.h>

namespace sllm::crc32c_detail {
namespace {

#define SLLM_CRC_TARGET __attribute__((target("sse4.2")))

SLLM_CRC_TARGET inline std::uint32_t step_8(std::uint32_t state, std::uint64_t bytes) {
  return static_cast<std::uint32_t>(_mm_crc32_u64(state, bytes));
}

SLLM_CRC_TARGET inline std::uint32_t step_1(std::uint32_t state, std::byte byte) {
  return _mm_crc32_u8(state, std::to_integer<unsigned char>(byte));
}

#include "base/crc32c_lanes.inc"

}  // namespace

Update find_x86_update() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("sse4.2") ? update_by_lanes : nullptr;
}

}  // namespace sllm::crc32c_detail

#else

namespace sllm::crc32c_detail {
Update find_x86_update() { return nullptr; }
}  // namespace sllm::crc32c_detail

#endif
