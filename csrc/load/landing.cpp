#include "load/landing.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace sllm {
namespace {

void copy_in_host(const Piece& piece, const Target& target, const std::byte* bytes) {
  for (std::uint64_t row = 0; row < piece.rows; ++row) {
    std::memcpy(target.at(piece.destination + row * piece.to_pitch),
                bytes + piece.from + row * piece.from_pitch, piece.bytes);
  }
}

}  // namespace

Lane::Lane(Device& device) : device_(device), stream_(device.make_stream()) {
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error& error) {
    throw error_from_errno(error.code().value(), "cannot start a thread for copies to " + device.name());
  }
}

Lane::~Lane() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Lane::copy(std::span<const Piece> pieces, std::span<const Target> targets, const std::byte* bytes,
                std::shared_ptr<StagingPool::Slot> slot) {
  const std::lock_guard stream_lock(stream_mutex_);
  std::uint64_t copied = 0;
  // Whatever fails, what was put into the stream before holds the slot until it is done.
  std::exception_ptr failure;
  InFlight copies{.event = nullptr, .slot = std::move(slot), .since = {}};
  try {
    for (const Piece& piece : pieces) {
      const Target& target = targets[piece.target];
      if (target.device != &device_) continue;
      put(piece, target, bytes);
      copied += piece.rows * piece.bytes;
    }
    copies.event = stream_->record();
  } catch (const Error&) {
    failure = std::current_exception();
  }
  {
    const std::lock_guard lock(mutex_);
    if (failure && !failure_) failure_ = failure;
    in_flight_.push_back(std::move(copies));
    bytes_ += copied;
  }
  changed_.notify_all();
}

void Lane::put(const Piece& piece, const Target& target, const std::byte* bytes) {
  const DeviceAddress to = target.start + piece.destination;
  if (piece.rows == 1) return stream_->copy_in(to, {bytes + piece.from, piece.bytes});
  stream_->copy_in_rows({.to = to,
                         .to_pitch = piece.to_pitch,
                         .from = bytes + piece.from,
                         .from_pitch = piece.from_pitch,
                         .row_bytes = piece.bytes,
                         .rows = piece.rows});
}

void Lane::run() {
  Stopwatch since_last;
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !in_flight_.empty(); });
    if (in_flight_.empty()) return;
    InFlight copies = std::move(in_flight_.front());
    in_flight_.pop_front();
    is_waiting_ = true;
    lock.unlock();
    std::exception_ptr failure;
    try {
      finish(copies);
    } catch (const Error&) {
      failure = std::current_exception();
    }
    const double busy_s = std::min(copies.since.elapsed_s(), since_last.elapsed_s());
    since_last = {};
    copies = {};
    lock.lock();
    busy_s_ += busy_s;
    is_waiting_ = false;
    if (failure && !failure_) failure_ = failure;
    if (in_flight_.empty() || failure_) changed_.notify_all();
  }
}

// Without an event, one could not be made: the stream itself says when its copies are done.
void Lane::finish(InFlight& copies) {
  if (copies.event != nullptr) return copies.event->wait();
  const std::lock_guard lock(stream_mutex_);
  stream_->finish();
}

bool Lane::wait_until_idle(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, patience,
                           [this] { return (in_flight_.empty() && !is_waiting_) || failure_; });
}

void Lane::rethrow() {
  const std::lock_guard lock(mutex_);
  if (failure_) std::rethrow_exception(failure_);
}

void Lane::report_to(LoadReport& report) const {
  const std::lock_guard lock(mutex_);
  report.bytes_to_devices += bytes_;
  report.device_s += busy_s_;
  ++report.devices;
}

Landing::Landing(std::span<const Target> targets) : targets_(targets) {
  for (const Target& target : targets) {
    const auto is_its_lane = [&](const auto& lane) { return &lane->device() == target.device; };
    if (target.is_host() || std::any_of(lanes_.begin(), lanes_.end(), is_its_lane)) continue;
    lanes_.push_back(std::make_unique<Lane>(*target.device));
  }
}

void Landing::land(std::span<const Piece> pieces, const std::byte* bytes, StagingPool::Slot slot) {
  for (const Piece& piece : pieces) {
    if (targets_[piece.target].is_host()) copy_in_host(piece, targets_[piece.target], bytes);
  }
  if (lanes_.empty()) return;
  const auto shared = std::make_shared<StagingPool::Slot>(std::move(slot));
  for (const auto& lane : lanes_) {
    const bool is_wanted = std::any_of(pieces.begin(), pieces.end(), [&](const Piece& piece) {
      return targets_[piece.target].device == &lane->device();
    });
    if (is_wanted) lane->copy(pieces, targets_, bytes, shared);
  }
}

bool Landing::wait_until_idle(std::chrono::milliseconds patience) {
  return std::all_of(lanes_.begin(), lanes_.end(),
                     [patience](const auto& lane) { return lane->wait_until_idle(patience); });
}

void Landing::rethrow() {
  for (const auto& lane : lanes_) lane->rethrow();
}

void Landing::report_to(LoadReport& report) const {
  for (const auto& lane : lanes_) lane->report_to(report);
}

}  // namespace sllm
