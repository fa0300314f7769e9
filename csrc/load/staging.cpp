#include "load/staging.h"

#include <utility>

namespace sllm {

StagingPool::StagingPool(std::size_t slots, std::uint64_t slot_bytes)
    : unmade_(slots), slot_bytes_(slot_bytes) {
  free_.reserve(slots);
}

StagingPool::Slot::Slot(Slot&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)), buffer_(std::move(other.buffer_)) {}

StagingPool::Slot& StagingPool::Slot::operator=(Slot&& other) noexcept {
  if (this != &other) {
    give_back();
    pool_ = std::exchange(other.pool_, nullptr);
    buffer_ = std::move(other.buffer_);
  }
  return *this;
}

StagingPool::Slot::~Slot() { give_back(); }

void StagingPool::Slot::give_back() {
  if (buffer_ == nullptr) return;
  {
    const std::lock_guard lock(pool_->mutex_);
    pool_->free_.push_back(std::move(buffer_));  // has the room: reserved for all slots
  }
  pool_->returned_.notify_one();
}

StagingPool::Slot StagingPool::try_acquire() {
  const std::lock_guard lock(mutex_);
  if (!free_.empty()) {
    Slot slot(this, std::move(free_.back()));
    free_.pop_back();
    return slot;
  }
  if (unmade_ == 0) return {};
  Slot slot(this, HostBuffer::allocate(slot_bytes_));
  --unmade_;
  return slot;
}

void StagingPool::wait_for_slot(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  returned_.wait_for(lock, patience, [this] { return !free_.empty() || unmade_ > 0; });
}

}  // namespace sllm
