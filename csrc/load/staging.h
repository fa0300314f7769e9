#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "memory/host_buffer.h"

namespace sllm {

// A fixed number of equally sized buffers between a file and its destination.
//
// try_acquire() refuses instead of allocating more: the pool is the memory cap and, since a staged read
// needs a slot before it may start, also the brake on the drive. A slot's memory is made when it is first
// used. Destroying a Slot returns it. The pool outlives its slots. Thread-safe.
class StagingPool {
 public:
  StagingPool(std::size_t slots, std::uint64_t slot_bytes);

  class Slot {
   public:
    Slot() = default;
    Slot(Slot&& other) noexcept;
    Slot& operator=(Slot&& other) noexcept;
    ~Slot();
    explicit operator bool() const { return buffer_ != nullptr; }
    std::byte* start() const { return buffer_->bytes().data(); }

   private:
    friend class StagingPool;
    Slot(StagingPool* pool, std::shared_ptr<HostBuffer> buffer) : pool_(pool), buffer_(std::move(buffer)) {}
    void give_back();

    StagingPool* pool_ = nullptr;
    std::shared_ptr<HostBuffer> buffer_;
  };

  // Empty when all slots are in use. Throws exhausted.
  Slot try_acquire();
  // Waits until a slot is free, or for `patience`.
  void wait_for_slot(std::chrono::milliseconds patience);

 private:
  std::mutex mutex_;
  std::condition_variable returned_;
  std::vector<std::shared_ptr<HostBuffer>> free_;
  std::size_t unmade_;
  std::uint64_t slot_bytes_;
};

}  // namespace sllm
