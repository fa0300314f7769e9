#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "device/device.h"
#include "memory/host_buffer.h"
#include "memory/populator.h"

namespace sllm {

// A fixed number of equally sized buffers between a file and its target.
//
// try_acquire() refuses instead of allocating more: the pool is the memory cap and, since a staged read
// needs a slot before it may start, also the brake on the drive. A slot's memory is faulted in when it is
// first used, and pinned for a device, if there is one. Destroying a Slot returns it. The pool outlives its
// slots. Thread-safe, but for try_acquire(), which one thread calls.
//
// Where no more memory can be pinned, the pool stays as small as it is by then; where that leaves fewer than
// two slots, unpinned ones are used, through which a device's copies go slower and hold up who asks for them.
class StagingPool {
 public:
  // `pinned_for` outlives the pool; null where no device copies out of it. Throws exhausted, invalid.
  StagingPool(std::size_t slots, std::uint64_t slot_bytes, Device* pinned_for = nullptr);

  class Slot {
   public:
    Slot() = default;
    Slot(Slot&& other) noexcept;
    Slot& operator=(Slot&& other) noexcept;
    ~Slot();
    explicit operator bool() const { return pool_ != nullptr; }
    std::byte* start() const { return start_; }

   private:
    friend class StagingPool;
    Slot(StagingPool* pool, std::byte* start) : pool_(pool), start_(start) {}
    void give_back();

    StagingPool* pool_ = nullptr;
    std::byte* start_ = nullptr;
  };

  // Empty when all slots are in use.
  Slot try_acquire();
  // Waits until a slot is free, or for `patience`.
  void wait_for_slot(std::chrono::milliseconds patience);

  // The memory of each slot, for the pool's life.
  std::vector<std::span<std::byte>> memory() const;
  std::uint64_t pinned_bytes() const;
  // Of the slots that have been used, pinned or not.
  std::uint64_t used_bytes() const;

 private:
  std::byte* start_of(std::size_t slot) const { return memory_->bytes().data() + slot * slot_bytes_; }
  bool make(std::size_t slot);

  std::size_t slots_;
  std::uint64_t slot_bytes_;
  Device* pinned_for_;
  std::shared_ptr<HostBuffer> memory_;
  Populator populator_;
  std::vector<std::unique_ptr<HostRegistration>> pins_;  // goes before the memory
  mutable std::mutex mutex_;
  std::condition_variable returned_;
  std::vector<std::byte*> free_;
  std::size_t used_once_ = 0;  // slots from the first on that have been handed out
  bool is_pinning_ = false;
};

}  // namespace sllm
