#pragma once

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "io/read_queue.h"

namespace sllm::testing {

// A real queue on a drive that delivers so many bytes a second: a completion is handed out when the drive
// would have had the last of its bytes.
class PacedQueue final : public ReadQueue {
 public:
  PacedQueue(std::unique_ptr<ReadQueue> real, double bytes_per_s)
      : real_(std::move(real)), bytes_per_s_(bytes_per_s) {}

  std::string_view name() const override { return "paced"; }
  unsigned depth() const override { return real_->depth(); }

  void submit(std::span<const ReadRequest> requests) override {
    for (const ReadRequest& request : requests) {
      const std::chrono::duration<double> takes(request.bytes / bytes_per_s_);
      free_at_ = std::max(free_at_, Clock::now()) + std::chrono::duration_cast<Clock::duration>(takes);
      due_[request.tag] = free_at_;
    }
    real_->submit(requests);
  }

  std::size_t wait(std::span<ReadCompletion> completions, std::chrono::milliseconds patience) override {
    const auto deadline = Clock::now() + patience;
    for (;;) {
      std::vector<ReadCompletion> read(real_->depth());
      const auto until_due = std::chrono::ceil<std::chrono::milliseconds>(next_due(deadline) - Clock::now());
      const std::size_t count = real_->wait(read, std::max(until_due, std::chrono::milliseconds(0)));
      held_.insert(held_.end(), read.begin(), read.begin() + static_cast<std::ptrdiff_t>(count));
      if (const std::size_t handed_out = hand_out(completions)) return handed_out;
      if (Clock::now() >= deadline) return 0;
    }
  }

 private:
  using Clock = std::chrono::steady_clock;

  Clock::time_point next_due(Clock::time_point latest) const {
    for (const ReadCompletion& completion : held_) latest = std::min(latest, due_.at(completion.tag));
    return latest;
  }

  std::size_t hand_out(std::span<ReadCompletion> completions) {
    std::size_t count = 0;
    const auto now = Clock::now();
    std::erase_if(held_, [&](const ReadCompletion& completion) {
      if (due_.at(completion.tag) > now || count == completions.size()) return false;
      completions[count++] = completion;
      return true;
    });
    return count;
  }

  std::unique_ptr<ReadQueue> real_;
  double bytes_per_s_;
  Clock::time_point free_at_;
  std::map<std::uint64_t, Clock::time_point> due_;
  std::vector<ReadCompletion> held_;
};

}  // namespace sllm::testing
