#include "cuda_sim/stream.h"

#include <algorithm>
#include <cstring>

namespace cuda_sim {
namespace {

bool overlap(const std::byte* start, std::size_t bytes, std::span<const std::byte> memory) {
  return start < memory.data() + memory.size() && memory.data() < start + bytes;
}

}  // namespace

bool Copy::touches(std::span<const std::byte> memory) const {
  if (rows == 0) return false;
  return overlap(to, (rows - 1) * to_pitch + row_bytes, memory) ||
         overlap(from, (rows - 1) * from_pitch + row_bytes, memory);
}

Stream::Stream(std::uint64_t number, ContextState& state)
    : number_(number), state_(state), standing_(std::make_unique<Operation>()) {
  last_ = standing_.get();
  at_ = last_;
  thread_ = std::thread([this] { run(); });
}

Stream::~Stream() {
  push(std::make_unique<Operation>());
  thread_.join();
}

void Stream::push_copy(const Copy& copy) {
  auto operation = std::make_unique<Operation>();
  operation->copy = copy;
  push(std::move(operation));
}

std::shared_ptr<Mark> Stream::push_mark() {
  auto operation = std::make_unique<Operation>();
  auto mark = std::make_shared<Mark>();
  mark->stream = number_;
  mark->position = position_ + 1;
  operation->raised = mark;
  push(std::move(operation));
  last_mark_ = mark;
  return mark;
}

std::shared_ptr<Mark> Stream::last_mark() { return last_mark_ != nullptr ? last_mark_ : push_mark(); }

void Stream::push_wait(std::shared_ptr<Mark> mark) {
  auto operation = std::make_unique<Operation>();
  operation->awaited = std::move(mark);
  push(std::move(operation));
}

void Stream::push(std::unique_ptr<Operation> operation) {
  operation->position = ++position_;
  operation->submitted_ns = now_ns();
  last_mark_ = nullptr;
  Operation* pushed = operation.get();
  operations_.push_back(std::move(operation));
  last_->next.store(pushed, std::memory_order_release);
  last_ = pushed;
  pushed_.raise();
}

bool Stream::is_copying(std::span<const std::byte> memory) const {
  return std::any_of(operations_.begin(), operations_.end(), [&](const auto& operation) {
    return operation->copy.link != nullptr && operation->copy.touches(memory);
  });
}

bool Stream::is_copying() const {
  return std::any_of(operations_.begin(), operations_.end(),
                     [](const auto& operation) { return operation->copy.link != nullptr; });
}

// The thread goes from an operation to the next one by the operation itself, so the last of those that are
// over stays until it is not.
void Stream::retire() {
  standing_ = std::move(operations_.front());
  operations_.pop_front();
}

void Stream::run() {
  for (;;) {
    const std::uint32_t seen = pushed_.seen();
    const Operation* next = at_->next.load(std::memory_order_acquire);
    if (next == nullptr) {
      pushed_.wait_beyond(seen);
      continue;
    }
    const bool is_end = next->copy.link == nullptr && !next->raised && !next->awaited;
    at_ = next;
    if (is_end) return;
    carry_out(*next);
  }
}

void Stream::carry_out(const Operation& operation) {
  if (operation.copy.link != nullptr) {
    carry_out(operation.copy, operation.submitted_ns);
  } else if (operation.awaited) {
    operation.awaited->wait();
    ready_ns_ = std::max(ready_ns_, operation.awaited->finished_ns.load(std::memory_order_relaxed));
  } else {
    operation.raised->finished_ns.store(ready_ns_, std::memory_order_relaxed);
    operation.raised->done.raise();
  }
}

// The bytes move at the last moment, and the link's time counts from when the copy could have begun: so a
// stream that is kept full moves bytes at the link's rate, whatever its thread needs for them.
void Stream::carry_out(const Copy& copy, std::int64_t submitted_ns) {
  ready_ns_ = copy.link->reserve(std::max(ready_ns_, submitted_ns), copy.rows * copy.row_bytes);
  wait_until(ready_ns_ + state_.latency_ns.load(std::memory_order_relaxed));
  if (state_.error.load(std::memory_order_relaxed) != 0) return;
  if (copy.error != 0) {
    int none = 0;
    state_.error.compare_exchange_strong(none, copy.error, std::memory_order_relaxed);
    return;
  }
  for (std::size_t row = 0; row < copy.rows; ++row) {
    std::memcpy(copy.to + row * copy.to_pitch, copy.from + row * copy.from_pitch, copy.row_bytes);
  }
  copy.link->count_bytes(copy.rows * copy.row_bytes);
}

void Stream::wait_until(std::int64_t when_ns) {
  const auto when = std::chrono::steady_clock::time_point(std::chrono::nanoseconds(when_ns));
  std::unique_lock lock(pause_mutex_);
  // Nothing notifies it: time is what it waits for.
  pause_.wait_until(lock, when, [this] { return state_.error.load(std::memory_order_relaxed) != 0; });
}

}  // namespace cuda_sim
