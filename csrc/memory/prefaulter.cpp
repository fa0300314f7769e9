#include "memory/prefaulter.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/size.h"
#include "memory/populate.h"

namespace sllm {
namespace {

constexpr std::size_t kStepBytes = 4 * kMiB;

}  // namespace

Prefaulter::Prefaulter(std::vector<std::span<std::byte>> pieces)
    : pieces_(std::move(pieces)), thread_([this](const std::stop_token& stop) { run(stop); }) {}

void Prefaulter::run(const std::stop_token& stop) {
  if (!can_populate()) return;
  for (std::size_t piece = 0; piece < pieces_.size(); ++piece) {
    piece = std::max(piece, first_.load(std::memory_order_relaxed));
    if (piece >= pieces_.size()) return;
    for (std::size_t at = 0; at < pieces_[piece].size(); at += kStepBytes) {
      if (stop.stop_requested()) return;
      const Stopwatch watch;
      populate_write(pieces_[piece].subspan(at, std::min(kStepBytes, pieces_[piece].size() - at)));
      busy_s_.store(busy_s_.load(std::memory_order_relaxed) + watch.elapsed_s(), std::memory_order_relaxed);
    }
  }
}

}  // namespace sllm
