#pragma once

#include <atomic>
#include <cstddef>
#include <span>
#include <stop_token>
#include <thread>
#include <vector>

#include "memory/populator.h"

namespace sllm {

// Faults in fresh memory ahead of its use, in threads of its own.
//
// The first touch of a page costs more than reading it from a fast drive, so it must not happen one page at a
// time inside the reads.
class Prefaulter {
 public:
  // The pieces are taken in order. Populator and pieces outlive this object. Throws exhausted.
  Prefaulter(std::vector<std::span<std::byte>> pieces, Populator& populator);
  // Stops after what is at hand, a piece a thread.
  ~Prefaulter() = default;

  // The first `count` pieces are being read into: they no longer need it.
  void skip(std::size_t count);
  std::size_t threads() const { return threads_.size(); }
  // Seconds spent so far, summed over the threads.
  double busy_s() const { return busy_s_.load(std::memory_order_relaxed); }

 private:
  void run(const std::stop_token& stop);

  std::vector<std::span<std::byte>> pieces_;
  Populator& populator_;
  std::atomic<std::size_t> next_{0};
  std::atomic<double> busy_s_{0};
  std::vector<std::jthread> threads_;
};

}  // namespace sllm
