#include <cstring>

#include "base/crc32c.h"

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>

namespace sllm::crc32c_detail {
namespace {

#if defined(__clang__)
#define SLLM_CRC_TARGET __attribute__((target("crc")))
#else
#define SLLM_CRC_TARGET __attribute__((target("+crc")))
#endif

// The builtins, because <arm_acle.h> hides its intrinsics where the whole file isn't compiled for them.
#if defined(__clang__)
#define SLLM_CRC_8 __builtin_arm_crc32cd
#define SLLM_CRC_1 __builtin_arm_crc32cb
#else
#define SLLM_CRC_8 __builtin_aarch64_crc32cx
#define SLLM_CRC_1 __builtin_aarch64_crc32cb
#endif

SLLM_CRC_TARGET inline std::uint32_t step_8(std::uint32_t state, std::uint64_t bytes) {
  return SLLM_CRC_8(state, bytes);
}

SLLM_CRC_TARGET inline std::uint32_t step_1(std::uint32_t state, std::byte byte) {
  return SLLM_CRC_1(state, std::to_integer<unsigned char>(byte));
}

#include "base/crc32c_lanes.inc"

}  // namespace

Update find_arm_update() { return (getauxval(AT_HWCAP) & HWCAP_CRC32) ? update_by_lanes : nullptr; }

}  // namespace sllm::crc32c_detail

#else

namespace sllm::crc32c_detail {
Update find_arm_update() { return nullptr; }
}  // namespace sllm::crc32c_detail

#endif
