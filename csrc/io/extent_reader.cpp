#include "io/extent_reader.h"

#include <algorithm>
#include <cerrno>
#include <string>

#include "base/error.h"
#include "base/size.h"

namespace sllm {
namespace {

constexpr std::chrono::milliseconds kDrainPatience{1000};

std::string description_of(const ExtentRead& extent) {
  return std::to_string(extent.bytes) + " bytes at " + std::to_string(extent.offset) + " from " +
         extent.file->path();
}

}  // namespace

ExtentReader::ExtentReader(ReadQueue& queue)
    : queue_(queue), slots_(queue.depth()), completions_(queue.depth()) {
  for (std::uint64_t slot = slots_.size(); slot > 0; --slot) free_slots_.push_back(slot - 1);
  batch_.reserve(slots_.size());
  whole_.reserve(slots_.size());
}

ExtentReader::~ExtentReader() {
  // Reads can't be called back: the kernel writes into the memory until it has answered.
  try {
    while (submitted_ > 0) submitted_ -= queue_.wait(completions_, kDrainPatience);
  } catch (const Error&) {
    // The queue itself is broken and will never answer; its own destructor ends what it started.
  }
}

void ExtentReader::add(const ExtentRead& extent) {
  const std::uint64_t slot = free_slots_.back();
  free_slots_.pop_back();
  slots_[slot] = {extent};
  deepest_ = std::max(deepest_, ++in_flight_);
  start(slot);
}

void ExtentReader::resume(std::uint64_t slot_index, std::uint64_t reached) {
  Slot& slot = slots_[slot_index];
  // Direct reads go on from a block's start, so a block may be read twice. One that ends inside a block
  // again has met the end of the file.
  const std::uint64_t from = slot.extent.file->is_direct() ? align_down(reached, kBlockBytes) : reached;
  const bool at_end = from == slot.done && (slot.is_repeated || reached == slot.done);
  if (at_end) {
    throw Error(ErrorCode::kCorrupt, "cannot read " + description_of(slot.extent) + ": the file ends at " +
                                         std::to_string(slot.extent.offset + reached));
  }
  slot.is_repeated = from == slot.done;
  slot.done = from;
  ++repeats_;
  start(slot_index);
}

std::span<const std::uint64_t> ExtentReader::wait(std::chrono::milliseconds patience) {
  whole_.clear();
  if (!batch_.empty()) {
    queue_.submit(batch_);
    submitted_ += batch_.size();
    batch_.clear();
  }
  const std::size_t count = queue_.wait(completions_, patience);
  submitted_ -= count;
  for (const ReadCompletion& completion : std::span(completions_).first(count)) complete(completion);
  return whole_;
}

ReadRequest ExtentReader::request_for(std::uint64_t slot) const {
  const ExtentRead& extent = slots_[slot].extent;
  const std::uint64_t done = slots_[slot].done;
  std::uint64_t end = extent.bytes;
  if (extent.file->is_direct()) end = align_up(end, kBlockBytes);
  return {
      .fd = extent.file->fd(),
      .into = extent.into + done,
      .bytes = static_cast<std::uint32_t>(end - done),
      .offset = extent.offset + done,
      .tag = slot,
  };
}

void ExtentReader::start(std::uint64_t slot) { batch_.push_back(request_for(slot)); }

void ExtentReader::complete(const ReadCompletion& completion) {
  Slot& slot = slots_[completion.tag];
  if (completion.result == -EINTR || completion.result == -EAGAIN) {
    ++repeats_;
    return start(completion.tag);
  }
  if (completion.result < 0) {
    throw error_from_errno(static_cast<int>(-completion.result),
                           "cannot read " + description_of(slot.extent));
  }
  const std::uint64_t reached = slot.done + static_cast<std::uint64_t>(completion.result);
  if (reached < slot.extent.bytes) return resume(completion.tag, reached);
  whole_.push_back(slot.extent.tag);
  free_slots_.push_back(completion.tag);
  --in_flight_;
}

}  // namespace sllm
