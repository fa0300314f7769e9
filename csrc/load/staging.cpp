#include "load/staging.h"

#include <utility>

#include "base/error.h"

namespace sllm {
namespace {

// One to read into while the other is copied out of.
constexpr std::size_t kFewestSlots = 2;

std::uint64_t total_bytes(std::size_t slots, std::uint64_t slot_bytes) {
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(slots, slot_bytes, &bytes))
    throw Error(ErrorCode::kInvalid, "staging overflows");
  return bytes;
}

}  // namespace

StagingPool::StagingPool(std::size_t slots, std::uint64_t slot_bytes, Device* pinned_for)
    : slots_(slots),
      slot_bytes_(slot_bytes),
      pinned_for_(pinned_for),
      memory_(HostBuffer::allocate(total_bytes(slots, slot_bytes))),
      populator_(memory_->bytes()),
      is_pinning_(pinned_for != nullptr) {
  free_.reserve(slots);
  pins_.reserve(slots);
}

StagingPool::Slot::Slot(Slot&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)), start_(std::exchange(other.start_, nullptr)) {}

StagingPool::Slot& StagingPool::Slot::operator=(Slot&& other) noexcept {
  if (this != &other) {
    give_back();
    pool_ = std::exchange(other.pool_, nullptr);
    start_ = std::exchange(other.start_, nullptr);
  }
  return *this;
}

StagingPool::Slot::~Slot() { give_back(); }

void StagingPool::Slot::give_back() {
  if (pool_ == nullptr) return;
  {
    const std::lock_guard lock(pool_->mutex_);
    pool_->free_.push_back(start_);  // has the room: reserved for all slots
  }
  std::exchange(pool_, nullptr)->returned_.notify_one();
}

StagingPool::Slot StagingPool::try_acquire() {
  std::size_t fresh = 0;
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      std::byte* start = free_.back();
      free_.pop_back();
      return {this, start};
    }
    if (used_once_ == slots_) return {};
    fresh = used_once_++;
  }
  if (!make(fresh)) return {};
  return {this, start_of(fresh)};
}

// False where the slot cannot be pinned and there are enough others.
bool StagingPool::make(std::size_t slot) {
  const std::span<std::byte> memory(start_of(slot), slot_bytes_);
  populator_.populate(memory);
  if (!is_pinning_) return true;
  try {
    auto pin = pinned_for_->register_host(memory);
    const std::lock_guard lock(mutex_);
    pins_.push_back(std::move(pin));
    return true;
  } catch (const Error&) {
    // Drivers give many reasons for one thing, a limit that was met. A device that is lost says so at the
    // next copy.
  }
  const std::lock_guard lock(mutex_);
  is_pinning_ = false;
  if (slot < kFewestSlots) return true;
  slots_ = used_once_ = slot;
  return false;
}

std::uint64_t StagingPool::pinned_bytes() const {
  const std::lock_guard lock(mutex_);
  return pins_.size() * slot_bytes_;
}

std::uint64_t StagingPool::used_bytes() const {
  const std::lock_guard lock(mutex_);
  return used_once_ * slot_bytes_;
}

void StagingPool::wait_for_slot(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  returned_.wait_for(lock, patience, [this] { return !free_.empty() || used_once_ < slots_; });
}

std::vector<std::span<std::byte>> StagingPool::memory() const {
  std::vector<std::span<std::byte>> slots;
  for (std::size_t slot = 0; slot < slots_; ++slot) slots.emplace_back(start_of(slot), slot_bytes_);
  return slots;
}

}  // namespace sllm
