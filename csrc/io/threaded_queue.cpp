#include "io/threaded_queue.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/error.h"

namespace sllm {

ThreadedQueue::ThreadedQueue(unsigned depth) {
  try {
    for (unsigned i = 0; i < depth; ++i) workers_.emplace_back([this] { work(); });
  } catch (const std::system_error& error) {
    stop();
    throw error_from_errno(error.code().value(),
                           "cannot start " + std::to_string(depth) + " reading threads");
  }
}

ThreadedQueue::~ThreadedQueue() { stop(); }

void ThreadedQueue::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  requested_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadedQueue::submit(std::span<const ReadRequest> requests) {
  {
    const std::lock_guard lock(mutex_);
    requests_.insert(requests_.end(), requests.begin(), requests.end());
  }
  requested_.notify_all();
}

std::size_t ThreadedQueue::wait(std::span<ReadCompletion> completions, std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  completed_.wait_for(lock, patience, [this] { return !completions_.empty(); });
  const std::size_t count = std::min(completions.size(), completions_.size());
  const auto last = completions_.begin() + static_cast<std::ptrdiff_t>(count);
  std::copy(completions_.begin(), last, completions.begin());
  completions_.erase(completions_.begin(), last);
  return count;
}

void ThreadedQueue::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    requested_.wait(lock, [this] { return stopping_ || !requests_.empty(); });
    if (stopping_) return;
    const ReadRequest request = requests_.front();
    requests_.pop_front();
    lock.unlock();
    const ssize_t result =
        ::pread(request.fd, request.into, request.bytes, static_cast<off_t>(request.offset));
    const std::int64_t outcome = result < 0 ? -std::int64_t{errno} : result;
    lock.lock();
    completions_.push_back({request.tag, outcome});
    completed_.notify_one();
  }
}

}  // namespace sllm
