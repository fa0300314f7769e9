#include "memory/prefaulter.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <system_error>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/size.h"

namespace sllm {
namespace {

// One thread faults in small pages about as fast as a good drive reads, and huge ones much faster.
constexpr std::uint64_t kBytesPerThread = 256 * kMiB;
constexpr std::uint64_t kMostThreads = 4;

std::uint64_t threads_for(const std::vector<std::span<std::byte>>& pieces) {
  std::uint64_t bytes = 0;
  for (const auto& piece : pieces) bytes += piece.size();
  const std::uint64_t wanted = (bytes + kBytesPerThread - 1) / kBytesPerThread;
  return std::min({wanted, kMostThreads, std::max<std::uint64_t>(std::thread::hardware_concurrency(), 1)});
}

}  // namespace

Prefaulter::Prefaulter(std::vector<std::span<std::byte>> pieces, Populator& populator)
    : pieces_(std::move(pieces)), populator_(populator) {
  const std::uint64_t threads = threads_for(pieces_);
  try {
    for (std::uint64_t i = 0; i < threads; ++i) {
      threads_.emplace_back([this](const std::stop_token& stop) { run(stop); });
    }
  } catch (const std::system_error& error) {
    throw error_from_errno(error.code().value(),
                           "cannot start " + std::to_string(threads) + " faulting threads");
  }
}

void Prefaulter::skip(std::size_t count) {
  std::size_t next = next_.load(std::memory_order_relaxed);
  while (next < count && !next_.compare_exchange_weak(next, count, std::memory_order_relaxed)) {
  }
}

void Prefaulter::run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    const std::size_t piece = next_.fetch_add(1, std::memory_order_relaxed);
    if (piece >= pieces_.size()) return;
    if (pieces_[piece].empty()) continue;
    const Stopwatch watch;
    populator_.populate(pieces_[piece]);
    busy_s_.fetch_add(watch.elapsed_s(), std::memory_order_relaxed);
  }
}

}  // namespace sllm
