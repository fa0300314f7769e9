#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "io/read_queue.h"

namespace sllm {

// pread in as many threads as the queue is deep: what works on every kernel and in every container.
class ThreadedQueue final : public ReadQueue {
 public:
  explicit ThreadedQueue(unsigned depth);
  // Finishes the reads that are running, forgets the rest, joins.
  ~ThreadedQueue() override;

  std::string_view name() const override { return "threads"; }
  unsigned depth() const override { return static_cast<unsigned>(workers_.size()); }
  void submit(std::span<const ReadRequest> requests) override;
  std::size_t wait(std::span<ReadCompletion> completions, std::chrono::milliseconds patience) override;

 private:
  void work();
  void stop();

  std::mutex mutex_;
  std::condition_variable requested_;
  std::condition_variable completed_;
  std::deque<ReadRequest> requests_;
  std::deque<ReadCompletion> completions_;
  bool stopping_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace sllm
