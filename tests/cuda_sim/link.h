#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace cuda_sim {

// Nanoseconds of the steady clock.
inline std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// What moves bytes of one device in one direction, one copy after the other, at a rate.
//
// Everything is relaxed: streams that share a link learn nothing of each other's memory by it.
class Link {
 public:
  // Bytes per second; 0 for no limit.
  void set_rate(double bytes_per_s) { rate_.store(bytes_per_s, std::memory_order_relaxed); }

  // Takes the link for a copy that could start at `ready_ns`; returns when its last byte has passed.
  std::int64_t reserve(std::int64_t ready_ns, std::uint64_t bytes) {
    const double rate = rate_.load(std::memory_order_relaxed);
    const auto busy = rate > 0 ? static_cast<std::int64_t>(static_cast<double>(bytes) / rate * 1e9) : 0;
    std::int64_t free_at = free_at_ns_.load(std::memory_order_relaxed);
    std::int64_t end = 0;
    do {
      end = (ready_ns > free_at ? ready_ns : free_at) + busy;
    } while (!free_at_ns_.compare_exchange_weak(free_at, end, std::memory_order_relaxed));
    busy_ns_.fetch_add(busy, std::memory_order_relaxed);
    return end;
  }

  void count_bytes(std::uint64_t bytes) { bytes_.fetch_add(bytes, std::memory_order_relaxed); }
  std::uint64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  std::int64_t busy_us() const { return busy_ns_.load(std::memory_order_relaxed) / 1000; }
  void reset_counts() {
    bytes_.store(0, std::memory_order_relaxed);
    busy_ns_.store(0, std::memory_order_relaxed);
  }

 private:
  std::atomic<double> rate_{0};
  std::atomic<std::int64_t> free_at_ns_{0};
  std::atomic<std::int64_t> busy_ns_{0};
  std::atomic<std::uint64_t> bytes_{0};
};

}  // namespace cuda_sim
