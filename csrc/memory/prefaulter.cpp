#include "memory/prefaulter.h"

#include <sys/mman.h>

#include <algorithm>

#include "base/clock.h"
#include "base/size.h"

namespace sllm {
namespace {

constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE, younger than some headers
constexpr std::uint64_t kPieceBytes = 4 * kMiB;

}  // namespace

Prefaulter::Prefaulter(std::span<std::byte> memory)
    : memory_(memory), thread_([this](const std::stop_token& stop) { run(stop); }) {}

void Prefaulter::run(const std::stop_token& stop) {
  std::uint64_t next = 0;
  while (next < memory_.size() && !stop.stop_requested()) {
    next = std::max(next, align_down(position_.load(std::memory_order_relaxed), kPieceBytes));
    if (next >= memory_.size()) return;
    const std::uint64_t bytes = std::min<std::uint64_t>(kPieceBytes, memory_.size() - next);
    const Stopwatch watch;
    if (::madvise(memory_.data() + next, bytes, kPopulateWrite) != 0) return;
    busy_s_.store(busy_s_.load(std::memory_order_relaxed) + watch.elapsed_s(), std::memory_order_relaxed);
    next += bytes;
  }
}

}  // namespace sllm
