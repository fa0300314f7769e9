#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "load/plan.h"
#include "load/report.h"
#include "load/schedule.h"
#include "load/staging.h"

namespace sllm {

// A read that is whole, and what is left to do with it. A staged one owns its slot.
struct FinishedRead {
  const PlannedRead* read = nullptr;
  std::byte* bytes = nullptr;
  StagingPool::Slot slot;
};

enum class OnCorrupt { kFail, kCollect };

// Verifies and copies what was read, in threads of its own, while the next reads run.
//
// With kFail the first span whose CRC differs is an Error `corrupt` that names file and byte range; with
// kCollect all of them are listed. Plan, schedule and destination outlive the checker; push() and the waits
// are called by one thread. The destructor drops what waits, finishes what runs, and joins.
class Checker {
 public:
  struct Work {
    const LoadPlan& plan;
    const Schedule& schedule;
    std::byte* destination;
    OnCorrupt on_corrupt;
  };

  Checker(const Work& work, unsigned threads);
  ~Checker();

  void push(FinishedRead finished);
  // True once all that was pushed is done; waits for that, `patience` at the most.
  bool wait_until_idle(std::chrono::milliseconds patience);
  // Throws what a thread of the checker failed with.
  void rethrow();
  // Adds verify_s, copy_s and bytes_verified. Only when idle.
  void report_to(LoadReport& report) const;
  // What kCollect found, sorted. Only when idle.
  std::vector<BadSpan> bad_spans() const;

 private:
  struct Tally {
    double verify_s = 0;
    double copy_s = 0;
    std::uint64_t bytes_verified = 0;
    std::vector<BadSpan> bad_spans;
  };

  void run();
  void stop();
  Tally finish(const FinishedRead& finished) const;
  void verify(const FinishedRead& finished, Tally& tally) const;
  void copy(const FinishedRead& finished) const;

  Work work_;
  mutable std::mutex mutex_;
  std::condition_variable pushed_;
  std::condition_variable idle_;
  std::deque<FinishedRead> waiting_;
  std::size_t unfinished_ = 0;
  bool stopping_ = false;
  std::exception_ptr failure_;
  Tally tally_;
  std::vector<std::thread> threads_;
};

}  // namespace sllm
