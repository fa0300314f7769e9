#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <chrono>

#include "load/plan.h"
#include "load/report.h"

namespace sllm {

// A request to end a load, made from another thread.
class StopFlag {
 public:
  void set() { requested_.store(true, std::memory_order_relaxed); }
  bool is_set() const { return requested_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> requested_{false};
};

// Ends a load on the flag and, in the interpreter's main thread, on a signal whose handler raises. Taking the
// GIL stalls the reads while another thread computes, so signals are looked for now and then only.
class Interruption {
 public:
  Interruption(const StopFlag& stop, bool handles_signals) : stop_(stop), handles_signals_(handles_signals) {}

  void operator()();

 private:
  static constexpr std::chrono::milliseconds kPeriod{100};

  const StopFlag& stop_;
  bool handles_signals_;
  std::chrono::steady_clock::time_point next_ = std::chrono::steady_clock::now() + kPeriod;
};

// Of (path, identity, span CRCs) and, where the file is in host memory, the buffer that has it.
PlannedFile planned_file(const pybind11::tuple& file);

pybind11::dict as_dict(const LoadReport& report);

}  // namespace sllm
