#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "device/device.h"
#include "load/report.h"
#include "load/schedule.h"
#include "load/staging.h"
#include "load/target.h"

namespace sllm {

// One device's part of a load: the stream that its copies go through, and a thread that waits for them in
// order and lets go of the memory that they came from. Thread-safe.
class Lane {
 public:
  explicit Lane(Device& device);
  // Waits for the device to let go of everything. The host memory of the copies outlives it.
  ~Lane();

  Device& device() const { return device_; }
  // Puts the pieces that belong to this lane's device into its stream; `slot` is held until they are done.
  void copy(std::span<const Piece> pieces, std::span<const Target> targets, const std::byte* bytes,
            std::shared_ptr<StagingPool::Slot> slot);
  // False where `patience` ran out before all copies were done. True, too, where something failed.
  bool wait_until_idle(std::chrono::milliseconds patience);
  // Throws what a copy failed with.
  void rethrow();
  // Adds what it did. Only when idle.
  void report_to(LoadReport& report) const;

 private:
  struct InFlight {
    std::unique_ptr<Event> event;
    std::shared_ptr<StagingPool::Slot> slot;
    Stopwatch since;
  };

  void put(const Piece& piece, const Target& target, const std::byte* bytes);
  void run();
  void finish(InFlight& copies);

  Device& device_;
  std::mutex stream_mutex_;  // a stream is used by one thread at a time
  std::unique_ptr<Stream> stream_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<InFlight> in_flight_;
  bool is_waiting_ = false;  // the thread waits for what was the front
  bool stopping_ = false;
  std::exception_ptr failure_;
  double busy_s_ = 0;
  std::uint64_t bytes_ = 0;
  std::thread thread_;
};

// Puts bytes that were read, and verified, where they belong. Thread-safe.
class Landing {
 public:
  // Makes a lane for each device among the targets, which outlive this object. Throws device, exhausted.
  explicit Landing(std::span<const Target> targets);

  // Copies the pieces of what was read to `bytes`: in host memory now, to devices on their own time. The
  // slot, if there is one, is held until all of them are done; memory of another kind has to stay.
  void land(std::span<const Piece> pieces, const std::byte* bytes, StagingPool::Slot slot);
  // True once every copy is done, or one has failed; waits for that, `patience` at the most.
  bool wait_until_idle(std::chrono::milliseconds patience);
  void rethrow();
  void report_to(LoadReport& report) const;

 private:
  std::span<const Target> targets_;
  std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace sllm
