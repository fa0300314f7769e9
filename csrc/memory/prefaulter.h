#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stop_token>
#include <thread>

namespace sllm {

// Faults in fresh memory ahead of its use, in a thread of its own.
//
// The first touch of a page costs more than reading it from a fast drive, so it must not happen one page at a
// time inside the reads. The pages' contents are left alone (madvise(2), MADV_POPULATE_WRITE), hence reads
// may land in the memory at the same time. Where the kernel cannot do that (before 5.14), nothing happens and
// the reads fault the pages in.
class Prefaulter {
 public:
  // `memory` is page-aligned and outlives this object.
  explicit Prefaulter(std::span<std::byte> memory);
  // Stops after the piece at hand.
  ~Prefaulter() = default;

  // Reads have come this far: pages before `position` no longer need it.
  void advance(std::uint64_t position) { position_.store(position, std::memory_order_relaxed); }
  // Seconds spent so far; whole once the memory is done.
  double busy_s() const { return busy_s_.load(std::memory_order_relaxed); }

 private:
  void run(const std::stop_token& stop);

  std::span<std::byte> memory_;
  std::atomic<std::uint64_t> position_{0};
  std::atomic<double> busy_s_{0};
  std::jthread thread_;
};

}  // namespace sllm
