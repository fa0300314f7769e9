#pragma once

#include <chrono>
#include <ctime>

namespace sllm {

// Seconds since it was made.
class Stopwatch {
 public:
  double elapsed_s() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

inline double seconds_of(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// CPU seconds of all threads of this process, or of the calling one, the kernel's included.
inline double process_cpu_s() { return seconds_of(CLOCK_PROCESS_CPUTIME_ID); }
inline double thread_cpu_s() { return seconds_of(CLOCK_THREAD_CPUTIME_ID); }

}  // namespace sllm
