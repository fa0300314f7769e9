#include <array>
#include <cstring>

#include "base/crc32c.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace sllm::crc32c_detail {
namespace {

#define SLLM_CRC_TARGET __attribute__((target("avx2,sse4.2,pclmul,vpclmulqdq")))

SLLM_CRC_TARGET inline std::uint32_t step_8(std::uint32_t state, std::uint64_t bytes) {
  return static_cast<std::uint32_t>(_mm_crc32_u64(state, bytes));
}

SLLM_CRC_TARGET inline std::uint32_t step_1(std::uint32_t state, std::byte byte) {
  return _mm_crc32_u8(state, std::to_integer<unsigned char>(byte));
}

#include "base/crc32c_lanes.inc"

// Eight registers hide the latency of the carry-less multiplication.
constexpr std::size_t kRegisters = 8;
constexpr std::size_t kRegisterBytes = 32;
constexpr std::size_t kStepBytes = kRegisters * kRegisterBytes;

// A block is a part that is folded, in steps of 256 bytes, and one that goes through the instruction, in
// three lanes of 80 bytes a step; four steps fill the lanes.
constexpr std::size_t kSteps = 128;
constexpr std::size_t kStepsToFillLanes = 4;
constexpr std::size_t kLaneStepBytes = kLongLaneBytes / kStepsToFillLanes;
constexpr std::size_t kFoldedBytes = kSteps * kStepBytes;
constexpr std::size_t kInLanesBytes = kSteps / kStepsToFillLanes * 3 * kLongLaneBytes;
constexpr std::size_t kFusedBytes = kFoldedBytes + kInLanesBytes;

const Shift kShiftInLanes{kInLanesBytes};
const Shift kShiftFused{kFusedBytes};

// How far ahead of the two places memory is asked for: hardware prefetchers, which stop at a page's end, do
// not keep up with both.
constexpr std::size_t kAheadBytes = 4096;

// x^power times x^-1, by which the multiplication of reflected numbers is off, in the upper half.
constexpr long long factor(std::uint64_t power) {
  return static_cast<long long>(static_cast<std::uint64_t>(power_of_x(power - 1)) << 32);
}

// Bytes folded, step by step, onto those a step behind them: what is left has the CRC of all of them (V.
// Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel, 2009).
class Folded {
 public:
  SLLM_CRC_TARGET Folded() {
    for (std::size_t i = 0; i < kRegisters; ++i) registers_[i] = _mm256_setzero_si256();
  }

  SLLM_CRC_TARGET inline __attribute__((always_inline)) void add(const std::byte* step) {
    const __m256i factors =
        _mm256_broadcastsi128_si256(_mm_set_epi64x(factor(8 * kStepBytes), factor(8 * kStepBytes + 64)));
#pragma GCC unroll 8
    for (std::size_t i = 0; i < kRegisters; ++i) {
      const __m256i high = _mm256_clmulepi64_epi128(registers_[i], factors, 0x00);
      const __m256i low = _mm256_clmulepi64_epi128(registers_[i], factors, 0x11);
      const auto* next = reinterpret_cast<const __m256i*>(step + i * kRegisterBytes);
      registers_[i] = _mm256_xor_si256(_mm256_xor_si256(high, low), _mm256_loadu_si256(next));
    }
  }

  SLLM_CRC_TARGET std::uint32_t crc() const {
    std::array<std::byte, kStepBytes> left;
    std::memcpy(left.data(), registers_, kStepBytes);
    return update_by_lanes(0, left.data(), left.size());
  }

 private:
  __m256i registers_[kRegisters];
};

// Three lanes of the instruction, side by side.
class Lanes {
 public:
  SLLM_CRC_TARGET inline __attribute__((always_inline)) void add(const std::byte* bytes) {
#pragma GCC unroll 10
    for (std::size_t i = 0; i < kLaneStepBytes; i += 8) {
      first_ = step_8(first_, load_8(bytes + i));
      second_ = step_8(second_, load_8(bytes + kLongLaneBytes + i));
      third_ = step_8(third_, load_8(bytes + 2 * kLongLaneBytes + i));
    }
  }
  void join() {
    first_ = shift_long_lane(shift_long_lane(first_) ^ second_) ^ third_;
    second_ = third_ = 0;
  }
  std::uint32_t crc() const { return first_; }

 private:
  std::uint32_t first_ = 0;
  std::uint32_t second_ = 0;
  std::uint32_t third_ = 0;
};

inline __attribute__((always_inline)) void prefetch(const std::byte* step) {
  for (std::size_t line = 0; line < kStepBytes; line += 64) __builtin_prefetch(step + kAheadBytes + line);
}

// Both ways at once, on different bytes: they use different parts of the processor, and each one alone waits.
SLLM_CRC_TARGET std::uint32_t update_fused(std::uint32_t state, const std::byte* bytes) {
  Folded folded;
  Lanes lanes;
  const std::byte* in_lanes = bytes + kFoldedBytes;
  const std::byte* to_fold = bytes;
  for (std::size_t group = 0; group < kSteps / kStepsToFillLanes; ++group) {
    for (std::size_t step = 0; step < kStepsToFillLanes; ++step, to_fold += kStepBytes) {
      prefetch(to_fold);
      prefetch(in_lanes + step * kStepBytes);
      folded.add(to_fold);
      lanes.add(in_lanes + step * kLaneStepBytes);
    }
    lanes.join();
    in_lanes += 3 * kLongLaneBytes;
  }
  return kShiftFused(state) ^ kShiftInLanes(folded.crc()) ^ lanes.crc();
}

SLLM_CRC_TARGET std::uint32_t update_by_folding(std::uint32_t state, const std::byte* bytes,
                                                std::size_t count) {
  for (; count >= kFusedBytes; count -= kFusedBytes, bytes += kFusedBytes) state = update_fused(state, bytes);
  return update_by_lanes(state, bytes, count);
}

}  // namespace

Update find_folding_update() {
  __builtin_cpu_init();
  const bool has_all = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("avx2") &&
                       __builtin_cpu_supports("vpclmulqdq");
  return has_all ? update_by_folding : nullptr;
}

}  // namespace sllm::crc32c_detail

#else

namespace sllm::crc32c_detail {
Update find_folding_update() { return nullptr; }
}  // namespace sllm::crc32c_detail

#endif
