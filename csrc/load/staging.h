#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "memory/host_buffer.h"
#include "memory/populator.h"

namespace sllm {

// A fixed number of equally sized buffers between a file and its destination.
//
// try_acquire() refuses instead of allocating more: the pool is the memory cap and, since a staged read
// needs a slot before it may start, also the brake on the drive. A slot's memory is faulted in when it is
// first used. Destroying a Slot returns it. The pool outlives its slots. Thread-safe.
class StagingPool {
 public:
  // Throws exhausted, invalid.
  StagingPool(std::size_t slots, std::uint64_t slot_bytes);

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

 private:
  std::byte* start_of(std::size_t slot) const { return memory_->bytes().data() + slot * slot_bytes_; }

  std::size_t slots_;
  std::uint64_t slot_bytes_;
  std::shared_ptr<HostBuffer> memory_;
  Populator populator_;
  std::mutex mutex_;
  std::condition_variable returned_;
  std::vector<std::byte*> free_;
  std::size_t used_once_ = 0;  // slots from the first on that have been handed out
};

}  // namespace sllm
