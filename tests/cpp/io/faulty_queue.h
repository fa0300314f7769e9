#pragma once

#include <algorithm>
#include <cerrno>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "io/read_queue.h"

namespace sllm::testing {

enum class Fault { kNone, kShort, kInterrupted, kTryAgain, kIoError, kEndOfFile, kStall, kReversed };

// A real queue that does one thing wrong: the fault befalls the n-th request, counted from 0.
//
// kShort delivers the first third only (whole blocks, as direct reads do), kStall holds the completion back
// for a number of waits, kReversed answers in reverse order whatever is there. Bytes that are delivered are
// real.
class FaultyQueue final : public ReadQueue {
 public:
  FaultyQueue(std::unique_ptr<ReadQueue> real, Fault fault, std::size_t at)
      : real_(std::move(real)), fault_(fault), at_(at) {}

  std::string_view name() const override { return "faulty"; }
  unsigned depth() const override { return real_->depth(); }

  void submit(std::span<const ReadRequest> requests) override {
    for (ReadRequest request : requests) {
      const bool is_hit = count_++ == at_;
      if (is_hit && answer_instead(request)) continue;
      if (is_hit && fault_ == Fault::kShort) request.bytes = std::max(4096U, request.bytes / 3 / 4096 * 4096);
      if (is_hit && fault_ == Fault::kStall) stalled_tag_ = static_cast<std::int64_t>(request.tag);
      real_->submit({&request, 1});
    }
  }

  std::size_t wait(std::span<ReadCompletion> completions, std::chrono::milliseconds patience) override {
    if (!own_.empty()) {
      completions[0] = own_.front();
      own_.pop_front();
      return 1;
    }
    std::size_t count = real_->wait(completions, patience);
    if (fault_ == Fault::kReversed)
      std::reverse(completions.begin(), completions.begin() + static_cast<long>(count));
    return hold_back(completions, count);
  }

 private:
  bool answer_instead(const ReadRequest& request) {
    switch (fault_) {
      case Fault::kInterrupted:
        own_.push_back({request.tag, -EINTR});
        return true;
      case Fault::kTryAgain:
        own_.push_back({request.tag, -EAGAIN});
        return true;
      case Fault::kIoError:
        own_.push_back({request.tag, -EIO});
        return true;
      case Fault::kEndOfFile:
        own_.push_back({request.tag, 0});
        return true;
      default:
        return false;
    }
  }

  std::size_t hold_back(std::span<ReadCompletion> completions, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      if (static_cast<std::int64_t>(completions[i].tag) != stalled_tag_) continue;
      stalled_tag_ = -1;
      own_.push_back(completions[i]);
      std::swap(completions[i], completions[count - 1]);
      return count - 1;
    }
    return count;
  }

  std::unique_ptr<ReadQueue> real_;
  Fault fault_;
  std::size_t at_;
  std::size_t count_ = 0;
  std::int64_t stalled_tag_ = -1;
  std::deque<ReadCompletion> own_;
};

}  // namespace sllm::testing
