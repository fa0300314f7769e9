#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "load/landing.h"
#include "load/plan.h"
#include "load/report.h"
#include "load/schedule.h"
#include "load/staging.h"
#include "memory/populator.h"

namespace sllm {

// How a read's bytes come to its memory.
enum class Fetch { kRead, kCopied, kMapped, kResident };

// A read whose bytes are in memory, or in the page cache, and what is left to do with it. A staged one owns
// its slot.
struct FinishedRead {
  const PlannedRead* read = nullptr;
  std::byte* bytes = nullptr;
  StagingPool::Slot slot;
  Fetch fetch = Fetch::kRead;
  const File* cached = nullptr;  // kCopied only: the file, opened without O_DIRECT
};

enum class OnCorrupt { kFail, kCollect };

// Verifies what was read and hands it to its landing, in threads of its own, while the next reads run. What
// the page cache has is brought in here too, a span at a time, so that its CRC finds it in the processor's
// cache.
//
// With kFail the first span whose CRC differs is an Error `corrupt` that names file and byte range; with
// kCollect all of them are listed. Plan, schedule, targets and landing outlive the checker; push() and the
// waits are called by one thread. The destructor drops what waits, finishes what runs, and joins.
class Checker {
 public:
  struct Work {
    const LoadPlan& plan;
    const Schedule& schedule;
    std::span<const Target> targets;
    OnCorrupt on_corrupt;
    Populator* fresh;  // faults in what is copied in place; null where that has been touched
    // Called when all of a read's bytes lie where they belong in host memory, or none; it may throw.
    std::function<void(const PlannedRead& read)> on_landed;
  };

  Checker(const Work& work, Landing& landing, unsigned threads);
  ~Checker();

  void push(FinishedRead finished);
  // True once all that was pushed is done; waits for that, `patience` at the most.
  bool wait_until_idle(std::chrono::milliseconds patience);
  // Throws what a thread of the checker failed with.
  void rethrow();
  // Sets what the checker did. Only when idle.
  void report_to(LoadReport& report) const;
  // What kCollect found, sorted. Only when idle.
  std::vector<BadSpan> bad_spans() const;

 private:
  struct Tally {
    double verify_s = 0;
    double copy_s = 0;
    double fetch_s = 0;
    double idle_s = 0;
    std::uint64_t bytes_verified = 0;
    std::vector<BadSpan> bad_spans;

    void add(const Tally& other);
  };

  void run();
  void stop();
  Tally finish(FinishedRead& finished) const;
  void fetch_span(const FinishedRead& finished, std::uint64_t at, std::uint64_t bytes) const;
  void verify_span(const FinishedRead& finished, std::uint64_t at, std::uint64_t bytes, Tally& tally) const;
  void land(FinishedRead& finished) const;

  Work work_;
  Landing& landing_;
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
