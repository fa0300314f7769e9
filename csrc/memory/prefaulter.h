#pragma once

#include <atomic>
#include <cstddef>
#include <span>
#include <stop_token>
#include <thread>
#include <vector>

namespace sllm {

// Faults in fresh memory ahead of its use, in a thread of its own.
//
// The first touch of a page costs more than reading it from a fast drive, so it must not happen one page at a
// time inside the reads. The pages' contents are left alone, hence reads may land in the memory at the same
// time. Where the kernel cannot do that, nothing happens and the reads fault the pages in.
class Prefaulter {
 public:
  // The pieces are taken in order and outlive this object.
  explicit Prefaulter(std::vector<std::span<std::byte>> pieces);
  // Stops after what is at hand, a few MiB.
  ~Prefaulter() = default;

  // The first `count` pieces are being read into: they no longer need it.
  void skip(std::size_t count) { first_.store(count, std::memory_order_relaxed); }
  // Seconds spent so far; whole once the memory is done.
  double busy_s() const { return busy_s_.load(std::memory_order_relaxed); }

 private:
  void run(const std::stop_token& stop);

  std::vector<std::span<std::byte>> pieces_;
  std::atomic<std::size_t> first_{0};
  std::atomic<double> busy_s_{0};
  std::jthread thread_;
};

}  // namespace sllm
