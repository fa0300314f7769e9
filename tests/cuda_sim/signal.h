#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>

namespace cuda_sim {

// A number that only grows, raised by some threads and waited for by others (futex(2)).
//
// What was written before raise() is visible to who has seen the new number, and nothing passes the other
// way: a mutex or a condition variable would also order the raising thread after the waiting one, and hide
// missing waits from ThreadSanitizer.
class Signal {
 public:
  void raise() {
    number_.fetch_add(1, std::memory_order_release);
    ::syscall(SYS_futex, &number_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
  }

  std::uint32_t seen() const { return number_.load(std::memory_order_acquire); }

  // Until the number is another than `old`.
  void wait_beyond(std::uint32_t old) const {
    while (seen() == old) ::syscall(SYS_futex, &number_, FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
  }

 private:
  std::atomic<std::uint32_t> number_{0};
};

}  // namespace cuda_sim
